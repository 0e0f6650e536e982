"""Votes of `dpo-video review` as gold labels: preferences, ties, and pairs whose answers are both
bad.
"""

from pathlib import Path

from dpo_video.agree.gold import Gold, LabelTargets, Preference
from dpo_video.core.errors import UserError
from dpo_video.data.votes import on_these_texts, read_votes


def is_votes_file(path: Path) -> bool:
    """Return whether a JSONL file holds votes, by its first line."""
    try:
        with path.open("rb") as file:
            return b'"left_id"' in file.readline()
    except OSError:
        return False


def read_gold_votes(path: Path, targets: LabelTargets) -> Gold:
    """Return the votes of a file as preferences; skipped pairs and second votes of one annotator on
    the same pair are no labels. UserError where no vote is on candidates of the run.
    """
    text_of = {name: candidate.text for name, candidate in targets.candidates.items()}
    votes = [
        vote
        for vote in on_these_texts(read_votes(path), text_of)
        if vote.choice != "skip" and not vote.repeat
    ]
    if not votes:
        raise UserError(
            f"{path}: no vote in it on a candidate of this run. Vote first: dpo-video review RUN"
        )
    answers = {}
    preferences = []
    for vote in votes:
        for name in (vote.left_id, vote.right_id):
            candidate = targets.candidates[name]
            answers[name] = (targets.samples[candidate.sample_id], candidate)
        first, second = vote.left_id, vote.right_id
        if vote.choice == "B":
            first, second = second, first
        preferences.append(
            Preference(
                chosen_id=first,
                rejected_id=second,
                annotator=vote.annotator,
                where=f"{path}: vote {vote.id}",
                tie=vote.choice in ("tie", "both_bad"),
                both_bad=vote.choice == "both_bad",
            )
        )
    return Gold(source=str(path), answers=answers, preferences=preferences)
