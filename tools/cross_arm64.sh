#!/bin/sh
# Builds for linux-arm64 on a Debian of another processor, and lays out what runs it here, into .tools/arm64/:
#   tools/cross_arm64.sh [PYTHON]             PYTHON is that of .venv
#
#   root/                    arm64 packages of Debian, unpacked and not installed: C library, Python, Rust's std
#   prebuilt/                the archive of the platform and its manifest
#   abi, lib/                tests/abi/abi.c against that library
#   dist/                    the wheel
# Debian's rustc-web is of the same version as its arm64 std; zig links, for glibc 2.17. Nothing of the system is changed
# but that qemu-user and rustc-web are installed. Where that cannot be, .tools/arm64.missing says why, and the tests are
# skipped with that text. tests/conformance/test_arm64.py runs what is built here.
set -eu
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
here=$PWD/.tools/arm64
missing=$PWD/.tools/arm64.missing
root=$here/root
mkdir -p "$here"
rm -f "$missing"
give_up() { echo "linux-arm64 is not built: $1" | tee "$missing" >&2; exit 0; }

command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || give_up "this is no Debian"
tools/need.sh '?qemu-aarch64=qemu-user' 2>/dev/null
command -v qemu-aarch64 >/dev/null 2>&1 || give_up "qemu-user is not installed: apt-get install qemu-user"
# Debian's own, whatever is on PATH: std fits the compiler it was made by, and no other.
rustc=/usr/bin/rustc
[ -x "$rustc" ] && dpkg -S "$rustc" 2>/dev/null | grep -q '^rustc-web:' || tools/need.sh +rustc-web
version=$(dpkg-query -W -f '${Version}' rustc-web 2>/dev/null || true)
[ -n "$version" ] || give_up "rustc-web is not installed: apt-get install rustc-web"

tools/debian_packages.sh arm64 "$root" "libstd-rust-web-dev=$version" python3.11-minimal libpython3.11-minimal \
  libpython3.11-stdlib libc6 libgcc-s1 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libcrypt1 libuuid1 ||
  give_up "packages of arm64 cannot be had"

# --- the library, its wheel, a program of C ---------------------------------------------------------------------------------
RUSTC=$rustc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--sysroot $root/usr" \
  "$python" tools/build_prebuilt.py --label linux-arm64 --zig --output "$here/prebuilt"
"$python" tools/generate_prebuilt_release.py manifest "$here/prebuilt" --partial
rm -rf "${here:?}/dist" "${here:?}/lib"
"$python" tools/build_wheels.py "$here/prebuilt" --output "$here/dist"
mkdir -p "$here/lib"
tar -xzf "$here/prebuilt/server_native-linux-arm64.tar.gz" -C "$here/lib"
.tools/zig/ziglang/zig cc -target aarch64-linux-gnu.2.17 -std=c11 -O1 -Ibindings tests/abi/abi.c \
  "$here/lib/libserver_native.so" -lpthread "-Wl,-rpath,$here/lib" -o "$here/abi"
