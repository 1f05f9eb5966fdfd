//! Two nodes between which the underlay carries nothing, while everybody else reaches both.

use std::time::Duration;

use shoal_tests::{Host, Lab, Mesh, wait_until};

/// Twenty-five seconds without an answer and a round of gossip, on a machine that builds meanwhile.
const APART: Duration = Duration::from_secs(120);
/// A handshake, forty seconds in which the way lasts, and a round of gossip.
const RETURNED: Duration = Duration::from_secs(240);
/// With how many hops left a packet arrives that nobody forwarded (RFC 1700 and the kernel's default).
const STRAIGHT: u8 = 64;
/// And one that a hub did.
const BY_HUB: u8 = STRAIGHT - 1;

/// How many hops an answer had left.
fn hops_left(from: &Host, address: &str) -> Option<u8> {
    let answer = from.run(&["ping", "-n", "-c", "1", "-W", "1", address]);
    let behind = answer.stdout.split("ttl=").nth(1)?;
    behind.split_whitespace().next()?.parse().ok()
}

#[track_caller]
fn goes(from: &Host, to: &[String; 2], hops: u8, deadline: Duration) {
    for address in to {
        let what = format!("{address} answers {} with {hops} hops left", from.name());
        wait_until(deadline, &what, || hops_left(from, address) == Some(hops));
    }
}

/// As a firewall between two sites does it: nothing of the other's arrives, and nobody is told.
#[track_caller]
fn part(one: &Host, other: &Host) {
    for (at, from) in [(one, other), (other, one)] {
        let drop = |family: &str, address: String| {
            format!(
                "add rule inet lab_apart from {family} saddr {address} \
                 meta l4proto {{ tcp, udp }} drop"
            )
        };
        at.sh(&format!(
            "nft 'add table inet lab_apart; \
             add chain inet lab_apart from {{ type filter hook input priority -500; }}; {}; {}'",
            drop("ip", from.ipv4()),
            drop("ip6", from.ipv6()),
        ))
        .ok();
    }
}

#[track_caller]
fn heal(hosts: [&Host; 2]) {
    for host in hosts {
        host.sh("nft delete table inet lab_apart").ok();
    }
}

#[test]
fn two_agents_that_lose_each_other_talk_by_a_server_and_straight_again_once_they_can() {
    let Some(lab) = Lab::for_test("detours") else {
        return;
    };
    let mesh = Mesh::new(&lab, 3, 2);
    let [one, other] = ["a1", "a2"].map(|name| mesh.node(name).host.clone());
    let [to_one, to_other] = ["a1", "a2"].map(|name| mesh.node(name).overlay());
    goes(&one, &to_other, STRAIGHT, RETURNED);
    part(&one, &other);
    goes(&one, &to_other, BY_HUB, APART);
    goes(&other, &to_one, BY_HUB, APART);
    // The servers are reached as before.
    goes(&one, &mesh.node("s1").overlay(), STRAIGHT, APART);
    let row = one.node_row("a2");
    assert_eq!(row["silent"], false, "{row}");
    heal([&one, &other]);
    goes(&one, &to_other, STRAIGHT, RETURNED);
    goes(&other, &to_one, STRAIGHT, RETURNED);
}
