# Everything that a fresh Debian 12 or 13 lacks is installed by `make setup`, which every other
# target runs first. Nothing else is needed: no special hardware, no container engine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO  ?= cargo
OUT    ?= out
IMAGE  ?= images/cpu-sandbox
RUNS   ?= 100000
CASEMATE ?= target/release/casemate
DEBUG    := $(or $(CARGO_TARGET_DIR),target)/debug

# Of a release: see docs/releasing.md.
RELEASE    ?= $(OUT)/$(notdir $(IMAGE))
PLATFORM   ?= snp
ORDER      ?= 0
JOBS       ?= $(shell nproc)
BUILDER_ID ?= urn:casemate:builder:local

export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help setup build module demo test images lint bench bench-quick fuzz clean
.PHONY: release-build release-compare release-sign release-verify release-show release-publish

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what this machine lacks: QEMU, OpenSSH, a C compiler, Rust
	@tests/setup.sh

build: setup ## Compile casemate, optimised
	$(CARGO) build --release --locked --package casemate-cli

module: setup ## Compile what release pages verify signatures with in browsers, for WebAssembly
	rustup target add wasm32-wasip1
	$(CARGO) build --release --locked --package casemate-registry-wasm --target wasm32-wasip1
	@echo target/wasm32-wasip1/release/casemate_registry_wasm.wasm

demo: build ## Build, measure, launch, attest and SSH into images/cpu-sandbox
	@tests/demo.sh $(CASEMATE) $(IMAGE) $(OUT)

test: setup ## Run every test, the end-to-end and attack tests and a little fuzzing included
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace --no-fail-fast
	@$(MAKE) --no-print-directory bench-quick
	@tests/fuzz.sh 1000

images: build ## Build and boot what compiles for minutes too, and hold it to be reproducible
	CASEMATE_REQUIRE=images $(CARGO) test --locked --package casemate-tests \
	    --test build --test attacks --test topology -- with_stages gpu_image

fuzz: setup ## Run every fuzz target for RUNS inputs each and keep the corpus
	@FUZZ_CORPUS=$${CARGO_TARGET_DIR:-target}/fuzz/corpus tests/fuzz.sh $(RUNS)

lint: setup ## Formatting and lints; with cargo-deny installed also licences and advisories
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; \
	else echo "cargo-deny is not installed: licences and advisories are unchecked"; fi

bench: build ## Measure everything against peers, as docs/performance.md has it
	@tests/bench.py $(CASEMATE) $(IMAGE)
	@tests/bench_measuring.py
	$(CARGO) build --release --locked --package casemate-registry --example transfer
	@tests/bench_store.py target/release/examples/transfer
	$(CARGO) test --locked --package casemate-launcher --test it -- --ignored --exact --nocapture \
		serve::figures::print
	$(CARGO) test --release --locked --package casemate-registry --test it -- --ignored --nocapture speed

# The figures mean nothing: it shows that every bench still runs.
bench-quick: ## Run each part of `bench` once, unoptimised, as `make test` does
	$(CARGO) build --locked --workspace --bins --examples --benches
	@tests/bench.py $(DEBUG)/casemate $(IMAGE) --quick
	@tests/bench_measuring.py --quick
	@tests/bench_store.py $(DEBUG)/examples/transfer --quick
	CASEMATE_BENCH_QUICK=1 $(CARGO) test --locked --workspace --test it -- --ignored --exact --nocapture \
		serve::figures::print signing::speed keyless::speed

release-build: build ## Build IMAGE into RELEASE; ORDER and JOBS must not matter
	$(CASEMATE) image build $(IMAGE) --platform $(PLATFORM) --output $(RELEASE) \
		--unpack-order $(ORDER) --jobs $(JOBS)

release-compare: ## Compare the releases in A and B byte by byte
	$(CASEMATE) image diff $(A) $(B)

release-sign: ## Sign RELEASE with KEY, or without one as who the CI system says you are
	$(CASEMATE) release sign $(RELEASE) --builder-id $(BUILDER_ID) \
		$(if $(KEY),--key $(KEY),--keyless $(if $(TOKEN),--identity-token $(TOKEN)) \
		$(if $(SIGNING_CONFIG),--signing-config $(SIGNING_CONFIG)))

release-verify: ## Verify RELEASE by the signers file SIGNERS
	$(CASEMATE) release verify $(RELEASE) --signers $(SIGNERS)

release-show: ## Tell what RELEASE is
	$(CASEMATE) release show $(RELEASE)

release-publish: ## Publish RELEASE to the store TO; without one attach it to the tag TAG on GitHub
ifneq ($(TO),)
	$(CASEMATE) release publish $(RELEASE) $(TO)
else
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf $(RELEASE).tar \
		-C $(dir $(abspath $(RELEASE))) $(notdir $(abspath $(RELEASE)))
	gh release view $(TAG) >/dev/null 2>&1 || gh release create $(TAG) --verify-tag --title $(TAG) --notes ""
	gh release upload $(TAG) $(RELEASE).tar
endif

clean: ## Remove what was compiled and built; the package cache stays
	$(CARGO) clean
	rm -rf $(OUT)
