"""Stage evaluate: base and tuned model on held-out clips."""
