#!/usr/bin/env bash
# The Debian packages that suites need, as deploy/test-packages lists them. deploy/packages.sh [ONLY]
set -euo pipefail

cd "$(dirname "$0")/.."
only=${1:-}
# Debian keeps some of these commands where an ordinary user's PATH does not look.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# --- Debian packages -----------------------------------------------------------------------------

policy=/usr/sbin/policy-rc.d
cluster_conf=/etc/postgresql-common/createcluster.conf
made=()

remove_made() { [ "${#made[@]}" = 0 ] || rm -f "${made[@]}"; }

# True when one of the row's suites runs.
is_wanted() {
  local suite
  [ -n "$only" ] || return 0
  for suite in ${1//,/ }; do [[ ,$only, != *,$suite,* ]] || return 0; done
  return 1
}

# A library has no command: `installed:` asks the package manager for it.
is_here() {
  case $1 in
    installed:*) dpkg-query -W -f '${db:Status-Status}\n' "${1#installed:}" 2>/dev/null | grep -qx installed ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# Nothing that is installed may start on a standard port: tests start private instances.
keep_daemons_down() {
  trap remove_made EXIT
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made+=("$policy")
  fi
  if [ ! -e "$cluster_conf" ]; then
    mkdir -p "${cluster_conf%/*}"
    printf 'create_main_cluster = false\n' >"$cluster_conf"
    made+=("$cluster_conf")
  fi
}

apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 "$@" >>"$apt_log" 2>&1
}

apt_failed() {
  printf 'test: apt-get failed; what needs %s is skipped. The end of %s:\n' "$*" "$apt_log"
  tail -n 5 "$apt_log"
}

install_packages() {
  keep_daemons_down
  printf 'test: apt-get install %s\n' "$*"
  apt install --no-install-recommends "$@" || apt_failed "$@"
  remove_made
  made=()
}

# What is missing of a half-unpacked package would look like one that is broken: unpack, then move.
unpack_package() {
  local target=$PWD/var/cache/packages/$1 draft
  printf 'test: apt-get download %s\n' "$1"
  mkdir -p "${target%/*}"
  draft=$(mktemp -d "$target.XXXXXX")
  if (cd "$draft" && apt download "$1" && dpkg-deb -x ./*.deb root >>"$apt_log" 2>&1); then
    chmod 755 "$draft/root"
    rm -rf "$target"
    mv "$draft/root" "$target"
  else
    apt_failed "$1"
  fi
  rm -rf "$draft"
}

get_packages() {
  local package install=()
  apt_log=$PWD/var/test/apt.log
  mkdir -p var/test
  : >"$apt_log"
  apt update || { apt_failed "$@" && return; }
  for package in "$@"; do [[ $package == unpack:* ]] || install+=("$package"); done
  [ "${#install[@]}" = 0 ] || install_packages "${install[@]}"
  for package in "$@"; do [[ $package != unpack:* ]] || unpack_package "${package#unpack:}"; done
}

missing=()
while read -r command package suites; do
  case $command in '' | '#'*) continue ;; esac
  if is_wanted "$suites" && ! is_here "$command"; then missing+=("$package"); fi
done <deploy/test-packages

if [ "${#missing[@]}" != 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    get_packages "${missing[@]}"
  else
    printf 'test: not here, and only root can get them, by apt-get: %s\n' "${missing[*]}"
    printf 'test: the tests that need them are skipped, by name, at the end\n'
  fi
fi
