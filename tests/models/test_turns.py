"""Earlier turns of a conversation: prompts that hold them against the checkpoint's own chat
template and processor, and the tree that shares them.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from family_cases import CLIPS, plain_policy
from torch import Tensor
from trees import answer_part, plain_logps, run_engine, tuned_policy

from dpo_video.core.errors import UserError
from dpo_video.core.records import EarlierTurn
from dpo_video.models.collate import TokenRow, row_positions
from dpo_video.models.families import FAMILIES
from dpo_video.models.features import encode_video
from dpo_video.models.prompts import (
    answer_ids,
    check_turns,
    encode_prompt,
    process_frames,
    video_inputs,
)
from dpo_video.models.shared_prefix.tree import pack_rows
from dpo_video.recipe import VideoSettings
from dpo_video.train.forward import rows_engine
from dpo_video.train.shared_prefix import PER_TOKEN, shared_prefix_engine

FAMILIES_WITH_TURNS = ("qwen2_5_vl", "llava_next_video", "internvl", "llava", "qwen3_vl")
HISTORY = (
    EarlierTurn(question="what happens ?", answer="a red square moves to the right"),
    EarlierTurn(question="what is it over ?", answer="a dark background"),
)
SHOWN_CLIP = CLIPS[0]


def stock_ids(family: str, messages: list[dict[str, Any]]) -> Tensor:
    """Return what the checkpoint's template and processor make of messages, the clip in the first;
    no prompt of ours between.
    """
    policy = plain_policy(family)
    text = policy.processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    kwargs = policy.family.pixel_kwargs(policy.frame_processor, None, None)
    outputs = process_frames(policy.family, policy.processor, text, SHOWN_CLIP.frames(), kwargs)
    return torch.as_tensor(outputs["input_ids"])[0]


@pytest.mark.parametrize("family", FAMILIES_WITH_TURNS)
def test_a_prompt_with_turns_is_what_the_checkpoints_template_makes_of_the_same_messages(
    family: str,
) -> None:
    policy = plain_policy(family)
    clip = video_inputs(policy, SHOWN_CLIP.frames(), VideoSettings())
    prompt = encode_prompt(policy, "where does it go ?", clip, history=HISTORY)
    is_video = FAMILIES[family].frames_as == "video"
    shown = [{"type": "video"}] if is_video else [{"type": "image"}] * SHOWN_CLIP.count
    messages = [
        {"role": "user", "content": [*shown, {"type": "text", "text": "what happens ?"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "a red square moves to the right"}],
        },
        {"role": "user", "content": [{"type": "text", "text": "what is it over ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a dark background"}]},
        {"role": "user", "content": [{"type": "text", "text": "where does it go ?"}]},
    ]
    assert prompt.input_ids.tolist() == stock_ids(family, messages).tolist()
    plain = encode_prompt(policy, "where does it go ?", clip)
    assert len(prompt.input_ids) > len(plain.input_ids)
    holes = [
        int((ids == policy.family.placeholder(policy.bare.config)).sum())
        for ids in (prompt.input_ids, plain.input_ids)
    ]
    assert holes[0] == holes[1] > 0, "the clip stands in it once"


def test_a_template_without_turns_is_refused_in_a_line() -> None:
    policy = plain_policy("qwen2_5_vl")
    template = policy.processor.chat_template
    clip = video_inputs(policy, SHOWN_CLIP.frames(), VideoSettings())
    first_only = template.replace("in messages", "in messages[:1]", 1)
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
    try:
        for changed, why in ((first_only, "leaves some"), (refusing + template, "one turn")):
            policy.processor.chat_template = changed
            with pytest.raises(UserError, match=f"takes no earlier turns .*{why}.*`history`"):
                encode_prompt(policy, "where to ?", clip, history=HISTORY)
            encode_prompt(policy, "where to ?", clip)
    finally:
        policy.processor.chat_template = template
    check_turns(policy.processor, policy.family, policy.settings.name)


def test_control_tokens_in_a_turn_are_refused() -> None:
    policy = plain_policy("qwen2_5_vl")
    clip = video_inputs(policy, SHOWN_CLIP.frames(), VideoSettings())
    for turn in (
        EarlierTurn(question="what ?<|im_end|>", answer="yes"),
        EarlierTurn(question="what ?", answer="yes <|video_pad|>"),
    ):
        with pytest.raises(UserError, match=r"the history, (question|answer) 1 .* control token"):
            encode_prompt(policy, "where to ?", clip, history=(turn,))


def rows_with_turns(policy: Any) -> list[TokenRow]:
    """Return two answers each to three questions about a clip: behind two turns, behind the first
    of them, and behind none.
    """
    clip = video_inputs(policy, SHOWN_CLIP.frames(), VideoSettings())
    features = encode_video(policy, clip)
    rows = []
    for history in (HISTORY, HISTORY[:1], None):
        prompt = encode_prompt(policy, "where does it go ?", clip, history=history)
        for answer in ("to the right over a dark background", "no left right up"):
            ids = tuple(answer_ids(policy, answer))
            rows.append(TokenRow(prompt=prompt, clip=clip, features=features, answer=ids))
    return rows


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "llava_next_video"])
def test_equal_first_turns_stand_in_the_tree_once_and_log_probs_equal_plain_rows(
    kind: Any,
) -> None:
    policy = tuned_policy(kind)
    rows = rows_with_turns(policy)
    with torch.no_grad():
        shared, plain = (
            run_engine(policy, engine, rows) for engine in (shared_prefix_engine, rows_engine)
        )
    expected = [plain_logps(policy, row) for row in rows]
    got = answer_part(rows, shared.log_probs)
    torch.testing.assert_close(torch.cat(got), torch.cat(expected), atol=1e-5, rtol=0)
    for name in (*PER_TOKEN, "loss"):
        torch.testing.assert_close(shared[name], plain[name], atol=1e-5, rtol=1e-5)

    tokens = [
        np.concatenate([[(*row.prompt.input_ids.tolist(), *row.answer)], row_positions(row)]).T
        for row in rows
    ]
    packing = pack_rows(tokens, [0] * len(rows))
    common = next(
        place
        for place, (left, right) in enumerate(zip(tokens[0], tokens[2], strict=False))
        if (left != right).any()
    )
    first_turn = policy.processor.tokenizer.decode(rows[0].prompt.input_ids[:common])
    assert "what happens ?" in first_turn and "moves to the right" in first_turn
    for row in (1, 2, 3):
        same = packing.packed_index[row][:common] == packing.packed_index[0][:common]
        assert same.all(), "the clip and the first turn stand in the tree once"


def test_rows_about_other_turns_differ_in_more_than_their_question() -> None:
    """The turns reach the answer: its log-prob is another one behind them."""
    policy = tuned_policy("qwen2_5_vl")
    rows = rows_with_turns(policy)
    behind, alone = plain_logps(policy, rows[0]), plain_logps(policy, rows[4])
    assert (behind - alone).abs().max() > 1e-3
    swapped = replace(rows[4], prompt=rows[0].prompt)
    torch.testing.assert_close(plain_logps(policy, swapped), behind)
