"""What `zoo.create` returns, for type checkers: a LanguageModel for the names of language models, a Backbone for all else, and a Deployed
where a runtime or a precision is named.

Where a name is no literal, or a file is given, `assert isinstance(model, zoo.LanguageModel)` tells a checker which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, cast, overload

from zoo.catalog.names import Model

if TYPE_CHECKING:
    from zoo.build.backbone import Backbone
    from zoo.build.language import LanguageModel
    from zoo.runtimes.deployed import Deployed

LanguageName = Literal[
    "deepseek_nano", "deepseek_v2_lite", "falcon_h1_0_5b", "falcon_h1_nano", "gated_delta_net_1_3b", "gated_delta_net_nano",
    "gla_1_3b", "gla_340m", "gla_nano", "jamba_nano", "jamba_v0_1", "llama_7b", "llama_nano", "llama_smollm2_1_7b",
    "llama_smollm2_135m", "llama_smollm2_360m", "llama_tinyllama_1_1b", "mamba2_1_3b", "mamba2_2_7b", "mamba2_130m", "mamba2_370m",
    "mamba2_780m", "mamba2_nano", "mamba_1_4b", "mamba_2_8b", "mamba_130m", "mamba_370m", "mamba_790m", "mamba_nano",
    "mixtral_8x7b", "mixtral_nano", "olmoe_1b_7b", "olmoe_nano", "retnet_1_3b", "retnet_nano", "rwkv7_1_5b", "rwkv7_2_9b",
    "rwkv7_190m", "rwkv7_450m", "rwkv7_nano",
]  # fmt: skip
"""The language models of the catalogue; a test holds the list to it."""

P = ParamSpec("P")


class Create(Protocol[P]):
    """The signature of `zoo.create`, whose model comes first."""

    @overload  # the overlap: P has `runtime` and `precision` as well, for which these two come first
    def __call__(  # type: ignore[overload-overlap]
        self, model: Model, overrides: Mapping[str, Any] | None = None, *, runtime: str | Sequence[str], **asked: Any
    ) -> Deployed: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, model: Model, overrides: Mapping[str, Any] | None = None, *, precision: str, **asked: Any
    ) -> Deployed: ...
    @overload
    def __call__(self, model: LanguageName, *args: P.args, **kwargs: P.kwargs) -> LanguageModel: ...
    @overload
    def __call__(self, model: Model, *args: P.args, **kwargs: P.kwargs) -> Backbone: ...


def typed(create: Callable[Concatenate[Model, P], Backbone | Deployed]) -> Create[P]:
    """The function itself, under a type that looks at the name, and at what it is to run in."""
    return cast("Create[P]", create)
