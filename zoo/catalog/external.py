"""Models that no spec describes: the code of a plugin builds them, and the zoo lists, loads, counts and times them all the same.

A plugin names a module in its entry point `zoo.factories`, its factory, with

    create(name, tag="", **options) -> nn.Module   on torch's current default device, meta included; options as in `OPTIONS`; the
                                               weights `tag`, where some follow, may ask for other classes than usual
    deploy(model) -> nn.Module                     optional: the deploy form, a copy
    manifest(name, tag) -> Manifest | None         where weights are, for the tags that the entry lists as `listed`

where `name` lacks the namespace. Buffers that no state dict holds get their values from the `reset_buffers()` of their module, or
from `init_non_persistent_buffers()`, as timm calls it. What a factory offers is listed in the `index.json` of its collection, with an empty `file`.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from blocks.registry import plugins
from zoo import catalog
from zoo.catalog.collection import namespace_of
from zoo.errors import BlockError, InputError, Problem, listed
from zoo.specs.inputs import ImageInput
from zoo.specs.model import Described
from zoo.specs.read import FamilyText
from zoo.weights.manifest import Manifest

if TYPE_CHECKING:
    import torch
    from torch import nn

OPTIONS = (
    "num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate",
    "features_only", "out_indices",
)  # fmt: skip


class External(Described):
    """Stands where others have a Spec. `options` are what was asked for; the weights of `tag` may have classes of their own."""

    def __init__(self, name: str, options: Mapping[str, Any] | None = None, tag: str = ""):
        entry = catalog.entry(name)
        self.name, self.source, self.tag = entry.name, catalog.home_of(name).owner, tag
        self.family = FamilyText(entry.family, entry.title, entry.paper, entry.task, entry.licence, entry.code)
        self.options = {key: value for key, value in (options or {}).items() if value is not None}

    @property
    def factory(self) -> External:
        """Itself: it knows the plugin's code, and what is asked of it."""
        return self

    @property
    def num_classes(self) -> int:
        return self.options.get("num_classes", 1000)  # type: ignore[no-any-return]

    @functools.cached_property
    def input(self) -> ImageInput:
        size = self.options.get("img_size", catalog.entry(self.name).input_size)
        size = size if isinstance(size, int) else size[0] if size[0] == size[-1] else list(size)
        return msgspec.convert({"channels": self.options.get("in_chans", 3), "size": size}, ImageInput)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, External) and self.digest == other.digest and self.tag == other.tag

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<External {self.name}: digest {self.digest[:12]}>"

    @property
    def digest(self) -> str:
        return digest_of(self.name, self.options)

    def blocks(self) -> list[str]:
        """None that the registry knows."""
        return []

    def plain(self) -> NoReturn:
        """Raises InputError: there is no spec to show."""
        raise InputError(self.name, Problem("", "a model with a spec", f"one that the code of {self.source} builds"))

    def build(self, device: torch.device | str) -> nn.Module:
        """The model in eval mode. Raises InputError with what the factory says when it refuses."""
        import torch

        from blocks.conv.conv import use_right_gradients

        module = factory_of(self.name)
        try:
            with torch.device(device):
                model: Any = module.create(self._short, self.tag, **self.options)
        except Exception as refusal:  # the code of a plugin
            message = f"{type(refusal).__name__}: {refusal}"
            raise InputError(self.name, Problem("", "a request that its builder takes", message)) from refusal
        classes = getattr(model, "num_classes", None) or self.num_classes
        if classes != self.num_classes and "num_classes" not in self.options:  # the weights have others
            self.options["num_classes"] = classes
        model.spec, model.digest, model.pretrained = self, self.digest, None
        use_right_gradients(model)
        built: nn.Module = model.eval()
        return built

    def deploy(self, net: nn.Module) -> nn.Module:
        """The deploy form by the plugin's code; a copy in eval mode where it offers none."""
        make = getattr(factory_of(self.name), "deploy", None)
        fused: Any = make(net) if make is not None else copy.deepcopy(net).eval()
        fused.spec, fused.digest, fused.pretrained = net.spec, net.digest, net.pretrained
        return fused  # type: ignore[no-any-return]

    @property
    def _short(self) -> str:
        return self.name.partition("/")[2]


def digest_of(name: str, options: Mapping[str, Any]) -> str:
    """sha256 of the name and the options: what the plugin's code makes of them is its own."""
    canonical = json.dumps({"model": name, "options": dict(options)}, sort_keys=True, default=list)
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_external(model: Any) -> bool:
    """Whether a name is that of a model which a factory builds."""
    if not isinstance(model, str) or "/" not in model:
        return False
    entry = catalog.entries().get(catalog.split_tag(model)[0])
    return entry is not None and not entry.file


def factory_of(name: str) -> Any:
    """The factory module of a model's namespace. Raises BlockError when its code does not load."""
    namespace = namespace_of(name)
    plugin = plugins.owner_of(namespace)
    point = plugin.factories.get(namespace) if plugin is not None else None
    if plugin is None or point is None:
        owner = plugin.owner if plugin else "nobody"
        raise BlockError(name, Problem(owner, "an entry point `zoo.factories` that builds its models", "none"))
    return plugins.load(plugin, point, f"factory `{namespace}`")


def refuse_edits(name: str, given: Mapping[str, Any]) -> None:
    """Raises InputError for what can only be asked of a spec."""
    edits = [word for word, value in given.items() if value]
    if edits:
        found = f"a model that {namespace_of(name)}'s code builds"
        raise InputError(
            name, Problem(listed(edits), "a model with a spec", found, next=f"it takes {listed(OPTIONS, 20)}")
        )


def manifest(name: str) -> Manifest | None:
    """What the factory knows of the weights `model.tag`; None of a model that no factory builds. Raises InputError when it knows none."""
    if not is_external(name):
        return None
    model, tag = catalog.split_tag(name)
    answer: Manifest | None = factory_of(model).manifest(model.partition("/")[2], tag)
    if answer is None:
        raise InputError(
            name, Problem("", f"weights that {namespace_of(model)}'s code knows", f"none of the tag `{tag}`")
        )
    return answer


Opaque, is_opaque = External, is_external
"""Their names in release 0.1."""
