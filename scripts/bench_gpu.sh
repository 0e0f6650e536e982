#!/usr/bin/env bash
# Measure a 7B model with random weights on one GPU and write the tables to bench_gpu.md:
#   bash scripts/bench_gpu.sh [options of bench_gpu.py]
# PYTHON names an interpreter with dpo-video installed; default is .venv, else python.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
command -v "$python" > /dev/null || python=python
exec "$python" scripts/bench_gpu.py --out bench_gpu.md "$@"
