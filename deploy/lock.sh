#!/usr/bin/env bash
# make lock: the pins for the oldest Python we support. Pass --upgrade to move every pin.
set -euo pipefail

cd "$(dirname "$0")/.."
certs=()
[ ! -s /etc/ssl/certs/ca-certificates.crt ] || certs=(--system-certs)
options=(--python-version 3.11 --no-header --no-annotate --no-emit-index-url)
compile() {
  .venv/bin/uv pip compile --quiet ${certs[@]+"${certs[@]}"} "${options[@]}" "$@"
}

compile requirements.in --output-file requirements.txt "$@"
compile requirements-dev.in --constraint requirements.txt --output-file requirements-dev.txt "$@"
