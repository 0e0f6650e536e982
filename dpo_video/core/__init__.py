"""What everything else stands on: errors, records, text, statistics, progress."""
