"""DPO on video: TRL's trainer fed with clips that are encoded once."""
