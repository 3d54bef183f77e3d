#!/usr/bin/env bash
# make clean: back to a fresh clone. Refuses while the embedded stack runs on the data it would remove.
set -euo pipefail

cd "$(dirname "$0")/.."
for pid_file in var/*.pid var/*/*.pid; do
  [ -e "$pid_file" ] || continue
  pid=$(head -n 1 "$pid_file")
  if [[ $pid =~ ^[0-9]+$ ]] && kill -0 "$pid" 2>/dev/null; then
    printf 'clean: process %s of %s is still running; stop it first\n' "$pid" "$pid_file" >&2
    exit 1
  fi
done
find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
rm -rf .venv var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
