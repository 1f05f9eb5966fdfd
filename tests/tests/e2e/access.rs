//! Access grants: a machine with nothing but wireguard-tools, and the file that shoal wrote.
//!
//! wg-quick takes the kernel's device, and wireguard-go where the kernel has none.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, Output, scanned, text, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// Beyond the hour that the grant is good for.
const TWO_HOURS_S: i64 = 7200;

#[track_caller]
fn wg_quick(laptop: &Host, file: &str) -> Output {
    let device = [("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go")];
    laptop.run_with(&["wg-quick", "up", file], &device).ok()
}

/// The overlay addresses of a node.
fn addresses(server: &Host, node: &str) -> [String; 2] {
    let row = server.node_row(node);
    [text(&row, "overlay_ipv6"), text(&row, "overlay_ipv4")]
}

#[track_caller]
fn reaches(from: &Host, addresses: &[String; 2]) {
    for address in addresses {
        wait_until(SOON, &format!("{} reaches {address}", from.name()), || {
            from.pings(address)
        });
    }
}

/// No answer from any of these addresses any more.
#[track_caller]
fn is_cut_off(from: &Host, addresses: &[&[String; 2]]) {
    let all = addresses.iter().flat_map(|both| both.iter());
    let all: Vec<&str> = all.map(String::as_str).collect();
    wait_until(SOON, "nothing answers", || from.reached(&all).is_empty());
    let reached = from.reached(&all);
    assert!(reached.is_empty(), "{reached:?}");
}

/// Whether a node has the device for a WireGuard peer.
fn lets_in(node: &Host, grant: &Value) -> bool {
    let peers = node.run(&["wg", "show", "shoal-default", "peers"]).ok();
    peers.text().contains(&text(grant, "public_key"))
}

#[test]
fn a_device_with_plain_wireguard_is_in_until_it_is_suspended_or_revoked() {
    let Some(lab) = Lab::for_test("access") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let (server, agent) = (mesh.node("s1").host.clone(), mesh.node("a1").host.clone());
    let laptop = lab.host("laptop");
    let file = "/run/lab/files/lap0.conf";
    // Asked of the agent, which is no gateway unless it is named.
    agent.shoal(&["access", "grant", "ann", "--out", file]).ok();
    let mode = agent.run(&["stat", "-c", "%a", file]).ok();
    assert_eq!(mode.text(), "600");
    let grant = server.shoal_json(&["access", "show", "ann"]);
    assert_eq!(
        (text(&grant, "gateway"), text(&grant, "state")),
        ("s1".into(), "active".into())
    );
    assert!(!grant.to_string().contains("PrivateKey ="), "{grant}");

    wg_quick(&laptop, file);
    let (of_server, of_agent) = (addresses(&server, "s1"), addresses(&server, "a1"));
    let both = [&of_server, &of_agent];
    for node in both {
        reaches(&laptop, node);
    }
    let device = [text(&grant, "ipv6"), text(&grant, "ipv4")];
    reaches(&agent, &device);
    let shown = server.shoal_json(&["access", "show", "ann"]);
    assert!(
        shown["device_endpoint"].is_string() || shown["handshake_s"].is_null(),
        "{shown}"
    );

    server.shoal(&["access", "suspend", "ann"]).ok();
    wait_until(SOON, "the gateway has no such peer", || {
        !lets_in(&server, &grant)
    });
    is_cut_off(&laptop, &both);
    assert_eq!(
        server.shoal_json(&["access", "ls"])[0]["state"],
        "suspended"
    );
    server.shoal(&["access", "resume", "ann"]).ok();
    for node in both {
        reaches(&laptop, node);
    }

    moves_to(&mesh, "a1", &grant, &laptop);
    let refusal = server.shoal_refused(&["network", "detach", "a1", "default"]);
    assert_eq!(refusal["code"], "AccessGrantUsesPeerError");

    server.shoal(&["access", "revoke", "ann"]).ok();
    wait_until(SOON, "the gateway has no such peer", || {
        !lets_in(&agent, &grant)
    });
    is_cut_off(&laptop, &both);
    assert_eq!(server.shoal_json(&["access", "ls"]), Value::Array(vec![]));
    let refusal = server.shoal_refused(&["access", "show", "ann"]);
    assert_eq!(refusal["code"], "AccessGrantNotFoundError");
    // What it was nobody else is.
    let next = server.shoal_json(&["access", "grant", "bob"]);
    assert_ne!(next["ipv6"], grant["ipv6"]);

    laptop.run(&["wg-quick", "down", file]).ok();
    let drawn = agent.shoal(&["access", "grant", "phone", "--qr"]).ok();
    write_down(&laptop, file, &scanned(drawn.text()));
    wg_quick(&laptop, file);
    for node in both {
        reaches(&laptop, node);
    }
}

