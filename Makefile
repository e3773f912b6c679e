# `make help` lists what there is. Everything works from a fresh clone: each target makes what it needs, and reruns are
# quick (stamps in .venv/, cargo's own freshness). CI runs the same targets.

PYTHON ?= python3
CARGO ?= cargo
VENV := .venv
BIN := $(VENV)/bin
MANIFEST := --manifest-path native/Cargo.toml
# One cargo profile for library, tests and lints, so that dependencies are compiled once.
PROFILE := --release --locked
LIBRARY := native/target/release/libserver_native.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
SOURCES := native/Cargo.toml native/Cargo.lock native/build.rs $(shell find native/src -name '*.rs')
DIRECTORIES := setup.py server_native tools benchmarks examples tests bindings

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

##@ Use
.PHONY: help serve build dist
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print "\n" substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.installed $(LIBRARY) ## Serve examples/hello.py on 127.0.0.1:8080
	exec $(BIN)/python examples/hello.py

build: $(LIBRARY) ## Build the native library

# On Linux for the oldest glibc or musl that is promised, so that the wheel is what a release has.
dist: $(VENV)/.dev ## Build the sdist, and this machine's archive and wheel, into dist/
	rm -rf dist
	$(BIN)/python tools/build_prebuilt.py $(if $(filter Linux,$(shell uname -s)),--zig)
	$(BIN)/python tools/generate_prebuilt_release.py manifest dist/prebuilt --partial
	$(BIN)/python tools/build_wheels.py

##@ Develop
.PHONY: test check lint types rust pytest bindings reference bench format
test: ## Everything CI runs
	$(MAKE) --no-print-directory tools-for-test
	$(MAKE) --no-print-directory lint rust types pytest

lint: $(VENV)/.dev rust-components c-compiler ## Format and lint, both languages; bindings and reference fresh
	$(CARGO) fmt $(MANIFEST) --check
	$(BIN)/ruff format --check $(DIRECTORIES)
	$(BIN)/ruff check $(DIRECTORIES)
	$(BIN)/python tools/generate_bindings.py --check
	$(BIN)/python tools/generate_reference.py --check
	$(CARGO) clippy $(MANIFEST) $(PROFILE) --all-targets -- -D warnings

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy

rust: c-compiler ## The crate's own tests
	$(CARGO) test $(MANIFEST) $(PROFILE)

pytest: $(VENV)/.dev $(LIBRARY) ## Unit, property, integration, fault and C ABI tests; doctests
	$(BIN)/python -m pytest

bindings: $(VENV)/.dev ## Rewrite bindings/ from the Rust source
	$(BIN)/python tools/generate_bindings.py

reference: $(VENV)/.dev ## Rewrite docs/reference.md from the docstrings
	$(BIN)/python tools/generate_reference.py

format: $(VENV)/.dev rust-components ## Format both languages
	$(CARGO) fmt $(MANIFEST)
	$(BIN)/ruff format $(DIRECTORIES)
	$(BIN)/ruff check --fix $(DIRECTORIES)

conformance: $(VENV)/.dev $(LIBRARY) browser ## Foreign suites, fault campaigns, wheels on every Python, linux-arm64
	tools/need.sh curl=curl h2load=nghttp2-client '?unshare=util-linux' '?ip=iproute2'
	tools/conformance_tools.sh $(BIN)/python
	$(MAKE) --no-print-directory dist
	tools/cross_arm64.sh $(BIN)/python
	$(BIN)/python -m pytest -m conformance

HTTP3 := tests/integration/test_http3.py tests/integration/test_h3_clients.py tests/interop tests/conformance/test_browser.py \
  tests/test_examples.py::test_tls_http3
http3: $(VENV)/.dev $(LIBRARY) browser ## HTTP/3 alone: three QUIC stacks and a browser
	tools/need.sh openssl=openssl
	tools/conformance_tools.sh $(BIN)/python
	$(BIN)/python -m pytest -m '' $(HTTP3)

cross: $(VENV)/.dev ## Libraries for linux-arm64 and musl, run here
	tools/cross_arm64.sh $(BIN)/python
	tools/cross_musl.sh $(BIN)/python
	$(BIN)/python -m pytest -m conformance tests/conformance/test_cross.py

workflows: ## Check .github/workflows (needs Go)
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

campaign: $(VENV)/.dev $(LIBRARY) ## Attacks at full scale (docs/reliability.md)
	$(BIN)/python -m pytest -m campaign

bench: $(LIBRARY) ## Ours against peers (benchmarks/README.md)
	tools/need.sh wrk=wrk
	bash benchmarks/install.sh
	.venv-bench/bin/python benchmarks/http.py $(BENCH)

.PHONY: conformance cross campaign http3 workflows clean tools-for-test browser rust-components c-compiler
clean: ## Remove what was built
	rm -rf $(VENV) .tools native/target build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- what the targets stand on -----------------------------------------------------------------------------------------

tools-for-test:
	tools/need.sh curl=curl gcc=gcc nm=binutils openssl=openssl '?g++=g++' '?minisign=minisign' '?valgrind=valgrind'

# Chrome does as well; where it is installed, Debian's package usually cannot be.
browser:
	@command -v google-chrome >/dev/null || tools/need.sh chromium=chromium

c-compiler:
	@tools/need.sh cc=gcc
	@echo '#include <stdio.h>' | cc -E -x c - >/dev/null 2>&1 || tools/need.sh +libc6-dev

rust-components:
	@command -v $(CARGO) >/dev/null || { echo "error: no cargo: install Rust >= 1.88 from https://rustup.rs" >&2; exit 1; }
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 \
	  || rustup component add rustfmt clippy \
	  || { echo "error: cargo has no fmt or clippy: install the rustfmt and clippy of your Rust" >&2; exit 1; }

$(LIBRARY): $(SOURCES) | c-compiler
	@command -v $(CARGO) >/dev/null || { echo "error: no cargo: install Rust >= 1.88 from https://rustup.rs" >&2; exit 1; }
	$(CARGO) build $(MANIFEST) $(PROFILE)
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) must be Python >= 3.10" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tools/need.sh +python3-venv
	$(PYTHON) -m venv $(VENV)

# An order-only interpreter: its time stamp says nothing.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed
