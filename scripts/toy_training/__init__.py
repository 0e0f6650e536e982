"""How the toy checkpoints are made. Run through scripts/build_toy.py."""
