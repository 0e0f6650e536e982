"""A stand-in for LLaVA-NeXT's code: its classes, names of weights, signatures and token layout."""
