"""The doctor tells a right kernel from a wrong one that is put in its place, and says what it did
not look at.
"""

import json
import socket
from collections.abc import Callable
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.doctor.bench import bench
from dpo_video.doctor.finding import Finding, compared
from dpo_video.doctor.kernels import attention_findings, bf16_finding, four_bit_findings
from dpo_video.doctor.machine import gpu_findings
from dpo_video.doctor.services import judge_finding
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import load_recipe

CPU = torch.device("cpu")
KERNELS = {
    "attention sdpa float32",
    "attention tree_sdpa float32",
    "4-bit forward on the cpu",
    "4-bit backward on the cpu",
}


def verdicts() -> dict[str, str]:
    findings = [*attention_findings(CPU), *four_bit_findings(CPU)]
    return {finding.name: finding.verdict for finding in findings if finding.name in KERNELS}


def test_the_kernels_that_are_here_are_right() -> None:
    assert verdicts() == dict.fromkeys(KERNELS, "right")
    assert bf16_finding(CPU).verdict == "right"


def without_causality(right: Callable[..., Any]) -> Callable[..., Any]:
    """Every token sees every other one."""

    def run(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        everything = torch.zeros(1, 1, query.shape[2], key.shape[2])
        return right(module, query, key, value, everything, **kwargs)

    return run


def with_a_wrong_gradient(right: Callable[..., Any]) -> Callable[..., Any]:
    """The output is right; no gradient reaches the keys."""

    def run(module: Any, query: Tensor, key: Tensor, *others: Any, **kwargs: Any) -> Any:
        return right(module, query, key.detach() + 0 * key, *others, **kwargs)

    return run


@pytest.mark.parametrize("spoil", [without_causality, with_a_wrong_gradient])
def test_a_wrong_attention_in_its_place_is_told(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., Any]
) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", spoil(ALL_ATTENTION_FUNCTIONS["sdpa"]))
    told = verdicts()
    assert told.pop("attention sdpa float32") == "wrong"
    assert set(told.values()) == {"right"}


def test_a_wrong_tree_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers see the answers before them, as in a plain causal row."""
    name = "dpo_video_tree_sdpa"
    right = ALL_ATTENTION_FUNCTIONS[name]

    def run(*args: Any, tree_plan: Any, **kwargs: Any) -> Any:
        return right(*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, name, run)
    told = verdicts()
    assert told.pop("attention tree_sdpa float32") == "wrong"
    assert set(told.values()) == {"right"}


def test_an_attention_that_fails_is_wrong_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", run)
    (finding, *_) = attention_findings(CPU)
    assert finding.verdict == "wrong" and "no kernel image" in finding.text and finding.fix


def test_a_wrong_4_bit_kernel_in_its_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks are scaled by a thousandth too much."""
    right = bitsandbytes.matmul_4bit

    def run(inputs: Tensor, weight: Tensor, *args: Any, quant_state: Any, **kwargs: Any) -> Tensor:
        quant_state.absmax = quant_state.absmax * 1.001
        return right(inputs, weight, *args, quant_state=quant_state, **kwargs)

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", run)
    told = verdicts()
    assert told == {name: "wrong" if name.startswith("4-bit") else "right" for name in KERNELS}


def test_what_is_not_a_number_is_wrong() -> None:
    assert compared("x", float("nan"), 1.0, "y", "z").verdict == "wrong"


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_stays_unproven() -> None:
    (found,) = gpu_findings("auto")
    assert found.verdict == "not checked" and "Unproven stay" in found.text
    (asked,) = gpu_findings("cuda")
    assert asked.verdict == "wrong" and "model.device is cuda" in asked.text
    names = by_name([*attention_findings(CPU), *four_bit_findings(CPU)])
    assert names["attention flash_attention_2"].verdict == "not checked"
    assert names["4-bit kernels of the GPU"].verdict == "not checked"


def test_a_judge_that_is_away_is_wrong() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "toy:qwen2_5_vl"},
            "data": {"samples": "toy:train"},
            "judge": {
                "backend": "openai",
                "model": "j",
                "base_url": f"http://127.0.0.1:{port}/v1",
                "retries": 0,
            },
        }
    )
    found = judge_finding(recipe)
    assert found.verdict == "wrong" and str(port) in found.text and found.fix


def test_the_command_prints_every_line_and_ends_with_1_where_one_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    rows = json.loads(done.stdout)
    assert done.exit_code == 0, done.stdout
    assert {row["verdict"] for row in rows["findings"]} == {"right", "not checked"}
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS, "sdpa", without_causality(ALL_ATTENTION_FUNCTIONS["sdpa"])
    )
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and "wrong" in done.stdout and "1 wrong" in done.stdout


def test_a_bench_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(UserError, match="--bench needs a recipe"):
        CliRunner().invoke(app, ["doctor", "--bench"], catch_exceptions=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_large_model_is_not_timed_on_a_cpu() -> None:
    with pytest.raises(UserError, match=r"billion parameters, and there is no GPU here"):
        bench(load_recipe("qwen2_5_vl_7b"))
