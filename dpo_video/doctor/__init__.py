"""`dpo-video doctor`: whether this machine computes right, and what the run of a recipe would miss
here.
"""
