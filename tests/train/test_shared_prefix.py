"""Sharing prefixes changes no number: log-probs, gradients, losses and whole runs equal those of
separate rows.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from policies import each_kind, make_frames
from tiny_models import Kind
from tiny_world import KINDS
from torch import Tensor
from trees import LONG, adapter_grads, answer_part, plain_logps, rows_of, run_engine, tuned_policy

from dpo_video.models.collate import TokenRow, row_positions
from dpo_video.models.families import FAMILIES
from dpo_video.models.families.family import RECURRENT
from dpo_video.models.load import Policy
from dpo_video.models.shared_prefix import attention
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.recipe import VideoSettings
from dpo_video.train.forward import Engine, rows_engine
from dpo_video.train.logps import clip_rows
from dpo_video.train.shared_prefix import PER_TOKEN, choose_engine, shared_prefix_engine

DENSE = partial(shared_prefix_engine, dense=True)
EIGHT = [
    "yes",
    "no",
    "a red square",
    "a red circle",
    "a red square moves",
    LONG,
    "the man",
    "left right up down",
]
CASES: dict[str, list[tuple[dict[str, Any], dict[str, Sequence[str]]]]] = {
    "one question, eight answers of very different lengths": [
        ({"count": 6}, {"what happens ?": EIGHT})
    ],
    "several questions of a clip, an answer in several pairs": [
        (
            {"count": 6},
            {
                "what happens ?": ["yes", "no", "yes", "a red square"],
                "what happens in the clip ?": ["yes", LONG],
                "describe": ["no", "no"],
            },
        )
    ],
    "several clips of different sizes and frame counts": [
        ({"count": 4}, {"what ?": ["yes", LONG]}),
        ({"count": 10, "height": 60, "width": 60}, {"what ?": ["yes"]}),
        (
            {"count": 2, "width": 60},
            {"describe the video": ["no", "a red square"], "what ?": ["yes", "the man"]},
        ),
    ],
    "a clip longer in time than in space": [
        (
            {"count": 30, "height": 56, "width": 56, "seconds_apart": 3.0},
            {"what ?": ["yes", LONG], "who ?": ["the man"]},
        )
    ],
}


@pytest.fixture(scope="module", params=KINDS)
def policy(request: pytest.FixtureRequest) -> Policy:
    return tuned_policy(request.param)


each_case = pytest.mark.parametrize("case", CASES)


def some_loss(rows: Sequence[TokenRow], values: Sequence[Tensor]) -> Tensor:
    """Return a loss in which every token of every row has a weight of its own."""
    weights = [
        torch.linspace(-1, 2, len(row.answer)) * (number + 1) for number, row in enumerate(rows)
    ]
    return torch.cat([weight * value for weight, value in zip(weights, values, strict=True)]).mean()


@each_case
def test_log_probs_and_gradients_equal_separate_plain_forwards(policy: Policy, case: str) -> None:
    rows = rows_of(policy, *CASES[case])
    output = run_engine(policy, shared_prefix_engine, rows)
    got = answer_part(rows, output.log_probs)
    expected = [plain_logps(policy, row) for row in rows]
    torch.testing.assert_close(torch.cat(got), torch.cat(expected), atol=1e-5, rtol=0)
    assert (
        int(output.label_mask.sum())
        == int((output.log_probs != 0).sum())
        == sum(len(row.answer) for row in rows)
    )
    mine = adapter_grads(policy, some_loss(rows, got))
    theirs = adapter_grads(policy, some_loss(rows, expected))
    assert max(float(grad.abs().max()) for grad in theirs.values()) > 0.1
    for name, grad in theirs.items():
        torch.testing.assert_close(mine[name], grad, atol=1e-5, rtol=1e-4)


@each_case
def test_every_field_of_trl_equals_that_of_rows_and_of_the_dense_mask(
    policy: Policy, case: str
) -> None:
    rows = rows_of(policy, *CASES[case])
    with torch.no_grad():
        shared, plain, dense = (
            run_engine(policy, engine, rows)
            for engine in (shared_prefix_engine, rows_engine, DENSE)
        )
    for name in (*PER_TOKEN, "loss", "label_mask"):
        for other in (plain, dense):
            torch.testing.assert_close(shared[name], other[name], atol=1e-5, rtol=1e-5)


def test_a_clip_longer_in_time_than_in_space_is_one(policy: Policy) -> None:
    """The case above is what it says, where positions have axes: time goes beyond height and
    width.
    """
    row = rows_of(policy, *CASES["a clip longer in time than in space"])[0]
    video = row.prompt.input_ids == policy.family.placeholder(policy.bare.config)
    time, *space = row_positions(row)[:, : len(video)][:, video].amax(1).tolist()
    assert all(time > 5 * side for side in space)


def test_a_question_before_the_video_still_shares_what_it_can(policy: Policy) -> None:
    """Each question then has the clip again, in its own segment, with all of the clip's
    features.
    """
    template = policy.processor.chat_template
    try:
        if policy.family.name == "qwen2_5_vl":
            policy.processor.chat_template = (
                "<|im_start|>user\n{% for c in messages[0]['content'] %}{{ c['text'] }}{% endfor %}"
                "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
            )
        else:
            policy.processor.chat_template = (
                "USER: {% for c in messages[0]['content'] %}{{ c['text'] }}{% endfor %}"
                " <video>\nASSISTANT:"
            )
        rows = rows_of(
            policy,
            (
                {"count": 6},
                {
                    "what happens in the clip ?": ["yes", LONG],
                    "describe the video": ["no", "a red square"],
                },
            ),
        )
    finally:
        policy.processor.chat_template = template
    with torch.no_grad():
        got = answer_part(rows, run_engine(policy, shared_prefix_engine, rows).log_probs)
        expected = [plain_logps(policy, row) for row in rows]
    torch.testing.assert_close(torch.cat(got), torch.cat(expected), atol=1e-5, rtol=0)


def test_an_answer_s_log_probs_do_not_change_with_the_other_answers(policy: Policy) -> None:
    """Bit for bit, while the others keep their lengths: no answer reads another, nor another
    question.
    """

    def logps(other: str) -> list[Tensor]:
        rows = rows_of(
            policy,
            ({"count": 6}, {"what ?": ["a red square", other], "who ?": [other, "the man is"]}),
        )
        with torch.no_grad():
            return answer_part(rows, run_engine(policy, shared_prefix_engine, rows).log_probs)

    one, other = logps("yes yes yes"), logps("no no no")
    assert not torch.equal(one[1][:1], other[1][:1])
    assert len(one[1]) == len(other[1])
    assert torch.equal(one[0], other[0]) and torch.equal(one[3], other[3])


def test_shuffled_frames_change_the_log_probs(policy: Policy) -> None:
    frames = make_frames(6)
    results = []
    for pixels in (frames.pixels, frames.pixels[[3, 1, 5, 0, 4, 2]]):
        rows = clip_rows(
            policy,
            replace(frames, pixels=pixels),
            VideoSettings(),
            question="what ?",
            answers=["yes", "no"],
        )
        with torch.no_grad():
            results.append(run_engine(policy, shared_prefix_engine, rows).log_probs)
    assert float((results[0] - results[1]).abs().max()) > 1e-3


def test_each_token_of_the_tree_enters_the_language_model_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Video and question once, answers once each; equal rows not again; no position but the
    answers' is scored.
    """
    rows = rows_of(policy, ({"count": 6}, {"what happens ?": ["yes", "a red square", "yes"]}))
    seen: list[tuple[int, ...]] = []
    head: list[int] = []
    handle = policy.bare.get_decoder().register_forward_hook(
        lambda *call: seen.append(tuple(call[2].last_hidden_state.shape[:2]))
    )
    product = torch.mm  # of TRL's head; layers use linear
    monkeypatch.setattr(
        torch,
        "mm",
        lambda *args, **kwargs: (head.append(len(args[0])), product(*args, **kwargs))[1],
    )
    with torch.no_grad():
        run_engine(policy, shared_prefix_engine, rows)
    handle.remove()
    tokens = len(rows[0].prompt.input_ids) + len(rows[0].answer) + len(rows[1].answer)
    assert seen == [(1, tokens)]
    assert head == [len(rows[0].answer) + len(rows[1].answer)]


