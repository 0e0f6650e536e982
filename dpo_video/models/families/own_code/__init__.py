"""Rows of systems whose repositories bring their own model code: read only where that may run."""
