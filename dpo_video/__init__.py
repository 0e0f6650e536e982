"""dpo-video: preference tuning (DPO) for video language models, from captioned clips to a tuned
adapter.
"""

from dpo_video.core.records import Candidate, Judgment, Pair, Sample

__version__ = "0.1.0"
__all__ = ["Candidate", "Judgment", "Pair", "Sample", "__version__"]
