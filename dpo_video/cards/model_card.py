"""The card of a tuned adapter or a merged model: README.md with the hub's metadata on top."""

from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData

from dpo_video import __version__
from dpo_video.cards.facts import CardFacts, read_facts, shown_name
from dpo_video.cards.measures import TASK, card_measures, eval_results, judge_rows
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.core.page import render_document
from dpo_video.core.progress import log
from dpo_video.core.seal import CARD, RECIPE, SEAL
from dpo_video.models.served import NOTED, UPDATES_OF_EXPERTS
from dpo_video.pages.overview import measure_rows
from dpo_video.parity.server_commands import ASK_TO_HEAR, adapter_command, merged_commands
from dpo_video.recipe.file import dump_recipe
from dpo_video.run import Run

ModelKind = Literal["adapter", "merged"]
SOUND = {
    "heard": "heard, where a clip has some",
    "left out": "left out: clips were silent, whatever is in their files",
}
"""What is said of a model that can hear."""
FRAMES = {
    "uniform": "{num_frames} frames, spread evenly over the clip",
    "fps": "{fps:g} frames a second, from {min_frames} to {max_frames}",
    "fit": "{fps:g} frames a second, as many as the context holds, at most {max_frames}",
    "scene": "one frame a scene, of {fps:g} looked at a second, from {min_frames} to {max_frames}",
    "diff_prune": "frames that differ from the one before, of {fps:g} looked at a second, from "
    "{min_frames} to {max_frames}",
    "all": "every frame, at most {max_frames}",
}
"""In words, by policy; the fields are those of `video`."""


def renew_documents(run: Run, stage: str) -> None:
    """Write README.md and recipe.yaml beside a run's adapter once a stage has made it, or numbers
    about it.
    """
    adapter = run.folder / "adapter"
    if stage not in ("train", "evaluate") or not (adapter / SEAL).is_file():
        return
    try:
        card = model_card(read_facts(run.folder, run.recipe), "adapter", source=str(adapter))
    except UserError as error:  # the adapter is there; a report that the card repeats is damaged
        log.info(f"note: the card of {adapter} is not renewed: {error}")
        return
    for name, content in ((RECIPE, dump_recipe(run.recipe)), (CARD, card)):
        path = adapter / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            write_atomic(path, content)


def model_card(facts: CardFacts, kind: ModelKind, *, source: str) -> str:
    """Return the card: metadata that the hub reads, numbers before and after, how it was made, how
    it is used, what is not known.

    Args:
        source: the folder or hub id that its commands load.
    """
    return render_document(
        "cards/model_card.md.jinja",
        metadata=_metadata(facts, kind).to_yaml(),
        facts=facts,
        recipe=facts.recipe,
        kind=kind,
        source=source,
        version=__version__,
        rows=[] if facts.metrics is None else list(card_measures(facts.metrics)),
        worse=_regressions(facts),
        judge=judge_rows(facts.agreement),
        making=_making(facts),
        frames=_frames(facts),
        serve=_serve(facts, kind, source),
        heard=facts.stage("train").get("sound") == "heard",
        ask_to_hear=ASK_TO_HEAR,
        why_merged_only=_why_merged_only(facts) if kind == "adapter" else None,
        versions=facts.manifest.get("versions") or {},
    )


def _metadata(facts: CardFacts, kind: ModelKind) -> ModelCardData:
    recipe, metrics = facts.recipe, facts.metrics
    results = [] if metrics is None else eval_results(metrics)
    tags = ["dpo", "video", "preference-tuning", "trl", "dpo-video"]
    if kind == "adapter":
        tags.append("qlora" if recipe.model.quantize == "nf4" else "lora")
    relation = {"adapter": "adapter", "merged": "finetune"}[kind]
    return ModelCardData(
        base_model=facts.base_model,
        base_model_relation=relation if facts.base_model else None,
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag=TASK,
        tags=tags,
        license=recipe.card.license,
        datasets=recipe.card.datasets or None,
        language=recipe.card.language or None,
        model_name=Path(recipe.name).name if results else None,
        eval_results=results or None,
    )


