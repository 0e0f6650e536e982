"""Log-probs of the reference: once per answer, kept under a key of all that determines them.

R rows (chosen, then rejected), T tokens.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate.utils import gather_object
from torch import Tensor

from dpo_video.core.progress import progress
from dpo_video.core.ranks import is_main_process, world_size
from dpo_video.core.records import History
from dpo_video.models.decoding import sound_format
from dpo_video.models.load import Policy
from dpo_video.models.prompts import clip_content, prompt_text
from dpo_video.models.tokens import size_identity
from dpo_video.recipe import VideoSettings
from dpo_video.store import RowStore, content_hash, row_key
from dpo_video.train.pair_batches import PairTokens
from dpo_video.video import ClipRequest
from dpo_video.video.cache import frames_identity

KIND = "reference"
"""Rows of the run store: {"logps": [...]}, one number in nats per token of the answer, end of turn
included.

The sum, the token count and the part up to the shorter answer that `trl.ld_alpha` weighs all follow
from them.
"""
Logps = dict[str, list[float]]
"""Per-token log-probs of answers, by key."""


class ReferenceLogps:
    """What is known of the reference's log-probs, for the answers to questions about some clips."""

    def __init__(
        self,
        policy: Policy,
        settings: VideoSettings,
        requests: Mapping[str, ClipRequest],
        *,
        adapter: Path | None = None,
    ) -> None:
        """Know nothing yet; `requests` are by the clip's key.

        Args:
            adapter: folder of the reference's adapter; None where it is the model alone.
        """
        self._policy = policy
        self._settings = settings
        self._requests = requests
        self._common = reference_identity(policy, settings)
        self._adapter = None if adapter is None else content_hash(adapter)
        self._prompts: dict[tuple[str, str, History], str] = {}
        self._known: dict[str, Tensor] = {}

    def key(
        self, clip: str, question: str, answer: Sequence[int], *, history: History = None
    ) -> str:
        """Return the key of an answer's row; it names no engine and no training setting."""
        asked = clip, question, history
        if asked not in self._prompts:
            frames = frames_identity(
                self._requests[clip],
                self._settings,
                multiple_of=self._policy.family.frames_per_step,
                sound=sound_format(self._policy.spec, self._settings),
            )
            self._prompts[asked] = (
                row_key(  # a clip that cannot be read now has no key to be found by
                    **self._common,
                    frames=frames or uuid4().hex,
                    prompt=prompt_text(
                        self._policy.processor,
                        question,
                        clip_content(self._policy.family, 1),
                        history=history,
                    ),
                )
            )
        base_key = row_key(prompt=self._prompts[asked], answer=list(answer))
        return base_key if self._adapter is None else row_key(base=base_key, adapter=self._adapter)

    def keys(self, pair: PairTokens) -> tuple[str, str]:
        """Return the keys of a pair's answers, the chosen one first."""
        question, history = pair.pair.prompt, pair.pair.history
        return (
            self.key(pair.clip, question, pair.chosen, history=history),
            self.key(pair.rejected_clip, question, pair.rejected, history=history),
        )

    def add(self, logps: Mapping[str, Sequence[float]]) -> None:
        """Learn log-probs by key; what is known stays, an answer met again differs by rounding."""
        for key, values in logps.items():
            self._known.setdefault(key, torch.tensor(values, dtype=torch.float32))

    def has(self, key: str) -> bool:
        """Return whether the log-probs of an answer are known."""
        return key in self._known

    def knows(self, pairs: Iterable[PairTokens]) -> bool:
        """Return whether the log-probs of all these pairs are known."""
        return all(self.has(key) for pair in pairs for key in self.keys(pair))

    def rows(self, pairs: Sequence[PairTokens], scored: Tensor) -> Tensor:
        """Return (R, T - 1) float32 nats, at the places where `scored` (R, T - 1) is True; 0
        elsewhere.

        Each number stands where the policy's stands, so that both are added up in the same order.
        """
        values = [self._known[key] for key in self._row_keys(pairs)]
        flat = torch.cat(values).to(scored.device)
        assert len(flat) == int(scored.sum()), "answers and stored log-probs differ in length"
        return torch.zeros(scored.shape, device=scored.device).masked_scatter(scored, flat)

    def split(self, pairs: Sequence[PairTokens], logps: Tensor, scored: Tensor) -> Logps:
        """Return the rows of a forward, (R, T - 1) both, by key."""
        return {
            key: row_logps[is_scored].tolist()
            for key, row_logps, is_scored in zip(
                self._row_keys(pairs), logps.float().cpu(), scored.cpu(), strict=True
            )
        }

    def _row_keys(self, pairs: Sequence[PairTokens]) -> list[str]:
        """Return (R,) the keys of the answers, the chosen ones first."""
        keys = [self.keys(pair) for pair in pairs]
        return [chosen for chosen, _ in keys] + [rejected for _, rejected in keys]


def reference_identity(policy: Policy, settings: VideoSettings) -> dict[str, Any]:
    """Return what determines the reference's log-probs beside frames, prompt and answer.

    The revision stands for weights, tokenizer, chat template and processors; whatever of these is
    changed after loading is no recipe's business.
    """
    return {
        "family": policy.family.name,
        "revision": policy.revision,
        "quantize": policy.settings.quantize,
        "dtype": str(policy.dtype),
        "attention": policy.settings.attention,
        "device": policy.device.type,
        "positions": policy.settings.positions,
        "rope": policy.settings.rope_factor,
        "size": size_identity(settings),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def stored_logps(store: RowStore, reference: ReferenceLogps, pairs: Iterable[PairTokens]) -> Logps:
    """Return what a store has of the pairs' log-probs; those that are not finite are not taken."""
    keys: dict[str, None] = {}
    for pair in pairs:
        keys |= dict.fromkeys(reference.keys(pair))
    rows = store.get(KIND, keys)
    return {key: row["logps"] for key, row in rows.items() if all(map(math.isfinite, row["logps"]))}


def keep_logps(store: RowStore, logps: Mapping[str, Sequence[float]], *, kind: str = KIND) -> None:
    """Put log-probs into a store, safe against a kill from then on."""
    for key, values in logps.items():
        store.put(kind, key, {"logps": values})
    store.flush()


def complete_reference(
    reference: ReferenceLogps,
    batches: Sequence[Sequence[PairTokens]],
    *,
    compute: Callable[[int], Logps],
    keep: Callable[[Logps], None],
    together: bool = False,
) -> int:
    """Make `reference` know the pairs of all batches; return how many batches had to be computed
    here.

    With several processes each computes its own batches, in step, and learns what the others found.

    Args:
        compute: returns the log-probs of a batch, by its position; empty where no clip of it can be
            read.
        keep: stores new log-probs; called in the process that owns the run folder.
        together: every process must compute in each round, for a forward of sharded weights takes
            them all; one that has nothing left runs a batch again.
    """
    missing = [position for position, pairs in enumerate(batches) if not reference.knows(pairs)]
    rounds = max(gather_object([len(missing)])) if world_size() > 1 else len(missing)
    if rounds == 0:
        return 0
    with progress("reference", total=rounds) as advance:
        for turn in range(rounds):
            logps: Logps = {}
            if turn < len(missing) or together:
                logps = compute(missing[min(turn, len(missing) - 1)] if missing else 0)
            if world_size() > 1:
                for process_logps in gather_object([logps]):
                    logps = logps | process_logps
            logps = {key: values for key, values in logps.items() if not reference.has(key)}
            reference.add(logps)
            if is_main_process():
                keep(logps)
            advance()
    return len(missing)
