#!/bin/sh
# Unpacks Debian packages of another architecture into a folder, without installing them or changing what apt knows:
#   tools/debian_packages.sh ARCHITECTURE FOLDER PACKAGE[=VERSION] ...
# Does nothing when the folder has just these. Fails when they cannot be had.
set -eu
architecture=$1 root=$2
shift 2
marker=$root/.packages
[ "$(cat "$marker" 2>/dev/null)" != "$*" ] || exit 0
rm -rf "$root"
mkdir -p "$root"
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/packages"
: >"$state/status"
apt() {
  apt-get -qq -o APT::Architecture="$architecture" -o APT::Architectures::="$architecture" -o Dir::State::lists="$state/lists" \
    -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root "$@"
}
apt update
(cd "$state/packages" && apt download "$@")
for package in "$state"/packages/*.deb; do dpkg-deb -x "$package" "$root"; done
echo "$*" >"$marker"
