"""The table of published benchmarks: how each is read, asked and scored, and where its files come
from.

A benchmark is a file of this folder that reads its questions, the published rule, and a row in
BENCHMARKS. Files come from the authors; none is part of this project, for their licences differ.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from dpo_video.benchmarks import (
    activitynet_qa,
    candidate_lists,
    eventhallusion,
    longvideobench,
    published_rules,
    tempcompass,
    vcgbench,
    videohallucer,
    videomme,
    vidhalluc,
    vinoground,
)
from dpo_video.benchmarks.predictions import Answers
from dpo_video.benchmarks.published_files import find_files
from dpo_video.benchmarks.readings import ReadingRule
from dpo_video.core.records import BENCHMARK, Sample

Headline = Literal["accuracy", "groups", "mean of categories", "mean of sets", "judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """How a benchmark is read, asked and scored."""

    title: str
    files: Sequence[str]
    """Names of its files, where a folder is given; `*` stands for anything."""
    read: Callable[[Path, Path | None], Iterator[Sample]]
    """The questions of one file, with the folder of clips where it is known."""
    rule: ReadingRule | None
    """None where the published metric is a judge's."""
    headline: Headline
    """What its authors' tables show: accuracy over questions; the share of groups right; the mean
    of the categories' accuracies; the mean of the sets' shares of groups; a judge's scores.
    """
    read_answers: Callable[[Path, Sequence[Sample]], Answers] | None = None
    """From a file of predictions as its authors publish them; None where they publish none."""
    read_ratings: Callable[[Path], dict[str, bool]] | None = None
    """From a file of the authors' own ratings: those of answers that their rule cannot read."""
    breakdowns: Sequence[str] = ()
    """Fields of `meta` by which accuracy is told, too."""
    unit: Callable[[Sample], object] | None = None
    """What the authors' script leaves out where nothing of it is answered; None where it counts
    what is not answered as wrong.
    """
    scorers: Mapping[str, Sequence[str]] | None = None
    """Scorer files of the judge, by category; the category "" stands for all."""
    source: str
    licence: str
    origin: str
    """Where its files are to be had."""


