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
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2Config

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
from dpo_video.train.logps import answer_logps

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A model, a clip, and the questions about it."""

    case: Case
    policy: Policy
    clip: ClipInputs
    prompts: Sequence[Prompt]


def make_subject(case: Case) -> Subject:
    """Return what generation and evaluation read."""
    policy = make_policy(case)
    clip = make_clip(policy, case)
    questions = dict.fromkeys(pair.pair.prompt for pair in make_pairs(case))
    return Subject(
        case=case,
        policy=policy,
        clip=clip,
        prompts=[encode_prompt(policy, question, clip) for question in questions],
    )


def generate_stage(subject: Subject, usage: PromptUsage) -> Stage:
    """Return sampling of the case's answers to each question; `usage` is told of ours."""
    return Stage(
        name="generate",
        stock=partial(_stock_generate, subject, subject.case.answers, sample=True),
        ours=partial(_ours_generate, subject, subject.case.answers, sample=True, usage=usage),
        difference=lambda stock, ours: "see evaluate",  # the two draw other noise
    )


def earlier_generation(subject: Subject, usage: PromptUsage) -> Callable[[], Any]:
    """Return generation as it was before trees: features once, each question's cache copied for its
    answers.
    """
    return partial(
        _ours_generate,
        subject,
        subject.case.answers,
        sample=True,
        usage=usage,
        share_prefix=False,
    )


def evaluate_stage(subject: Subject) -> Stage:
    """Return greedy answers of policy and reference, and the log-probs of the pairs' answers under
    both.
    """
    return Stage(
        name="evaluate",
        stock=partial(_stock_evaluate, subject),
        ours=partial(_ours_evaluate, subject),
        difference=_evaluation_difference,
    )


def _stock_generate(subject: Subject, count: int, *, sample: bool) -> list[list[str]]:
    policy, clip = subject.policy, subject.clip
    answers = []
    for prompt in subject.prompts:
        torch.manual_seed(0)
        ids = prompt.input_ids[None].to(policy.device)
        types = prompt.token_types
        written = policy.bare.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=None if types is None else types[None].to(policy.device),
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
    subject: Subject,
    count: int,
    *,
    sample: bool,
    usage: PromptUsage | None = None,
    share_prefix: bool = True,
) -> list[list[str]]:
    features = encode_video(subject.policy, subject.clip)
    rows = [
        TokenRow(prompt=prompt, clip=subject.clip, features=features) for prompt in subject.prompts
    ]
    answers = generate_answers(
        subject.policy,
        rows,
        seeds=[list(range(count)) for _ in rows],
        sampler=Sampler(temperature=float(sample), max_new_tokens=NEW_TOKENS),
        share_prefix=share_prefix,
        usage=usage,
    )
    return [[answer.text for answer in row] for row in answers]


def judge_stage(case: Case) -> Stage:
    """Return label probabilities of one prompt an answer, all about one caption."""
    text, _ = SIZES[case.size]
    folder = checkpoint("judge")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    torch.manual_seed(3)
    config = {name: value for name, value in text.items() if name != "mrope_section"}
    vocab_size = max(len(tokenizer), text["vocab_size"])
    with torch.device(case.device):
        model = AutoModelForCausalLM.from_config(
            Qwen2Config(**{**config, "vocab_size": vocab_size}),
            dtype=torch.float32 if case.device == "cpu" else torch.bfloat16,
        ).eval()
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
        model=model,
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


def train_stage(case: Case) -> Stage:
    """Return one step over all pairs, the reference's pass in it."""
    trainers = {name: make_trainer(case, name) for name in ("stock", "ours")}
    return Stage(
        name="train",
        stock=trainers["stock"].step,
        ours=trainers["ours"].step,
        difference=lambda stock, own: f"loss by {abs(stock - own):.1e}",
    )


def _stock_evaluate(subject: Subject) -> tuple[list[list[str]], list[float]]:
    """Greedy answers of two models, and the log-probs of given answers under both: each row in a
    forward of its own, with its clip's pixels.
    """
    greedy: list[list[str]] = []
    for _ in range(2):
        greedy += _stock_generate(subject, 1, sample=False)
    logps: list[float] = []
    for _ in range(2):
        for row in _answer_rows(subject):
            features = encode_video(subject.policy, subject.clip)
            logps += answer_logps(subject.policy, [replace(row, features=features)])
    return greedy, logps


def _ours_evaluate(subject: Subject) -> tuple[list[list[str]], list[float]]:
    greedy: list[list[str]] = []
    for _ in range(2):
        greedy += _ours_generate(subject, 1, sample=False)
    logps: list[float] = []
    for _ in range(2):
        logps += answer_logps(subject.policy, _answer_rows(subject))
    return greedy, logps


def _answer_rows(subject: Subject) -> list[TokenRow]:
    """Return the rows of the pairs' answers, the clip encoded once."""
    features = encode_video(subject.policy, subject.clip)
    pairs = make_pairs(subject.case)
    questions = dict.fromkeys(pair.pair.prompt for pair in pairs)
    by_question = dict(zip(questions, subject.prompts, strict=True))
    rows = []
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            prompt = by_question[pair.pair.prompt]
            rows.append(
                TokenRow(prompt=prompt, clip=subject.clip, features=features, answer=answer)
            )
    return rows


def _evaluation_difference(stock: Any, ours: Any) -> str:
    equal = sum(own == other for own, other in zip(stock[0], ours[0], strict=True))
    apart = max(abs(own - other) for own, other in zip(stock[1], ours[1], strict=True))
    return f"{equal} of {len(stock[0])} greedy answers equal, log-probs by {apart:.1e}"
