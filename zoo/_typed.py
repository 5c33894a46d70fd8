"""What `zoo.create` returns, for type checkers: a LanguageModel for the names of language models, a Backbone for all else, and a Deployed
where a runtime or a precision is named.

Where a name is no literal, or a file is given, `assert isinstance(model, zoo.LanguageModel)` tells a checker which it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, cast, overload

from zoo._elsewhere import ARGUMENTS
from zoo.catalog.names import Model
from zoo.errors import InputError, Problem, nearest

if TYPE_CHECKING:
    from zoo.build.backbone import Backbone
    from zoo.build.language import LanguageModel
    from zoo.runtimes.deployed import Deployed

LanguageName = Literal[
    "adapted_dlrt_nano", "adapted_glider_nano", "adapted_maestro_nano", "adapted_mhr_nano", "adapted_mtlora_nano",
    "adapted_poly_nano", "bamba_9b", "bamba_nano", "cskv_nano", "deepseek_nano", "deepseek_v2_lite", "deepseek_v3_671b",
    "deepseek_v3_nano", "deepstack_nano", "deepstack_qwen3_vl_2b", "delta_product_1_6b", "delta_product_nano", "entropy_guided_nano", "falcon_h1_0_5b",
    "falcon_h1_nano", "forgetting_360m", "forgetting_nano", "gated_delta_net_1_3b", "gated_delta_net_nano", "gemma2_2b",
    "gemma2_9b", "gemma2_nano", "gemma3_1b", "gemma3_270m", "gemma3_nano", "gemma_2b", "gemma_7b", "gemma_nano", "gla_1_3b",
    "gla_340m", "gla_nano", "granite_hybrid_4_h_micro", "granite_hybrid_moe_4_h_tiny", "granite_hybrid_moe_nano",
    "granite_hybrid_nano", "h3_125m", "h3_1_3b", "h3_2_7b", "h3_355m", "h3_nano", "hip_nano", "hyperrouter_nano", "jamba_nano",
    "jamba_v0_1", "kimi_delta_1_4b", "kimi_delta_nano", "ladder_1b", "ladder_nano", "lawcat_nano", "lfm2_1_2b", "lfm2_350m",
    "lfm2_700m", "lfm2_nano", "llama_7b", "llama_nano", "llama_smollm2_135m", "llama_smollm2_1_7b", "llama_smollm2_360m",
    "llama_tinyllama_1_1b", "lmu_nano", "mamba2_130m", "mamba2_1_3b", "mamba2_2_7b", "mamba2_370m", "mamba2_780m",
    "mamba2_nano", "mamba_130m", "mamba_1_4b", "mamba_2_8b", "mamba_370m", "mamba_790m", "mamba_nano", "matmulfree_1_3b",
    "matmulfree_370m", "matmulfree_nano", "mesa_nano", "miras_memora_nano", "miras_moneta_nano", "miras_yaad_nano",
    "mixtral_8x7b", "mixtral_nano", "moge_nano", "olmo2_1b", "olmo2_7b", "olmo2_nano", "olmoe_1b_7b", "olmoe_nano",
    "pangu_pi_1b_pro", "pangu_pi_nano", "plm_1_8b", "plm_nano", "qwen3_0_6b", "qwen3_1_7b", "qwen3_4b", "qwen3_8b",
    "qwen3_moe_30b_a3b", "qwen3_moe_nano", "qwen3_nano", "qwen3_next_80b_a3b", "qwen3_next_nano", "read_me_nano",
    "recurrent_gemma_2b", "recurrent_gemma_nano", "remoe_nano", "retnet_1_3b", "retnet_nano", "routed_lm_dense_nano",
    "routed_lm_topk_nano", "rwkv4_169m", "rwkv4_1_5b", "rwkv4_430m", "rwkv4_nano", "rwkv7_190m", "rwkv7_1_5b", "rwkv7_2_9b",
    "rwkv7_450m", "rwkv7_nano", "seq_boat_nano", "smallthinker_nano", "smile_nano", "smollm3_3b", "smollm3_nano",
    "spatten_nano", "switch_nano", "tokenformer_150m", "tokenformer_1_5b", "tokenformer_450m", "tokenformer_900m",
    "tokenformer_nano", "yuan_moe_nano", "zamba2_1_2b", "zamba2_2_7b", "zamba2_7b", "zamba2_nano", "zero_experts_nano",
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
    """The function, under a type that looks at the name, and at what it is to run in.

    An argument that it does not have is an InputError: the nearest, or the way here for what timm has."""
    known = [*inspect.signature(create).parameters]

    @functools.wraps(create)
    def asked(*args: Any, **kwargs: Any) -> Any:
        if strange := [name for name in kwargs if name not in known]:
            raise InputError("create", [_unknown(name, known) for name in strange])
        return create(*args, **kwargs)

    return cast("Create[P]", asked)


def _unknown(name: str, known: list[str]) -> Problem:
    step = ARGUMENTS.get(name, "")
    return Problem(name, "an argument of `zoo.create`", f"`{name}`", "" if step else nearest(name, known), step)
