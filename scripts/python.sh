#!/bin/sh
# Runs Python with the reference implementation (PyTorch, diffusers, peft): scripts/python.sh scripts/goldens/make.py
# LORAFUSE_PYTHON names an interpreter that has them; without it a virtual environment is made once in build/python
# (about 2 GB; Debian and Ubuntu need python3-venv).
set -e
export PYTHONDONTWRITEBYTECODE=1
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -n "$LORAFUSE_PYTHON" ]; then exec "$LORAFUSE_PYTHON" "$@"; fi
if [ ! -f "$root/build/python/ready" ]; then
  python3 -m venv "$root/build/python" >&2
  pip="$root/build/python/bin/pip install -q --disable-pip-version-check"
  # The CPU build of torch, a tenth of the other, where its index can be reached.
  $pip --retries 0 --index-url https://download.pytorch.org/whl/cpu "$(grep ^torch== "$root/scripts/requirements.txt")" >&2 || true
  $pip -r "$root/scripts/requirements.txt" >&2
  touch "$root/build/python/ready"
fi
exec "$root/build/python/bin/python" "$@"
