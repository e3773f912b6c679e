#!/bin/sh
# Builds for linux-musl-x64 on a Debian, whose Rust has no standard library for musl: builds that from its source, too.
#   tools/cross_musl.sh [PYTHON]              PYTHON is that of .venv
#
# Into .tools/musl/: prebuilt/ (archive and manifest), dist/ (wheel), lib/ and abi (tests/abi/abi.c against it, run by
# Debian's musl). Where that cannot be, .tools/musl.missing says why. Releases are built with rustup's standard library
# instead (.github/workflows/prebuilt.yml): this one shows that the crate and its C parts build and run with musl.
set -eu
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
here=$PWD/.tools/musl
missing=$PWD/.tools/musl.missing
mkdir -p "$here"
rm -f "$missing"
give_up() { echo "linux-musl-x64 is not built: $1" | tee "$missing" >&2; exit 0; }

command -v apt-get >/dev/null 2>&1 || give_up "this is no Debian"
[ "$(uname -m)" = x86_64 ] || give_up "this is no x86-64 machine, which runs it"
wanted=
[ -d /usr/lib/rustlib/src/rust ] || wanted="+rust-web-src"
dpkg -S /usr/bin/rustc 2>/dev/null | grep -q '^rustc-web:' || wanted="$wanted +rustc-web"
[ -e /lib/ld-musl-x86_64.so.1 ] || wanted="$wanted +musl"
# shellcheck disable=SC2086
tools/need.sh $wanted
version=$(dpkg-query -W -f '${Version}' rustc-web 2>/dev/null || true)
[ -n "$version" ] && [ "$version" = "$(dpkg-query -W -f '${Version}' rust-web-src 2>/dev/null)" ] ||
  give_up "rustc-web and rust-web-src, of one version, are not installed"
[ -e /lib/ld-musl-x86_64.so.1 ] || give_up "musl is not installed: apt-get install musl"

# build-std is not stable; the variable lets a stable compiler do it.
RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=std,panic_unwind \
  "$python" tools/build_prebuilt.py --label linux-musl-x64 --zig --output "$here/prebuilt"
"$python" tools/generate_prebuilt_release.py manifest "$here/prebuilt" --partial
rm -rf "$here/dist" "$here/lib"
"$python" tools/build_wheels.py "$here/prebuilt" --output "$here/dist"
mkdir -p "$here/lib"
tar -xzf "$here/prebuilt/server_native-linux-musl-x64.tar.gz" -C "$here/lib"
.tools/zig/ziglang/zig cc -target x86_64-linux-musl -dynamic -std=c11 -O1 -Ibindings tests/abi/abi.c \
  "$here/lib/libserver_native.so" "-Wl,-rpath,$here/lib" -o "$here/abi"
