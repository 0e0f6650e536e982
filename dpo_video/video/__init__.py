"""Video in: which frames of a clip the model sees, decoded exactly, in worker processes with a time
limit.

What imports a decoder (read.py, probe.py) stands not here: most commands ask such a process.
"""

from dpo_video.video.corrupt import check_corruption, corrupt, draw_corruption, draw_number
from dpo_video.video.frames import (
    ClipRequest,
    Frames,
    VideoError,
    subsample,
    video_metadata,
)
from dpo_video.video.policies import frame_indices
from dpo_video.video.pool import FramePool
from dpo_video.video.sources import (
    clip_key,
    clip_request,
    file_name,
    rejected_clip_key,
    rejected_clip_request,
    rejected_part,
    resolve_video,
)

__all__ = [
    "ClipRequest",
    "FramePool",
    "Frames",
    "VideoError",
    "check_corruption",
    "clip_key",
    "clip_request",
    "corrupt",
    "draw_corruption",
    "draw_number",
    "file_name",
    "frame_indices",
    "rejected_clip_key",
    "rejected_clip_request",
    "rejected_part",
    "resolve_video",
    "subsample",
    "video_metadata",
]
