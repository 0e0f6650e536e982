"""Sampling: its distribution, its seeds, and that an answer does not depend on its batch."""

from collections import Counter

import pytest
import torch
from policies import each_kind, make_frames, make_row, policy

from dpo_video.models.generation import Answer, generate_answers
from dpo_video.models.sampling import (
    Sampler,
    ScheduledTemperature,
    SeededGumbel,
    answer_noise,
    candidate_seed,
)

HOT = Sampler(temperature=1.0, top_p=0.95, max_new_tokens=10)


@each_kind
def test_an_answer_is_the_same_alone_and_in_any_batch(kind):
    model = policy(kind)
    rows = [
        make_row(model, make_frames(8, seconds_apart=2.0)),
        make_row(model, make_frames(2), "?"),
        make_row(model, make_frames(5), "describe the video in detail please"),
    ]
    seeds = [[11, 12, 13], [21], [31, 32]]
    together = generate_answers(model, rows, seeds=seeds, sampler=HOT)
    alone = [
        [generate_answers(model, [row], seeds=[[seed]], sampler=HOT)[0][0] for seed in row_seeds]
        for row, row_seeds in zip(rows, seeds, strict=True)
    ]
    backwards = generate_answers(
        model, rows[::-1], seeds=[row[::-1] for row in seeds[::-1]], sampler=HOT
    )
    assert together == alone == [row[::-1] for row in backwards[::-1]]
    assert len({answer.text for row in together for answer in row}) == 6, (
        "seeds differ, and so do the answers"
    )


def test_sampled_tokens_follow_the_softmax():
    """5000 seeds over 8 tokens: the chi-square statistic with 7 degrees of freedom is below 24.3 in
    99.9 % of cases.
    """
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5, -2.0])
    draws = 5000
    noisy = SeededGumbel(range(draws), torch.device("cpu"))(
        torch.zeros(draws, 1), logits.repeat(draws, 1)
    )
    counts = torch.bincount(noisy.argmax(-1), minlength=8)
    expected = draws * logits.softmax(-1)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 24.3


def test_a_rows_draws_are_independent_from_step_to_step():
    """Pairs of consecutive draws of a fair coin: four outcomes, 3 degrees of freedom, below 16.3 in
    99.9 % of cases.
    """
    sampler, rows = SeededGumbel(range(2000), torch.device("cpu")), torch.zeros(2000, 2)
    first, second = (sampler(rows, rows).argmax(-1).tolist() for _ in range(2))
    counts = Counter(zip(first, second, strict=True))
    assert sum((counts[pair] - 500) ** 2 / 500 for pair in ((0, 0), (0, 1), (1, 0), (1, 1))) < 16.3


@pytest.mark.parametrize(
    ("sampler", "allowed"),
    [
        (Sampler(temperature=1.0, top_k=2, max_new_tokens=1), {0, 6}),
        # softmax is .39 .14 .09 .05 .03 .02 .24 .01 (sum of the three largest .77): 0.7 needs those
        # three
        (Sampler(temperature=1.0, top_p=0.7, max_new_tokens=1), {0, 6, 1}),
        # 0.3 of the largest, .39, is .117
        (Sampler(temperature=1.0, min_p=0.3, max_new_tokens=1), {0, 6, 1}),
        (Sampler(temperature=0.01, max_new_tokens=1), {0}),
        (Sampler(temperature=1.0, first_temperature=0.01, max_new_tokens=1), {0}),
    ],
)
def test_temperature_top_k_top_p_and_min_p_cut_the_tail(sampler, allowed):
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5, -2.0])
    noisy = answer_noise(sampler, range(500), torch.device("cpu"), prompt=1)(
        torch.zeros(500, 1), logits.repeat(500, 1)
    )
    assert set(noisy.argmax(-1).tolist()) == allowed


@each_kind
def test_the_first_temperature_holds_for_the_first_tokens_and_no_longer(kind):
    """With equal seeds, equal temperatures draw equal tokens: first those of 1.5, and after them
    not those of 1.5.
    """
    model = policy(kind)
    row, seeds = make_row(model, make_frames(4)), [list(range(6))]
    drawn = {}
    for name, sampler in (
        ("hot", Sampler(temperature=1.5, max_new_tokens=3)),
        (
            "first",
            Sampler(temperature=0.2, first_temperature=1.5, first_tokens=3, max_new_tokens=3),
        ),
        ("hot long", Sampler(temperature=1.5, max_new_tokens=12)),
        (
            "first long",
            Sampler(temperature=0.2, first_temperature=1.5, first_tokens=3, max_new_tokens=12),
        ),
    ):
        drawn[name] = generate_answers(model, [row], seeds=seeds, sampler=sampler)[0]
    assert drawn["first"] == drawn["hot"]
    assert drawn["first long"] != drawn["hot long"]
    schedule = ScheduledTemperature(first=2.0, until=5, after=0.5)
    made = [float(schedule(torch.zeros(1, length), torch.ones(1, 1))) for length in (3, 4, 5, 6)]
    assert made == [0.5, 0.5, 2.0, 2.0]


@each_kind
def test_temperature_zero_is_greedy_and_written_once_per_prompt(kind):
    model = policy(kind)
    row, calls = make_row(model, make_frames(4)), []
    hook = model.bare.lm_head.register_forward_hook(
        lambda _, inputs, __: calls.append(len(inputs[0]))
    )
    try:
        answers = generate_answers(
            model, [row], seeds=[[1, 2, 3]], sampler=Sampler(temperature=0, max_new_tokens=5)
        )
    finally:
        hook.remove()
    assert answers[0] == [answers[0][0]] * 3
    assert set(calls) == {1}, "three equal candidates are one sequence"


@each_kind
def test_an_answer_ends_at_the_end_of_turn_or_says_that_it_was_cut(kind):
    """With the head's bias towards the end token, the answer stops there; without, it is cut at
    max_new_tokens.
    """
    model = policy(kind)
    row = make_row(model, make_frames(4))
    cut = generate_answers(
        model, [row], seeds=[[5]], sampler=Sampler(temperature=1.0, max_new_tokens=3)
    )[0][0]
    assert cut.finish == "length"

    def towards_the_end(_module, _inputs, logits):
        logits[..., model.end_id] = 1e4
        return logits

    hook = model.bare.lm_head.register_forward_hook(towards_the_end)
    try:
        ended = generate_answers(
            model, [row], seeds=[[5]], sampler=Sampler(temperature=1.0, max_new_tokens=3)
        )[0][0]
    finally:
        hook.remove()
    assert ended == Answer(text="", finish="stop")


@each_kind
def test_prompts_without_seeds_get_no_answers(kind):
    model = policy(kind)
    rows = [make_row(model, make_frames(2)), make_row(model, make_frames(4))]
    assert [len(row) for row in generate_answers(model, rows, seeds=[[], [3]], sampler=HOT)] == [
        0,
        1,
    ]
    assert generate_answers(model, rows, seeds=[[], []], sampler=HOT) == [[], []]


def test_seeds_differ_by_run_sample_and_number_and_stay_the_same():
    seeds = {
        candidate_seed(run, sample, number)
        for run in range(3)
        for sample in ("a", "b", "a1")
        for number in (1, 11)
    }
    assert len(seeds) == 18
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert candidate_seed(0, "a", 1) == 0x23E32875, (
        "the first 8 digits of: printf '0\\n1\\na' | sha256sum"
    )
