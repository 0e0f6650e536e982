"""A stand-in for Video-LLaMA's own code: its names of weights and its calls."""
