"""What everything else stands on: errors, records, files, text, statistics, estimates, pages and
progress.
"""
