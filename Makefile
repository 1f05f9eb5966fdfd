# The things that are done here. Each sets up what it needs first.

.PHONY: demo test test-kernel test-leases bench bench-overlay bench-vip bench-k3s lint build setup

# KEEP=1 leaves the demo's mesh up and says how to use and how to end it. K3S=/path is a K3s binary for
# its second act, and for bench-k3s.
KEEP ?=
K3S ?=

demo: setup
	KEEP=$(KEEP) K3S=$(K3S) scripts/demo

test: setup
	scripts/test

# The overlay in one and in two virtual machines with Debian's kernel, whose WireGuard this machine may
# lack, and the gate of virtual IPs in a third. Processors are emulated: some three minutes of
# processor time in all. `make test` has them too.
test-kernel: setup
	cargo build --locked -p overlay-wireguard -p overlay-gate --examples
	SHOAL_NO_SKIP=1 cargo test --locked -p overlay-wireguard --test kernel -- --nocapture
	SHOAL_NO_SKIP=1 cargo test --locked -p overlay-gate --test namespaces -- --nocapture debians_kernel

# The largest search of the lease protocol's model: minutes, and 1.2 GB. `make test` does those with two
# epochs.
test-leases: setup
	LEASE_SEARCH=wide cargo test -p consensus-lease --profile simulation --locked --test model

bench: setup
	scripts/bench

bench-overlay: setup
	scripts/bench overlay

bench-vip: setup
	scripts/bench vip

bench-k3s: setup
	K3S=$(K3S) scripts/bench k3s

lint:
	scripts/lint

build:
	cargo build --workspace --all-targets --locked

setup:
	@scripts/setup-dependencies
