"""Reference data say whose code gave them, and of which commit or release."""

from __future__ import annotations

import json
import pathlib
import re

from tests.golden import language

GOLDEN = pathlib.Path(__file__).with_name("golden")
RELEASE = re.compile(r"\b[0-9a-f]{7,40}\b|\b\d+\.\d+\.\d+\b")
UNDATED = {
    "BlinkDL/RWKV-LM", "Dao-AILab/causal-conv1d", "DingXiaoH/RepLKNet-pytorch", "HazyResearch/m2", "HazyResearch/safari",
    "IEIT-Yuan/Yuan2.0-M32", "Lornatang/ESPCN-PyTorch", "Visual-Attention-Network/VAN-Classification", "fla-org/flash-linear-attention", "giangdip2410/HyperRouter",
    "google-research/vmoe", "leftthomas/ESPCN", "lucidrains/performer-pytorch", "lucidrains/soft-moe-pytorch", "open-mmlab/mmpretrain", "r-three/smear",
    "scipy.optimize.linear_sum_assignment", "state-spaces/mamba", "thu-ml/ReMoE",
}  # fmt: skip
"""Repositories of which the commit was not noted when the data were made. No other is added."""


def test_goldens_name_the_commit_or_the_release_of_their_reference() -> None:
    references = {str(path): json.loads(path.read_text()).get("reference", "") for path in GOLDEN.rglob("*.json")}
    undated = {path: text for path, text in references.items() if not RELEASE.search(text)}
    assert {path: text for path, text in undated.items() if re.split(r"[: ]", text)[0] not in UNDATED} == {}


def test_a_golden_that_a_command_of_ours_makes_names_it() -> None:
    commands = {path.stem: json.loads(path.read_text()).get("command", "") for path in sorted(GOLDEN.rglob("*.json"))}
    assert {stem: command for stem, command in commands.items() if command} == {
        f"model_{name}": f"python -m tests.golden.language {name}" for name in language.MODELS
    }


def test_every_repository_without_a_commit_is_one_of_a_golden() -> None:
    references = [json.loads(path.read_text())["reference"] for path in GOLDEN.rglob("*.json")]
    assert {re.split(r"[: ]", reference)[0] for reference in references if not RELEASE.search(reference)} >= UNDATED
