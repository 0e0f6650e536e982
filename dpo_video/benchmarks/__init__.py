"""Published benchmarks: their questions, prompts, answer rules and metrics."""
