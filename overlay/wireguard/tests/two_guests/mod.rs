//! Two machines with Debian's kernel on one wire: the overlay between two real kernels.
//!
//! `One` is a machine of its own. `Two` is another; its end of the wire is in a bridge, with a third
//! host in a namespace behind it, which `One` reaches on the same wire.

use std::{fmt::Write as _, time::Instant};

use Member::{One, Three, Two};

use super::guest::{Means, image::Contents, line::Guest};
use crate::host::{stand_in, until};

#[test]
fn two_kernels_carry_the_overlay_between_them() {
    let Some(means) = Means::or_say_so("two_kernels_carry_the_overlay_between_them") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let program = stand_in();
    let contents = Contents {
        programs: &[
            "sh", "sleep", "unshare", "nsenter", "ip", "ping", "nft", "grep", "cat", "ls",
        ],
        modules: &[
            "virtio_pci",
            "virtio_net",
            "virtio_console",
            "wireguard",
            "veth",
            "bridge",
            "nf_tables",
            "nft_ct",
        ],
        ours: &[(program.as_path(), "stand-in")],
    };
    let started = Instant::now();
    let mut mesh = Mesh {
        guests: Guest::pair(&means, &contents, folder.path()),
        keys: Default::default(),
    };
    mesh.join();
    println!("two guests are joined ({} ms)", millis(started));
    for (claim, check) in CLAIMS {
        let started = Instant::now();
        check(&mut mesh);
        println!("two guests: {claim} ({} ms)", millis(started));
    }
}

fn millis(since: Instant) -> u128 {
    since.elapsed().as_millis()
}

type Check = fn(&mut Mesh);

const CLAIMS: [(&str, Check); 10] = [
    ("they reach each other in both families", both_families),
    (
        "a packet of 1420 bytes passes in one piece over either underlay, larger ones in several",
        largest_packet,
    ),
    (
        "a host behind one of them is told how large a packet may be",
        host_behind,
    ),
    (
        "a neighbour on the wire reaches no overlay address in clear",
        fenced,
    ),
    (
        "a denied connection does not arrive, an allowed one does",
        filtered,
    ),
    (
        "a key is replaced three times under one connection, which loses nothing",
        replaced_key,
    ),
    (
        "a third host is reached by a hub, and only by a hub",
        by_a_hub,
    ),
    (
        "an address moves between hosts and connections follow it",
        moved_address,
    ),
    (
        "a restarted daemon adopts the link with its session",
        adopted,
    ),
    ("down leaves nothing behind", nothing_left),
];

fn both_families(mesh: &mut Mesh) {
    for (from, to) in [(One, "2"), (Two, "1")] {
        mesh.ping(from, &format!("fd5a::{to}"));
        mesh.ping(from, &format!("10.90.0.{to}"));
    }
    for member in [One, Two] {
        let link = mesh.shell(member, "ip -d link show shoal0");
        assert!(
            link.contains("wireguard") && link.contains("mtu 1420"),
            "{link}"
        );
        assert_eq!(mesh.apply(member), "0", "all is found as it was written");
    }
}

/// 1420 bytes are what is left of 1500 after WireGuard's own and the larger of the two headers.
fn largest_packet(mesh: &mut Mesh) {
    // What an echo request has besides its payload.
    let sizes = [("10.90.0.2", 1420 - 28), ("fd5a::2", 1420 - 48)];
    for (endpoint, steps) in [("192.0.2.2:51820", "0"), ("[2001:db8::2]:51820", "1")] {
        let line = format!("peer {} {endpoint} fd5a::2/128,10.90.0.2/32", mesh.key(Two));
        mesh.ask(One, &line);
        assert_eq!(mesh.apply(One), steps);
        assert!(mesh.ask(One, "peers").contains(endpoint));
        let before = mesh.cut_packets(One);
        for (address, largest) in sizes {
            let (passed, said) = mesh.sized(One, address, "do", largest);
            assert!(passed, "{address} over {endpoint}: {said}");
            let (passed, said) = mesh.sized(One, address, "do", largest + 1);
            assert!(!passed, "{address} over {endpoint}: {said}");
            let said = said.to_lowercase();
            assert!(said.contains("message too long"), "{said}");
        }
        assert_eq!(
            mesh.cut_packets(One),
            before,
            "nothing was cut, inside or outside"
        );
        for (address, _) in sizes {
            let (passed, said) = mesh.sized(One, address, "dont", 3000);
            assert!(passed, "{address} over {endpoint}: {said}");
        }
        let after = mesh.cut_packets(One);
        assert!(
            (0..2).all(|family| after[family] > before[family]),
            "{before:?} {after:?}"
        );
    }
}

