"""Implicit rewards: what a tuned policy makes of given answers by itself, measured against its
reference.

Log-probs of both are stored answer by answer: an answer is paid for once under a reference, and
once under an adapter.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.progress import progress
from dpo_video.core.records import Candidate, History, Reward, Sample
from dpo_video.judge.candidate_file import open_candidates
from dpo_video.models.clip_source import open_source
from dpo_video.models.collate import TokenRow
from dpo_video.models.control_tokens import checkpoint_tokens
from dpo_video.models.encoded_clip import EncodedClip
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import tunes_tower
from dpo_video.models.prompts import answer_ids, encode_prompt
from dpo_video.run import Run
from dpo_video.store import RowStore, content_hash, row_key
from dpo_video.store.shared_rows import open_rows
from dpo_video.train.logps import token_logps
from dpo_video.train.reference import KIND, ReferenceLogps, keep_logps
from dpo_video.video import ClipRequest, VideoError, clip_key, clip_request

log = logging.getLogger(__name__)

TUNED = "tuned"
"""Rows of the run store as those of the reference, but under an adapter, which the key names by its
contents.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionTokens:
    """Answers to one question about a clip."""

    clip: ClipRequest
    prompt: str
    history: History = None
    answers: tuple[tuple[int, ...], ...]
    """As tokens, the end of turn included unless an answer was truncated."""


def write_rewards(run: Run, *, adapter: Path, out: Path) -> dict[str, Any]:
    """Write the reward of every candidate of a run under an adapter as JSONL of Reward; return
    counts and the mean.

    Candidates whose clip cannot be read have none, and are counted. Raises UserError where
    candidates or adapter are missing, or no clip can be read.
    """
    candidates = open_candidates(
        run.folder / "candidates.jsonl",
        run.samples,
        run.recipe.clean,
        tokens=checkpoint_tokens(run.recipe.model),
    )
    policy = load_policy(run.recipe.model, adapter=adapter, reference=run.recipe.reference_adapter)
    answers = [(sample, candidate) for _, sample, candidate in candidates.in_order()]
    rewards = candidate_rewards(
        run, policy, answers, root=run.video_root, adapter=adapter, title="rewards"
    )
    rows = [Reward(candidate_id=name, reward=reward) for name, reward in rewards.items()]
    if not rows:
        raise UserError(
            f"none of the {len(candidates)} candidates got a reward, for no clip can be read. "
            f"First: "
            f"{next(iter(run.bad_clips.values())).reason}"
        )
    write_jsonl(out, rows)
    return {
        "candidates": len(candidates),
        "rewards": len(rows),
        "bad clips": len(run.bad_clips),
        "mean": f"{math.fsum(row.reward for row in rows) / len(rows):.4g}",
        "written": str(out),
    }


def candidate_rewards(
    run: Run,
    policy: Policy,
    answers: Sequence[tuple[Sample, Candidate]],
    *,
    root: Path,
    adapter: Path,
    title: str,
) -> dict[str, float]:
    """Return the implicit reward of each candidate by its id, question by question; those whose
    clip cannot be read, or whose text holds a control token, are left out.

    Args:
        policy: the base with the adapter of the folder `adapter`, and that of its reference.
        root: folder that relative video paths start from.
        title: of the progress bar.
    """
    answers = [
        (sample, candidate)
        for sample, candidate in answers
        if not _holds_control_token(policy, candidate)
    ]
    samples = {sample.id: sample for sample, _ in answers}
    tokens: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in samples}
    for _, candidate in answers:
        ended = candidate.finish != "length"
        tokens[candidate.sample_id][candidate.id] = tuple(
            answer_ids(policy, candidate.text, ended=ended)
        )
    questions: dict[str, QuestionTokens] = {}
    for name, sample in samples.items():
        try:
            questions[name] = QuestionTokens(
                clip=clip_request(sample, root),
                prompt=sample.prompt,
                history=sample.history,
                answers=tuple(tokens[name].values()),
            )
        except VideoError as error:  # an address
            run.set_aside(clip_key(sample), error)
    by_question = implicit_rewards(
        run, policy, list(questions.values()), adapter=adapter, title=title
    )
    rewards: dict[str, float] = {}
    for index, name in enumerate(questions):
        if index in by_question:
            rewards |= zip(tokens[name], by_question[index], strict=True)
    return rewards


def _holds_control_token(policy: Policy, candidate: Candidate) -> bool:
    token = policy.control_tokens.first_in(policy.control_tokens.without_end(candidate.text))
    if token is not None:
        log.warning("candidate %s has no reward: %s is a control token", candidate.id, token)
    return token is not None


