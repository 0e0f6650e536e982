#!/usr/bin/env bash
# Make .venv and install dpo-video with the given extras under constraints.txt. Does nothing when that is done.
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:-judge}"
stamp=".venv/.installed-$extras"
want="$(cat pyproject.toml constraints.txt | sha256sum)"
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    exit 0
fi
if command -v uv >/dev/null; then
    [ -x .venv/bin/python ] || uv venv --quiet --python "$(command -v python3)" .venv
    uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable ".[$extras]"
else
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extras]"
fi
echo "$want" >"$stamp"
