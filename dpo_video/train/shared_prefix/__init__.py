"""The engine that runs what rows have in common once: tree, attention, forward."""
