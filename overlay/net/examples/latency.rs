//! How long a call on the Raft channel takes over loopback: `cargo run --release -p overlay-net
//! --example latency`. A measurement, not a test: a loaded machine proves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints what it finds and ends at the first thing that is amiss"
)]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/net/authority.rs"]
mod authority;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/net/nodes.rs"]
mod nodes;

use std::time::Instant;

use overlay_net::Channel;

/// Other programs share the machine: the quietest of several rounds shows what a call costs.
const ROUNDS: usize = 10;
const CALLS_PER_ROUND: usize = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (_, a, mut b) = nodes::pair();
    b.echo(Channel::Raft);
    for round in 0..ROUNDS {
        let mut taken = Vec::new();
        for _ in 0..CALLS_PER_ROUND {
            let began = Instant::now();
            a.net
                .call(&b.id, Channel::Raft, vec![7; 100], nodes::PATIENCE)
                .await
                .unwrap();
            taken.push(began.elapsed());
        }
        taken.sort();
        let (p50, p99) = (taken[CALLS_PER_ROUND / 2], taken[CALLS_PER_ROUND - 2]);
        println!("round {round}: p50 {p50:?}, p99 {p99:?}");
    }
}
