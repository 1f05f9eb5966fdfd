//! How long a call takes. A test binary of its own, so that no other test is in the way.
#![allow(
    clippy::unwrap_used,
    reason = "the whole crate is tests, which clippy sees only inside test functions"
)]

#[allow(dead_code, reason = "the other test binary uses the rest")]
#[path = "net/authority.rs"]
mod authority;
#[allow(dead_code, reason = "the other test binary uses the rest")]
#[path = "net/nodes.rs"]
mod nodes;

use std::time::{Duration, Instant};

use overlay_net::Channel;

/// Other programs share the machine: the quietest of several rounds shows what a call costs.
const ROUNDS: usize = 10;
const CALLS_PER_ROUND: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_over_loopback_takes_well_under_its_interval() {
    let (_, a, mut b) = nodes::pair();
    b.echo(Channel::Raft);
    let mut quietest = Duration::MAX;
    for _ in 0..ROUNDS {
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
        quietest = quietest.min(taken[CALLS_PER_ROUND / 2]);
    }
    // Measured: 0.25 ms, unoptimised. Raft beats every 50 ms.
    assert!(quietest < Duration::from_millis(2), "median {quietest:?}");
}
