"""`dpo-video runs`: the runs of a folder, newest first, with what came of each."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_object
from dpo_video.core.status_file import read_status
from dpo_video.runs.status import STAGE_NAMES


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One run folder."""

    name: str
    """Below the folder of runs; it may hold slashes."""
    changed: float
    """When its manifest was written last, in seconds since 1970."""
    model: str
    stage: str
    """The last finished stage, or what it is at."""
    pairs: int | None
    verdict: str
    """The worst outcome over its sets, and the set; empty before evaluation."""


def list_runs(runs: Path) -> list[ListedRun]:
    """Return the runs below a folder, newest first; UserError where there is no such folder."""
    if not runs.is_dir():
        raise UserError(f"no folder {str(runs)!r}: name the one that holds your runs")
    manifests = [path for path in runs.rglob("manifest.json") if "stale" not in path.parts]
    listed = [_listed_run(path, runs) for path in manifests if _is_manifest(path)]
    return sorted(listed, key=lambda run: run.changed, reverse=True)


def _is_manifest(path: Path) -> bool:
    return isinstance(read_object(path).get("recipe"), dict)


def _listed_run(manifest: Path, runs: Path) -> ListedRun:
    folder, row = manifest.parent, read_object(manifest)
    stages = row.get("stages", {})
    finished = [name for name in STAGE_NAMES if stages.get(name)]
    status = read_status(folder)
    if status is not None and status.is_running and status.stage:
        stage = f"at {status.stage}"
    else:
        stage = finished[-1] if finished else "-"
    pair_summary: dict[str, Any] = (stages.get("pair") or {}).get("summary", {})
    return ListedRun(
        name=str(folder.relative_to(runs)),
        changed=manifest.stat().st_mtime,
        model=str(row["recipe"].get("model", {}).get("name", "-")),
        stage=stage,
        pairs=pair_summary.get("pairs"),
        verdict=_verdict(folder / "metrics.json"),
    )


def _verdict(metrics: Path) -> str:
    """Return the worst outcome of metrics.json, where it says any: its verdicts stand worst
    first.
    """
    if not metrics.is_file():
        return ""
    verdicts = read_object(metrics).get("verdicts") or []
    return f"{verdicts[0]['outcome']} ({verdicts[0]['set']})" if verdicts else ""


def date_text(seconds: float) -> str:
    """Return a time as `2026-11-28 14:05`, here."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
