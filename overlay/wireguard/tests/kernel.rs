//! The kernel's own WireGuard under the overlay, in a guest whose kernel has it: hosts in namespaces
//! of one guest here, two guests on a wire in `two_guests`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the helpers of a test fail as a test does; clippy exempts test functions only; what \
              a kernel device has no use for stays unused here"
)]

mod guest;
mod host;
mod two_guests;

use std::time::Instant;

use host::{Host, Underlay, stand_in, until};
use overlay_core::peers::PublicKey;

#[test]
fn the_kernels_wireguard_carries_the_overlay_as_the_userspace_device_does() {
    if !guest::inside() {
        let test = "the_kernels_wireguard_carries_the_overlay_as_the_userspace_device_does";
        guest::run_again(
            test,
            &guest::Inside {
                arguments: &[test, "--exact"],
                stand_in: &stand_in(),
                programs: &PROGRAMS,
                modules: &["wireguard", "veth", "bridge", "nf_tables", "nft_ct"],
            },
        );
        return;
    }
    let told = |claim: &str, started: Instant| {
        println!("guest: {claim} ({} ms)", started.elapsed().as_millis());
    };
    // Hosts take longest to make where the processor is emulated, so most claims share two.
    let mut pair = joined_pair();
    for (claim, check) in OF_A_PAIR {
        let started = Instant::now();
        check(&mut pair);
        told(claim, started);
    }
    drop(pair);
    for (claim, check) in OF_HOSTS_OF_THEIR_OWN {
        let started = Instant::now();
        check();
        told(claim, started);
    }
}

/// What the claims and their hosts call, besides the shell's own commands.
const PROGRAMS: [&str; 14] = [
    "sh",
    "sleep",
    "mount",
    "mountpoint",
    "unshare",
    "nsenter",
    "setpriv",
    "ip",
    "ping",
    "nft",
    "grep",
    "cat",
    "ls",
    "id",
];

type Pair = (Host, Host, Underlay);
type CheckOfAPair = fn(&mut Pair);

const OF_A_PAIR: [(&str, CheckOfAPair); 10] = [
    ("two hosts reach each other in both families", both_families),
    (
        "a plan applied again touches nothing while packets flow",
        applied_again,
    ),
    (
        "a restarted daemon adopts the link with its sessions",
        adopted,
    ),
    (
        "a key is replaced within a handshake, and found after a restart",
        replaced_key,
    ),
    (
        "a peer that gains and loses addresses loses no packet",
        gained_address,
    ),
    ("a LAN behind a peer comes and goes", lan_behind),
    ("a plan of many peers is taken and found again", many_peers),
    ("a link that was deleted comes back", deleted_link),
    ("a learnt endpoint is not set back", learnt_endpoint),
    ("down leaves nothing behind", nothing_left),
];

const OF_HOSTS_OF_THEIR_OWN: [(&str, fn()); 4] = [
    (
        "an address that moves is accepted from its new owner only",
        moved_address,
    ),
    (
        "two peers go over from a hub to the straight way and back",
        by_a_hub,
    ),
    ("a port that is taken is named", taken_port),
    (
        "without the capability the permission is named",
        without_capability,
    ),
];

fn both_families((one, two, underlay): &mut Pair) {
    one.ping("fd5a::2", 3, 0.05).expect_no_loss();
    one.ping("10.90.0.2", 3, 0.05).expect_no_loss();
    two.ping("fd5a::1", 3, 0.05).expect_no_loss();
    one.shell("ping -c 1 -W 5 -M do -s 1392 10.90.0.2");
    let link = one.shell("ip -d link show shoal0");
    println!("{link}");
    assert!(link.contains("wireguard"), "{link}");
    let address = one.shell("ip -6 addr show dev shoal0 scope global");
    assert!(address.contains("nodad"), "{address}");
    let route = one.shell("ip -4 route show 10.90.0.0/16");
    assert!(route.contains("scope link"), "{route}");
    assert!(!one.shell_status("ls /run/shoal/*.pid /run/wireguard"));
    fenced(one, two, underlay);
}

