# The commands that people need.

.PHONY: build test lint deny bench sim fuzz deb

build: ## both programs, in target/release
	cargo build --release --locked

test: ## all tests
	tests/run

lint: ## style and warnings, as the build server checks them
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings

deny: ## licences, sources and known faults of what psync is built from
	.ci/deny

bench: ## the figures in docs/, measured here and now
	cargo bench --locked --bench live

deb: ## the Debian package, in target/deb
	packaging/build-deb

SEEDS ?= 1000000
sim: ## the simulator for long; `make sim SEEDS=5000000`
	PSYNC_SIM_HISTORIES=$(SEEDS) cargo test --release --locked --test simulator -- --nocapture

SECONDS_EACH ?= 20
fuzz: ## every decoder under libFuzzer; needs cargo-fuzz (docs/testing.md)
	PSYNC_HOSTILE_CORPUS=$(CURDIR)/fuzz/corpus cargo test --release --locked --test hostile fuzz_targets
	cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz build
	cd fuzz && for target in $$(cargo fuzz list); do \
		RUSTC_BOOTSTRAP=1 cargo fuzz run "$$target" -- -max_total_time=$(SECONDS_EACH) -rss_limit_mb=2048 || exit; \
	done