/// Whoever has the overlay's host as a router learns the size of the overlay's packets (RFC 1191).
fn host_behind(mesh: &mut Mesh) {
    mesh.shell(
        One,
        "unshare --net sh -c 'echo $$ >/run/behind.pid; exec sleep infinity' >/dev/null 2>&1 &",
    );
    mesh.until_shell(One, "test -s /run/behind.pid");
    mesh.shell(
        One,
        "ip link add lan type veth peer name lan netns $(cat /run/behind.pid) && \
         ip addr add 192.168.77.1/24 dev lan && ip link set lan up && \
         echo 1 >/proc/sys/net/ipv4/conf/all/forwarding",
    );
    let inside = "nsenter --net --target $(cat /run/behind.pid)";
    mesh.shell(
        One,
        &format!(
            "{inside} ip addr add 192.168.77.2/24 dev lan && {inside} ip link set lan up && \
             {inside} ip route add default via 192.168.77.1"
        ),
    );
    mesh.ask(Two, "route 192.168.77.0/24");
    let line = mesh.line(One, &["192.168.77.0/24"]);
    mesh.ask(Two, &line);
    assert_eq!(mesh.apply(Two), "2");
    mesh.until_shell(One, &format!("{inside} ping -c 1 -W 1 192.168.77.1"));
    let mut sized = |discovery: &str, payload: u32| {
        mesh.run(
            One,
            &format!("{inside} ping -n -c 1 -W 5 -M {discovery} -s {payload} 10.90.0.2"),
        )
    };
    let (passed, said) = sized("do", 1420 - 28);
    assert!(passed, "{said}");
    let (passed, said) = sized("do", 1500 - 28);
    assert!(!passed && said.contains("mtu = 1420"), "{said}");
    let (passed, said) = sized("dont", 1500 - 28);
    assert!(passed, "what may be cut is: {said}");
    mesh.ask(Two, "unroute 192.168.77.0/24");
    let line = mesh.line(One, &[]);
    mesh.ask(Two, &line);
    assert_eq!(mesh.apply(Two), "2");
    mesh.shell(One, "kill $(cat /run/behind.pid)");
}

fn fenced(mesh: &mut Mesh) {
    mesh.shell(
        One,
        "ip -6 route add fd5a::2/128 via 2001:db8::2 dev eth0 && \
         ip route add 10.90.0.2/32 via 192.0.2.2 dev eth0",
    );
    let reached = |mesh: &mut Mesh, from: &str, to: &str| {
        let script = format!("ping -n -c 1 -W 2 -I {from} {to}");
        mesh.run(One, &script).0
    };
    let in_clear = [("2001:db8::1", "fd5a::2"), ("192.0.2.1", "10.90.0.2")];
    for (from, to) in in_clear {
        assert!(reached(mesh, from, to), "without a fence Linux answers");
    }
    mesh.ask(Two, &format!("fence {HOME}"));
    for (from, to) in in_clear {
        assert!(!reached(mesh, from, to), "{to} from {from}");
    }
    assert!(reached(mesh, "192.0.2.1", "192.0.2.2"), "the wire itself");
    mesh.shell(
        One,
        "ip -6 route del fd5a::2/128 via 2001:db8::2 dev eth0 && \
         ip route del 10.90.0.2/32 via 192.0.2.2 dev eth0",
    );
    both_families(mesh);
}

