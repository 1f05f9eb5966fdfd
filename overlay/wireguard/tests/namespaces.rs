//! Hosts as network namespaces: two (or three) of them on one underlay, each with its own /run,
//! each running the example `overlay-host`. Needs root, /dev/net/tun, iproute2, nftables, ping.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "the helpers of a test fail as a test does; clippy exempts test functions only"
)]

mod host;

use host::{Host, Underlay, root_or_say_so, until};

#[test]
fn two_hosts_reach_each_other_over_the_overlay_in_both_families() {
    root_or_say_so!();
    let (one, two, _underlay) = joined_pair();
    one.ping("fd5a::2", 3, 0.05).expect_no_loss();
    one.ping("10.90.0.2", 3, 0.05).expect_no_loss();
    two.ping("fd5a::1", 3, 0.05).expect_no_loss();
    let largest_unfragmented = 1420 - 28;
    one.shell(&format!(
        "ping -c 1 -W 2 -M do -s {largest_unfragmented} 10.90.0.2"
    ));
    let address = one.shell("ip -6 addr show dev shoal0 scope global");
    assert!(address.contains("nodad"), "{address}");
    let route = one.shell("ip -4 route show 10.90.0.0/16");
    assert!(
        route.contains("dev shoal0") && route.contains("scope link"),
        "{route}"
    );
}

#[test]
fn a_device_comes_before_ordinary_processes() {
    root_or_say_so!();
    let (one, _two, _underlay) = joined_pair();
    let pid = one.device_pid();
    let threads = one.shell(&format!("ps -L -o ni= -p {pid} | sort -u"));
    assert_eq!(threads.trim(), "-10", "every thread of it");
    // Where the kernel has sessions share the processors.
    let session = one.shell(&format!("cat /proc/{pid}/autogroup 2>/dev/null || true"));
    assert!(
        session.is_empty() || session.ends_with(" nice -10"),
        "{session}"
    );
}

/// Several connections at once, so that their segments are mixed, and far more than one frame each. Their
/// threads say so in one write each.
#[test]
fn bulk_data_arrives_whole_in_both_families() {
    root_or_say_so!();
    let (one, two, _underlay) = joined_pair();
    let server = "import socketserver, hashlib
class Sum(socketserver.StreamRequestHandler):
    def handle(self):
        sum = hashlib.sha256()
        for piece in iter(lambda: self.request.recv(1 << 16), b''):
            sum.update(piece)
        self.request.sendall(sum.hexdigest().encode())
class Server(socketserver.ThreadingTCPServer):
    address_family = 10
Server(('::', 9000), Sum).serve_forever()";
    let client = "import hashlib, random, socket, sys, threading
def send(seed):
    data = random.Random(seed).randbytes(8 << 20)
    with socket.create_connection((sys.argv[1], 9000), 60) as to:
        to.sendall(data)
        to.shutdown(socket.SHUT_WR)
        told = to.recv(64, socket.MSG_WAITALL).decode()
    if told == hashlib.sha256(data).hexdigest(): sys.stdout.write('whole ')
for seed in range(4): threading.Thread(target=send, args=[seed]).start()";
    two.shell(&format!(
        "mkdir /run/server; echo \"{server}\" >/run/server/sum.py; \
         python3 /run/server/sum.py >/run/server/log 2>&1 & echo $! >/run/server/sum.pid"
    ));
    one.shell(&format!("echo \"{client}\" >/run/client.py"));
    until("the server listens", || {
        two.shell_status("ss -Hltn | grep -q :9000")
    });
    for address in ["fd5a::2", "10.90.0.2"] {
        let told = one.shell(&format!("python3 /run/client.py {address}"));
        assert_eq!(told.trim_end(), "whole whole whole whole", "{address}");
    }
}

