"""A stand-in for MiniCPM-V 2.6's own code: the published names of weights, calls and layouts."""
