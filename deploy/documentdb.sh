#!/usr/bin/env bash
# The engine behind make test-mongodb: puts PostgreSQL with the DocumentDB extension into a directory
# of its own, var/cache/documentdb, from Debian's unstable suite. About a minute and 600 MB, once.
# Nothing is installed on this machine but mmdebstrap, and nothing is started here: the tests do that
# (tests/support/services/documentdb.py). To fetch it anew: rm -rf var/cache/documentdb.
#
# It exits 0 when the directory is there, and 3, with the reason, when this machine cannot have it.
set -euo pipefail

cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

PACKAGE=postgresql-18-documentdb
SUITE=sid
target=$PWD/var/cache/documentdb
log=$PWD/var/test/documentdb.log

say() { printf 'documentdb: %s\n' "$*"; }
cannot() {
  say "cannot be had here: $*"
  exit 3
}

[ ! -e "$target/.complete" ] || exit 0

[ "$(id -u)" = 0 ] || cannot "only root can make a directory with another Debian in it (chroot). Run make test-mongodb as root."
command -v apt-get >/dev/null || cannot "there is no apt-get; a Debian or its like is needed."

mkdir -p var/cache var/test
: >"$log"

apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 "$@" >>"$log" 2>&1; }

failed() {
  tail -n 5 "$log"
  cannot "$*; the whole of it is in $log"
}

if ! command -v mmdebstrap >/dev/null; then
  say "apt-get install mmdebstrap"
  apt update || failed "apt-get update failed"
  apt install --no-install-recommends mmdebstrap || failed "mmdebstrap cannot be installed"
fi

# Where this machine has its own Debian from, unstable is too.
archive_of() {
  apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}
archive=$(archive_of)
if [ -z "$archive" ]; then
  apt update || failed "apt-get update failed"
  archive=$(archive_of)
fi
[ -n "$archive" ] || cannot "this machine's apt sources name no archive of Debian."

# A package that makes a cluster or starts a daemon when it is installed must not do so in there.
quiet='mkdir -p "$1/etc/postgresql-common" "$1/usr/sbin"
  printf "create_main_cluster = false\n" >"$1/etc/postgresql-common/createcluster.conf"
  printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"'

# How this machine reaches its archive: proxies, whether dates are looked at.
mapfile -t options < <(apt-config dump Acquire | grep -Ei '^Acquire::(http|https|check)' | sed 's/^/--aptopt=/')

say "fetching $PACKAGE, about a minute"
draft=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$draft"' EXIT
nice mmdebstrap --verbose "${options[@]}" --variant=apt --mode=root --components=main --include="$PACKAGE" \
  --essential-hook="$quiet" --aptopt='Apt::Install-Recommends "false"' \
  "$SUITE" "$draft/root" "$archive" >>"$log" 2>&1 || failed "mmdebstrap failed"
chmod 755 "$draft" "$draft/root"
[ -x "$draft/root/usr/lib/postgresql/18/bin/postgres" ] || failed "$PACKAGE holds no PostgreSQL 18"
touch "$draft/.complete"
rm -rf "$target"
mv "$draft" "$target"
trap - EXIT
say "ready in $target"
