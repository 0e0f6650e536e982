"""Answers with letters to a set of questions, and how many of them are right after tuning."""

from dpo_video.evaluate.answer_rows import EvaluatedAnswer


def letter_answers(num_questions: int, *, right: int) -> list[EvaluatedAnswer]:
    """Return the answers of both models: none is right before, the first `right` are after."""
    return [
        EvaluatedAnswer(
            set="heldout",
            model=model,
            sample_id=f"q{number}",
            clip=f"{number}.mp4",
            kind="letter",
            prompt="which?",
            options=["a", "b"],
            gold="A",
            text="A",
            parsed="A",
            correct=model == "after" and number < right,
        )
        for number in range(num_questions)
        for model in ("before", "after")
    ]
