"""The kit against small blocks: each broken promise is found and told, and truthful blocks pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import blocks
from blocks.chain import run
from blocks.places import refuse_places
from zoo.testing.conformance import check_block, check_file, run_check
from zoo.testing.outcomes import FAILED, NOT_APPLICABLE, OK, Result


class Mixes(nn.Module):
    """A correct mixer of all positions, the base of those that break something."""

    def __init__(self, dim: int):
        nn.Module.__init__(self)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x + x.mean(1, keepdim=True))


class Pointwise(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Running(Mixes):
    """Causal: the sum of all that came before."""

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.cumsum(1))


class Shortens(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)[:, 1:]


class Copies(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.contiguous())


class Upcasts(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return Mixes.forward(self, x).float()


class Allocates(Mixes):
    def __init__(self, dim: int):
        Mixes.__init__(self, dim)
        self.register_buffer("table", torch.ones(dim, device="cpu"), persistent=False)


class Forgets(Mixes):
    """Its non-persistent buffer is made in the constructor alone."""

    def __init__(self, dim: int):
        Mixes.__init__(self, dim)
        self.register_buffer("table", torch.ones(dim), persistent=False)


class Idle(Mixes):
    def __init__(self, dim: int):
        Mixes.__init__(self, dim)
        self.unused = nn.Parameter(torch.zeros(dim))


class InPlace(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.relu_() if not x.requires_grad else x.relu())


class Dice(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return Mixes.forward(self, x) + torch.rand_like(x)


class Counts(Mixes):
    """Its width depends on the length that it is built for."""

    def __init__(self, dim: int, input_size: tuple[int, ...]):
        Mixes.__init__(self, dim)
        self.table = nn.Parameter(torch.zeros(len(input_size)))


class Lambda(Mixes):
    def __init__(self, dim: int):
        Mixes.__init__(self, dim)
        self.act = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.act(Mixes.forward(self, x))


class Fixed(Mixes):
    """Takes one length only."""

    def forward(self, x: Tensor) -> Tensor:
        return Mixes.forward(self, x.unflatten(1, (14, 14)).flatten(1, 2))


class Stateless(Mixes):
    """Declares `step` and starts again with each piece."""

    def forward(self, x: Tensor, ctx: blocks.Context | None = None) -> Tensor:
        return self.proj(x.cumsum(1))


class Carries(Mixes):
    """Keeps the running sum in ctx, and knows neither padding nor packed sequences."""

    def forward(self, x: Tensor, ctx: blocks.Context | None = None) -> Tensor:
        refuse_places(self, ctx)
        state = ctx.state if ctx is not None else None
        y = x.cumsum(1) + (state.get("sum", 0) if state else 0)
        if state is not None:
            state["sum"] = y[:, -1:]
        return self.proj(y)


class Leaks(Carries):
    """Is given ctx and never looks at its mask."""

    def forward(self, x: Tensor, ctx: blocks.Context | None = None) -> Tensor:
        return Running.forward(self, x)


class Deaf(Mixes):
    """Declares `cross` and never looks at the memory."""


class Listens(Mixes):
    def forward(self, x: Tensor, ctx: blocks.Context | None = None) -> Tensor:
        return self.proj(x if ctx is None or ctx.memory is None else x + ctx.memory.mean(1, keepdim=True))


class Folds(Mixes):
    """Folds its scale into its weight but forgets the bias."""

    def __init__(self, dim: int):
        Mixes.__init__(self, dim)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) * self.scale

    def fuse(self) -> nn.Module:
        self.proj.weight.data *= self.scale
        return self.proj


class Absorbs(Pointwise):
    """Takes the scale that follows and drops the shift."""

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        self.proj.weight.data *= scale[:, None]
        self.proj.bias.data *= scale
        return True


class Shy(Pointwise):
    """Refuses, but not with a bool."""

    def absorb_input(self, scale: Tensor, shift: Tensor) -> None:
        return None


class ScalesClips(nn.Module):
    """Clips (B, C, T, H, W), scaled and shifted channel by channel."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.linspace(0.5, 1.5, dim)), nn.Parameter(torch.linspace(-1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(-1, 1, 1, 1) + self.shift.view(-1, 1, 1, 1)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        return self.scale.detach(), self.shift.detach()

    def absorb_output(self, scale: Tensor, shift: Tensor) -> bool:
        self.shift.data = self.shift.data * scale + shift
        self.scale.data *= scale
        return True


