"""Rows of a clip as trees: what they have in common stands once, and attention that knows it."""
