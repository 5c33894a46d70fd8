"""The types of the front door, for checkers that do not follow lazy imports."""

from blocks.annealing import anneal as anneal
from zoo.artifacts.audits import audit as audit
from zoo.artifacts.lock import lock as lock
from zoo.artifacts.make_mirror import mirror as mirror
from zoo.artifacts.pinning import pin as pin
from zoo.artifacts.repository import pull as pull
from zoo.authoring.report import plugins as plugins
from zoo.build.backbone import Backbone as Backbone
from zoo.build.groups import param_groups as param_groups
from zoo.build.language import LanguageModel as LanguageModel
from zoo.catalog import entry
from zoo.catalog import is_model as is_model
from zoo.catalog.labels import labels as labels
from zoo.catalog.listing import list_models as list_models
from zoo.catalog.listing import list_modules as list_modules
from zoo.catalog.listing import list_pretrained as list_pretrained
from zoo.catalog.sources import spec as spec
from zoo.data.transforms import transform as transform
from zoo.errors import InputError as InputError
from zoo.errors import SpecError as SpecError
from zoo.errors import UnknownModelError as UnknownModelError
from zoo.errors import WeightsError as WeightsError
from zoo.evaluating.evaluate import evaluate as evaluate
from zoo.exporting.export import export as export
from zoo.factory import create as create
from zoo.measure.bench import bench as bench
from zoo.measure.bench import latency as latency
from zoo.measure.calibrate import calibrate as calibrate
from zoo.measure.calibrate import predict as predict
from zoo.measure.compare import compare as compare
from zoo.measure.profile import profile as profile
from zoo.predicting.run import predict_images as predict_images
from zoo.pretrained.fill import load as load
from zoo.publish.save import save as save
from zoo.publish.upload import push as push
from zoo.runtimes.deploy import deploy as deploy
from zoo.runtimes.loading import load_deployed as load_deployed
from zoo.selection.find import find as find
from zoo.selection.pick import pick as pick
from zoo.specs.model import Spec as Spec
from zoo.training.ablation.study import study as study
from zoo.training.run import train as train
from zoo.training.sweep import sweep as sweep
from zoo.weights.manifest import Preprocess as Preprocess

__version__: str
create_model = create
predict_latency = predict
info = entry