fn fenced(one: &mut Host, two: &Host, underlay: &Underlay) {
    let outsider = underlay.host(9);
    outsider.shell("ip route add 10.90.0.0/16 via 192.0.2.1");
    let reached = |address: &str| outsider.shell_status(&format!("ping -c 1 -W 1 {address}"));
    assert!(reached("10.90.0.1"), "without a fence Linux answers");
    one.ask("fence home fd5a::/64,10.90.0.0/16");
    assert!(!reached("10.90.0.1"));
    assert!(reached("192.0.2.1"), "the underlay itself is untouched");
    two.ping("fd5a::1", 2, 0.05).expect_no_loss();
}

fn applied_again((one, two, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    let ping = one.start_ping("fd5a::2", 50, 0.02);
    for _ in 0..20 {
        assert_eq!(one.ask("apply"), "0", "an applied plan needs no step");
    }
    ping.finish().expect_no_loss();
    assert!(one.in_session_since(before, &two.public_key));
}

fn gained_address((one, two, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    two.add_vip();
    let without_vip = peer_line(&two.public_key, 2);
    let with_vip = format!("{without_vip},fd5a::f:1/128");
    let ping = one.start_ping("fd5a::2", 1000, 0.005);
    for _ in 0..8 {
        one.ask(&with_vip);
        assert_eq!(one.ask("apply"), "1");
        one.ping("fd5a::f:1", 1, 0.05).expect_no_loss();
        one.ask(&without_vip);
        assert_eq!(one.ask("apply"), "1");
        assert!(!one.shell_status("ping -c 1 -W 1 fd5a::f:1"));
        assert_eq!(one.ask("apply"), "0", "nothing stays behind");
    }
    one.ask(&with_vip);
    one.ask("apply");
    ping.finish().expect_no_loss();
    assert!(one.in_session_since(before, &two.public_key));
}

fn adopted((one, two, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    let index = link_index(one);
    let ping = one.start_ping("fd5a::2", 100, 0.02);
    one.kill_daemon();
    one.start_daemon();
    let key = one.bring_up();
    assert_eq!(key, one.public_key);
    one.ask(&peer_line(&two.public_key, 2));
    assert_eq!(one.ask("apply"), "0", "everything is found as it was left");
    ping.finish().expect_no_loss();
    assert_eq!(link_index(one), index, "same link");
    assert!(one.in_session_since(before, &two.public_key));
}

fn replaced_key((one, two, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    for round in 0..3 {
        let old = two.public_key.clone();
        let new = two.ask("newkey");
        one.ask(&format!("peer {new} 192.0.2.2:51820 -"));
        assert_eq!(one.ask("apply"), "1", "a peer without addresses");
        let ping = one.start_ping("fd5a::2", 100, 0.02);
        assert_eq!(two.ask("takekey"), new);
        one.ask(&format!("forget {old}"));
        one.ask(&peer_line(&new, 2));
        assert_eq!(one.ask("apply"), "2");
        let lost = ping.finish().lost_percent();
        println!("guest: new key, round {round}: {lost} % of two seconds is lost");
        // A handshake that is lost is repeated after five seconds.
        assert!(lost < 90.0, "{lost} %");
        one.ping("fd5a::2", 3, 0.05).expect_no_loss();
        two.public_key = new;
    }
    let before = one.handshake(&two.public_key);
    two.kill_daemon();
    two.start_daemon();
    let expected = two.public_key.clone();
    assert_eq!(two.bring_up(), expected);
    two.ask(&peer_line(&one.public_key, 1));
    assert_eq!(two.ask("apply"), "0", "everything is found as it was left");
    one.ping("fd5a::2", 3, 0.05).expect_no_loss();
    assert!(one.in_session_since(before, &expected));
}

/// With routes to it, and without a packet lost to the peer itself.
fn lan_behind((one, two, _): &mut Pair) {
    one.ping("10.90.0.2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    two.shell("ip addr add 192.168.77.1/24 dev lo");
    let ping = one.start_ping("fd5a::2", 100, 0.02);
    let without = peer_line(&two.public_key, 2);
    one.ask("route 192.168.77.0/24");
    one.ask(&format!("{without},192.168.77.0/24"));
    one.ask("apply");
    one.ping("192.168.77.1", 3, 0.05).expect_no_loss();
    one.ask("unroute 192.168.77.0/24");
    one.ask(&without);
    assert_eq!(one.ask("apply"), "2");
    assert!(!one.shell_status("ping -c 1 -W 1 192.168.77.1"));
    assert_eq!(one.shell("ip -4 route show 192.168.77.0/24"), "");
    ping.finish().expect_no_loss();
    assert!(one.in_session_since(before, &two.public_key));
    two.shell("ip addr del 192.168.77.1/24 dev lo");
}

/// The hub forwards from its peers to its peers; both ends change at once, as the daemons do.
fn by_a_hub() {
    let underlay = Underlay::new();
    let mut hosts = [1, 2, 3].map(|node| underlay.host(node));
    let keys = hosts.each_mut().map(bring_up);
    hosts[1].shell("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    let line = |node: usize, prefixes: &str| {
        format!("peer {} 192.0.2.{node}:51820 {prefixes}", keys[node - 1])
    };
    for (host, peers) in [(0, [2, 3]), (1, [1, 3]), (2, [2, 1])] {
        for node in peers {
            hosts[host].ask(&line(node, &format!("fd5a::{node}/128")));
        }
        hosts[host].ask("apply");
    }
    hosts[0].ping("fd5a::3", 1, 0.05).expect_no_loss();
    hosts[0].ping("fd5a::2", 1, 0.05).expect_no_loss();
    hosts[2].ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = hosts[0].handshake(&keys[2]);
    let hops = |hosts: &[Host; 3]| {
        let seen = hosts[0].shell("ping -n -c 1 -W 5 fd5a::3");
        if seen.contains("ttl=63") { 1 } else { 0 }
    };
    assert_eq!(hops(&hosts), 0);
    // With nothing left of the straight way, and with an address by which it is tried.
    for (left, steps) in [("-", "2"), ("fd5a::8000:0:0:9/128", "3")] {
        for (host, far) in [(0, 3), (2, 1)] {
            hosts[host].ask(&line(2, &format!("fd5a::2/128,fd5a::{far}/128")));
            hosts[host].ask(&line(far, left));
            assert_eq!(hosts[host].ask("apply"), steps);
        }
        assert_eq!(hops(&hosts), 1, "by the hub");
        for (host, far) in [(0, 3), (2, 1)] {
            hosts[host].ask(&line(2, "fd5a::2/128"));
            hosts[host].ask(&line(far, &format!("fd5a::{far}/128")));
            assert_eq!(hosts[host].ask("apply"), steps);
        }
        assert_eq!(hops(&hosts), 0, "straight");
    }
    assert!(hosts[0].in_session_since(before, &keys[2]), "one session");
}

fn learnt_endpoint((one, two, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    two.shell("ip addr del 192.0.2.2/24 dev underlay && ip addr add 192.0.2.99/24 dev underlay");
    until("the peer has roamed", || {
        two.shell_status("ping -c 1 -W 1 fd5a::1");
        one.ask("peers").contains("192.0.2.99:51820")
    });
    assert_eq!(one.ask("apply"), "0");
    assert!(one.ask("peers").contains("192.0.2.99:51820"));
    one.ping("fd5a::2", 3, 0.05).expect_no_loss();
}

fn moved_address() {
    let underlay = Underlay::new();
    let mut hosts = [1, 2, 3].map(|node| underlay.host(node));
    let keys = hosts.each_mut().map(bring_up);
    for (host, peers) in [(0, [1, 2].as_slice()), (1, &[0]), (2, &[0])] {
        for peer in peers {
            let node = peer + 1;
            hosts[host].ask(&format!(
                "peer {} 192.0.2.{node}:51820 fd5a::{node}/128",
                keys[*peer]
            ));
        }
        hosts[host].ask("apply");
    }
    // Two and three both have the address, as in a takeover gone wrong.
    for holder in [1, 2] {
        hosts[holder].add_vip();
    }
    for (holder, other) in [(1, 2), (2, 1)] {
        for (peer, extra) in [(holder, ",fd5a::f:1/128"), (other, "")] {
            let node = peer + 1;
            hosts[0].ask(&format!(
                "peer {} 192.0.2.{node}:51820 fd5a::{node}/128{extra}",
                keys[peer]
            ));
        }
        hosts[0].ask("apply");
        let as_vip = |host: &Host| host.shell_status("ping -c 1 -W 2 -I fd5a::f:1 fd5a::1");
        assert!(as_vip(&hosts[holder]), "the owner is heard");
        assert!(!as_vip(&hosts[other]), "nobody else is");
    }
}

fn deleted_link((one, _, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    for replace in ["", " && ip link add shoal0 type wireguard"] {
        one.shell(&format!("ip link del shoal0{replace}"));
        let answer = one.ask_any("apply");
        assert!(answer.starts_with("err InterfaceGone"), "{answer}");
        bring_up(one);
        one.ask("apply");
        until("the peer answers again", || {
            one.shell_status("ping -c 1 -W 1 fd5a::2")
        });
    }
}

/// More than one netlink message holds, in both directions.
fn many_peers((one, two, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    for node in 1..=MANY_PEERS {
        let (high, low) = (node / 250, node % 250);
        let mut prefixes = vec![
            format!("fd5a::1:{node:x}/128"),
            format!("10.90.{}.{low}/32", high + 1),
        ];
        // The last one's do not fit a message either.
        let more = if node == MANY_PEERS { 250 } else { 6 };
        prefixes.extend((0..more).map(|extra| format!("10.{}.{low}.{extra}/32", 100 + high)));
        one.ask(&format!(
            "peer {} 198.51.{high}.{low}:51820 {}",
            many_key(node),
            prefixes.join(",")
        ));
    }
    assert_eq!(one.ask("apply"), MANY_PEERS.to_string());
    assert_eq!(one.ask("apply"), "0", "all of them are found again");
    let found = one.ask("peers").split(' ').count();
    assert_eq!(found, usize::try_from(MANY_PEERS).unwrap() + 1);
    one.ping("fd5a::2", 3, 0.05).expect_no_loss();
    for node in 1..=MANY_PEERS {
        one.ask(&format!("forget {}", many_key(node)));
    }
    assert_eq!(one.ask("apply"), MANY_PEERS.to_string());
    assert_eq!(one.ask("apply"), "0");
    assert_eq!(one.ask("peers").split(' ').count(), 1);
    one.ping("fd5a::2", 3, 0.05).expect_no_loss();
    assert!(one.in_session_since(before, &two.public_key));
}

const MANY_PEERS: u32 = 400;

fn many_key(node: u32) -> PublicKey {
    let mut bytes = [1; 32];
    bytes[..4].copy_from_slice(&node.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

fn taken_port() {
    let underlay = Underlay::new();
    let mut host = underlay.host(1);
    host.ask("up shoal1 51820 /run/other");
    host.shell("ip link set shoal1 up");
    // The kernel's device opens its port when its link comes up.
    host.ask("up shoal0 51820 /run/shoal");
    let answer = host.ask_any("apply");
    assert!(answer.starts_with("err ListenPortTaken "), "{answer}");
}

fn without_capability() {
    let underlay = Underlay::new();
    let mut host = underlay.host(1);
    host.kill_daemon();
    host.start_daemon_under("setpriv --bounding-set=-net_admin");
    let answer = host.ask_any("up shoal0 51820 /run/shoal");
    assert!(
        answer.starts_with("err NetAdminPermissionError "),
        "{answer}"
    );
    assert!(!host.shell_status("ip link show shoal0"));
}

fn nothing_left((one, _, _): &mut Pair) {
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    one.ask("down");
    assert!(!one.shell_status("ip link show shoal0"));
    assert_eq!(one.shell("ls /run/shoal"), "wireguard.key");
    assert_eq!(one.shell("ip -4 route show 10.90.0.0/16"), "");
}

fn link_index(host: &Host) -> String {
    let line = host.shell("ip -o link show shoal0");
    line.split(':').next().unwrap().to_owned()
}

fn peer_line(key: &str, node: u8) -> String {
    format!("peer {key} 192.0.2.{node}:51820 fd5a::{node}/128,10.90.0.{node}/32")
}

/// Brings the interface up and makes sure that it is the kernel's.
fn bring_up(host: &mut Host) -> String {
    let key = host.bring_up();
    let link = host.shell("ip -d link show shoal0");
    assert!(link.contains("wireguard"), "{link}");
    key
}

fn joined_pair() -> (Host, Host, Underlay) {
    let underlay = Underlay::new();
    let (mut one, mut two) = (underlay.host(1), underlay.host(2));
    let keys = [bring_up(&mut one), bring_up(&mut two)];
    for (host, peer, node) in [(&mut one, &keys[1], 2), (&mut two, &keys[0], 1)] {
        host.ask(&peer_line(peer, node));
        host.ask("apply");
    }
    (one, two, underlay)
}
