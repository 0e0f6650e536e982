"""Answers with what the judge made of them, as a page's script shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_video.core.records import Judgment
from dpo_video.judge.scorer import Scorer


def answer_row(
    text: str, judgment: Judgment | None, scorer: Scorer | None, *, is_cut: bool = False
) -> dict[str, Any]:
    """Return an answer with its score, label probabilities, claims and the judge's words; what is
    absent is left out.
    """
    row: dict[str, Any] = {"text": text}
    if is_cut:
        row["cut"] = True
    if judgment is None:
        return row
    row["score"] = judgment.score
    row["reason"] = judgment.reason
    if judgment.status != "scored":
        row["status"] = judgment.status
    if judgment.distribution:
        row["distribution"] = distribution_rows(judgment.distribution, scorer)
    if judgment.claims:
        row["claims"] = claim_rows(judgment.claims, scorer)
    return row


def distribution_rows(
    distribution: Mapping[str, float], scorer: Scorer | None
) -> list[tuple[str, float]]:
    """Return label and probability, each label with its meaning."""
    return [(_meaning(label, scorer), round(chance, 4)) for label, chance in distribution.items()]


def claim_rows(claims: Sequence[Mapping[str, Any]], scorer: Scorer | None) -> list[dict[str, Any]]:
    """Return each claim with its kind (`supported`, `contradicted` or `absent`) and its meaning."""
    rows = []
    for claim in claims:
        meaning = _meaning(str(claim.get("label")), scorer)
        worth = claim.get("worth")
        rows.append(
            {
                "text": str(claim.get("claim", "")),
                "kind": _kind(meaning, worth),
                "meaning": meaning,
                "worth": worth,
            }
        )
    return rows


def _meaning(label: str, scorer: Scorer | None) -> str:
    return label if scorer is None else scorer.label_names.get(label, label)


def _kind(meaning: str, worth: Any) -> str:
    word = meaning.casefold()
    if "contradict" in word:
        return "contradicted"
    if word.startswith("support"):
        return "supported"
    if word.startswith("not "):
        return "absent"
    return "supported" if isinstance(worth, int | float) and worth >= 0.5 else "absent"