fn filtered(mesh: &mut Mesh) {
    for port in ["9001", "9002"] {
        mesh.serve(Two, port, port);
    }
    let outcome = |mesh: &mut Mesh, filter: &str| {
        mesh.ask(Two, filter);
        let mut reached = String::new();
        for address in ["fd5a::2", "10.90.0.2"] {
            for port in ["9001", "9002"] {
                let answer = mesh.answer_at(One, address, port);
                write!(reached, "{} ", answer.as_deref().unwrap_or("-")).unwrap();
            }
        }
        reached
    };
    let all = "9001 9002 9001 9002 ";
    let one_of_two = "9001 - 9001 - ";
    assert_eq!(outcome(mesh, &format!("fence {HOME}")), all);
    let shut = format!("filter {HOME} deny allow:9001");
    assert_eq!(outcome(mesh, &shut), one_of_two);
    // What did not arrive was dropped in this guest, and nowhere before.
    let table = mesh.shell(Two, "nft list table inet shoal_filter");
    let dropping = |line: &&str| line.contains("drop") && !line.contains("packets 0 ");
    let chain = table
        .split("chain ")
        .find(|chain| chain.starts_with("to_host"));
    assert!(
        chain.is_some_and(|chain| chain.lines().any(|line| dropping(&line))),
        "{table}"
    );
    let shut = format!("filter {HOME} deny:9002");
    assert_eq!(outcome(mesh, &shut), one_of_two);
    assert_eq!(outcome(mesh, &format!("fence {HOME}")), all);
}

/// As the daemons do it: the other end has the next key for a peer before it is taken.
fn replaced_key(mesh: &mut Mesh) {
    // It would shut its half of the connection if it had nothing to wait for itself.
    mesh.shell(
        Two,
        "{ sleep infinity | busybox nc -l -p 9100 >/run/got; } >/dev/null 2>&1 &",
    );
    mesh.until_listens(Two, "9100");
    mesh.shell(
        One,
        "{ { i=0; until test -e /run/enough; do i=$((i + 1)); echo $i; busybox usleep 10000; done; \
         echo end; } | busybox nc 10.90.0.2 9100; } >/dev/null 2>&1 &",
    );
    let mut arrived = 0;
    for round in 0..3 {
        until_more_has_arrived(mesh, &mut arrived);
        let old = mesh.key(Two);
        let new = mesh.ask(Two, "newkey");
        assert_ne!(new, old);
        mesh.ask(One, &format!("peer {new} 192.0.2.2:51820 -"));
        assert_eq!(mesh.apply(One), "1", "a peer without addresses");
        let began = Instant::now();
        assert_eq!(mesh.ask(Two, "takekey"), new);
        mesh.keys[Two as usize].clone_from(&new);
        mesh.ask(One, &format!("forget {old}"));
        let line = mesh.line(Two, &[]);
        mesh.ask(One, &line);
        assert_eq!(
            mesh.apply(One),
            "2",
            "one goes, the other gets its addresses"
        );
        until_more_has_arrived(mesh, &mut arrived);
        println!(
            "two guests: new key {round}: bytes flow after {} ms",
            millis(began)
        );
    }
    mesh.shell(One, "echo enough >/run/enough");
    mesh.until_shell(Two, "grep -qx end /run/got");
    // Each line once, in order: TCP's promise for one connection, and nc makes one.
    let whole = "busybox awk '$1 == \"end\" {ended = NR; next} $1 != NR {exit 1} \
                 END {if (ended != NR) exit 1}' /run/got";
    assert!(
        mesh.run(Two, whole).0,
        "{}",
        mesh.shell(Two, "cat /run/got")
    );
    println!("two guests: one connection carried {arrived} lines and more");
    mesh.ping(Two, "fd5a::1");
}

/// Waits until the connection has carried what was sent after it had carried `arrived` lines.
fn until_more_has_arrived(mesh: &mut Mesh, arrived: &mut u64) {
    let before = *arrived;
    until("more has arrived", || {
        let lines = mesh.shell(Two, "busybox wc -l </run/got");
        *arrived = lines.parse().unwrap();
        *arrived > before + 20
    });
}

