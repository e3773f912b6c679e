#!/bin/sh
# Builds for musl on a Debian on x86-64, whose Rust has no standard library for it: builds that from its source, too.
#   tools/cross_musl.sh [PYTHON]              PYTHON is that of .venv
#
# linux-musl-x64 and linux-musl-arm64, each into .tools/musl/<label>/: prebuilt/ (archive and manifest), dist/ (wheel),
# lib/ and abi (tests/abi/abi.c against it), root/ (Debian's musl for arm64, unpacked and not installed). Where that
# cannot be, .tools/musl.missing says why. Releases are built with rustup's standard library instead
# (.github/workflows/prebuilt.yml): this shows that the crate and its C parts build and run with musl.
set -eu
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
missing=$PWD/.tools/musl.missing
mkdir -p .tools/musl
rm -f "$missing"
give_up() { echo "musl is not built for: $1" | tee "$missing" >&2; exit 0; }

command -v apt-get >/dev/null 2>&1 || give_up "this is no Debian"
[ "$(uname -m)" = x86_64 ] || give_up "this is no x86-64 machine"
wanted=
[ -d /usr/lib/rustlib/src/rust ] || wanted="+rust-web-src"
dpkg -S /usr/bin/rustc 2>/dev/null | grep -q '^rustc-web:' || wanted="$wanted +rustc-web"
[ -e /lib/ld-musl-x86_64.so.1 ] || wanted="$wanted +musl"
# shellcheck disable=SC2086
tools/need.sh '?qemu-aarch64=qemu-user' $wanted
version=$(dpkg-query -W -f '${Version}' rustc-web 2>/dev/null || true)
[ -n "$version" ] && [ "$version" = "$(dpkg-query -W -f '${Version}' rust-web-src 2>/dev/null)" ] ||
  give_up "rustc-web and rust-web-src, of one version, are not installed"
[ -e /lib/ld-musl-x86_64.so.1 ] || give_up "musl is not installed: apt-get install musl"

build() { # label, zig's name of the target
  here=$PWD/.tools/musl/$1
  mkdir -p "$here"
  # build-std is not stable; the first variable lets a stable compiler do it.
  RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=std,panic_unwind RUSTC=/usr/bin/rustc \
    "$python" tools/build_prebuilt.py --label "$1" --zig --output "$here/prebuilt"
  "$python" tools/generate_prebuilt_release.py manifest "$here/prebuilt" --partial
  rm -rf "${here:?}/dist" "${here:?}/lib"
  "$python" tools/build_wheels.py "$here/prebuilt" --output "$here/dist"
  mkdir -p "$here/lib"
  tar -xzf "$here/prebuilt/server_native-$1.tar.gz" -C "$here/lib"
  .tools/zig/ziglang/zig cc -target "$2" -dynamic -std=c11 -O1 -Ibindings tests/abi/abi.c \
    "$here/lib/libserver_native.so" "-Wl,-rpath,$here/lib" -o "$here/abi"
}
build linux-musl-x64 x86_64-linux-musl

tools/debian_packages.sh arm64 "$PWD/.tools/musl/linux-musl-arm64/root" musl || give_up "Debian's musl for arm64 cannot be had"
build linux-musl-arm64 aarch64-linux-musl
