"""The samples of a run: loaded, filtered, held-out clips apart."""
