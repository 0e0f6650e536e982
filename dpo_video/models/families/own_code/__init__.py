"""Rows of systems that transformers lacks, read only for their own checkpoints: in their authors'
code, where that may run, or in their authors' layout on transformers' own classes.
"""
