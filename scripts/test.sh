#!/usr/bin/env bash
# Lint, types and tests, in a .venv made on the first call. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh dev
# The tests of pages look at them in a real browser.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    (timeout 120 apt-get update && timeout 300 apt-get install -y --no-install-recommends chromium) >/dev/null 2>&1 ||
        echo "test: chromium could not be installed" >&2
fi
command -v chromium >/dev/null || echo "test: no chromium here; the tests in a browser are skipped" >&2
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
site="$(mktemp -d)"
NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --site-dir "$site"  # a broken link fails; --quiet would hide it
rm -rf "$site"
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