fn by_a_hub(mesh: &mut Mesh) {
    mesh.bring_up(Three);
    let (to_three, to_one) = (
        mesh.line(Two, &["fd5a::3/128", "10.90.0.3/32"]),
        mesh.line(Two, &["fd5a::1/128", "10.90.0.1/32"]),
    );
    let three = mesh.line(Three, &[]);
    for (member, line) in [(One, to_three), (Two, three), (Three, to_one)] {
        mesh.ask(member, &line);
        mesh.apply(member);
    }
    mesh.ping(Three, "fd5a::2");
    // Its kernel would forward; its packet filter does not let it.
    mesh.shell(
        Two,
        "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding && \
         echo 1 >/proc/sys/net/ipv4/conf/shoal0/forwarding",
    );
    let far = ["fd5a::3", "10.90.0.3"];
    for address in far {
        assert_eq!(mesh.hops_left(One, address), None, "{address}");
    }
    mesh.ask(Two, &format!("filter {HOME} hub"));
    for address in far {
        assert_eq!(mesh.hops_left(One, address), Some(63), "{address}");
    }
    for (member, peer) in [(One, Three), (Three, One)] {
        for line in [mesh.line(Two, &[]), mesh.line(peer, &[])] {
            mesh.ask(member, &line);
        }
        assert_eq!(mesh.apply(member), "2");
    }
    for address in far {
        assert_eq!(mesh.hops_left(One, address), Some(64), "{address}");
    }
}

/// Two and Three both have the address, as in a takeover gone wrong; One believes one of them.
fn moved_address(mesh: &mut Mesh) {
    for (holder, name) in [(Two, "two"), (Three, "three")] {
        mesh.shell(
            holder,
            &format!("ip -6 addr add {VIP}/128 dev shoal0 nodad"),
        );
        mesh.until_shell(
            holder,
            &format!("ip -6 route show table local | grep -q {VIP}"),
        );
        mesh.serve(holder, "9200", name);
    }
    mesh.shell(
        One,
        "ping -n -c 300 -i 0.02 -W 5 fd5a::2 >/run/bystander 2>&1 &",
    );
    for (holder, other, name) in [(Two, Three, "two"), (Three, Two, "three")].repeat(2) {
        for line in [
            mesh.line(holder, &[&format!("{VIP}/128")]),
            mesh.line(other, &[]),
        ] {
            mesh.ask(One, &line);
        }
        mesh.apply(One);
        assert_eq!(mesh.answer_at(One, VIP, "9200").as_deref(), Some(name));
        let mut as_vip = |member| {
            let script = format!("ping -n -c 1 -W 2 -I {VIP} fd5a::1");
            mesh.run(member, &script).0
        };
        assert!(as_vip(holder), "{name} is heard");
        assert!(!as_vip(other), "nobody else is");
    }
    mesh.until_shell(One, "grep -q 'packet loss' /run/bystander");
    let bystander = mesh.shell(One, "cat /run/bystander");
    assert!(bystander.contains(" 0% packet loss"), "{bystander}");
}

fn adopted(mesh: &mut Mesh) {
    // A session that has just begun: WireGuard replaces each after two minutes.
    let forget = format!("forget {}", mesh.key(Two));
    for line in [forget, mesh.line(Two, &[])] {
        mesh.ask(One, &line);
        assert_eq!(mesh.apply(One), "1");
    }
    mesh.ping(One, "fd5a::2");
    let before = mesh.handshake(One, Two);
    let key = mesh.key(One);
    mesh.shell(One, "kill -9 $(cat /run/1.pid)");
    mesh.bring_up(One);
    assert_eq!(mesh.key(One), key);
    for line in [
        mesh.line(Two, &[]),
        mesh.line(Three, &[&format!("{VIP}/128")]),
    ] {
        mesh.ask(One, &line);
    }
    assert_eq!(mesh.apply(One), "0", "everything is found as it was left");
    mesh.ping(One, "fd5a::2");
    assert_eq!(mesh.handshake(One, Two), before, "the same session");
}

fn nothing_left(mesh: &mut Mesh) {
    for member in [One, Two, Three] {
        mesh.ask(member, "down");
        assert!(!mesh.run(member, "ip link show shoal0").0);
        assert_eq!(mesh.shell(member, "ip -4 route show 10.90.0.0/16"), "");
    }
    assert_eq!(mesh.shell(Two, "nft list tables"), "");
}

/// A network by name, and its prefixes.
const HOME: &str = "home fd5a::/64,10.90.0.0/16";
const VIP: &str = "fd5a::f:1";

