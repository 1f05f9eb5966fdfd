//! Virtual IPs on candidates that have nothing but the lifetime of an address to hold them with, as on a
//! kernel without nf_tables: those of profile `slow` are served again when their holder is lost, and
//! never by two; others open nowhere, and why is said.
//!
//! Leases of 8 s can be watched while other tests run.

use rustix::process::Signal;
use serde_json::Value;
use shoal_tests::{Lab, Mesh, text, wait_until};

use crate::vip::{SOON, Watched};

/// Who may hold addresses.
const CANDIDATES: [&str; 3] = ["s1", "s2", "s3"];
/// What their daemons are told.
const GATE: [&str; 2] = ["--vip-gate", "lifetime"];
/// What they say of other profiles.
const WHY_NOT: &str = "it can hold virtual IPs of profile slow only";

/// Starts a daemon that uses lifetimes alone.
#[track_caller]
fn start(mesh: &mut Mesh, name: &str) {
    let node = mesh.node_mut(name);
    node.daemon = node.host.daemon(&GATE);
}

/// Three servers that use lifetimes alone, and an agent.
#[track_caller]
fn with_lifetimes_alone(lab: &Lab) -> Mesh {
    let mut mesh = Mesh::new(lab, 3, 1);
    for name in CANDIDATES {
        let status = mesh.node(name).daemon.stop();
        assert!(status.success(), "{status}");
        start(&mut mesh, name);
        mesh.wait_until_settled(3);
    }
    mesh
}

/// Its holder says by what it holds it; so do people read it.
#[track_caller]
fn is_held_by_its_lifetime_alone(web: &Watched) {
    let asked = web.host("a1");
    let mut shown = Value::Null;
    wait_until(SOON, "its holder tells by what it is held", || {
        shown = web.show();
        shown["open"] == true
    });
    assert_eq!(
        (&shown["profile"], &shown["held_by"]),
        (&"slow".into(), &"lifetime".into()),
        "{shown}"
    );
    let words = "held by the address's lifetime alone";
    wait_until(SOON, "people read by what it is held", || {
        asked.shoal(&["vip", "show", "web"]).stdout.contains(words)
    });
    let holder = web.host(&text(&shown, "holder"));
    let tables = holder.sh("nft list tables").ok().stdout;
    assert!(!tables.contains("shoal_gate"), "{tables}");
}

/// An address with shorter leases than the candidates' gates can keep to.
#[track_caller]
fn opens_nowhere_where_leases_are_short(web: &Watched) {
    let asked = web.host("a1");
    let create = ["vip", "create", "quick", "--network", "default"];
    let flags = ["--candidates", "s1,s2,s3", "--profile", "lan"];
    asked.shoal(&[create.as_slice(), &flags].concat()).ok();
    let mut shown = Value::Null;
    wait_until(SOON, "each candidate says why it may not hold it", || {
        shown = asked.shoal_json(&["vip", "show", "quick"]);
        let rows = shown["readiness"].as_array().expect("they are a list");
        let says = |row: &Value| row["reason"].to_string().contains(WHY_NOT);
        rows.len() == CANDIDATES.len() && rows.iter().all(says)
    });
    let rows = shown["readiness"].as_array().expect("they are a list");
    assert!(rows.iter().all(|row| row["fit"] == false), "{shown}");
    assert_ne!(shown["open"], true, "{shown}");
    let address = text(&shown, "address");
    for name in CANDIDATES {
        let host = web.host(name);
        let put_up = host.sh(&format!("ip -o -6 addr show to {address}")).ok();
        assert_eq!(put_up.stdout, "", "{name}");
        let log = host.log("shoald");
        let warning = "this node cannot hold every virtual IP";
        assert!(log.contains(warning), "{log}");
    }
    assert!(!asked.pings(&address));
    asked.shoal(&["vip", "delete", "quick", "--yes"]).ok();
}

#[test]
fn a_vip_that_lifetimes_alone_hold_is_served_by_another_when_its_holder_is_lost() {
    let Some(lab) = Lab::for_test("vip-lifetime") else {
        return;
    };
    let mesh = with_lifetimes_alone(&lab);
    let mut web = Watched::new(mesh, "a1", "s1,s2,s3", "slow");
    is_held_by_its_lifetime_alone(&web);
    opens_nowhere_where_leases_are_short(&web);

    let before = web.wait_until_served(None);
    let dead = text(&before, "holder");
    web.moves_from("powered off", &before, Some(&dead), |web, holder| {
        web.host(holder).power_off();
    });
    web.host(&dead).power_on();
    start(&mut web.mesh, &dead);
    web.wait_until_fit(&dead, true);
    let back = web.host(&dead);
    web.observers.post(&back);

    // Nobody takes its address away but the kernel.
    let before = web.wait_until_served(None);
    let stopped = text(&before, "holder");
    web.moves_from("stopped", &before, Some(&stopped), |web, holder| {
        let daemon = web.mesh.node(holder).daemon.process();
        daemon.signal(Signal::STOP);
    });
    let daemon = web.mesh.node(&stopped).daemon.process();
    daemon.signal(Signal::CONT);
    web.wait_until_fit(&stopped, true);
    web.wait_until_served(None);
    is_held_by_its_lifetime_alone(&web);
    web.judge("lifetime");
}
