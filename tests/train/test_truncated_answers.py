"""A rejected answer that was cut at the token limit has no end of turn to learn from."""

from dataclasses import replace

from policies import make_frames, make_row, policy
from tiny_world import make_pairs

from dpo_video.models.prompts import answer_ids
from dpo_video.train.pair_batches import (
    PairBatch,
    PairTokens,
    loss_inputs,
    pair_rows,
    tokenize_pair,
)


def test_a_cut_rejected_row_ends_without_the_end_token_and_every_other_row_with_it() -> None:
    model = policy("qwen2_5_vl")
    row = make_row(model, make_frames(4))
    whole = make_pairs(1)[0]
    pairs = [
        tokenize_pair(model, each) for each in (whole, replace(whole, rejected_finish="length"))
    ]
    tokens = [each for each in pairs if isinstance(each, PairTokens)]
    batch = PairBatch(
        clips=[row.clip],
        features=[row.features],
        clip_of_pair=[0, 0],
        rejected_clip_of_pair=[0, 0],
        prompts=[row.prompt] * 2,
        rejected_prompts=[row.prompt] * 2,
        pairs=tokens,
        indices=[0, 1],
        num_requested=2,
    )
    inputs = loss_inputs(model, pair_rows(batch, [row.features]))
    answers = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(inputs["input_ids"], inputs["completion_mask"], strict=True)
    ]
    chosen, rejected = answer_ids(model, whole.chosen), answer_ids(model, whole.rejected)
    assert rejected[-1] == model.end_id
    assert answers == [chosen, chosen, rejected, rejected[:-1]]


def test_a_cut_answer_that_says_the_same_teaches_nothing() -> None:
    model = policy("qwen2_5_vl")
    pair = make_pairs(1)[0]
    assert (
        tokenize_pair(model, replace(pair, rejected=pair.chosen, rejected_finish="length")) is None
    )
