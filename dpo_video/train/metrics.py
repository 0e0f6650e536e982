"""What TRL does not log: speed, tokens that sharing saved, lengths, distance from the reference,
waiting for clips.

R rows, T tokens.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from dpo_video.core.ranks import world_size
from dpo_video.train.micro_batches import forward_tokens, pair_costs, rows_tokens
from dpo_video.train.pair_batches import PairBatch


class Meter:
    """Adds up what passes between two lines of the log."""

    def __init__(self, *, shared: bool) -> None:
        """Count; `shared` tells that common prefixes run once."""
        self._shared = shared
        self._sums: Counter[str] = Counter()
        self._begin: float | None = None
        self._steps_due, self._steps_run, self._all_ran = 0.0, 0.0, True

    def start(self) -> None:
        """Start the clock, at the first step."""
        if self._begin is None:
            self._begin = time.monotonic()

    def add(self, pairs: PairBatch) -> None:
        """Count the pairs of a forward."""
        rows = rows_tokens(pairs)
        run = forward_tokens(pair_costs(pairs), shared=True) if self._shared else rows
        self._sums.update(
            pairs=len(pairs.pairs),
            rows=rows,
            saved=rows - run,
            clips=len(pairs.clips),
            video=sum(len(features) for features in pairs.features),
            chosen=sum(len(pair.chosen) for pair in pairs.pairs),
            rejected=sum(len(pair.rejected) for pair in pairs.pairs),
        )

    def add_batch(self, share_run: float, *, share_of_step: float) -> None:
        """Note how much of a batch ran: 1 for all of it, 0 where no clip of it could be read."""
        self._steps_due += share_of_step
        self._steps_run += share_of_step * share_run
        self._all_ran = self._all_ran and share_run > 1 - 1e-9

    def over_what_ran(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Return a line's numbers with the loss averaged over what ran since the last line;
        transformers counts what was skipped as a loss of 0.
        """
        due, run, all_ran = self._steps_due, self._steps_run, self._all_ran
        self._steps_due, self._steps_run, self._all_ran = 0.0, 0.0, True
        if all_ran:
            return dict(logs)
        if run == 0:
            empty = ("loss", "grad_norm")
            return {name: value for name, value in logs.items() if name not in empty}
        return {**logs, "loss": logs["loss"] * due / run}

    def add_skipped(self, num_pairs: int) -> None:
        """Count pairs of a batch that did not run, for a clip of theirs cannot be read."""
        self._sums["skipped"] += num_pairs

    def add_wait(self, seconds: float) -> None:
        """Count time for which the step waited for clips."""
        self._sums["wait"] += seconds  # type: ignore[assignment]  # a Counter adds floats as well

    def add_divergence(self, policy: Tensor, reference: Tensor, scored: Tensor) -> None:
        """Count per-token log-probs of policy and reference (R, T - 1) where `scored` is True.

        The answers were sampled from the reference, as a rule, so the mean of r - 1 - log r with r
        = policy / reference estimates KL(reference || policy) per token (k3 in Schulman,
        "Approximating KL divergence", 2020); chosen and rejected are picked among the samples, so
        it is an estimate with a bias.
        """
        log_ratio = (policy.detach().float() - reference.float())[scored]
        self._sums["kl"] += float((log_ratio.exp() - 1 - log_ratio).sum())  # type: ignore[assignment]
        self._sums["scored"] += int(scored.sum())

    def take(self) -> dict[str, float]:
        """Return the metrics since the last call, and start anew; rates count all processes: their
        shares are equal.
        """
        sums, self._sums = self._sums, Counter()
        now = time.monotonic()
        begin, self._begin = self._begin, now
        skipped = {"skipped_pairs": float(sums["skipped"])} if sums["skipped"] else {}
        if begin is None or not sums["pairs"]:
            return skipped
        seconds, pairs = now - begin, sums["pairs"]
        divergence = {"kl": sums["kl"] / sums["scored"]} if sums["scored"] else {}
        return {
            "pairs_per_second": pairs * world_size() / seconds,
            "tokens_per_second": sums["rows"] * world_size() / seconds,
            "data_wait": sums["wait"] / seconds,
            "tokens_saved": sums["saved"] / sums["rows"],
            "video_tokens": sums["video"] / sums["clips"],
            "length/chosen": sums["chosen"] / pairs,
            "length/rejected": sums["rejected"] / pairs,
            **divergence,
            **skipped,
        }


def average_forwards(
    noted: Mapping[str, Sequence[float]], before: Mapping[str, int], weights: Sequence[float]
) -> dict[str, list[float]]:
    """Return the noted metrics with one value, weighed as the loss is, in place of those of each
    forward of a batch; others, which were not noted in each forward, are left out.

    Example: noted [0.5, 1.0, 4.0], of which 1 stood there `before`, weights [2, 1] -> [0.5, 2.0].
    """
    averaged = {}
    for name, values in noted.items():
        num_before = before.get(name, 0)
        of_batch = values[num_before:]
        if len(of_batch) == len(weights):
            weighed = sum(value * weight for value, weight in zip(of_batch, weights, strict=True))
            averaged[name] = [*values[:num_before], weighed / sum(weights)]
    return averaged
