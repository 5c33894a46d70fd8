"""The types of the front door, for checkers that do not follow lazy imports."""

from zoo.build.backbone import Backbone as Backbone
from zoo.catalog import list_models as list_models
from zoo.errors import InputError as InputError
from zoo.errors import SpecError as SpecError
from zoo.errors import UnknownModelError as UnknownModelError
from zoo.errors import WeightsError as WeightsError
from zoo.front import create as create
from zoo.front import deploy as deploy
from zoo.front import save as save
from zoo.naming import spec as spec
from zoo.specs.model import Spec as Spec
from zoo.transforms import transform as transform

__version__: str
