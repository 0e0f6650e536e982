"""Judges: scorer files, strict verdicts, and the backends that answer (`local`, `openai`)."""
