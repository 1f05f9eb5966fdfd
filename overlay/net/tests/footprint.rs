//! What connections cost. A test binary of its own, so that nothing else is measured.
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

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[tokio::test]
async fn sixteen_neighbours_cost_a_few_mebibytes() {
    let authority = authority::Authority::new(1);
    let center = nodes::Node::start(&authority, &overlay_net::NodeKey::generate());
    let others: Vec<_> = (0..16)
        .map(|_| nodes::Node::start(&authority, &overlay_net::NodeKey::generate()))
        .collect();
    let started = resident_kib();
    for other in &others {
        center.knows(other);
    }
    let wanted = others.iter().map(|other| other.id.clone()).collect();
    center.net.set_wanted(wanted);
    for other in &others {
        nodes::connected(&center, &other.id).await;
        nodes::connected(other, &center.id).await;
    }
    let connected = resident_kib();
    let grown_kib = connected.saturating_sub(started);
    // Both ends are in this process: half of it is one node's share.
    assert!(grown_kib < 16 * 512, "{grown_kib} KiB for 16 connections");
    // A whole agent may take 25 MiB; here are seventeen of its networks, unoptimised.
    assert!(connected < 40 * 1024, "{connected} KiB in all");
}
