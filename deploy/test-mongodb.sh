#!/usr/bin/env bash
# make test-mongodb: the tests of the shared spool on DocumentDB, a whole fleet included. Where the
# engine cannot be had, it says why and fails: make test asks the same of the double.
set -euo pipefail

cd "$(dirname "$0")/.."
deploy/documentdb.sh || exit 1
export PYTHONPATH=.:platform WITH_MONGODB=1
python=.venv/bin/python
DJANGO_SETTINGS_MODULE="" "$python" -m pytest tests/io/spool
"$python" -m pytest tests/e2e/mongodb
