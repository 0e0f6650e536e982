"""M-RoPE positions against a slow reimplementation, and generation against teacher forcing on long
clips.

The checkpoint rule, in words: walk over the tokens with a counter. A text token takes the counter
on all three axes and adds one to it. A video's token at step t, row h, column w takes counter +
floor(t x tokens per second x seconds per step), counter + h, counter + w. After the video the
counter is one above the largest number handed out.
"""

import math
import random

import pytest
import torch
from policies import each_kind, make_frames, make_row, policy

from dpo_video.models.collate import TokenRow, collate, row_positions
from dpo_video.models.generation import generate_answers
from dpo_video.models.positions import TEXT, VIDEO
from dpo_video.models.sampling import Sampler

LONG = {"count": 12, "seconds_apart": 3.0}
"""6 steps, 6 s or 12 positions apart: 60 in time, against a frame of 3 x 4 merged patches."""
SHORT = {"count": 6, "seconds_apart": 0.2}
"""3 steps, 0.4 s or 0.8 positions apart."""


def slow_positions(
    types: list[int], videos: list[tuple[int, int, int]], seconds: list[float]
) -> list[list[int]]:
    """Return [time, height, width] of each token by the rule above, for merged grids and 2 tokens
    per second.
    """
    out: list[list[int]] = []
    counter, place, number = 0, 0, 0
    while place < len(types):
        if types[place] == TEXT:
            out.append([counter] * 3)
            counter += 1
            place += 1
            continue
        steps, rows, columns = videos[number]
        block = [
            [counter + math.floor(t * 2 * seconds[number]), counter + h, counter + w]
            for t in range(steps)
            for h in range(rows)
            for w in range(columns)
        ]
        out += block
        counter = max(max(token) for token in block) + 1
        place += len(block)
        number += 1
    return out


@pytest.mark.parametrize("seed", range(20))
def test_positions_of_padded_rows_with_any_videos_follow_the_rule(seed):
    draw = random.Random(seed)
    model = policy("qwen2_5_vl").bare.model
    rows, grids, all_seconds, wanted = [], [], [], []
    for _ in range(3):
        types, videos, seconds = [TEXT] * draw.randint(1, 5), [], []
        for _ in range(draw.randint(0, 2)):
            grid = (draw.randint(1, 9), draw.randint(1, 4), draw.randint(1, 4))
            videos.append(grid)
            seconds.append(draw.choice([0.08, 0.5, 1.0, 1.3, 7.25]))
            types += [VIDEO] * math.prod(grid) + [TEXT] * draw.randint(0, 4)
        types += [TEXT]
        rows.append(types)
        grids += [(t, 2 * h, 2 * w) for t, h, w in videos]
        all_seconds += seconds
        wanted.append(slow_positions(types, videos, seconds))
    longest = max(map(len, rows))
    padded = torch.tensor([[TEXT] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions, deltas = model.get_rope_index(
        torch.zeros_like(padded),
        padded,
        video_grid_thw=torch.tensor(grids).reshape(-1, 3),
        second_per_grid_ts=torch.tensor(all_seconds),
        attention_mask=mask,
    )
    for row, tokens in enumerate(wanted):
        kept = positions[:, row][:, mask[row].bool()]
        assert kept.T.tolist() == tokens
        assert deltas[row].item() == max(map(max, tokens)) + 1 - len(tokens)


def test_the_two_rules_differ_where_a_clip_lasts_longer_than_it_is_wide_and_only_there():
    by_rule = {
        rule: policy("qwen2_5_vl", positions=rule) for rule in ("checkpoint", "transformers")
    }
    for clip, same in ((SHORT, True), (LONG, False)):
        made = [make_row(model, make_frames(**clip)).prompt.positions for model in by_rule.values()]
        assert torch.equal(*made) == same
    before_answer = [make_row(model, make_frames(**LONG)).prompt for model in by_rule.values()]
    in_time = max(
        int(prompt.positions[0, prompt.token_types == VIDEO].max()) for prompt in before_answer
    )
    assert int(before_answer[0].positions[:, -1].max()) > in_time, (
        "published rule: text comes after the clip"
    )
    assert int(before_answer[1].positions[:, -1].max()) < in_time, (
        "transformers' rule: text falls among its steps"
    )


@pytest.mark.parametrize("rule", ["checkpoint", "transformers"])
@pytest.mark.parametrize("clip", [LONG, SHORT])
def test_generation_goes_on_at_the_positions_that_teacher_forcing_uses(rule, clip):
    check_generation(policy("qwen2_5_vl", positions=rule), clip)


def test_generation_of_a_family_with_plain_positions_equals_teacher_forcing():
    check_generation(policy("llava_next_video"), LONG)


def check_generation(model, clip):
    """Every greedy token is the argmax of a forward over prompt and answer so far, in a left-padded
    batch.
    """
    rows = [
        make_row(model, make_frames(**clip)),
        make_row(model, make_frames(2), "describe the video in detail"),
    ]
    for row, (answer,) in zip(
        rows,
        generate_answers(
            model, rows, seeds=[[0], [0]], sampler=Sampler(temperature=0, max_new_tokens=6)
        ),
        strict=True,
    ):
        ids: list[int] = []
        for _ in range(6):
            so_far = TokenRow(
                prompt=row.prompt, clip=row.clip, features=row.features, answer=tuple(ids)
            )
            with torch.no_grad():
                ids.append(
                    int(model.model(**collate(model, [so_far], "left")).logits[0, -1].argmax())
                )
        assert model.processor.tokenizer.decode(ids, skip_special_tokens=True) == answer.text


@each_kind
def test_stock_generate_with_pixels_agrees_with_teacher_forced_positions(kind):
    """The rule is on the model itself: transformers' own generate, without our positions, follows
    it as well.
    """
    model = policy(kind)
    row = make_row(model, make_frames(**LONG))
    inputs = {
        **row.clip.pixels,
        **row.clip.clip_inputs,
        "input_ids": row.prompt.input_ids[None],
        "attention_mask": torch.ones_like(row.prompt.input_ids)[None],
    }
    if row.prompt.token_types is not None:
        inputs["mm_token_type_ids"] = row.prompt.token_types[None]
    out = model.bare.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=6,
        min_new_tokens=6,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = out.sequences[0, len(row) :]
    whole = TokenRow(
        prompt=row.prompt, clip=row.clip, features=row.features, answer=tuple(ids.tolist())
    )
    with torch.no_grad():
        forced = model.model(**collate(model, [whole], "right")).logits[0, len(row) - 1 : -1]
    assert torch.allclose(torch.cat(out.logits), forced, atol=1e-5)


@each_kind
def test_an_answer_goes_on_from_the_prompts_last_position_on_every_axis(kind):
    row = make_row(policy(kind), make_frames(**LONG), answer="yes no")
    prompt, whole = row.prompt.positions, row_positions(row)
    assert torch.equal(whole[:, : prompt.shape[1]], prompt)
    for axis, last in zip(whole, prompt[:, -1].tolist(), strict=True):
        assert axis[prompt.shape[1] :].tolist() == [
            last + 1 + place for place in range(len(row.answer))
        ]