/// A program that hands the kernel many datagrams in one piece, as QUIC does.
#[test]
fn datagrams_sent_in_one_piece_arrive_apart() {
    root_or_say_so!();
    let (one, two, _underlay) = joined_pair();
    let server = "import socket
s = socket.socket(10, 2); s.settimeout(20); s.bind(('::', 9001)); s.setsockopt(1, 8, 1 << 20)
open('/run/listens', 'w').close()
pieces = [s.recv(9000) for _ in range(41)]
assert all(len(p) == 1200 and p == bytes([i]) * 1200 for i, p in enumerate(pieces[:40])), pieces
assert pieces[40] == b'end', pieces[40]
open('/run/whole', 'w').close()";
    let client = "import socket, sys
s = socket.socket(2 if '.' in sys.argv[1] else 10, 2); s.setsockopt(17, 103, 1200)
s.sendto(b''.join(bytes([i]) * 1200 for i in range(40)) + b'end', (sys.argv[1], 9001))";
    one.shell(&format!("echo \"{client}\" >/run/client.py"));
    for address in ["fd5a::2", "10.90.0.2"] {
        two.shell(&format!(
            "rm -f /run/whole /run/listens; echo \"{server}\" >/run/server.py; \
             python3 /run/server.py >/run/server.log 2>&1 &"
        ));
        until("the server listens", || {
            two.shell_status("test -e /run/listens")
        });
        one.shell(&format!("python3 /run/client.py {address}"));
        until("every datagram arrives", || {
            let log = two.shell("cat /run/server.log");
            assert_eq!(log, "", "{address}");
            two.shell_status("test -e /run/whole")
        });
    }
}

#[test]
fn a_plan_applied_again_touches_nothing_while_packets_flow() {
    root_or_say_so!();
    let (mut one, two, _underlay) = joined_pair();
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    let ping = one.start_ping("fd5a::2", 100, 0.01);
    for _ in 0..20 {
        assert_eq!(one.ask("apply"), "0", "an applied plan needs no step");
    }
    ping.finish().expect_no_loss();
    assert!(one.in_session_since(before, &two.public_key));
}

#[test]
fn a_peer_that_gains_an_address_keeps_its_session() {
    root_or_say_so!();
    let (mut one, two, _underlay) = joined_pair();
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    let ping = one.start_ping("fd5a::2", 100, 0.01);
    two.add_vip();
    one.ask(&format!(
        "peer {} 192.0.2.2:51820 fd5a::2/128,10.90.0.2/32,10.42.2.0/24,fd5a::f:1/128",
        two.public_key
    ));
    assert_eq!(one.ask("apply"), "1");
    one.ping("fd5a::f:1", 3, 0.05).expect_no_loss();
    ping.finish().expect_no_loss();
    assert!(one.in_session_since(before, &two.public_key));
}

#[test]
fn an_address_that_moves_between_peers_is_accepted_from_its_new_owner_only() {
    root_or_say_so!();
    let underlay = Underlay::new();
    let mut hosts = [1, 2, 3].map(|node| underlay.host(node));
    let keys = hosts.each_mut().map(Host::bring_up);
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
    for (holder, other) in [(1, 2), (2, 1), (1, 2)] {
        for (peer, extra) in [(holder, ",fd5a::f:1/128"), (other, "")] {
            let node = peer + 1;
            let line = format!(
                "peer {} 192.0.2.{node}:51820 fd5a::{node}/128{extra}",
                keys[peer]
            );
            hosts[0].ask(&line);
        }
        hosts[0].ask("apply");
        let as_vip = |host: &Host| host.shell_status("ping -c 1 -W 1 -I fd5a::f:1 fd5a::1");
        assert!(as_vip(&hosts[holder]), "the owner is heard");
        assert!(!as_vip(&hosts[other]), "nobody else is");
    }
}

#[test]
fn a_restarted_daemon_adopts_the_running_device_with_its_sessions() {
    root_or_say_so!();
    let (mut one, two, _underlay) = joined_pair();
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    let before = one.handshake(&two.public_key);
    let device = one.device_pid();
    let ping = one.start_ping("fd5a::2", 100, 0.01);
    one.kill_daemon();
    one.start_daemon();
    let key = one.bring_up();
    assert_eq!(key, one.public_key);
    one.ask(&format!(
        "peer {} 192.0.2.2:51820 fd5a::2/128,10.90.0.2/32",
        two.public_key
    ));
    assert_eq!(one.ask("apply"), "0", "everything is found as it was left");
    ping.finish().expect_no_loss();
    assert_eq!(one.device_pid(), device, "same process");
    assert!(one.in_session_since(before, &two.public_key));
}

