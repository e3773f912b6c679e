#!/bin/sh
# Sees that commands exist: `tools/need.sh gcc=gcc h2load=nghttp2-client` (command=Debian package). Installs what is
# missing with apt-get when it may, else says what to install and fails. `?command=package`: go on without it.
# `+package`: the caller found that it is missing, in a way that is no command.
set -eu
missing=
for pair in "$@"; do
  command=${pair%%=*} package=${pair#*=}
  case $pair in +*) missing="$missing ${pair#+}"; continue ;; esac
  command -v "${command#\?}" >/dev/null 2>&1 && continue
  missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  { apt-get install -y -qq --no-install-recommends $missing || { apt-get update -qq &&
    apt-get install -y -qq --no-install-recommends $missing; }; } </dev/null >/dev/null 2>&1 || true
fi
status=0
for pair in "$@"; do
  command=${pair%%=*} package=${pair#*=}
  case $pair in +*) continue ;; esac
  command -v "${command#\?}" >/dev/null 2>&1 && continue
  case $command in
    \?*) echo "note: ${command#\?} (Debian package $package) is not installed; what needs it is skipped" >&2 ;;
    *) echo "error: ${command} is not installed: apt-get install $package, or your system's equivalent" >&2; status=1 ;;
  esac
done
exit $status
