"""`dpo-video check` and `frames`: what a run would do, before anything is paid for."""