/// Says a line to the stand-in of a node, and what it answers.
const ASK: &str = "echo \"$2\" >/run/$1.in; IFS= read -r answer </run/$1.out; echo \"$answer\"";
/// A stand-in takes a fraction of this.
const ANSWERS_WITHIN_S: u32 = 40;

/// A host of the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    One,
    Two,
    Three,
}

impl Member {
    /// 192.0.2.`node` below, fd5a::`node` and 10.90.0.`node` above.
    fn node(self) -> usize {
        self as usize + 1
    }
}

struct Mesh {
    guests: [Guest; 2],
    keys: [String; 3],
}

impl Mesh {
    /// Puts the wire into use, and One and Two into the overlay.
    fn join(&mut self) {
        self.shell(
            One,
            "ip link set lo up && ip link set eth0 up && ip addr add 192.0.2.1/24 dev eth0 && \
             ip addr add 2001:db8::1/64 dev eth0 nodad",
        );
        self.shell(
            Two,
            "unshare --net sh -c 'echo $$ >/run/three.pid; exec sleep infinity' >/dev/null 2>&1 &",
        );
        self.until_shell(Two, "test -s /run/three.pid");
        self.shell(
            Two,
            "ip link set lo up && ip link add bridge type bridge && \
             ip link set eth0 master bridge up && ip addr add 192.0.2.2/24 dev bridge && \
             ip addr add 2001:db8::2/64 dev bridge nodad && ip link set bridge up && \
             ip link add three type veth peer name wire netns $(cat /run/three.pid) && \
             ip link set three master bridge up",
        );
        self.shell(
            Three,
            "ip link set lo up && ip addr add 192.0.2.3/24 dev wire && ip link set wire up",
        );
        for address in ["192.0.2.2", "192.0.2.3", "2001:db8::2"] {
            self.until_shell(One, &format!("ping -n -c 1 -W 1 {address}"));
        }
        for member in [One, Two] {
            self.shell(member, &format!("echo '{ASK}' >/ask"));
            self.bring_up(member);
        }
        for (member, peer) in [(One, Two), (Two, One)] {
            let line = self.line(peer, &[]);
            self.ask(member, &line);
            self.apply(member);
        }
    }

    /// Starts a stand-in of the daemon, and has it bring its interface up and addressed.
    fn bring_up(&mut self, member: Member) {
        let node = member.node();
        self.shell(
            member,
            &format!(
                "cd /run && busybox rm -f {node}.in {node}.out && \
                 busybox mkfifo {node}.in {node}.out || exit 1; \
                 /stand-in 0<>{node}.in 1<>{node}.out 2>>{node}.log & echo $! >{node}.pid"
            ),
        );
        let answer = self.ask(member, &format!("up shoal0 51820 /run/shoal-{node}"));
        let key = answer.strip_prefix("Kernel ");
        self.keys[member as usize] = key.unwrap_or_else(|| panic!("{answer}")).to_owned();
        for line in [
            format!("address fd5a::{node}"),
            format!("address 10.90.0.{node}"),
            "route fd5a::/64".to_owned(),
            "route 10.90.0.0/16".to_owned(),
        ] {
            self.ask(member, &line);
        }
    }

    fn key(&self, member: Member) -> String {
        self.keys[member as usize].clone()
    }

    /// The line by which a stand-in is told of `peer`, with addresses besides its own.
    fn line(&self, peer: Member, also: &[&str]) -> String {
        let node = peer.node();
        let mut line = format!(
            "peer {} 192.0.2.{node}:51820 fd5a::{node}/128,10.90.0.{node}/32",
            self.key(peer)
        );
        for prefix in also {
            write!(line, ",{prefix}").unwrap();
        }
        line
    }

    /// How many steps it took.
    #[track_caller]
    fn apply(&mut self, member: Member) -> String {
        self.ask(member, "apply")
    }

    /// Sends a stand-in a line that must succeed.
    #[track_caller]
    fn ask(&mut self, member: Member, line: &str) -> String {
        let node = member.node();
        let script = format!(
            "busybox timeout {ANSWERS_WITHIN_S} /bin/sh /ask {node} '{line}' || cat /run/{node}.log"
        );
        let (_, answer) = self.run(member, &script);
        let rest = answer.strip_prefix("ok");
        let rest = rest.unwrap_or_else(|| panic!("{member:?}: {line}: {answer}"));
        rest.trim().to_owned()
    }

