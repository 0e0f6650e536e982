"""What scripts/bench_training.py is made of."""
