"""A stand-in for InternVL's own code: the same files, classes, names of weights and signatures."""
