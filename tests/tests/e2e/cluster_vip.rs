//! The virtual IP of a K3s cluster's API, with the leases that a cluster has unless its founder says
//! otherwise: it leaves a server that fails, moves at the first word of a drill, and `kubectl` goes on.
//!
//! Runs with nothing beside it, like all that is watched by the millisecond (`scripts/test`).

use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, text, wait_until};

use crate::k3s_servers::{CLUSTER, Cluster, SOON, VIP};

/// A lost machine is missed by whom its connections led to when the kernel gives them up.
const MISSED: Duration = Duration::from_secs(180);
/// Candidates are asked every second whether they are ready, and are not after two silences: what has not
/// changed for longer than that will not change by itself.
const RESTS_FOR: Duration = Duration::from_secs(3);
/// Each of them has to succeed.
const DRILLS: usize = 3;

/// Waits until the address rests, as a host sees it: open where it is held, with every candidate fit to
/// take it, and under the same epoch for a while.
#[track_caller]
fn settled(host: &Host) -> Value {
    let mut rests: Option<(u64, Instant)> = None;
    let mut shown = Value::Null;
    wait_until(SOON, "the API's address rests", || {
        shown = host.shoal_json(&["vip", "show", VIP]);
        let candidates = shown["readiness"].as_array();
        let fit = candidates.is_some_and(|all| all.iter().all(|one| one["fit"] == true));
        let open = shown["state"] == "held" && shown["open"] == true && fit;
        let epoch = shown["epoch"].as_u64().filter(|_| open);
        rests = epoch.map(|epoch| match rests {
            Some((before, since)) if before == epoch => (before, since),
            Some(_) | None => (epoch, Instant::now()),
        });
        rests.is_some_and(|(_, since)| since.elapsed() >= RESTS_FOR)
    });
    shown
}

/// Waits until another one than `before` holds it, and a write goes through; returns who.
#[track_caller]
fn moves_from(cluster: &Cluster, before: &str, what: &str) -> String {
    let mut holder = String::new();
    wait_until(SOON, &format!("it moves when {what}"), || {
        let shown = cluster.vip();
        holder = shown["holder"].as_str().unwrap_or_default().to_owned();
        !holder.is_empty() && holder != before && shown["state"] == "held"
    });
    cluster.takes_writes(what);
    holder
}

/// Moves it by a drill, at the first try. Who has it then.
#[track_caller]
fn is_drilled(cluster: &Cluster, number: usize) -> String {
    let asked = cluster.host("s3");
    let before = settled(&asked);
    let drilled = asked.shoal_json(&["vip", "drill", VIP]);
    assert_eq!(drilled["moved"], true, "{drilled}");
    assert_eq!(drilled["from"], before["holder"], "{drilled}");
    assert_ne!(drilled["to"], before["holder"], "{drilled}");
    let from = text(&drilled, "from");
    moves_from(cluster, &from, &format!("drill {number} is over"))
}

/// Whether it has moved since that epoch although nothing was wrong with who had it.
#[track_caller]
fn went_back_for_no_reason(shown: &Value, since: &Value) -> bool {
    let moves = shown["moves"].as_array().expect("they are a list");
    let epoch = |of: &Value| of["epoch"].as_u64();
    let mut later = moves.iter().filter(|done| epoch(done) > epoch(since));
    // A machine may still be too busy for a lease of 0.4 s; that is no failback.
    later.any(|done| done["reason"] != "its holder was not heard")
}

#[test]
fn the_virtual_ip_of_the_api_leaves_a_server_that_fails_and_kubectl_goes_on() {
    let Some(lab) = Lab::for_test("k3s-vip") else {
        return;
    };
    let mesh = Mesh::new(&lab, 3, 1);
    let cluster = Cluster::founded(mesh, "s1", &["--cluster", CLUSTER, "--cni", "flannel"]);
    assert_eq!(cluster.vip()["profile"], "lan");
    assert_eq!(cluster.candidates(), ["s1"]);
    cluster.add("s2", "server");
    assert_eq!(cluster.candidates(), ["s1", "s2"]);
    cluster.add("s3", "server");
    cluster.add("a1", "agent");
    assert_eq!(cluster.candidates(), ["s1", "s2", "s3"]);

    let first = text(&settled(&cluster.seen_from()), "holder");
    cluster.host(&first).turn_knob("fail-readyz", "");
    moves_from(&cluster, &first, "it is not ready");
    let moved = cluster.vip();
    cluster.host(&first).turn_back("fail-readyz");
    let rests = settled(&cluster.seen_from());
    assert!(!went_back_for_no_reason(&rests, &moved), "{rests}");

    let mut holder = String::new();
    for number in 1..=DRILLS {
        holder = is_drilled(&cluster, number);
    }

    // With all that is on it.
    cluster.host(&holder).power_off();
    moves_from(&cluster, &holder, "its host is lost");
    let seen_from = cluster.seen_from();
    wait_until(MISSED, "the lost server is missed", || {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let seen = seen_from.kubectl(CLUSTER, &["get", "node", &holder, "-o", path]);
        seen.success() && ["Unknown", "False"].contains(&seen.text())
    });
    wait_until(SOON, "the worker goes on without it", || {
        seen_from.sees_ready(CLUSTER, "a1")
    });
}
