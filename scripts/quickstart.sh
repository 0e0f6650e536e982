#!/usr/bin/env bash
# From a fresh checkout to before/after numbers on toy clips: CPU, no network after the install, no key.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh judge
exec .venv/bin/dpo-video run quickstart "$@"