/// A file that only its owner reads.
#[track_caller]
fn write_down(host: &Host, file: &str, text: &str) {
    let script = format!("umask 077; cat >{file} <<'END'\n{text}\nEND");
    host.sh(&script).ok();
}

/// Another gateway: the old one lets it in no more, the new one as soon as it is told of.
#[track_caller]
fn moves_to(mesh: &Mesh, gateway: &str, grant: &Value, laptop: &Host) {
    let (server, agent) = (&mesh.node("s1").host, &mesh.node(gateway).host);
    let (of_server, of_agent) = (addresses(server, "s1"), addresses(server, gateway));
    let both = [&of_server, &of_agent];
    let moved = server.shoal_json(&["access", "move", "ann", "--via", gateway]);
    wait_until(SOON, "the gateways have changed", || {
        !lets_in(server, grant) && lets_in(agent, grant)
    });
    is_cut_off(laptop, &both);
    let endpoint = moved["tunnel"]["endpoints"][0]
        .as_str()
        .expect("the gateway tells one");
    laptop
        .sh(&format!(
            "wg set lap0 peer {} remove && wg set lap0 peer {} endpoint {endpoint} \
             persistent-keepalive 25 allowed-ips {}",
            text(&grant["tunnel"], "public_key"),
            text(&moved["tunnel"], "public_key"),
            of_networks(&moved),
        ))
        .ok();
    for node in both {
        reaches(laptop, node);
    }
}

/// As `wg` takes prefixes.
fn of_networks(grant: &Value) -> String {
    let prefixes = grant["tunnel"]["allowed_ips"].as_array().expect("a list");
    let prefixes: Vec<_> = prefixes.iter().filter_map(Value::as_str).collect();
    prefixes.join(",")
}

#[test]
fn a_grant_for_a_key_of_the_devices_own_ends_by_itself() {
    let Some(lab) = Lab::for_test_at("access-end", 0) else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let laptop = lab.host("laptop");
    let private = laptop.run(&["wg", "genkey"]).ok().text().to_owned();
    let public = laptop.sh(&format!("echo {private} | wg pubkey")).ok();
    let flags = ["--public-key", public.text(), "--ttl", "1h"];
    let granted = server.shoal(&[&["access", "grant", "ann"], &flags[..]].concat());
    let granted = granted.ok();
    assert!(granted.text().contains("\n# PrivateKey = "), "{granted}");
    let again = server.shoal_refused(&[&["access", "grant", "bob"], &flags[..]].concat());
    assert_eq!(again["code"], "AccessGrantKeyTakenError");
    let whole = granted.text().replace(
        "# PrivateKey = the one that belongs to the grant's public key",
        &format!("PrivateKey = {private}"),
    );
    let file = "/run/lab/files/lap0.conf";
    write_down(&laptop, file, &whole);
    wg_quick(&laptop, file);
    let nodes = [addresses(&server, "s1"), addresses(&server, "a1")];
    for node in &nodes {
        reaches(&laptop, node);
    }
    lab.set_clock(TWO_HOURS_S);
    is_cut_off(&laptop, &[&nodes[0], &nodes[1]]);
    let shown = server.shoal_json(&["access", "ls"]);
    assert_eq!(shown[0]["state"], "expired", "{shown}");
}
