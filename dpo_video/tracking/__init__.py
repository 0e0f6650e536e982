"""Trackers: what a run logs goes to Weights & Biases, Trackio, TensorBoard, or nowhere."""

from dpo_video.tracking.tracker import Tracker, start_tracking

__all__ = ["Tracker", "start_tracking"]