    /// When a member's last handshake with a peer was, as its kernel says.
    fn handshake(&mut self, member: Member, peer: Member) -> String {
        let (peers, key) = (self.ask(member, "peers"), self.key(peer));
        let told = peers.split(' ').find_map(|told| told.strip_prefix(&key));
        let at = told.unwrap().strip_prefix('=').unwrap().split(',').next();
        at.unwrap().to_owned()
    }

    /// Whether a script succeeds, and what it wrote.
    #[track_caller]
    fn run(&mut self, member: Member, script: &str) -> (bool, String) {
        match member {
            One => self.guests[0].run(script),
            Two => self.guests[1].run(script),
            Three => {
                let quoted = script.replace('\'', "'\\''");
                let inside = "nsenter --net --target $(cat /run/three.pid)";
                self.guests[1].run(&format!("{inside} sh -c '{quoted}'"))
            }
        }
    }

    #[track_caller]
    fn shell(&mut self, member: Member, script: &str) -> String {
        let (succeeded, output) = self.run(member, script);
        assert!(succeeded, "{member:?}: {script}: {output}");
        output
    }

    #[track_caller]
    fn until_shell(&mut self, member: Member, script: &str) {
        until(script, || self.run(member, script).0);
    }

    #[track_caller]
    fn ping(&mut self, member: Member, address: &str) {
        let said = self.shell(
            member,
            &format!("ping -n -c 3 -i 0.05 -W 5 {address} || true"),
        );
        assert!(said.contains(" 0% packet loss"), "{member:?}: {said}");
    }

    /// An echo request with so many bytes of payload, and whether it may be cut.
    fn sized(
        &mut self,
        member: Member,
        address: &str,
        discovery: &str,
        payload: u32,
    ) -> (bool, String) {
        self.run(
            member,
            &format!("ping -n -c 1 -W 5 -M {discovery} -s {payload} {address}"),
        )
    }

    /// How often an answer may still be passed on; 64 where nobody has. `None` without an answer.
    fn hops_left(&mut self, member: Member, address: &str) -> Option<u8> {
        let (_, said) = self.run(member, &format!("ping -n -c 1 -W 2 {address}"));
        let (_, rest) = said.split_once("ttl=")?;
        rest.split_whitespace().next()?.parse().ok()
    }

    /// How many pieces the member's kernel has cut packets into, IPv4 and IPv6.
    fn cut_packets(&mut self, member: Member) -> [u64; 2] {
        let told = self.shell(member, "cat /proc/net/snmp /proc/net/snmp6");
        let mut ip = told.lines().filter(|line| line.starts_with("Ip: "));
        let (names, values) = (ip.next().unwrap(), ip.next().unwrap());
        let place = names.split(' ').position(|name| name == "FragCreates");
        let ipv4 = values.split(' ').nth(place.unwrap()).unwrap();
        let ipv6 = told
            .lines()
            .find_map(|line| line.strip_prefix("Ip6FragCreates"));
        [ipv4, ipv6.unwrap()].map(|number| number.trim().parse().unwrap())
    }

    /// Answers connections to a port with a word until the guest ends.
    fn serve(&mut self, member: Member, port: &str, word: &str) {
        self.shell(
            member,
            &format!("busybox nc -ll -p {port} -e busybox echo {word} >/dev/null 2>&1 &"),
        );
        self.until_listens(member, port);
    }

    /// 0A is TCP_LISTEN.
    fn until_listens(&mut self, member: Member, port: &str) {
        let port: u16 = port.parse().unwrap();
        let listens = format!("grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6");
        self.until_shell(member, &listens);
    }

    /// What somebody who listens at a port says; `None` when nobody does within two seconds.
    fn answer_at(&mut self, member: Member, address: &str, port: &str) -> Option<String> {
        let script = format!("busybox nc -w 2 {address} {port} </dev/null");
        let (succeeded, said) = self.run(member, &script);
        (succeeded && !said.is_empty()).then_some(said)
    }
}
