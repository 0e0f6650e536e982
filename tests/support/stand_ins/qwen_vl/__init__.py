"""A stand-in for Qwen-VL 1's own code: the same files, classes, names of weights and signatures."""
