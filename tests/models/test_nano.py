"""Nanos with embedded weights: these are what their manifests say, and mixers swap."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from torch.nn import functional as F

import zoo
from blocks.context import Context
from tests.sampled import sampled
from zoo import catalog
from zoo.catalog.listing import list_models, list_pretrained
from zoo.catalog.manifests import manifests
from zoo.data import digits
from zoo.errors import SpecError
from zoo.training.digits import evaluate
from zoo.weights.header import read_header
from zoo.weights.probe import check_probe
from zoo.weights.source import path_of

NANO = ["unireplknet_nano", "linear_vit_nano", "vim_nano", "moe_vit_nano", "gmlp_nano"]
TRAINED = list_models(pretrained=True, task="image-classification")
MIXERS = [
    "dilated_reparam_conv",
    "linear_attention",
    "bidirectional_mamba",
    "spatial_gating_mlp",
    "pooling",
    "attention",
    "depthwise_conv",
    "identity",
]
EXPERTS = {"block": "moe", "router": {"block": "topk_router", "num_experts": 4, "k": 2}}


# hosts whose width the mixer's default heads do not divide: refused with the head that would do
NARROW = {mixer: ("unireplknet_nano", "moe_vit_nano") for mixer in ("attention", "linear_attention")}


def test_every_nano_model_ships_weights() -> None:
    assert set(NANO) <= set(TRAINED)


def test_each_file_is_small_whole_and_of_the_model_that_it_stands_beside() -> None:
    for name in list_pretrained():
        manifest, entry = manifests(name)[0], catalog.entry(name)
        assert manifest.size_bytes is not None and manifest.size_bytes <= 1_000_000, name
        assert manifest.digest == entry.digest, name
        header = read_header(path_of(manifest, catalog.home_of(entry.name).weights))
        assert sum(math.prod(tensor.shape) for tensor in header.tensors.values()) >= entry.params, name


@pytest.mark.parametrize("name", sampled(TRAINED))
def test_the_weights_prove_themselves(name: str) -> None:
    check_probe(zoo.create(name, pretrained=True), manifests(name)[0].probe, name)


@pytest.mark.parametrize("name", sampled(TRAINED))
def test_the_published_accuracy_is_measured_again(name: str) -> None:
    metric = manifests(name)[0].metrics["digits/top1@32"]
    correct, n = evaluate(zoo.create(name, pretrained=True))
    assert n == metric.n
    assert abs(correct - metric.correct) <= 1  # rounding of another machine may turn one
    assert correct / n >= 0.8  # chance is a tenth


@pytest.mark.parametrize("way", ["bicubic", "nearest"])
@pytest.mark.parametrize("name", sampled(TRAINED))
def test_scans_enlarged_in_another_way_are_read_too(name: str, way: str) -> None:
    images, labels = digits.held_out()
    x = digits.to_input(images, msgspec.structs.replace(digits.PREPROCESS, interpolation=way))
    with torch.inference_mode():
        found = zoo.create(name, pretrained=True)(x).argmax(-1)
    # patches that are cut before anything is smoothed see the steps of the nearest way, so that vit_nano loses a tenth
    assert float((found == torch.from_numpy(labels)).float().mean()) >= 0.85


@pytest.mark.parametrize("name", sampled(TRAINED))
def test_the_deploy_form_of_trained_weights_agrees(name: str) -> None:
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = zoo.create(name, pretrained=True)(x)
        found = zoo.create(f"{name}.digits", form="deploy")(x)
    assert float((found - expected).norm() / expected.norm()) <= 1e-5


def one_step(model: zoo.Backbone, size: int) -> None:
    """A forward, a loss, a backward: gradients are finite and reach the stem."""
    channels = model.spec.input.channels
    ctx = Context()
    logits = model.train()(torch.randn(2, channels, size, size), ctx)
    (F.cross_entropy(logits, torch.tensor([0, 1])) + ctx.total_loss()).backward()
    grads = [parameter.grad for parameter in model.stem.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("host", [*NANO, "convformer_s18"])
def test_mixers_interchange(host: str, mixer: str) -> None:
    size = 64 if host == "convformer_s18" else 32
    changes = {"input.size": size} if host == "convformer_s18" else {}
    if host in NARROW.get(mixer, ()):
        with pytest.raises(
            SpecError, match=r"head_dim 32 does not divide dim (16|48); the nearest that does is (16|24)"
        ):
            zoo.create(host, changes, swap={"token_mixer": mixer})
        mixer = {"block": mixer, "head_dim": 16}
    one_step(zoo.create(host, changes, swap={"token_mixer": mixer}), size)


@pytest.mark.parametrize("host", ["unireplknet_nano", "linear_vit_nano", "moe_vit_nano", "convformer_s18"])
def test_experts_stand_in_for_channel_mixers(host: str) -> None:
    size = 64 if host == "convformer_s18" else 32
    one_step(zoo.create(host, swap={"channel_mixer": EXPERTS}), size)


@pytest.mark.parametrize("host", ["vim_nano", "gmlp_nano"])
def test_a_host_without_channel_mixers_says_so(host: str) -> None:
    with pytest.raises(SpecError, match="has no channel mixer; its roles are"):
        zoo.create(host, swap={"channel_mixer": EXPERTS})


def test_pretrained_weights_adapt_to_other_classes_and_channels() -> None:
    model = zoo.create("linear_vit_nano", pretrained=True, num_classes=3, in_chans=3)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert set(model.adapt_report.names("new")) == {"head.classifier.weight", "head.classifier.bias"}


def test_swapping_a_mixer_keeps_the_other_weights() -> None:
    model = zoo.create("linear_vit_nano", pretrained=True, swap={"token_mixer": "pooling"})
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 10)
    assert all("linear_attention" not in row for row in map(str, model.adapt_report.names("kept")))
