"""Answers written on trees are those that each prompt's own cache gives, in every family."""

from dataclasses import replace

import torch
from family_cases import CLIPS, clip_of_rows, each_family, plain_policy

from dpo_video.models.answer_requests import AnswerRequest
from dpo_video.models.collate import TokenRow
from dpo_video.models.generation import answer_requests, generate_answers
from dpo_video.models.load import Policy
from dpo_video.models.prompts import encode_prompt
from dpo_video.models.sampling import Sampler
from dpo_video.models.shared_prefix.packed_rows import why_answered_alone
from dpo_video.models.usage import PromptUsage

GREEDY = Sampler(temperature=0, max_new_tokens=6)
WARM = Sampler(temperature=1.0, top_k=20, max_new_tokens=6)
SEEDS = [[1, 2, 3], [4], [5, 6], [7, 8]]


def questions_about_two_clips(policy: Policy) -> list[TokenRow]:
    """Return three questions about a clip, and, in their midst, one about another."""
    first, second = (replace(clip_of_rows(policy, clip)[0], answer=()) for clip in CLIPS)
    others = [
        replace(first, prompt=encode_prompt(policy, question, first.clip))
        for question in ("what happens in the clip ?", "the man is cooking pasta and talks")
    ]
    return [first, others[0], second, others[1]]


@each_family
def test_answers_are_those_of_prompts_read_one_by_one(family: str) -> None:
    policy = plain_policy(family)
    rows = questions_about_two_clips(policy)
    alone, shared = PromptUsage(), PromptUsage()
    for sampler in (GREEDY, WARM):
        expected = generate_answers(
            policy, rows, seeds=SEEDS, sampler=sampler, share_prefix=False, usage=alone
        )
        answers = generate_answers(policy, rows, seeds=SEEDS, sampler=sampler, usage=shared)
        assert answers == expected
    in_threes = generate_answers(policy, rows, seeds=SEEDS, sampler=WARM, at_once=3)
    assert in_threes == expected
    assert len({answer.text for row in expected for answer in row}) > 4, "seeds differ"
    assert alone.tokens_alone == shared.tokens_alone
    if why_answered_alone(policy) is None:
        assert shared.tokens_run < alone.tokens_run
        assert shared.peak_cache < alone.peak_cache


@each_family
def test_samplers_read_a_clip_once_and_draw_what_they_draw_alone(family: str) -> None:
    policy = plain_policy(family)
    rows = questions_about_two_clips(policy)
    samplers = (GREEDY, replace(GREEDY, max_new_tokens=3), WARM, replace(WARM, top_k=0, min_p=0.01))
    requests, expected, alone = [], [], PromptUsage()
    for row, seeds in zip(rows, SEEDS, strict=True):
        for sampler in samplers:
            requests.append(AnswerRequest(row=row, sampler=sampler, seeds=seeds))
            (answers,) = generate_answers(
                policy, [row], seeds=[seeds], sampler=sampler, share_prefix=False, usage=alone
            )
            expected.append(answers)
    together = PromptUsage()
    assert answer_requests(policy, requests, usage=together) == expected
    assert answer_requests(policy, requests, at_once=4) == expected
    assert together.tokens_alone == alone.tokens_alone
    if why_answered_alone(policy) is None:
        one_sampler = PromptUsage()
        generate_answers(policy, rows, seeds=SEEDS, sampler=WARM, usage=one_sampler)
        assert together.tokens_run == one_sampler.tokens_run


@each_family
def test_an_answer_that_has_ended_leaves_the_others_as_they_are(family: str) -> None:
    """The head is bent towards the end token after a fifth of all tokens, not that which ends the
    prompts: answers end at different steps.
    """
    policy = plain_policy(family)
    rows = questions_about_two_clips(policy)
    last = int(rows[0].prompt.input_ids[-1])
    fed: list[torch.Tensor] = []
    watch = policy.bare.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: fed.append(inputs[0])
    )

    def towards_the_end(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        logits[:, -1, policy.end_id] += 1e4 * ((fed[-1][:, -1] - last) % 5 == 1)
        return logits

    bend = policy.bare.get_output_embeddings().register_forward_hook(towards_the_end)
    sampler = Sampler(temperature=1.0, max_new_tokens=8)
    try:
        expected = generate_answers(policy, rows, seeds=SEEDS, sampler=sampler, share_prefix=False)
        fed.clear()
        answers = generate_answers(policy, rows, seeds=SEEDS, sampler=sampler)
    finally:
        watch.remove()
        bend.remove()
    assert answers == expected
    assert len({len(answer.text) for row in answers for answer in row}) > 1
    if why_answered_alone(policy) is None:
        batch_sizes = [len(ids) for ids in fed]
        assert batch_sizes[-1] < max(batch_sizes), "what has ended is not fed again"