def _regressions(facts: CardFacts) -> list[str]:
    """Return what came out worse beyond its interval, a sentence each: sets, then measures of the
    held-out questions.
    """
    if facts.metrics is None:
        return []
    sentences = [
        verdict.sentence for verdict in facts.metrics.verdicts if verdict.outcome == "worse"
    ]
    for row in measure_rows(facts.metrics):
        if row.verdict == "worse":
            sentences.append(f"heldout, {row.title}: {row.before} to {row.after}, {row.change}")
    return sentences


def _making(facts: CardFacts) -> list[tuple[str, str]]:
    """Return how it was made, as names and values."""
    recipe = facts.recipe
    paired, trained, generated = (facts.stage(name) for name in ("pair", "train", "generate"))
    lora, pair, train = recipe.train.lora, recipe.pair, recipe.train
    rows: dict[str, Any] = {
        "questions": shown_name(recipe.data.samples or recipe.data.pairs or "-"),
        "candidates": generated.get("candidates"),
        "judge": None if recipe.data.pairs else shown_name(recipe.judge.model or "-"),
        "scorer": None if recipe.data.pairs else shown_name(recipe.judge.scorer),
        "pairs": _pairs_text(facts, paired.get("pairs")),
        "rule of the pairs": f"{pair.rule}, scores at least {paired['min_margin']:g} apart"
        if "min_margin" in paired
        else None,
        "trained on": _trained_text(trained),
        "loss": f"{' + '.join(train.loss)}, beta {train.beta:g}",
        "LoRA": f"rank {lora.rank}, alpha {lora.alpha}, on {' and '.join(train.tune)}"
        + (" with its experts" if lora.experts else ""),
        "base in training": "4 bit (nf4)" if recipe.model.quantize == "nf4" else "not quantised",
        "learning rate": f"{train.learning_rate:g}, {train.scheduler}, "
        f"{train.epochs:g} epochs, seed {recipe.seed}",
    }
    return [(name, str(value)) for name, value in rows.items() if value is not None]


def _pairs_text(facts: CardFacts, count: Any) -> str | None:
    if count is None:
        return None
    paired = facts.stage("pair")
    drops: dict[str, int] = {}
    for unit in ("questions", "pairs"):
        for reason, num in (paired.get(f"{unit}_dropped") or {}).items():
            drops[reason] = max(num, drops.get(reason, 0))
    listed = ", ".join(f"{reason} {num}" for reason, num in drops.items())
    return f"{count}{f' (left out: {listed})' if listed else ''}"


def _trained_text(trained: Any) -> str | None:
    if "trained" not in trained:
        return None
    return f"{trained['trained']} pairs of {trained['clips']} clips, {trained['steps']} steps"


def _frames(facts: CardFacts) -> list[tuple[str, str]]:
    """Return what the model saw and heard of a clip, as names and values."""
    recipe = facts.recipe
    video, sound = recipe.video, facts.stage("train").get("sound")
    rows = {
        "frames": FRAMES[video.policy].format(**video.model_dump()),
        "least pixels of a frame": video.min_pixels or "the checkpoint's",
        "most pixels of a frame": video.max_pixels or "the checkpoint's",
        "most video tokens of a clip": video.max_tokens or "no limit but the context",
        "positions": "as the base was trained"
        if recipe.model.positions == "checkpoint"
        else "those of transformers",
        **({} if sound is None else {"sound of a clip": SOUND.get(sound, sound)}),
    }
    return [(name, str(value)) for name, value in rows.items()]


def _serve(facts: CardFacts, kind: ModelKind, source: str) -> list[str]:
    """Return the commands that serve it with vLLM."""
    if kind == "merged":
        return merged_commands(facts.recipe, Path(source))[:1]
    return [adapter_command(facts.recipe, base=facts.base_name, adapter=source)]


def _why_merged_only(facts: CardFacts) -> str | None:
    """Return why no server takes the adapter beside its base, as training noted it; None where one
    does. The base is not looked at: it may be on the hub, and a push that is only shown asks
    nothing.
    """
    if facts.recipe.train.lora.experts:
        return UPDATES_OF_EXPERTS
    noted: str | None = facts.stage("train").get(NOTED)
    return noted
