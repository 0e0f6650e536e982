"""The plan's calls of the judge: what they are counted from is read once."""

import subprocess
import sys

COUNTED = """
import sys
from dataclasses import replace
from dpo_video.check.calls import evaluation_calls
from dpo_video.core.records import Sample
from dpo_video.recipe.file import load_recipe

recipe = load_recipe("quickstart")
sample = Sample(id="0", video="a.mp4", prompt="What is it?", caption="A dog.", answer="A dog.")
opened = []
sys.addaudithook(
    lambda event, names: opened.append(str(names[0])) if event == "open" else None
)
for count in (1, 40):
    del opened[:]
    calls = evaluation_calls(recipe, [replace(sample, id=str(number)) for number in range(count)])
    print(sum(name.endswith("caption_score.yaml") for name in opened), calls.calls)
"""


def test_a_scorer_file_is_read_as_often_for_many_samples_as_for_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True
    )
    (reads_of_one, calls_of_one), (reads_of_many, calls_of_many) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    assert reads_of_one == reads_of_many > 0
    assert calls_of_many == 40 * calls_of_one
