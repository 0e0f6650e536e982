"""The stages of a run about one clip, with stock parts and with ours, on the bench model.

Stock parts: transformers' `generate` on pixels, a question at a time; a judge that reads padded
rows; TRL's DPOTrainer with its reference in the step; evaluation as plain passes. Each stage is a
function of nothing that returns what the other side's must equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from bench.case import SIZES, Case, make_clip, make_pairs, make_policy
from bench.trainers import make_trainer
from dpo_video.judge.backends.local_forward import LoadedJudge, read_labels
from dpo_video.judge.backends.local_prompts import (
    JudgePrompt,
    control_tokens,
    encode_messages,
    label_tokens,
)
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import load_scorer
from dpo_video.models.collate import TokenRow
from dpo_video.models.features import encode_video
from dpo_video.models.generation import generate_answers
from dpo_video.models.load import Policy
from dpo_video.models.prompts import ClipInputs, Prompt, encode_prompt
from dpo_video.models.sampling import Sampler
from dpo_video.models.usage import PromptUsage
from dpo_video.toy.models import checkpoint
from dpo_video.train.logps import ROWS_AT_ONCE, answer_logps

NEW_TOKENS = 32
CAPTION_WORDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of both sides."""

    name: str
    stock: Callable[[], Any]
    ours: Callable[[], Any]
    difference: Callable[[Any, Any], str]
    """What the two results differ by, in words."""


def run_stages(case: Case) -> tuple[list[Stage], dict[str, PromptUsage]]:
    """Return the stages, and what reading prompts took under `rows` and `trees`."""
    policy = make_policy(case)
    clip = make_clip(policy, case)
    usage = {"rows": PromptUsage(), "trees": PromptUsage()}
    questions = list(dict.fromkeys(pair.pair.prompt for pair in make_pairs(case)))
    prompts = [encode_prompt(policy, question, clip) for question in questions]
    generation = partial(_ours_generate, policy, clip, prompts, usage["trees"])
    stages = [
        Stage(
            name="generate",
            stock=partial(_stock_generate, policy, clip, prompts, case.answers, sample=True),
            ours=partial(generation, case.answers, sample=True),
            difference=lambda stock, ours: "see evaluate",  # the two draw other noise
        ),
        _judge_stage(case),
        _train_stage(case),
        Stage(
            name="evaluate",
            stock=partial(_stock_evaluate, policy, clip, prompts, case),
            ours=partial(_ours_evaluate, policy, clip, prompts, case, usage["trees"]),
            difference=_evaluation_difference,
        ),
    ]
    return stages, usage


def earlier_generation(case: Case, usage: PromptUsage) -> Callable[[], Any]:
    """Return generation as it was before trees: features once, each question's cache copied for its
    answers.
    """
    policy = make_policy(case)
    clip = make_clip(policy, case)
    questions = list(dict.fromkeys(pair.pair.prompt for pair in make_pairs(case)))
    prompts = [encode_prompt(policy, question, clip) for question in questions]
    return partial(
        _ours_generate, policy, clip, prompts, usage, case.answers, sample=True, share_prefix=False
    )


def _stock_generate(
    policy: Policy, clip: ClipInputs, prompts: Sequence[Prompt], count: int, *, sample: bool
) -> list[list[str]]:
    answers = []
    for prompt in prompts:
        torch.manual_seed(0)
        ids = prompt.input_ids[None].to(policy.device)
        written = policy.bare.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=None if prompt.token_types is None else prompt.token_types[None],
            **{name: tensor.to(policy.device) for name, tensor in clip.pixels.items()},
            **{name: tensor.to(policy.device) for name, tensor in clip.clip_inputs.items()},
            generation_config=GenerationConfig(
                do_sample=sample,
                temperature=1.0 if sample else None,
                num_return_sequences=count,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=policy.end_ids,
                pad_token_id=policy.pad_id,
            ),
        )
        answers.append(
            policy.processor.tokenizer.batch_decode(
                written[:, ids.shape[1] :], skip_special_tokens=True
            )
        )
    return answers


def _ours_generate(
    policy: Policy,
    clip: ClipInputs,
    prompts: Sequence[Prompt],
    usage: PromptUsage,
    count: int,
    *,
    sample: bool,
    share_prefix: bool = True,
) -> list[list[str]]:
    features = encode_video(policy, clip)
    rows = [TokenRow(prompt=prompt, clip=clip, features=features) for prompt in prompts]
    answers = generate_answers(
        policy,
        rows,
        seeds=[list(range(count)) for _ in rows],
        sampler=Sampler(temperature=float(sample), max_new_tokens=NEW_TOKENS),
        share_prefix=share_prefix,
        usage=usage,
    )
    return [[answer.text for answer in row] for row in answers]