BROKEN = {
    "shape": (Shortens, {}, "a block of kind token_mixer keeps the shape; (2, 196, 64) became (2, 195, 64)"),
    "layout": (
        Copies,
        {"layout": "BCHW"},
        "a channels_last image left with strides (12544, 196, 14, 1); the next block would copy it to see (B, H*W, C)",
    ),
    "dtype": (Upcasts, {}, "torch.bfloat16 tokens in, torch.float32 out"),
    "meta": (Allocates, {}, "built on meta, `table` took memory all the same"),
    "loading": (
        Forgets,
        {},
        "buffer `table` after building on meta, loading and `reset_buffers()`: not bit-equal, the relative difference is nan",
    ),
    "gradient": (Idle, {}, "no gradient reaches `unused`"),
    "names": (Counts, {}, "parameter shapes depend on the layout: `table` differ between tokens and image"),
    "any_resolution": (
        Fixed,
        {"abilities": ("any_resolution",)},
        "RuntimeError: unflatten: Provided sizes [14, 14] don't multiply up to the size of dim 1 (60) in the input tensor",
    ),
    "noncausal": (
        Running,
        {"abilities": ("noncausal",)},
        "it declares `noncausal`, and its outputs see only inputs before them: declare `causal`",
    ),
    "cross": (Deaf, {"abilities": ("cross",)}, "it declares `cross`, and another `ctx.memory` changes no output"),
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_broken_promise_is_named_in_a_sentence(registered, check):
    cls, words, sentence = BROKEN[check]
    assert run_check(registered(cls, **words), check) == Result(cls.__name__.lower(), check, FAILED, sentence)


@pytest.mark.parametrize(
    ("check", "cls", "abilities", "beginning"),
    [
        ("causal", Mixes, ("causal",), "outputs up to 0 change by "),
        ("padding", Leaks, (), "what stands at padding before the tokens changes outputs at real tokens by "),
        ("packing", Leaks, (), "packed sequences against each alone: the relative difference is "),
        ("determinism", Dice, (), "two passes of the same tokens: not bit-equal"),
        ("determinism", InPlace, (), "the input after the pass: not bit-equal"),
        ("copies", Lambda, (), "worker processes need it pickled, and it cannot be: "),
        ("step", Stateless, ("step",), "24 tokens token by token against the whole: the relative difference is "),
        ("fuse", Folds, (), "deploy form against train form in torch.float64: the relative difference is "),
        (
            "affine",
            Absorbs,
            (),
            "the block after `absorb_output(scale, shift)` answered True: the relative difference is ",
        ),
        ("affine", Shy, (), "`absorb_input` answers None; it should say True or False"),
    ],
)
def test_a_broken_promise_is_found(registered, check, cls, abilities, beginning):
    result = run_check(registered(cls, abilities=abilities), check)
    assert result.outcome == FAILED
    assert result.sentence.startswith(beginning)


@pytest.mark.parametrize(
    ("cls", "abilities"),
    [
        (Mixes, ("noncausal", "any_resolution")),
        (Pointwise, ("causal", "noncausal")),
        (Running, ("causal",)),
        (Carries, ("causal", "step")),
        (Listens, ("cross",)),
    ],
)
def test_a_truthful_block_passes(registered, cls, abilities):
    results = check_block(registered(cls, abilities=abilities))
    assert [result for result in results if result.outcome == FAILED] == []
    assert {result.check for result in results if result.outcome == OK} >= {*abilities, "gradient", "loading"}


def test_clips_have_their_channels_on_axis_1(registered):
    subject = registered(ScalesClips, layout="BCTHW", abilities=("noncausal", "3d"))
    assert {run_check(subject, check).outcome for check in ("affine", "shape")} == {OK}


def test_a_block_without_ctx_is_refused_where_padding_would_reach_it(registered):
    subject = registered(Mixes)
    x, ctx = torch.randn(1, 4, 64), blocks.Context(mask=torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"^block `local/mixes` cannot keep padding \(ctx\.mask\) out; give it sequences of one"
    ):
        run(subject.build("tokens"), x, ctx)
    assert run_check(subject, "padding").outcome == OK


def test_an_ability_without_promise_is_not_applicable_with_its_reason(registered):
    assert run_check(registered(Mixes), "causal") == Result(
        "mixes", "causal", NOT_APPLICABLE, "it does not declare `causal`"
    )


class Untyped(nn.Module):
    def __init__(self, dim: int, width):
        nn.Module.__init__(self)


class Unbounded(Mixes):
    def __init__(self, dim: int, *, heads: int = 5):
        Mixes.__init__(self, dim)
        if dim % heads:
            raise ValueError(f"{dim} channels do not divide into {heads} heads; 4 do")


def test_a_signature_that_is_no_schema_ends_the_checks_of_that_block(registered):
    sentence = "TypeError: Untyped.__init__: parameter `width` has no type; every parameter of a block is typed"
    assert check_block(registered(Untyped)) == [Result("untyped", "schema", FAILED, sentence)]


def test_a_constructor_that_refuses_its_defaults_ends_the_checks_of_that_block(registered):
    results = check_block(registered(Unbounded))
    assert [result.check for result in results] == ["schema", "builds"]
    assert (
        results[-1].sentence
        == "block `local/unbounded` cannot be built here: 64 channels do not divide into 5 heads; 4 do"
    )


class Exits(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(3)


def test_a_block_that_leaves_the_program_is_a_failed_row(registered):
    assert run_check(registered(Exits), "shape") == Result("exits", "shape", FAILED, "SystemExit: 3")


GOOD = '''
from __future__ import annotations
import blocks
from torch import Tensor, nn

@blocks.block("my_shift", kind="token_mixer", layout="BLC", abilities=("causal", "any_resolution"))
class MyShift(nn.Module):
    """y_t = W x_{t-1}."""

    def __init__(self, dim: int, *, bias: bool = True):
        super().__init__()
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.roll(1, 1))
'''


def test_the_blocks_of_a_file_are_checked(registered, tmp_path):
    path = tmp_path / "my_block.py"
    path.write_text(GOOD)
    failed = [result for result in check_file(path) if result.outcome == FAILED]
    assert [(result.block, result.check) for result in failed] == [("local/my_shift", "causal")]
    assert failed[0].sentence.endswith("when only inputs after 0 change: it sees the future")


@pytest.mark.parametrize(
    ("golden", "sentence"),
    [
        ({}, "no names are published for it; next: `python -m zoo.testing.headers` writes them"),
        ({"w": [64, 64], "proj.bias": [64]}, "the state dict no longer has `w`; it has `proj.weight` instead"),
        ({"proj.bias": [64]}, "the state dict has `proj.weight` beside its published names"),
        ({"proj.bias": [64], "proj.weight": [64, 32]}, "`proj.weight` has shape [64, 64]; published is [64, 32]"),
    ],
)
def test_changed_names_are_told_apart(registered, golden, sentence):
    about = registered(Mixes)
    about.headers = {about.info.id: golden} if golden else {}
    assert run_check(about, "names").sentence == sentence


def test_a_blc_block_shown_an_image_gives_an_image(registered):
    about = registered(Mixes)
    module, x = about.build("image"), about.input("image")
    assert run(module, x).shape == x.shape
    assert run_check(about, "layout").outcome == OK
