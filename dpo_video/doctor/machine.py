"""What this machine has: Python and packages, GPU, decoders, disk, locks, ports."""

import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import av
import torch
from packaging.requirements import Requirement

from dpo_video.doctor.finding import Finding, looked_at, not_checked, right, wrong
from dpo_video.models.memory import GIB
from dpo_video.store.file_system import choose_kind
from dpo_video.store.lock import give_up_lock, take_lock

PYTHONS = ((3, 11), (3, 14))
"""From the first on, and below the second."""
CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")
"""What clips of data sets are made with."""
LEAST_FREE_GB = 5.0


def software_findings() -> Iterator[Finding]:
    """Yield whether Python and the packages are those that this package asks for."""
    python, shown = sys.version_info[:2], platform.python_version()
    if PYTHONS[0] <= python < PYTHONS[1]:
        yield right("Python", shown)
    else:
        yield wrong("Python", f"{shown}, and 3.11 to 3.13 are meant", "make a venv of another one")
    yield _packages()


def _packages() -> Finding:
    missing, seen = [], []
    for text in distribution("dpo-video").requires or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            missing.append(f"{requirement.name} {installed} is not {requirement.specifier}")
        seen.append(requirement.name)
    if missing:
        fix = "pip install -c constraints.txt -e . in the checkout, or pip install -U dpo-video"
        return wrong("packages", "; ".join(missing), fix)
    names = ("torch", "transformers", "trl", "peft", "bitsandbytes", "av")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return right("packages", f"{len(seen)} as asked for, among them {versions}")


def gpu_findings(wanted: str) -> Iterator[Finding]:
    """Yield what GPUs there are; `wanted` is the recipe's device."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        if wanted == "cuda":
            fix = "install the driver and see nvidia-smi, or set model.device=auto"
            reason = f"model.device is cuda, and torch (CUDA {built}) finds no GPU"
            yield wrong("GPU", reason, fix)
        else:
            text = (
                "none here. Unproven stay: memory, speed, bfloat16 and 4-bit kernels of a GPU, "
                "FlashAttention, several GPUs together"
            )
            yield not_checked("GPU", text, "run doctor on the machine that trains")
        return
    yield looked_at("GPU", _gpus, "update the driver, or install the torch built for it")


def _gpus() -> Finding:
    parts = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        torch.ones(8, device=f"cuda:{index}").sum().item()  # a wrong driver fails here
        parts.append(
            f"{facts.name}, compute {facts.major}.{facts.minor}, "
            f"{free / GIB:.0f} of {total / GIB:.0f} GiB free"
        )
    return right("GPU", f"{'; '.join(parts)}; CUDA {torch.version.cuda}")


def decoder_finding() -> Finding:
    """Return whether PyAV decodes what clips are made with."""
    missing = [name for name in CODECS if name not in av.codecs_available]
    if missing:
        fix = "pip install av from wheels: one built against a system FFmpeg has its codecs only"
        return wrong("PyAV", f"no decoder for {', '.join(missing)}", fix)
    return right("PyAV", f"{av.__version__} decodes {', '.join(CODECS)}")


def disk_findings(runs: Path) -> Iterator[Finding]:
    """Yield whether the folder of runs has room, and locks that work."""
    folder = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    if free < LEAST_FREE_GB:
        fix = "make room, or set runs_folder to another disk (dpo-video clean RUN frees caches)"
        yield wrong("disk", f"{free:.1f} GiB free at {folder}", fix)
    else:
        yield right("disk", f"{free:.0f} GiB free at {folder}")
    yield looked_at("locks", lambda: _locks(folder), "set runs_folder to a disk of this machine")


def _locks(folder: Path) -> Finding:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".dpo-video-doctor-") as scratch:
        lock = take_lock(Path(scratch))
        give_up_lock(lock)
        kind, reason = choose_kind(Path(scratch))
    why = f": {reason}" if reason else ""
    return right("locks", f"run folders at {folder} keep their rows as {kind}{why}")


def port_finding() -> Finding:
    """Return whether pages and servers can listen here."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return right("ports", f"127.0.0.1 can be listened on (port {listening.getsockname()[1]})")
