"""One-shot and hierarchical aggregation, ghost modules, mobile attention and gates against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import blocks
from blocks.construct import construct
from blocks.registry.slots import Place

CONV = {"block": "conv", "kernel_size": 3}


def image(dim: int = 8, size: int = 9) -> Tensor:
    return torch.randn(2, dim, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def made(call: object, dim: int = 8, out_dim: int | None = None) -> Any:
    module = construct(call, Place(), dim, out_dim)
    assert module is not None
    return module.double().eval()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_every_step_of_an_aggregation_is_kept() -> None:
    net, x = made({"aggregate": [CONV | {"out_dim": 4}, CONV | {"out_dim": 6}]}), image()
    first = net.get_submodule("0")(x)
    close(net(x), torch.cat([x, first, net.get_submodule("1")(first)], 1))
    assert net.out_dim == 18


def test_what_stands_before_an_aggregation_is_read_and_not_kept() -> None:
    net, x = made({"aggregate": [CONV], "before": CONV | {"out_dim": 4}}), image()
    close(net(x), torch.cat([x, net.get_submodule("0")(net.before(x))], 1))


def test_an_empty_step_of_an_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match="part 1 is empty"):
        made({"aggregate": [CONV, "none"]})


def test_roots_of_a_tree_read_what_is_below_and_what_came_before() -> None:
    call = {"tree": [CONV | {"stride": 2}, CONV], "levels": 2, "bottom": "max_pool", "skip": True}
    net, x = made(call, 8, 12), image(8, 8)
    a = net.tree1.tree1(x)
    b = net.tree1.tree2(a)
    left = F.relu(net.tree1.root(torch.cat([b, a], 1)) + b)
    c = net.tree2.tree1(left)
    d = net.tree2.tree2(c)
    close(net(x), F.relu(net.tree2.root(torch.cat([d, c, F.max_pool2d(x, 2), left], 1)) + d))
    assert net(x).shape == (2, 12, 4, 4)


@pytest.mark.parametrize("width", [10, 9])
def test_the_second_half_of_a_ghost_is_made_of_the_first(width: int) -> None:
    net, x = made({"block": "ghost_conv"}, 8, width), image()
    first = net.primary(x)
    close(net(x), torch.cat([first, net.cheap(first)], 1)[:, :width])


@pytest.mark.parametrize("stride", [1, 2])
def test_all_heads_of_mobile_attention_share_a_key_and_a_value(stride: int) -> None:
    net, x = made({"block": "mobile_attention", "num_heads": 2, "head_dim": 6, "stride": stride}), image()
    small = [x, x] if stride == 1 else [net.k_conv(x), net.v_conv(x)]
    q = net.q(x).flatten(2).mT.unflatten(-1, (2, 6)).transpose(1, 2)
    k, v = (linear(y).flatten(2).mT.unsqueeze(1) for linear, y in zip((net.k, net.v), small, strict=True))
    y = (q @ k.mT / 6**0.5).softmax(-1) @ v
    close(net(x), net.proj(y.transpose(1, 2).flatten(2)).mT.unflatten(2, (9, 9)))


def test_an_effective_gate_has_one_map() -> None:
    net, x = made("effective_squeeze_excite"), image()
    close(net(x), x * F.hardsigmoid(net.map(x.mean((2, 3), keepdim=True))))


def test_a_gate_with_norms_is_folded_into_its_maps() -> None:
    net, x = made({"block": "squeeze_excite", "norm": "batch_norm"}), image()
    for key, tensor in net.state_dict().items():
        if "running" in key:
            tensor.uniform_(0.5, 2, generator=torch.Generator().manual_seed(5))
    fused = blocks.fuse(net)
    assert fused.norm1 is fused.norm2 is None
    close(fused(x), net(x))


def test_an_inverted_bottleneck_may_leave_its_expansion_out_and_have_a_gate_and_a_scale() -> None:
    call = {"block": "universal_inverted_residual", "ratio": 0, "gate": "squeeze_excite", "scale": 0.5}
    net, x = made(call), image()
    y = net.pw_proj(net.gate(net.dw_mid(x)))
    close(net(x), x + 0.5 * y)
    close(blocks.fuse(net)(x), net(x))
    assert not hasattr(net, "pw_exp")


@pytest.mark.parametrize(("kernel", "shape"), [([1, 7], (2, 8, 9, 9)), ([7, 1], (2, 8, 9, 9))])
def test_a_kernel_may_have_unlike_sides(kernel: list[int], shape: tuple[int, ...]) -> None:
    net = made({"block": "conv", "kernel_size": kernel})
    assert net.weight.shape[2:] == tuple(kernel)
    assert net(image()).shape == shape


def test_groups_may_be_stated_by_their_width() -> None:
    assert made({"block": "conv", "kernel_size": 3, "group_dim": 4}).groups == 2
    assert made({"block": "conv", "kernel_size": 3, "group_dim": 40}).groups == 1


def test_a_pool_without_a_border_may_have_smaller_cells_at_the_end() -> None:
    x = image(8, 8)
    pool = made({"block": "max_pool", "kernel_size": 3, "padding": 0, "ceil": True})
    close(pool(x), F.max_pool2d(x, 3, 2, ceil_mode=True))
    close(made({"block": "avg_pool", "kernel_size": 3, "stride": 1, "count_border": True})(x), F.avg_pool2d(x, 3, 1, 1))
