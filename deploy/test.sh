#!/usr/bin/env bash
# make test: the Debian packages the wanted suites need, then the suites. deploy/test.sh [ONLY]
set -euo pipefail

cd "$(dirname "$0")/.."
only=${1:-}
export PYTHONPATH=.:platform
# Debian keeps some of these commands where an ordinary user's PATH does not look.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

deploy/packages.sh "$only"
exec .venv/bin/python deploy/suites.py "$only"
