#!/usr/bin/env bash
# Makes .venv and fills it: deploy/bootstrap.sh runtime|dev. Silent, instant and offline when
# nothing has changed since the last time: each set of requirements leaves a stamp with its hash.
set -euo pipefail

UV_PIN="uv==0.13.8"
MINIMUM="(3, 11)"

cd "$(dirname "$0")/.."
root=$PWD
python=.venv/bin/python

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# --- which set -----------------------------------------------------------------------------------

profile=${1:-}
case $profile in
  runtime) wanted=requirements.txt ;;
  dev) wanted=requirements-dev.txt ;;
  *) die "usage: deploy/bootstrap.sh runtime|dev" ;;
esac

hash_of() { sha256sum <"$1" | cut -d' ' -f1; }
stamp_of() { printf '.venv/.installed-%s' "$1"; }
is_installed() { [ "$(cat "$(stamp_of "$1")" 2>/dev/null)" = "$(hash_of "$1")" ]; }

# --- the interpreter -----------------------------------------------------------------------------

# The system's Python comes first: services that run as another user can read it, while one below
# a closed home directory they cannot.
can_make_venvs() {
  local code="import sys, venv; from ensurepip import version; sys.exit(sys.version_info < $MINIMUM)"
  "$1" -c "$code" 2>/dev/null
}

find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && can_make_venvs "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  command -v python3 >/dev/null ||
    die "python3 is missing. On Debian: apt-get install python3 python3-venv"
  python3 -c "import sys; sys.exit(sys.version_info < $MINIMUM)" ||
    die "Python 3.11 or later is needed; $(command -v python3) is $(python3 -V 2>&1)."
  die "Python cannot make virtual environments: the venv module is missing or incomplete." \
    "On Debian: apt-get install python3-venv"
}

# A venv whose interpreter is gone, or that was moved here from elsewhere, has scripts that point
# to where they no longer are.
is_usable_venv() {
  [ -x "$python" ] && "$python" -c 'import pip' 2>/dev/null || return 1
  [ ! -e .venv/.home ] || [ "$(cat .venv/.home)" = "$root" ]
}

make_venv() {
  local base
  base=$(find_python)
  say "making .venv with $base"
  rm -rf .venv
  "$base" -m venv .venv
}

# --- packages ------------------------------------------------------------------------------------

install_packages() {
  say "installing $wanted"
  if [ ! -x .venv/bin/uv ]; then
    "$python" -m pip install --quiet --disable-pip-version-check "$UV_PIN" ||
      say "uv cannot be had; pip does its work, slower"
  fi
  if [ -x .venv/bin/uv ]; then
    # Behind a proxy with a certificate of its own only the system's store knows it.
    local certs=()
    [ ! -s /etc/ssl/certs/ca-certificates.crt ] || certs=(--system-certs)
    VIRTUAL_ENV="$root/.venv" UV_PYTHON_DOWNLOADS=never .venv/bin/uv pip install --quiet \
      ${certs[@]+"${certs[@]}"} --python "$python" -r "$wanted" && return
    say "uv failed; trying pip"
  fi
  "$python" -m pip install --quiet --disable-pip-version-check -r "$wanted" ||
    die "the packages of $wanted cannot be installed: see above. The network is needed once."
}

# requirements-dev.txt holds every pin of requirements.txt (a test compares them), so one install
# of it serves both.
write_stamps() {
  hash_of requirements.txt >"$(stamp_of requirements.txt)"
  if [ "$profile" = dev ]; then
    hash_of requirements-dev.txt >"$(stamp_of requirements-dev.txt)"
  elif ! is_installed requirements-dev.txt; then
    rm -f "$(stamp_of requirements-dev.txt)"
  fi
  printf '%s' "$root" >.venv/.home
}

# --- all together --------------------------------------------------------------------------------

exec 9>.bootstrap.lock
flock 9 # two makes at once take turns

is_usable_venv || make_venv
if ! is_installed "$wanted"; then
  install_packages
  write_stamps
fi
