//! Nodes behind NAT: they join, stay members through relays, and are reached over the overlay.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, Nat, Node, Site, wait_until};

/// Dialling back, two reservations and a round of gossip, on a machine that builds at the same time.
const SETTLE: Duration = Duration::from_secs(60);

/// That a hub passes nothing between interfaces other than the overlay's.
const TRANSIT_IS_FENCED: &str = "nft list ruleset | grep -q 'meta nfproto ipv6 iifname != '";

/// Joins the host of a site, as an agent.
#[track_caller]
pub(crate) fn join(mesh: &mut Mesh, site: &Site) {
    let host = site.host.clone();
    let daemon = host.daemon(&["--listen", &site.listen(), "--mdns", "false"]);
    let token = mesh.token(&format!("{}.token", host.name()), &["--role", "agent"]);
    host.shoal(&["join", "--token-file", &token]).ok();
    mesh.nodes.push(Node { host, daemon });
}

#[track_caller]
fn everyone_sees_everyone(mesh: &Mesh) {
    for node in &mesh.nodes {
        let what = format!("{} sees the whole mesh", node.name());
        node.host.wait_for_status(SETTLE, &what, |status| {
            status["reachable"] == mesh.nodes.len()
        });
    }
}

fn path(row: &Value) -> String {
    row["path"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn two_nodes_behind_symmetric_nats_are_members_by_relay_and_ping_each_other_by_hub() {
    let Some(lab) = Lab::for_test("nat-symmetric") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 2, 0);
    let sites = [
        lab.behind(Nat::Symmetric, "a1", 11),
        lab.behind(Nat::Symmetric, "a2", 12),
    ];
    for site in &sites {
        join(&mut mesh, site);
    }
    everyone_sees_everyone(&mesh);
    for (from, to) in [("a1", "a2"), ("a2", "a1")] {
        let host = &mesh.node(from).host;
        wait_until(SETTLE, "the path is known as relayed", || {
            path(&host.node_row(to)).starts_with("relayed via s")
        });
        assert_eq!(path(&host.node_row("s1")), "direct");
    }
    mesh.wait_until_everyone_answers_everyone(SETTLE);

    // A daemon that comes back finds forwarding on and must know that this was not the host's choice.
    let fenced = |host: &Host| host.sh(TRANSIT_IS_FENCED).success();
    let hubs = ["s1", "s2"].into_iter();
    let hubs: Vec<_> = hubs.filter(|name| fenced(&mesh.node(name).host)).collect();
    assert!(!hubs.is_empty(), "somebody is the hub");
    for name in hubs {
        mesh.node(name).daemon.kill9();
        mesh.node_mut(name).restart_daemon();
        let host = mesh.node(name).host.clone();
        wait_until(SETTLE, "it is a hub again", || {
            host.log("shoald").matches("this node forwards").count() == 2
        });
        assert!(fenced(&host), "{}", host.sh("nft list ruleset").ok());
    }
    mesh.wait_until_everyone_answers_everyone(SETTLE);
}

#[test]
fn a_node_behind_a_full_cone_nat_is_found_to_be_reachable_and_needs_no_relay() {
    let Some(lab) = Lab::for_test("nat-full-cone") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 2, 0);
    let site = lab.behind(Nat::FullCone, "a1", 13);
    join(&mut mesh, &site);
    everyone_sees_everyone(&mesh);
    let outside = format!("{}:7440", site.router.ipv4());
    wait_until(SETTLE, "its outer address is known", || {
        let row = mesh.node("s2").host.node_row("a1");
        let addresses = row["addresses"].as_array().cloned().unwrap_or_default();
        addresses.contains(&Value::from(outside.clone()))
    });
    assert_eq!(path(&mesh.node("s2").host.node_row("a1")), "direct");
    mesh.wait_until_everyone_answers_everyone(SETTLE);
}

#[test]
fn two_nodes_behind_restricted_cone_nats_get_from_their_relay_to_a_direct_connection() {
    let Some(lab) = Lab::for_test("nat-punched") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 2, 0);
    let sites = [
        lab.behind(Nat::PortRestricted, "a1", 16),
        lab.behind(Nat::PortRestricted, "a2", 17),
    ];
    for site in &sites {
        join(&mut mesh, site);
    }
    everyone_sees_everyone(&mesh);
    let host = &mesh.node("a1").host;
    wait_until(SETTLE, "neither can be dialled", || {
        sites.iter().all(|site| {
            let status = site.host.shoal_json(&["status"]);
            status["dialable"] == false
                && status["relays"].as_array().is_some_and(|r| !r.is_empty())
        })
    });
    wait_until(SETTLE, "a hole is punched", || {
        path(&host.node_row("a2")) == "direct"
    });
    mesh.wait_until_everyone_answers_everyone(SETTLE);
}

#[test]
fn a_node_behind_nat_comes_back_after_its_relay_died() {
    let Some(lab) = Lab::for_test("nat-relay-dies") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 0);
    let sites = [
        lab.behind(Nat::Symmetric, "a1", 14),
        lab.behind(Nat::Symmetric, "a2", 15),
    ];
    for site in &sites {
        join(&mut mesh, site);
    }
    everyone_sees_everyone(&mesh);
    let host = mesh.node("a1").host.clone();
    let mut relay = String::new();
    wait_until(SETTLE, "a2 is reached through a relay", || {
        relay = path(&host.node_row("a2"));
        relay.starts_with("relayed via s")
    });
    let dead = relay.trim_start_matches("relayed via ").to_owned();
    mesh.node(&dead).host.power_off();
    wait_until(SETTLE, "a2 is reached through another", || {
        let now = path(&host.node_row("a2"));
        now.starts_with("relayed via s") && now != relay
    });
    let [ipv6, ipv4] = mesh.node("a2").overlay();
    for address in [ipv6, ipv4] {
        wait_until(SETTLE, "the overlay goes by another hub", || {
            host.pings(&address)
        });
    }
    let row = host.node_row("a2");
    assert_eq!(row["silent"], false, "{row}");
}
