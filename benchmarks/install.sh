#!/bin/sh
# Makes everything benchmarks/http.py needs: Debian packages, .venv-bench and the programs of
# load/ (which need Rust). Safe to run again.
#   benchmarks/install.sh            uses python3; PYTHON=python3.11 benchmarks/install.sh for another one
set -eu
cd "$(dirname "$0")/.."

missing=
for package in wrk nghttp2-client nginx-light libev-dev strace openssl util-linux gcc libc6-dev; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
if [ -z "${PYTHON:-}" ] && ! python3 -c 'import ensurepip, pathlib, sysconfig
raise SystemExit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())' 2>/dev/null; then
    missing="$missing python3 python3-venv python3-dev"
fi
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update
    # shellcheck disable=SC2086 # a list of words
    $sudo apt-get install -y --no-install-recommends $missing
    # Debian starts nginx on installation; the benchmark runs its own
    case "$missing" in *nginx*) $sudo service nginx stop >/dev/null 2>&1 || true ;; esac
fi

[ -x .venv-bench/bin/python ] || "${PYTHON:-python3}" -m venv .venv-bench
echo '*' > .venv-bench/.gitignore
.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
cargo build --release --locked --manifest-path benchmarks/load/Cargo.toml
echo "ready: .venv-bench/bin/python benchmarks/http.py --help"
