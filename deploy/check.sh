#!/usr/bin/env bash
# make check: what a machine can judge without running the product. Every step runs, also after one
# that failed; the last line says which failed.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH=.:platform
bin=.venv/bin

failed=()

step() {
  local name=$1 began=$SECONDS
  shift
  printf '== %s\n' "$name"
  if "$@"; then
    printf -- '-- %s: ok, %d s\n' "$name" "$((SECONDS - began))"
  else
    failed+=("$name")
    printf -- '-- %s: FAILED, %d s\n' "$name" "$((SECONDS - began))"
  fi
}

# The command-line scripts of a venv name their interpreter on the first line, which a space or a
# long path can break: modules are started through the interpreter instead.
python() { "$bin/python" "$@"; }
lint_imports() {
  python -c 'import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())' \
    --cache-dir var/cache/import_linter
}

existing() {
  local path
  for path in "$@"; do [ ! -e "$path" ] || printf '%s\n' "$path"; done
}

mkdir -p var/cache
step 'ruff check' "$bin/ruff" check --quiet .
step 'ruff format' "$bin/ruff" format --quiet --check .
mapfile -t sources < <(existing manage.py platform workers tests deploy bench)
step 'mypy' "$bin/python" -m mypy --cache-dir var/cache/mypy "${sources[@]}"

step 'import contracts' lint_imports
step 'makemigrations --check' "$bin/python" manage.py makemigrations --check --dry-run
step 'manage.py check --deploy' "$bin/python" manage.py check --deploy --fail-level WARNING

if [ "${#failed[@]}" != 0 ]; then
  printf 'check: FAILED: %s\n' "$(IFS=,; printf '%s' "${failed[*]}")"
  exit 1
fi
printf 'check: ok, %d s\n' "$SECONDS"
