"""GPUs that hours are estimated for, by what their maker states of them, and the share of it that a
run is taken to reach.
"""

from dataclasses import dataclass

import torch

from dpo_video.check.work import Work

READ_SHARE = 0.4
"""Share of a GPU's stated operations a second that reading and training reach."""
WRITE_SHARE = 0.5
"""Share of its stated memory bandwidth that writing answers reaches."""
LAYER_SECONDS = 0.001
"""Least time of a decoder layer in a step of writing: a layer is some twenty kernels, each of them
started from Python.
"""
DEFAULT_GPU = "h100"
"""The GPU of an estimate where none is here and none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What a GPU's maker states of it."""

    title: str
    tflops: float
    """Dense bfloat16 operations a second, in units of 1e12: half of what is stated with
    sparsity.
    """
    terabytes: float
    """Memory bandwidth a second, in units of 1e12 bytes."""
    gigabytes: float
    """Memory."""
    named: tuple[str, ...]
    """Words of the name that its driver gives it."""

    def seconds(self, work: Work) -> float:
        """Return about how long the work takes here."""
        computing = work.flops / (self.tflops * 1e12 * READ_SHARE)
        waiting = work.written_bytes / (self.terabytes * 1e12 * WRITE_SHARE)
        writing = work.written_flops / (self.tflops * 1e12 * READ_SHARE)
        return computing + max(waiting, writing, work.layer_steps * LAYER_SECONDS)


def gpu_here() -> Gpu | None:
    """Return the GPU of this machine, if the table has it."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0)
    return next((gpu for gpu in GPUS.values() if all(word in name for word in gpu.named)), None)


GPUS = {
    "b200": Gpu(title="B200", tflops=2250, terabytes=8.0, gigabytes=180, named=("B200",)),
    "h200": Gpu(title="H200", tflops=989, terabytes=4.8, gigabytes=141, named=("H200",)),
    "h100_pcie": Gpu(
        title="H100 PCIe", tflops=756, terabytes=2.0, gigabytes=80, named=("H100", "PCIe")
    ),
    "h100": Gpu(title="H100 SXM", tflops=989, terabytes=3.35, gigabytes=80, named=("H100",)),
    "a100_40": Gpu(
        title="A100 40 GB", tflops=312, terabytes=1.555, gigabytes=40, named=("A100", "40GB")
    ),
    "a100": Gpu(title="A100 80 GB", tflops=312, terabytes=2.039, gigabytes=80, named=("A100",)),
    "l40s": Gpu(title="L40S", tflops=362, terabytes=0.864, gigabytes=48, named=("L40S",)),
    "l4": Gpu(title="L4", tflops=121, terabytes=0.3, gigabytes=24, named=("L4",)),
    "rtx_6000_ada": Gpu(
        title="RTX 6000 Ada", tflops=364, terabytes=0.96, gigabytes=48, named=("6000", "Ada")
    ),
    "rtx_4090": Gpu(
        title="RTX 4090", tflops=165, terabytes=1.008, gigabytes=24, named=("RTX 4090",)
    ),
    "rtx_3090": Gpu(
        title="RTX 3090", tflops=71, terabytes=0.936, gigabytes=24, named=("RTX 3090",)
    ),
}
"""From NVIDIA's data sheets, and its whitepapers of the GA102 and AD102 for the RTX cards (bfloat16
with sums in float32); a name matches the first row whose words it has.
"""