/// As the daemons do it: the other end has the next key for a peer before it is taken.
#[test]
fn a_key_is_replaced_while_packets_flow_and_a_restart_finds_it() {
    root_or_say_so!();
    let (mut one, mut two, _underlay) = joined_pair();
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    for round in 0..8 {
        let old = two.public_key.clone();
        let new = two.ask("newkey");
        one.ask(&format!("peer {new} 192.0.2.2:51820 -"));
        assert_eq!(one.ask("apply"), "1", "a peer without addresses");
        let ping = one.start_ping("fd5a::2", 200, 0.005);
        assert_eq!(two.ask("takekey"), new);
        one.ask(&format!("forget {old}"));
        one.ask(&format!(
            "peer {new} 192.0.2.2:51820 fd5a::2/128,10.90.0.2/32"
        ));
        assert_eq!(
            one.ask("apply"),
            "2",
            "one goes, the other gets its addresses"
        );
        let lost = ping.finish().lost_percent();
        println!("round {round}: {lost} % of a second is lost");
        // A handshake that is lost is repeated after five seconds: all would be lost then.
        assert!(lost < 90.0, "{lost} %");
        one.ping("fd5a::2", 3, 0.05).expect_no_loss();
        two.public_key = new;
    }
    two.kill_daemon();
    two.start_daemon();
    let before = one.handshake(&two.public_key.clone());
    let expected = two.public_key.clone();
    assert_eq!(two.bring_up(), expected);
    one.ping("fd5a::2", 3, 0.05).expect_no_loss();
    assert!(one.in_session_since(before, &expected));
}

#[test]
fn a_device_that_was_killed_is_replaced_and_its_peers_come_back() {
    root_or_say_so!();
    let (mut one, two, _underlay) = joined_pair();
    one.ping("fd5a::2", 1, 0.05).expect_no_loss();
    one.shell(&format!("kill -9 {}", one.device_pid()));
    until("the link is gone", || {
        !one.shell_status("ip link show shoal0")
    });
    assert!(one.ask_any("apply").starts_with("err InterfaceGone"));
    one.bring_up();
    one.ask("apply");
    until("the peer answers again", || {
        one.shell_status("ping -c 1 -W 1 fd5a::2")
    });
    let _ = two;
}

