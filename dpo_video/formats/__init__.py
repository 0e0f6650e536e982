"""Data in and out: other projects' preference and question formats, in streams, every drop
counted.
"""
