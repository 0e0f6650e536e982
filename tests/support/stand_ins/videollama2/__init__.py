"""A stand-in for VideoLLaMA 2's code: its classes, names of weights, signatures, token layout."""