#[test]
fn a_learnt_endpoint_is_not_set_back() {
    root_or_say_so!();
    let (mut one, two, _underlay) = joined_pair();
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

#[test]
fn the_fence_keeps_the_underlay_out_and_lets_the_overlay_in() {
    root_or_say_so!();
    let (mut one, two, underlay) = joined_pair();
    let outsider = underlay.host(9);
    outsider.shell(
        "ip -6 route add fd5a::/64 via 2001:db8::1 && ip route add 10.90.0.0/16 via 192.0.2.1",
    );
    let reached = |address: &str| outsider.shell_status(&format!("ping -c 1 -W 1 {address}"));
    assert!(reached("10.90.0.1"), "without a fence Linux answers");
    assert!(reached("fd5a::1"), "without a fence Linux answers");
    for _ in 0..2 {
        one.ask("fence home fd5a::/64,10.90.0.0/16");
    }
    assert!(!reached("10.90.0.1"));
    assert!(!reached("fd5a::1"));
    assert!(reached("192.0.2.1"), "the underlay itself is untouched");
    two.ping("fd5a::1", 2, 0.05).expect_no_loss();
    two.ping("10.90.0.1", 2, 0.05).expect_no_loss();
    one.ping("10.90.0.1", 1, 0.05).expect_no_loss();
    one.ask("down");
    assert_eq!(one.shell("nft list tables"), "");
}

#[test]
fn down_leaves_nothing_behind() {
    root_or_say_so!();
    let (mut one, _two, _underlay) = joined_pair();
    let device = one.device_pid();
    one.ask("down");
    assert!(!one.shell_status("ip link show shoal0"));
    assert!(!one.shell_status(&format!("grep -qv ') Z ' /proc/{device}/stat")));
    assert_eq!(one.shell("ls /run/shoal"), "wireguard.key");
    assert_eq!(one.shell("ls /run/wireguard"), "");
}

#[test]
fn without_the_capability_the_error_names_the_permission() {
    root_or_say_so!();
    let underlay = Underlay::new();
    let mut host = underlay.host(1);
    host.kill_daemon();
    host.start_daemon_under("setpriv --bounding-set=-net_admin");
    let answer = host.ask_any("up shoal0 51820 /run/shoal");
    assert!(answer.starts_with("err TunPermissionError "), "{answer}");
    assert!(answer.contains("permission denied"), "{answer}");
    assert_eq!(host.shell("ls /run/wireguard 2>/dev/null || true"), "");
}

#[test]
fn without_the_tun_device_the_error_names_it() {
    root_or_say_so!();
    let underlay = Underlay::new();
    let mut host = underlay.host(1);
    host.shell("mount -t tmpfs none /dev/net");
    let answer = host.ask_any("up shoal0 51820 /run/shoal");
    assert!(answer.starts_with("err TunMissingError "), "{answer}");
}

#[test]
fn a_foreign_interface_of_that_name_is_refused_and_left_alone() {
    root_or_say_so!();
    let underlay = Underlay::new();
    let mut host = underlay.host(1);
    for kind in ["tuntap add shoal0 mode tun", "link add shoal0 type bridge"] {
        host.shell(&format!("ip {kind}"));
        let answer = host.ask_any("up shoal0 51820 /run/shoal");
        assert!(answer.starts_with("err InterfaceNameTaken "), "{answer}");
        host.shell("ip link show shoal0 && ip link del shoal0");
    }
}

#[test]
fn a_port_that_is_taken_is_named_and_the_vain_device_goes_again() {
    root_or_say_so!();
    let underlay = Underlay::new();
    let mut host = underlay.host(1);
    host.ask("up shoal1 51820 /run/other");
    let answer = host.ask_any("up shoal0 51820 /run/shoal");
    assert!(answer.starts_with("err ListenPortTaken "), "{answer}");
    assert!(!host.shell_status("ip link show shoal0"));
}

#[test]
fn a_prefix_that_the_host_routes_elsewhere_is_refused_by_name() {
    root_or_say_so!();
    let underlay = Underlay::new();
    let mut host = underlay.host(1);
    host.shell("ip route add 10.0.0.0/8 via 192.0.2.254");
    let answer = host.ask_any("overlap 10.90.0.0/16");
    assert!(answer.starts_with("err PrefixOverlapError "), "{answer}");
    assert!(answer.contains("10.0.0.0/8 via underlay"), "{answer}");
    host.shell("ip route del 10.0.0.0/8 && ip route add default via 192.0.2.254");
    assert_eq!(host.ask_any("overlap 10.90.0.0/16"), "ok ");
    host.shell("ip route add blackhole 10.90.7.0/24 table 77");
    let answer = host.ask_any("overlap 10.90.0.0/16");
    assert!(answer.contains("10.90.7.0/24 via no interface"), "{answer}");
}

#[test]
fn a_device_process_stays_small() {
    root_or_say_so!();
    let (one, _two, _underlay) = joined_pair();
    one.ping("fd5a::2", 200, 0.002).expect_no_loss();
    let status = one.shell(&format!("grep VmRSS /proc/{}/status", one.device_pid()));
    let rss_kb: u32 = status.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("device process: {rss_kb} kB resident");
    // 24 MB is twice what the unoptimised test build takes; a leak or a pool would show.
    assert!(rss_kb < 24 << 10, "{rss_kb} kB");
}

fn joined_pair() -> (Host, Host, Underlay) {
    let underlay = Underlay::new();
    let (mut one, mut two) = (underlay.host(1), underlay.host(2));
    let keys = [one.bring_up(), two.bring_up()];
    for (host, peer, node) in [(&mut one, &keys[1], 2), (&mut two, &keys[0], 1)] {
        host.ask(&format!(
            "peer {peer} 192.0.2.{node}:51820 fd5a::{node}/128,10.90.0.{node}/32"
        ));
        host.ask("apply");
    }
    (one, two, underlay)
}