def _judge_stage(case: Case) -> Stage:
    text, _ = SIZES[case.size]
    folder = checkpoint("judge")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    torch.manual_seed(3)
    config = {name: value for name, value in text.items() if name != "mrope_section"}
    vocab_size = max(len(tokenizer), text["vocab_size"])
    model = Qwen2ForCausalLM(Qwen2Config(**{**config, "vocab_size": vocab_size})).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    scorer = load_scorer("caption_score")
    labels = label_tokens(tokenizer, scorer, "bench")
    prompts = [
        encode_messages(tokenizer, index, messages, labels)
        for index, messages in enumerate(_judge_messages(case, scorer))
    ]
    judge = LoadedJudge(
        model=model.to(case.device),
        tokenizer=tokenizer,
        context=1 << 17,
        control=control_tokens(tokenizer),
        on_trees=False,
        usage=PromptUsage(),
    )

    def ask(*, on_trees: bool, prompts: Sequence[JudgePrompt]) -> list[dict[str, float]]:
        replies = read_labels(replace(judge, on_trees=on_trees), prompts, labels)
        return [dict(reply.log_probs or {}) for reply in replies]

    return Stage(
        name="judge",
        stock=partial(ask, on_trees=False, prompts=prompts),
        ours=partial(ask, on_trees=True, prompts=prompts),
        difference=lambda stock, ours: f"log-probs by {_most_apart(stock, ours):.1e}",
    )


def _judge_messages(case: Case, scorer: Any) -> list[Any]:
    """Return one prompt for each answer, about one caption of 300 words."""
    words = ["red", "blue", "a", "the", "dog", "moves", "left", "right", "boat", "cake"]
    caption = " ".join(words[(7 * number) % 10] for number in range(CAPTION_WORDS))
    messages = []
    for question in range(case.questions):
        for answer in range(case.answers):
            text = " ".join(words[(question + answer * number) % 10] for number in range(24))
            messages.append(
                render(
                    scorer,
                    caption=caption,
                    question=f"What happens in part {question} ?",
                    answer=text,
                    reference="a dog",
                )
            )
    return messages


def _most_apart(stock: list[dict[str, float]], ours: list[dict[str, float]]) -> float:
    gaps = [0.0]
    for stock_row, our_row in zip(stock, ours, strict=True):
        gaps += [abs(stock_row[label] - our_row[label]) for label in stock_row]
    return max(gaps)


def _train_stage(case: Case) -> Stage:
    trainers = {name: make_trainer(case, name) for name in ("stock", "ours")}

    def ours() -> float:
        return trainers["ours"].step()  # the reference's pass in it, as on stock's side

    return Stage(
        name="train",
        stock=trainers["stock"].step,
        ours=ours,
        difference=lambda stock, own: f"loss by {abs(stock - own):.1e}",
    )


def _stock_evaluate(
    policy: Policy, clip: ClipInputs, prompts: Sequence[Prompt], case: Case
) -> tuple[list[list[str]], list[float]]:
    """Greedy answers of two models, and the log-probs of sampled answers under both: each row in a
    forward of at most ROWS_AT_ONCE.
    """
    greedy: list[list[str]] = []
    for _ in range(2):
        greedy += _stock_generate(policy, clip, prompts, 1, sample=False)
    logps: list[float] = []
    for _ in range(2):
        rows = _answer_rows(policy, clip, prompts, case)
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            encoded = [
                replace(row, features=encode_video(policy, clip))
                for row in rows[begin : begin + ROWS_AT_ONCE]
            ]
            logps += [answer_logps(policy, [row])[0] for row in encoded]
    return greedy, logps


def _ours_evaluate(
    policy: Policy, clip: ClipInputs, prompts: Sequence[Prompt], case: Case, usage: PromptUsage
) -> tuple[list[list[str]], list[float]]:
    greedy: list[list[str]] = []
    for _ in range(2):
        greedy += _ours_generate(policy, clip, prompts, usage, 1, sample=False)
    logps: list[float] = []
    for _ in range(2):
        logps += answer_logps(policy, _answer_rows(policy, clip, prompts, case))
    return greedy, logps


def _answer_rows(
    policy: Policy, clip: ClipInputs, prompts: Sequence[Prompt], case: Case
) -> list[TokenRow]:
    """Return the rows of the pairs' answers."""
    features = encode_video(policy, clip)
    by_question = {
        question: prompt
        for question, prompt in zip(
            dict.fromkeys(pair.pair.prompt for pair in make_pairs(case)), prompts, strict=True
        )
    }
    rows = []
    for pair in make_pairs(case):
        for answer in (pair.chosen, pair.rejected):
            prompt = by_question[pair.pair.prompt]
            rows.append(TokenRow(prompt=prompt, clip=clip, features=features, answer=answer))
    return rows


def _evaluation_difference(stock: Any, ours: Any) -> str:
    equal = sum(own == other for own, other in zip(stock[0], ours[0], strict=True))
    apart = max(abs(own - other) for own, other in zip(stock[1], ours[1], strict=True))
    return f"{equal} of {len(stock[0])} greedy answers equal, log-probs by {apart:.1e}"
