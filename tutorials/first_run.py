"""A first run from Python: do the stages, look at pairs and answers, ask the tuned model.

    python tutorials/first_run.py                      # the toy world, CPU, about two minutes
    python tutorials/first_run.py train.beta=0.2       # settings on top

The cells (`# %%`) open as a notebook in VS Code and Jupyter.
"""

import sys

import dpo_video
from dpo_video.core.report import estimate_text


def main(overrides: list[str]) -> None:
    # %% A recipe is every setting of a run; overrides are those of the command line.
    recipe = dpo_video.load_recipe("quickstart", overrides)
    print("run folder:", recipe.run_folder)

    # %% Do the stages. What is finished is not done again.
    run = dpo_video.run_stages(recipe)

    # %% The pair that the judge is surest of.
    pairs = dpo_video.read_pairs(recipe.run_folder)
    surest = max(pairs, key=lambda pair: pair.chosen_score - pair.rejected_score)
    print(f"{len(pairs)} pairs; the surest:")
    print(f"  {surest.prompt}\n  chosen:   {surest.chosen}\n  rejected: {surest.rejected}")

    # %% What evaluation found, with its intervals.
    for model in ("before", "after"):
        match = getattr(run.metrics, model).exact_match
        print(f"exact match {model}: {estimate_text(match, share=True)}")

    # %% Answers that changed from wrong to right.
    answers = dpo_video.read_answers(recipe.run_folder)
    before = {row.sample_id: row for row in answers if row.model == "before"}
    mended = [
        row
        for row in answers
        if row.model == "after" and row.exact_match and not before[row.sample_id].exact_match
    ]
    for row in mended[:3]:
        print(f"{row.prompt}  {before[row.sample_id].text}  ->  {row.text}")

    # %% Ask the tuned model about a clip.
    tuned = dpo_video.open_tuned(recipe.run_folder / "adapter")
    split = run.sets["heldout"]
    sample = next(iter(split.samples.values()))
    print(sample.prompt, tuned.answer(split.root / sample.video, sample.prompt))


if __name__ == "__main__":  # a module that is imported anew by the processes that decode clips
    main(sys.argv[1:])