def implicit_rewards(
    run: Run, policy: Policy, questions: Sequence[QuestionTokens], *, adapter: Path, title: str
) -> dict[int, list[float]]:
    """Return the rewards of each question's answers by its position, those whose clip cannot be
    read left out.

    The reward is beta * (log p under the policy - log p under its reference), log-probs of whole
    answers in nats (Rafailov et al. 2023, arXiv 2305.18290, sec. 4), from teacher-forced forwards;
    beta is `train.beta`, the reference that of training.

    Args:
        policy: the base with the adapter of the folder `adapter`, and that of its reference.
        title: of the progress bar.
    """
    requests = {question.clip.key: question.clip for question in questions}
    reference = ReferenceLogps(
        policy, run.recipe.video, requests, adapter=run.recipe.reference_adapter
    )
    weights = content_hash(adapter)
    with open_rows(run.recipe, run.store) as base_rows:
        stored = [
            _StoredLogps.of(question, reference, weights, base_rows=base_rows, tuned_rows=run.store)
            for question in questions
        ]
        by_clip: dict[str, list[int]] = {}  # the questions that lack log-probs
        for index, question in enumerate(questions):
            if stored[index].rewards(run.recipe.train.beta) is None:
                by_clip.setdefault(question.clip.key, []).append(index)
        with (
            open_source(policy, run.recipe) as source,
            progress(title, total=sum(map(len, by_clip.values()))) as advance,
        ):
            for request, ready in source.map([requests[key] for key in by_clip]):
                if isinstance(ready, UserError):
                    run.set_aside(request.key, ready, request)
                else:
                    tuned = source.encode(ready)
                    base = (
                        source.encode(ready, adapter=False) if tunes_tower(policy.model) else tuned
                    )
                    asked = [(questions[index], stored[index]) for index in by_clip[request.key]]
                    _complete(policy, asked, base, adapter=False)
                    _complete(policy, asked, tuned, adapter=True)
                advance(len(by_clip[request.key]))
        rewards: dict[int, list[float]] = {}
        for index in range(len(questions)):
            question_rewards = stored[index].rewards(run.recipe.train.beta)
            if question_rewards is not None:
                rewards[index] = question_rewards
        return rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredLogps:
    """Where the log-probs of a question's answers lie, under the base and under the adapter."""

    base_keys: Sequence[str]
    tuned_keys: Sequence[str]
    base_rows: RowStore
    tuned_rows: RowStore

    @classmethod
    def of(
        cls,
        question: QuestionTokens,
        reference: ReferenceLogps,
        weights: str,
        *,
        base_rows: RowStore,
        tuned_rows: RowStore,
    ) -> "_StoredLogps":
        """Return the keys of a question's answers; `weights` is the hash of the adapter."""
        base_keys = [
            reference.key(question.clip.key, question.prompt, answer, history=question.history)
            for answer in question.answers
        ]
        return cls(
            base_keys=base_keys,
            tuned_keys=[row_key(base=key, adapter=weights) for key in base_keys],
            base_rows=base_rows,
            tuned_rows=tuned_rows,
        )

    def rewards(self, beta: float) -> list[float] | None:
        """Return the reward of each answer; None where a log-prob is not stored."""
        base_logps = _answer_logps(self.base_rows, KIND, self.base_keys)
        tuned_logps = _answer_logps(self.tuned_rows, TUNED, self.tuned_keys)
        if base_logps is None or tuned_logps is None:
            return None
        return [
            beta * (tuned_logp - base_logp)
            for tuned_logp, base_logp in zip(tuned_logps, base_logps, strict=True)
        ]

    def missing(self, question: QuestionTokens, *, adapter: bool) -> dict[str, tuple[int, ...]]:
        """Return the answers whose log-probs are not stored, by their keys."""
        keys = self.tuned_keys if adapter else self.base_keys
        stored = self.rows_of(adapter=adapter).get(TUNED if adapter else KIND, set(keys))
        return {
            key: answer
            for key, answer in zip(keys, question.answers, strict=True)
            if key not in stored
        }

    def rows_of(self, *, adapter: bool) -> RowStore:
        """Return the store of the log-probs under the adapter, or under the base."""
        return self.tuned_rows if adapter else self.base_rows


def _answer_logps(store: RowStore, kind: str, keys: Sequence[str]) -> list[float] | None:
    """Return the log-prob of each answer in nats; None where one is not stored."""
    rows = store.get(kind, set(keys))
    if len(rows) < len(set(keys)):
        return None
    return [math.fsum(rows[key]["logps"]) for key in keys]


def _complete(
    policy: Policy,
    questions: Sequence[tuple[QuestionTokens, _StoredLogps]],
    clip: EncodedClip,
    *,
    adapter: bool,
) -> None:
    """Compute and store what is not stored of the questions about a clip, all together, so that the
    clip is read once.

    Args:
        clip: as the tuned tower encodes it, or the base's.
    """
    rows: dict[str, TokenRow] = {}
    store: RowStore | None = None
    for question, stored in questions:
        answers = stored.missing(question, adapter=adapter)
        if answers:
            store = stored.rows_of(adapter=adapter)
            prompt = encode_prompt(policy, question.prompt, clip.inputs, history=question.history)
            rows |= {
                key: TokenRow(
                    prompt=prompt, clip=clip.inputs, features=clip.features, answer=answer
                )
                for key, answer in answers.items()
            }
    if store is not None:
        logps = token_logps(policy, list(rows.values()), adapter=adapter)
        keep_logps(store, dict(zip(rows, logps, strict=True)), kind=TUNED if adapter else KIND)
