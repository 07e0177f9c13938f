#!/usr/bin/env bash
# Installs the packages of a lock file into .venv, and prints its progress at least every 5 seconds.
set -eu
cd "$(dirname "$0")/.."
lock=$1
log=.venv/install.log
python=.venv/bin/python
test -x "$python" || python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: Tonnetz needs Python 3.11 or newer; $("$python" -V 2>&1) is $python (PYTHON=python3.12 chooses another)" >&2
  exit 2
fi

install() {
  test -x .venv/bin/python || "$python" -m venv .venv
  {
    # uv does not read pip's settings, such as a private package index. If uv cannot find the packages, pip installs them.
    pip_install <(sed -n '/^uv==/,/[^\\]$/p' requirements.lock) &&
      .venv/bin/uv pip install --python .venv/bin/python --no-deps --require-hashes --compile-bytecode -r "$lock" ||
      pip_install "$lock"
  } >"$log" 2>&1
}

pip_install() { .venv/bin/python -m pip install --disable-pip-version-check --no-deps --progress-bar off -r "$1"; }

count() { ls -d .venv/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l; }

echo "installing the packages of $lock into .venv (once)" >&2
began=$SECONDS
mkdir -p .venv
: >"$log"
# In a process group of its own, so that an interruption ends all of it.
set -m
install &
set +m
job=$!
trap 'kill -- "-$job" 2>/dev/null || true' EXIT
while kill -0 "$job" 2>/dev/null; do
  # In short steps, so that a quick installation is not waited for.
  for _ in 1 2 3 4 5 6 7 8; do
    sleep 0.5
    kill -0 "$job" 2>/dev/null || break 2
  done
  echo "  $((SECONDS - began)) s: $(count) packages installed" >&2
done
trap - EXIT
if ! wait "$job"; then
  tail -n 20 "$log" >&2
  exit 1
fi
echo "  $(count) packages installed in $((SECONDS - began)) s" >&2
