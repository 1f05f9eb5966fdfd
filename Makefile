# The things that are done here. Each sets up what it needs first.

.PHONY: demo test test-kernel bench bench-overlay bench-vip lint build setup

# KEEP=1 leaves the demo's mesh up and says how to use and how to end it.
KEEP ?=

demo: setup
	KEEP=$(KEEP) scripts/demo

test: setup
	scripts/test

# The overlay in a virtual machine with Debian's kernel, whose WireGuard this machine may lack. The
# processor is emulated: two minutes. `make test` has it too.
test-kernel: setup
	cargo build --locked -p overlay-wireguard --examples
	SHOAL_NO_SKIP=1 cargo test --locked -p overlay-wireguard --test kernel -- --nocapture

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
