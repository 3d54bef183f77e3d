#!/usr/bin/env bash
# make soak: the services it needs, then the kill suite. deploy/soak.sh [--minutes N …]
set -euo pipefail

cd "$(dirname "$0")/.."
export PYTHONPATH=.:platform
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

deploy/packages.sh soak
exec .venv/bin/python -m tests.soak "$@"