@pytest.mark.parametrize("masked", [True, False], ids=["by mask", "segment by segment"])
def test_gradient_checkpointing_changes_no_gradient(
    policy: Policy, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the way that GPUs go, which the CPU takes for masks that would be too large."""
    if not masked:
        monkeypatch.setattr(attention, "MAX_MASK", 0)
    rows = rows_of(policy, *CASES["several questions of a clip, an answer in several pairs"])
    policy.model.train()
    grads = []
    try:
        for on in (False, True):
            if on:
                policy.bare.gradient_checkpointing_enable(
                    gradient_checkpointing_kwargs={"use_reentrant": False}
                )
                policy.bare.enable_input_require_grads()
            values = answer_part(rows, run_engine(policy, shared_prefix_engine, rows).log_probs)
            grads.append(adapter_grads(policy, some_loss(rows, values)))
    finally:
        policy.bare.gradient_checkpointing_disable()
        policy.model.eval()
    expected = adapter_grads(policy, some_loss(rows, [plain_logps(policy, row) for row in rows]))
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(grads[1][name], expected[name], atol=1e-5, rtol=1e-4)


def test_under_bfloat16_autocast_log_probs_and_gradients_are_as_near_as_those_of_rows(
    policy: Policy,
) -> None:
    rows = rows_of(policy, *CASES["several questions of a clip, an answer in several pairs"])

    def run(engine: Engine, bfloat16: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            values = answer_part(rows, run_engine(policy, engine, rows).log_probs)
        grads = adapter_grads(policy, some_loss(rows, values))
        return torch.cat(values).detach(), torch.cat([grad.flatten() for grad in grads.values()])

    shared, plain, exact = (
        run(shared_prefix_engine, True),
        run(rows_engine, True),
        run(rows_engine, False),
    )
    for mine, theirs, true in zip(shared, plain, exact, strict=True):
        assert float((theirs - true).norm()) > 0
        assert float((mine - true).norm()) < 1.5 * float((theirs - true).norm())


@each_kind
def test_the_engine_s_forward_equals_its_own_with_the_adapter_off(kind: Kind) -> None:
    """The reference of TRL is the model without its adapter: plain forwards without it give the
    same.
    """
    policy = tuned_policy(kind)
    rows = rows_of(policy, ({"count": 6}, {"what ?": ["yes", LONG]}))
    with torch.no_grad(), policy.model.disable_adapter():
        got = answer_part(rows, run_engine(policy, shared_prefix_engine, rows).log_probs)
        expected = [plain_logps(policy, row) for row in rows]
    torch.testing.assert_close(torch.cat(got), torch.cat(expected), atol=1e-5, rtol=0)


def test_a_family_whose_prefixes_cannot_be_shared_runs_rows_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = tuned_policy("qwen2_5_vl")
    assert choose_engine(policy) is shared_prefix_engine
    recurrent = replace(
        policy,
        family=replace(FAMILIES["qwen2_5_vl"], shared_prefix=False, why_not_shared=RECURRENT),
    )
    with caplog.at_level(logging.WARNING):
        assert choose_engine(recurrent) is rows_engine
    assert len(caplog.records) == 1
    assert "train.share_prefix: Qwen2.5-VL" in caplog.text
    assert "recurrent layers of its language model" in caplog.text
    with caplog.at_level(logging.WARNING):
        assert choose_engine(recurrent, share_prefix=False) is rows_engine
    assert len(caplog.records) == 1, "who asked for rows is told nothing"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "recurrent"),
        ({"attention_dropout": 0.1}, "attention_dropout 0.1"),
    ],
)
def test_language_models_that_do_not_see_the_whole_prefix_run_rows(
    change: dict[str, Any], reason: str
) -> None:
    policy = tuned_policy("qwen2_5_vl")
    assert why_not_shared(policy) is None
    policy.bare.get_decoder().config.update(change)
    assert reason in str(why_not_shared(policy))


def test_mistral_s_sliding_window_runs_rows() -> None:
    policy = tuned_policy("llava_next_video")
    policy.bare.get_decoder().config.update({"sliding_window": 4096})
    assert "sliding window" in str(why_not_shared(policy))


def test_eager_attention_runs_rows_and_is_named() -> None:
    assert "model.attention is 'eager'" in str(
        why_not_shared(tuned_policy("qwen2_5_vl", attention="eager"))
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Comparisons bit for bit must not depend on how a product is split over cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
