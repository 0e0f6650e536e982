"""What `dpo-video agree` is made of: gold labels, measures, calibration, noise, probes, and how
they are shown.
"""
