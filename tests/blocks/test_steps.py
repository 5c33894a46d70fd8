"""Single tokens by one list of calls: what the net computes module by module, whatever stands between, and states that stay as they were."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from blocks.context import Context
from blocks.narrowing import narrow
from blocks.ops.narrow_linear import FEW
from blocks.steps.tape import Called, Listed, Tape, missing
from zoo.build.deploy import fused, packed
from zoo.errors import InputError

NAMES = [
    *(
        "llama_nano",
        "mamba_nano",
        "jamba_nano",
        "gemma2_nano",
        "gemma3_nano",
        "qwen3_nano",
        "qwen3_next_nano",
        "olmo2_nano",
    ),
    *(
        "gla_nano",
        "rwkv7_nano",
        "mamba2_nano",
        "mixtral_nano",
        "deepseek_nano",
        "recurrent_gemma_nano",
        "zamba2_nano",
        "falcon_h1_nano",
    ),
    *("smollm3_nano", "lfm2_nano", "granite_hybrid_nano", "pangu_pi_nano", "read_me_nano"),
]
IDS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(5))
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there are kernels")


def net_of(name: str, form: str = "float32", steps: bool = True) -> Any:
    torch.manual_seed(0)
    net = fused(zoo.create(name))
    net = packed(net) if form == "float32" else narrow(net, form)  # type: ignore[arg-type]
    if steps:
        net.write_steps()
    return net


def leaves(state: Any) -> list[Tensor]:
    return [tensor for part in state.values() for tensor in part]


@torch.no_grad()
def follow(net: Any, ids: Tensor, begun: int = 4) -> tuple[Tensor, Any]:
    """The scores of each token, the first of them read at once, and the state behind the last."""
    logits, state = net(ids[:, :begun], state={})
    parts = [logits]
    for token in ids[:, begun:].split(1, 1):
        logits, state = net(token, state=state)
        parts.append(logits)
    return torch.cat(parts, 1), state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_a_step_is_that_of_the_modules(name: str, form: str) -> None:
    net, plain = net_of(name, form), net_of(name, form, steps=False)
    ids = IDS % net.spec.input.vocab_size
    with torch.no_grad():
        assert net.stepper(ids[:, :1], net(ids, state={}).state) is not None
    (found, state), (right, expected) = follow(net, ids), follow(plain, ids)
    torch.testing.assert_close(found, right, rtol=2e-4, atol=2e-5)
    assert list(state) == list(expected)
    for one, other in zip(leaves(state), leaves(expected), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_prompt_is_that_of_the_modules(name: str) -> None:
    net, plain = net_of(name, "int8"), net_of(name, "int8", steps=False)
    ids = IDS % net.spec.input.vocab_size
    assert net.stepper.features(ids, Context()) is not None
    mask = torch.ones(IDS.shape, dtype=torch.bool)
    mask[0, :3] = False
    for given in ({}, {"state": {}}, {"state": {}, "mask": mask}):
        found, right = net(ids, **given), plain(ids, **given)
        torch.testing.assert_close(found.logits, right.logits, rtol=2e-4, atol=2e-5)
        assert (found.state is None) == (right.state is None)
        for one, other in zip(leaves(found.state or {}), leaves(right.state or {}), strict=True):
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
    begun = net(ids, state={}).state
    torch.testing.assert_close(
        net(ids, state=begun).logits, plain(ids, state=begun).logits, rtol=2e-4, atol=2e-5
    )  # a state in, and the same not changed
    wide = net_of(name).stepper
    assert wide.features(ids, Context()) is None and wide.features(ids[:, :5], Context()) is not None


@torch.no_grad()
def test_a_state_that_was_used_is_left_as_it_was() -> None:
    for name in ("llama_nano", "mamba_nano", "gemma3_nano"):
        net = net_of(name)
        state = net(IDS[:, :9], state={}).state
        state = net(IDS[:, 9:10], state=state).state
        before = [tensor.clone() for tensor in leaves(state)]
        branches = [[token], [token + 1], [token]] if (token := IDS[:, 10:11]) is not None else []
        ends = []
        for first in branches:
            logits, after = net(first[0] % 256, state=state)
            ends.append((logits, net(IDS[:, 11:], state=after).logits))
        assert all(torch.equal(now, then) for now, then in zip(leaves(state), before, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(ends[0], ends[2], strict=True))
        assert not torch.equal(ends[0][1], ends[1][1])


def test_long_sequences_outgrow_their_room() -> None:
    net, plain = net_of("llama_nano"), net_of("llama_nano", steps=False)
    ids = torch.randint(0, 256, (1, 150), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(follow(net, ids)[0], follow(plain, ids)[0], rtol=2e-4, atol=2e-5)


@torch.no_grad()
def test_a_state_can_be_kept_in_a_file_and_its_room_is_given_back(tmp_path: Path) -> None:
    net = net_of("llama_nano")
    state = net(IDS, state={}).state
    for _ in range(3):
        state = net(IDS[:, :1], state=state).state
    cache = net.stepper._made[True][1].keepers[0]
    room = cache._given[id(state[cache.path][0])][2]
    assert len(cache._given) == 1 and room.used == IDS.shape[1] + 3
    torch.save(state, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(net(IDS[:, :1], state=again).logits, net(IDS[:, :1], state=state).logits)
    del state
    assert not cache._given


def test_a_window_slides() -> None:
    torch.manual_seed(0)
    ids = IDS.repeat(1, 9)
    for window in (1, 2, 5):
        net = packed(fused(zoo.create("llama_nano", {"define.attention.window": window})))
        right, expected = follow(net, ids)
        net.write_steps()
        found, state = follow(net, ids)
        torch.testing.assert_close(found, right, rtol=2e-4, atol=2e-5)
        assert [part.shape for part in leaves(state)] == [part.shape for part in leaves(expected)]


def test_samples_do_not_see_each_other() -> None:
    net = net_of("llama_nano", "int8")
    both = follow(net, IDS)[0]
    for row in range(2):
        torch.testing.assert_close(follow(net, IDS[row : row + 1])[0], both[row : row + 1], rtol=1e-5, atol=1e-6)


def test_any_number_of_threads_gives_the_same() -> None:
    net, before = net_of("jamba_nano", "int8"), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(follow(net, IDS)[0][:, 4:])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


@torch.no_grad()
def test_what_is_not_one_token_behind_others_takes_the_ordinary_way() -> None:
    net = net_of("llama_nano")
    state = net(IDS, state={}).state
    one = IDS[:, :1]
    assert net.stepper(one, state) is not None
    assert net.stepper(one, {}) is None
    assert net.stepper(IDS, state) is None
    assert net.stepper(one.repeat(FEW, 1), state) is None
    assert net.stepper(one[:1], state) is None  # a state of other samples
    mask = torch.ones(IDS.shape, dtype=torch.bool)
    mask[0, :3] = False
    assert net.stepper(one, net(IDS, state={}, mask=mask).state) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert net.stepper(one, state) is None


def test_weights_that_change_are_followed() -> None:
    net = net_of("llama_nano")
    before = follow(net, IDS)[0]
    other = zoo.create("llama_nano")
    assert not torch.equal(follow(net, IDS)[0], follow(packed(fused(other)), IDS)[0])
    for module in net.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter * 1.5, requires_grad=False)
    right, found = follow(copy.deepcopy(net), IDS)[0], follow(net, IDS)[0]
    assert torch.equal(right, found) and not torch.allclose(found, before)


def test_copies_write_their_own_list() -> None:
    net = net_of("jamba_nano", "int8")
    right = follow(net, IDS)[0]
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.stepper is not net.stepper and twin.stepper.stem is twin.stem
        assert torch.equal(follow(twin, IDS)[0], right)


def test_threads_go_on_from_one_state_each_by_itself() -> None:
    net = net_of("llama_nano", "int8")
    with torch.no_grad():
        state = net(IDS, state={}).state
        state = net(IDS[:, :1], state=state).state

    @torch.no_grad()
    def written(start: int) -> Tensor:
        token, after, parts = IDS[:, start : start + 1], state, []
        for _ in range(20):
            logits, after = net.next_logits(token, after)
            token = logits.argmax(-1, keepdim=True)
            parts.append(logits)
        return torch.stack(parts)

    alone = [written(start) for start in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(written, range(4)))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_hooks_see_the_module_that_they_watch() -> None:
    net, seen = net_of("llama_nano"), []
    part = net.stages[0].layers[1]
    part.register_forward_hook(lambda module, given, y: seen.append(y.shape))
    right = follow(net_of("llama_nano", steps=False), IDS)[0]
    torch.testing.assert_close(follow(net, IDS)[0], right, rtol=2e-4, atol=2e-5)
    assert len(seen) == 9


def test_modules_without_a_rule_are_called_between_lists() -> None:
    def kinds(name: str) -> set[type]:
        net = net_of(name)
        follow(net, IDS[:, :6])
        return {type(entry) for entry in net.stepper._made[True][1].program.entries}

    assert kinds("llama_nano") == kinds("mamba_nano") == {Listed}
    assert kinds("gla_nano") == {Listed, Called}


def test_buffers_share_the_room_of_those_that_nobody_reads_any_more() -> None:
    tape = Tape()
    first = x = tape.new(20)
    for _ in range(10):
        x = tape.call("act", x, which=0)
    assert tape.program(first, x).numbers == 2 * 32


@pytest.mark.parametrize("name", ["llama_nano", "gla_nano"])
def test_states_of_other_sequences_are_named(name: str) -> None:
    net = net_of(name)
    state = net(IDS, state={}).state
    with pytest.raises(InputError, match="expected the state of 1 sequences, as there are now; found one of 2"):
        net(IDS[:1, :1], state=state)
    with pytest.raises(InputError, match="as `state`, or {} to begin with; found `list`"):
        net(IDS[:, :1], state=[state])


def test_ids_beyond_the_table_are_named() -> None:
    net = net_of("llama_nano")
    with torch.no_grad():
        state = net(IDS, state={}).state
    with pytest.raises(Exception, match=r"256"):
        net(torch.tensor([[300], [3]]), state=state)
