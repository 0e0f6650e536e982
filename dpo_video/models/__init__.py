"""Video language models: families, loading, prompts, vision features, positions, sampling."""
