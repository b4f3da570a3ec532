# Everything that a fresh Debian 12 or 13 lacks is installed by `make setup`, which every other
# target runs first. Nothing else is needed: no special hardware, no container engine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO  ?= cargo
OUT    ?= out
IMAGE  ?= images/cpu-sandbox
RUNS   ?= 100000
CASEMATE := target/release/casemate

export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help setup build demo test lint bench fuzz clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what this machine lacks: QEMU, OpenSSH, a C compiler, Rust
	@tests/setup.sh

build: setup ## Compile casemate, optimised
	$(CARGO) build --release --locked --package casemate-cli

demo: build ## Build, measure, launch, attest and SSH into images/cpu-sandbox
	@tests/demo.sh $(CASEMATE) $(IMAGE) $(OUT)

test: setup ## Run every test, the end-to-end and attack tests and a little fuzzing included
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace --no-fail-fast
	@tests/fuzz.sh 1000

fuzz: setup ## Run every fuzz target for RUNS inputs each and keep the corpus
	@FUZZ_CORPUS=$${CARGO_TARGET_DIR:-target}/fuzz/corpus tests/fuzz.sh $(RUNS)

lint: setup ## Formatting and lints; with cargo-deny installed also licences and advisories
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; \
	else echo "cargo-deny is not installed: licences and advisories are unchecked"; fi

bench: build ## Measure builds, boots, digests and verdicts against peers, as docs/performance.md has them
	@tests/bench.py $(CASEMATE) $(IMAGE)
	@tests/bench_measuring.py

clean: ## Remove what was compiled and built; the package cache stays
	$(CARGO) clean
	rm -rf $(OUT)
