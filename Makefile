# The four things that are done here. Each sets up what it needs first.

.PHONY: demo test bench bench-overlay bench-vip lint build setup

# KEEP=1 leaves the demo's mesh up and says how to use and how to end it.
KEEP ?=

demo: setup
	KEEP=$(KEEP) scripts/demo

test: setup build
	scripts/test

bench: setup
	scripts/bench

bench-overlay: setup
	scripts/bench overlay

bench-vip: setup
	scripts/bench vip

lint:
	scripts/lint

build:
	cargo build --workspace --all-targets --locked

setup:
	@scripts/setup-dependencies
