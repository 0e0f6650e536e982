"""Stage pair: which candidates become chosen and rejected; the audit of a run's pairs."""