def read_benchmark(name: str, path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of a benchmark, from one of its files or a folder of them.

    Args:
        clips: the folder of its clips, where it is known: some of their names depend on it.

    Raises UserError where a file is not there, with the way to get it, or lacks a field.
    """
    row = BENCHMARKS[name]
    for file in find_files(
        path, row.files, title=row.title, origin=f"{row.origin} ({row.licence})"
    ):
        for sample in row.read(file, clips):
            yield replace(sample, meta={BENCHMARK: name, **(sample.meta or {})})


def benchmark_of(sample: Sample) -> str | None:
    """Return which benchmark a sample is of, by its `meta`, or None."""
    name = (sample.meta or {}).get(BENCHMARK)
    return name if isinstance(name, str) and name in BENCHMARKS else None


def published_rule(sample: Sample) -> ReadingRule | None:
    """Return the rule by which the benchmark of a sample reads answers; None where it has none."""
    name = benchmark_of(sample)
    return None if name is None else BENCHMARKS[name].rule


def _tempcompass(
    task: tempcompass.TaskName,
    rule: ReadingRule | None,
    *,
    scorers: Mapping[str, Sequence[str]] | None = None,
) -> Benchmark:
    return Benchmark(
        title=f"TempCompass, {task}",
        files=(f"{task}.json",),
        read=partial(tempcompass.read, task),
        rule=rule,
        read_answers=tempcompass.read_answers,
        read_ratings=tempcompass.read_ratings if rule else None,
        headline="accuracy" if rule else "judged",
        unit=lambda sample: sample.id,
        scorers=scorers,
        source="llyx97/TempCompass",
        licence="CC BY-NC 4.0",
        origin="questions/ of github.com/llyx97/TempCompass",
    )


def _videomme(title: str, read: Callable[[Path, Path | None], Iterator[Sample]]) -> Benchmark:
    return Benchmark(
        title=title,
        files=("test-*.parquet", "videomme*.json"),
        read=read,
        rule=published_rules.videomme,
        read_answers=videomme.read_answers,
        headline="accuracy",
        breakdowns=("domain", "task_type"),
        source="lmms-lab/Video-MME, lmms-eval",
        licence="academic research only",
        origin="the dataset lmms-lab/Video-MME of the Hugging Face hub",
    )


BENCHMARKS: dict[str, Benchmark] = {
    "videohallucer": Benchmark(
        title="VideoHallucer",
        files=videohallucer.FILES,
        read=videohallucer.read,
        rule=published_rules.videohallucer,
        read_answers=videohallucer.read_answers,
        headline="mean of sets",
        breakdowns=("half",),
        unit=lambda sample: sample.group,
        source="patrick-tssn/VideoHallucer",
        licence="MIT",
        origin="the dataset bigai-nlco/VideoHallucer of the Hugging Face hub",
    ),
    "eventhallusion": Benchmark(
        title="EventHallusion, binary",
        files=eventhallusion.FILES,
        read=eventhallusion.read,
        rule=published_rules.eventhallusion,
        read_answers=eventhallusion.read_answers,
        headline="accuracy",
        unit=lambda sample: sample.id,
        source="Stevetich/EventHallusion",
        licence="none stated",
        origin="questions/ of github.com/Stevetich/EventHallusion",
    ),
    "vidhalluc_binary": Benchmark(
        title="VidHalluc, binary",
        files=("ach_binaryqa.json",),
        read=vidhalluc.read_binary,
        rule=published_rules.vidhalluc_binary,
        read_answers=vidhalluc.read_binary_answers,
        headline="groups",
        unit=lambda sample: sample.group,
        source="Vid-Halluc/VidHalluc",
        licence="CC BY-NC 4.0",
        origin="the dataset chaoyuli/VidHalluc of the Hugging Face hub",
    ),
    "vidhalluc_multi_choice": Benchmark(
        title="VidHalluc, multiple choice",
        files=("ach_mcq.json",),
        read=vidhalluc.read_multi_choice,
        rule=published_rules.vidhalluc_multi_choice,
        read_answers=vidhalluc.read_multi_choice_answers,
        headline="accuracy",
        unit=lambda sample: (sample.meta or {}).get("pair"),
        source="Vid-Halluc/VidHalluc",
        licence="CC BY-NC 4.0",
        origin="the dataset chaoyuli/VidHalluc of the Hugging Face hub",
    ),
    "tempcompass_multi_choice": _tempcompass(
        "multi-choice", published_rules.tempcompass_multi_choice
    ),
    "tempcompass_yes_no": _tempcompass("yes_no", published_rules.tempcompass_yes_no),
    "tempcompass_caption_matching": _tempcompass(
        "caption_matching", published_rules.tempcompass_caption_matching
    ),
    "tempcompass_captioning": _tempcompass(
        "captioning", None, scorers={"": ("tempcompass_captioning",)}
    ),
    "mvbench": Benchmark(
        title="MVBench",
        files=tuple(f"{task}.json" for task in candidate_lists.MVBENCH_FOLDERS),
        read=candidate_lists.read_mvbench,
        rule=published_rules.mvbench,
        headline="mean of categories",
        source="OpenGVLab/MVBench, Ask-Anything",
        licence="MIT; the clips by those of eleven datasets, NTU RGB+D not distributed",
        origin="json/ of the dataset OpenGVLab/MVBench of the Hugging Face hub",
    ),
    "tvbench": Benchmark(
        title="TVBench",
        files=tuple(f"{task}.json" for task in candidate_lists.TVBENCH_TASKS),
        read=candidate_lists.read_tvbench,
        rule=published_rules.tvbench,
        headline="accuracy",
        source="FunAILab/TVBench, lmms-eval",
        licence="that of its page on the hub; the clips by those of their datasets",
        origin="json/ of the dataset FunAILab/TVBench of the Hugging Face hub",
    ),
    "videomme": _videomme("Video-MME", videomme.read),
    "videomme_subtitles": _videomme("Video-MME with subtitles", videomme.read_subtitled),
    "mlvu": Benchmark(
        title="MLVU, multiple choice (dev)",
        files=tuple(f"*{task}.json" for task in candidate_lists.MLVU_TASKS),
        read=candidate_lists.read_mlvu,
        rule=published_rules.mlvu,
        headline="mean of categories",
        source="JUNJIE99/MLVU",
        licence="academic research only, gated",
        origin="json/ of the dataset MLVU/MVLU of the Hugging Face hub, after accepting its terms "
        "there",
    ),
    "longvideobench": Benchmark(
        title="LongVideoBench, validation",
        files=("lvb_val.json", "validation-*.parquet"),
        read=longvideobench.read,
        rule=published_rules.longvideobench,
        headline="accuracy",
        breakdowns=("question_category",),
        source="longvideobench/LongVideoBench, lmms-eval",
        licence="terms of its own, gated",
        origin="the dataset longvideobench/LongVideoBench of the Hugging Face hub, after accepting "
        "its terms there",
    ),
    "activitynet_qa": Benchmark(
        title="ActivityNet-QA",
        files=("test_q.json",),
        read=activitynet_qa.read,
        rule=None,
        read_answers=activitynet_qa.read_answers,
        headline="judged",
        scorers={"": ("qa_correctness",)},
        source="MILVLG/activitynet-qa, mbzuai-oryx/Video-ChatGPT",
        licence="that of its repository; the clips are YouTube's",
        origin="dataset/ of github.com/MILVLG/activitynet-qa",
    ),
    "vcgbench": Benchmark(
        title="VCGBench",
        files=vcgbench.FILES,
        read=vcgbench.read,
        rule=None,
        read_answers=vcgbench.read_answers,
        headline="judged",
        scorers=vcgbench.SCORERS,
        source="mbzuai-oryx/Video-ChatGPT",
        licence="that of its repository; the clips are YouTube's",
        origin="the quantitative evaluation files of github.com/mbzuai-oryx/Video-ChatGPT",
    ),
    "vinoground": Benchmark(
        title="Vinoground",
        files=vinoground.FILES,
        read=vinoground.read,
        rule=published_rules.vinoground,
        read_answers=vinoground.read_answers,
        headline="groups",
        breakdowns=("major",),
        source="Vinoground/Vinoground",
        licence="that of its page on the hub",
        origin="the dataset HanSolo9682/Vinoground of the Hugging Face hub",
    ),
}
"""By name, as `dpo-video import` takes it and `meta.benchmark` keeps it."""
RULES: dict[str, ReadingRule] = {
    name: row.rule for name, row in BENCHMARKS.items() if row.rule is not None
}
"""The published rules by the name of their benchmark."""
