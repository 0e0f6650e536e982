"""SmolLM2-135M-Instruct as the local judge: scores from label probabilities, and verdicts that it
writes or does not.
"""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import Scorer, load_scorer
from dpo_video.judge.stage import judge_candidates
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

CAPTION = "A man in a red jacket pours olive oil into a bowl, then he cuts two tomatoes."
ANSWERS = (
    "He pours olive oil into a bowl.",
    "A woman paints a fence.",
    "Olive oil.",
    "A man in a red jacket pours olive oil into a bowl and cuts two tomatoes after that, slowly.",
    "Nothing.",
)


def judged(model: Path, scorer: Scorer, folder: Path, **settings: object) -> list[Judgment]:
    """The judgments of the answers, from a local judge in float32."""
    judge = JudgeSettings.model_validate(
        {
            "backend": "local",
            "model": str(model),
            "device": "cpu",
            "dtype": "float32",
            "scorer": scorer.name,
            **settings,
        }
    )
    sample = Sample(id="s", video="v.mp4", prompt="What does the man do?", caption=CAPTION)
    items = [
        (
            sample,
            Candidate(id=f"s#{k}", sample_id="s", text=text, model="m", settings="h", seed=k),
        )
        for k, text in enumerate(ANSWERS)
    ]
    with RunStore(folder) as store:
        judgments, counts = judge_candidates(judge, scorer, items, store)
    assert counts["asked"] == len(ANSWERS)
    return [judgments[candidate.id] for _, candidate in items]


def test_scores_from_labels_are_those_of_a_plain_forward(
    real_weights: Path, tmp_path: Path
) -> None:
    """One prompt at a time without padding, the model's own template, softmax over all words."""
    scorer = load_scorer("caption_score")
    rows = judged(real_weights / "judge", scorer, tmp_path, batch_size=3)
    tokenizer = AutoTokenizer.from_pretrained(real_weights / "judge")
    model = AutoModelForCausalLM.from_pretrained(real_weights / "judge", dtype=torch.float32)
    labels = torch.tensor([tokenizer.convert_tokens_to_ids(label) for label in scorer.labels])
    values = torch.tensor(list(scorer.labels.values()), dtype=torch.float32)
    for answer, row in zip(ANSWERS, rows, strict=True):
        messages = render(
            scorer, caption=CAPTION, question="What does the man do?", answer=answer, reference=None
        )
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt + scorer.reply_prefix.rstrip() + " ", return_tensors="pt")
        with torch.no_grad():
            chances = model(**ids).logits[0, -1].softmax(-1)[labels]
        assert row.status == "scored" and chances.sum() > 0.5
        expected = float((chances / chances.sum()) @ values)
        assert row.score == pytest.approx(expected, abs=1e-3)
    assert len({row.score for row in rows}) == len(ANSWERS), "every answer has its own score"


@pytest.mark.parametrize("name", ["hound_quality", "caption_score"])
def test_what_it_writes_is_scored_by_its_verdict_line_or_not_at_all(
    real_weights: Path, tmp_path: Path, name: str
) -> None:
    """135 M parameters seldom keep to a form: what has no verdict line gets no score."""
    scorer = load_scorer(name)
    rows = judged(
        real_weights / "judge", scorer, tmp_path, score_from="verdict", max_tokens=16, batch_size=5
    )
    for row in rows:
        assert re.search("[A-Za-z]{3}", row.reply), "it writes words"
        if row.score is None:
            assert row.status == "unscored"
            assert row.reason.startswith(("no verdict line", "cut off"))
        else:
            assert re.search(rf"^Score: {row.score:g}$", row.reply, re.MULTILINE)
