//! A virtual IP on real processes: whatever happens to its holder, it is served again, and never by
//! two.
//!
//! Every node watches the address each millisecond; what all of them saw is judged at each test's
//! end. How long nobody answered is printed and asserted nowhere: it is the bench that measures.

use std::{collections::BTreeSet, io::Write as _, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, Micros, Node, Observers, Process, text, wait_until};

/// Longer than any move takes, also where it waits for suspicion and for an election, on a machine
/// that builds at the same time.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a holder gets little of the processor: several leases.
const STARVED_US: u64 = 3_000_000;
/// How many ask for a page at the same time: each waits for a second when its packet is lost.
const CLIENTS: usize = 8;
/// Who may hold the address where it is moved on request.
const CANDIDATES: [&str; 3] = ["s1", "s2", "s3"];
/// Where candidates serve a page.
const PAGES: &str = "8080";
/// In the command line of a WireGuard device that is a process, and of nothing else.
const DEVICE: &str = "wireguard-device";

/// Something done to a host.
type Fault = fn(&Host);

/// A mesh with a virtual IP `web`, watched by every node.
pub(crate) struct Watched {
    pub(crate) mesh: Mesh,
    /// A node that nothing is done to.
    calm: &'static str,
    pub(crate) observers: Observers,
    address: String,
    moves: u32,
}

fn say(line: &str) {
    // Not eprintln: the test runner would hide it, as the test passes.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn epoch(shown: &Value) -> u64 {
    shown["epoch"].as_u64().expect("it has an epoch")
}

impl Watched {
    #[track_caller]
    pub(crate) fn new(mesh: Mesh, calm: &'static str, candidates: &str, profile: &str) -> Self {
        let create = ["vip", "create", "web", "--network", "default"];
        let flags = ["--candidates", candidates, "--profile", profile];
        let host = &mesh.node(calm).host;
        host.shoal(&[create.as_slice(), &flags].concat()).ok();
        let shown = host.shoal_json(&["vip", "show", "web"]);
        let mut observers = Observers::of(&shown);
        for node in &mesh.nodes {
            observers.post(&node.host);
        }
        let mut watched = Self {
            address: text(&shown, "address"),
            mesh,
            calm,
            observers,
            moves: 0,
        };
        watched.wait_until_served(None);
        watched
    }

    pub(crate) fn host(&self, name: &str) -> Host {
        self.mesh.node(name).host.clone()
    }

    #[track_caller]
    pub(crate) fn show(&self) -> Value {
        self.host(self.calm).shoal_json(&["vip", "show", "web"])
    }

    /// Asks for it to be moved, to any other if none is named.
    #[track_caller]
    fn ask_to_move(&self, to: Option<&str>) {
        let to = to.map(|to| ["--to", to]);
        let ask: Vec<&str> = ["vip", "failover", "web"]
            .into_iter()
            .chain(to.into_iter().flatten())
            .collect();
        let host = self.host(self.calm);
        wait_until(SOON, "a move is asked for", || host.shoal(&ask).success());
    }

    /// All nodes, but one.
    pub(crate) fn all_but(&self, absent: Option<&str>) -> Vec<String> {
        let names = self.mesh.nodes.iter().map(|node| node.name().to_owned());
        names.filter(|name| Some(name.as_str()) != absent).collect()
    }

    /// Waits until all, but one, are answered by whom the mesh says it is.
    #[track_caller]
    pub(crate) fn wait_until_served(&mut self, absent: Option<&str>) -> Value {
        let (since, among) = (Micros::now(), self.all_but(absent));
        let mut shown = Value::Null;
        wait_until(SOON, "its holder serves it", || {
            shown = self.show();
            self.observers.learn(&shown);
            let holder = shown["holder"].as_str();
            holder.is_some_and(|holder| self.observers.agree(&among, since, holder))
        });
        shown
    }

    /// Does something to its holder that is bad for it, and waits until another one serves it to all
    /// others. Returns whom it was done to.
    #[track_caller]
    fn moves_when(&mut self, what: &str, act: impl FnOnce(&Self, &str)) -> String {
        let before = self.wait_until_served(None);
        let holder = text(&before, "holder");
        self.moves_from(what, &before, Some(&holder), act);
        holder
    }

    /// Has it moved on request, to any other if none is named.
    #[track_caller]
    fn moves_on_request(&mut self, what: &str, to: Option<&str>) {
        let before = self.wait_until_served(None);
        self.moves_from(what, &before, None, |web, _| web.ask_to_move(to));
    }

    #[track_caller]
    pub(crate) fn moves_from(
        &mut self,
        what: &str,
        before: &Value,
        absent: Option<&str>,
        act: impl FnOnce(&Self, &str),
    ) {
        let holder = text(before, "holder");
        let from = Micros::now();
        act(self, &holder);
        wait_until(SOON, &format!("another one has it after {what}"), || {
            let after = self.show();
            self.observers.learn(&after);
            after["holder"].as_str().is_some_and(|to| to != holder) && epoch(&after) > epoch(before)
        });
        self.wait_until_served(absent);
        self.moves += 1;
        self.report(&format!("{what}, {holder}"), absent, from);
    }

    pub(crate) fn report(&self, what: &str, absent: Option<&str>, from: Micros) {
        let (among, span) = (self.all_but(absent), from..Micros::now());
        let outages = self.observers.outages(&among, &span);
        say(&format!("  {what}: nobody answered {outages}"));
    }

    /// Starts again what was killed, and waits until it might hold the address.
    #[track_caller]
    pub(crate) fn restart(&mut self, name: &str) {
        self.mesh.node_mut(name).restart_daemon();
        self.wait_until_fit(name, true);
    }

    #[track_caller]
    pub(crate) fn wait_until_fit(&mut self, name: &str, fit: bool) {
        let word = if fit { "fit" } else { "unfit" };
        wait_until(SOON, &format!("{name} is {word}"), || {
            let shown = self.show();
            let rows = shown["readiness"].as_array().cloned().unwrap_or_default();
            let row = rows.into_iter().find(|row| row["node"] == name);
            row.is_none_or(|row| row["fit"] == fit)
        });
        self.mesh
            .node(name)
            .host
            .wait_for_status(SOON, "it is back", |status| {
                status["leader"].is_string() && status["reachable"] == self.mesh.nodes.len()
            });
    }

    #[track_caller]
    pub(crate) fn kill(&self, name: &str) {
        self.mesh.node(name).daemon.kill9();
        self.host(name).kill_program(DEVICE);
    }

    /// What all of them saw, from the first moment.
    #[track_caller]
    pub(crate) fn judge(mut self, name: &str) {
        let shown = self
            .host(self.calm)
            .shoal(&["vip", "show", "web", "--json"]);
        if shown.success() {
            self.observers.learn(&shown.json());
        }
        let judged = self.observers.judge();
        let (moves, answers) = (self.moves, judged.answers);
        say(&format!(
            "  {name}: {moves} moves, {answers} answers, {} overlaps, {} stale",
            judged.overlaps.len(),
            judged.stale.len()
        ));
        assert!(judged.overlaps.is_empty(), "{:?}", judged.overlaps);
        assert!(judged.stale.is_empty(), "{:?}", judged.stale);
    }
}

#[test]
fn a_vip_of_the_dead_is_served_by_another() {
    let Some(lab) = Lab::for_test("vip-dead") else {
        return;
    };
    let mut web = Watched::new(Mesh::new(&lab, 3, 1), "a1", "s2,s3,s1", "lan");
    for _ in 0..2 {
        let killed = web.moves_when("killed", |web, holder| web.kill(holder));
        web.restart(&killed);
    }
    let off = web.moves_when("powered off", |web, holder| web.host(holder).power_off());
    web.host(&off).power_on();
    web.restart(&off);
    let host = web.host(&off);
    web.observers.post(&host);
    for _ in 0..2 {
        let leader = web.mesh.leader_seen_by("a1");
        if web.wait_until_served(None)["holder"] != *leader {
            web.moves_on_request("moved to the leader", Some(&leader));
        }
        let killed = web.moves_when("killed with the leader", |web, holder| web.kill(holder));
        web.restart(&killed);
    }
    // Whether it keeps the address or loses it, is its luck.
    for _ in 0..2 {
        let holder = text(&web.wait_until_served(None), "holder");
        let from = Micros::now();
        web.mesh.node(&holder).daemon.kill9();
        web.restart(&holder);
        web.wait_until_served(None);
        web.report("daemon started again", None, from);
    }
    web.judge("dead");
}

#[test]
fn a_vip_of_one_that_stalls_or_is_cut_off_is_served_by_another_alone() {
    let Some(lab) = Lab::for_test("vip-cut") else {
        return;
    };
    let mut web = Watched::new(Mesh::new(&lab, 3, 1), "a1", "s1,s2,s3", "lan");
    for _ in 0..2 {
        let stopped = web.moves_when("stopped", |web, holder| {
            web.mesh.node(holder).daemon.process().signal(Signal::STOP);
        });
        web.mesh
            .node(&stopped)
            .daemon
            .process()
            .signal(Signal::CONT);
        web.wait_until_fit(&stopped, true);
    }
    let (one_way, both) = (Host::heal_one_way as Fault, Host::heal as Fault);
    let ways: [(&str, Fault, Fault); 4] = [
        ("cut off", Host::cut, both),
        ("cut off, what it sends", Host::cut_outgoing, one_way),
        ("cut off, what it is sent", Host::cut_incoming, one_way),
        ("cut off again", Host::cut, both),
    ];
    for (what, cut, heal) in ways {
        let host = web.moves_when(what, |web, holder| cut(&web.host(holder)));
        heal(&web.host(&host));
        web.wait_until_fit(&host, true);
    }
    web.wait_until_served(None);
    web.judge("cut");
}

/// Three servers, the last of which has a disk that can be filled, and two agents.
#[track_caller]
fn with_a_small_disk(lab: &Lab) -> Mesh {
    let mut mesh = Mesh::new(lab, 2, 0);
    let host = lab.host("s3");
    host.limit_disk(96);
    let daemon = host.daemon(&[]);
    let token = mesh.token("s3.token", &["--role", "server"]);
    host.shoal(&["join", "--token-file", &token]).ok();
    mesh.nodes.push(Node { host, daemon });
    mesh.add(lab, "a1", "agent");
    mesh.add(lab, "a2", "agent");
    mesh.wait_until_settled(3);
    mesh
}

#[test]
fn a_vip_moves_although_a_voter_cannot_write_a_processor_is_taken_or_rules_are_rewritten() {
    let Some(lab) = Lab::for_test("vip-pressure") else {
        return;
    };
    let mut web = Watched::new(with_a_small_disk(&lab), "s1", "a1,a2", "lan");
    let starved = text(&web.wait_until_served(None), "holder");
    let (host, from) = (web.host(&starved), Micros::now());
    let spinners = host.starve(&["shoald"]);
    // It may lose the address or not.
    wait_until(SOON, "the fault has lasted", || {
        Micros::now().since(from) > STARVED_US
    });
    host.feed(&["shoald"], spinners);
    web.report("starved", Some(&starved), from);

    let storms = ["a1", "a2"].map(|name| web.host(name).rewrite_firewall());
    for _ in 0..4 {
        web.moves_on_request("moved while rules are rewritten", None);
    }
    storms.iter().for_each(Process::kill9);

    let voter = web.host("s3");
    let killed = web.moves_when("killed while a voter's disk is full", |web, holder| {
        voter.fill_disk();
        web.kill(holder);
    });
    let log = voter.log("shoald");
    assert!(
        log.contains("No space left"),
        "the disk was never full: {log}"
    );
    voter.free_disk();
    web.restart(&killed);
    web.wait_until_served(None);
    web.judge("pressure");
}

/// Starts a server's daemon again with an eBPF gate, or says that the kernel is too old for one.
#[track_caller]
fn guard_by_ebpf(mesh: &mut Mesh, name: &str) {
    let node = mesh.node_mut(name);
    let host = node.host.clone();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux has it");
    let numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let version: Vec<u32> = numbers.take(2).map_while(Result::ok).collect();
    let offered = version.as_slice() >= [6, 6].as_slice();
    if offered {
        // Network namespaces share the machine's.
        host.sh("mount -t bpf bpf /sys/fs/bpf").ok();
    }
    let status = node.daemon.stop();
    assert!(status.success(), "{status}");
    let stood = |log: &str| log.matches("the gate stands").count();
    let before = stood(&host.log("shoald"));
    node.daemon = host.daemon(&["--vip-gate", "ebpf"]);
    wait_until(SOON, "its gate stands", || {
        stood(&host.log("shoald")) > before
    });
    let log = host.log("shoald");
    let mut lines = log.lines().rev();
    let stands = lines.find(|line| line.contains("the gate stands"));
    let stands = stands.expect("it was waited for");
    if offered {
        assert!(stands.contains("eBPF program"), "{stands}");
    } else {
        say("  SKIPPED: this kernel (before 6.6) takes no eBPF gate; all candidates have nftables");
        assert!(stands.contains("nftables element"), "{stands}");
    }
    mesh.wait_until_settled(CANDIDATES.len());
}

/// Serves pages on a host.
fn serve_pages(host: &Host) -> Process {
    let port = format!("[::]:{PAGES}");
    host.spawn(&["busybox", "httpd", "-f", "-p", &port, "-h", "/tmp"])
}

#[test]
fn a_vip_moves_on_request_and_with_readiness_and_never_refuses_a_connection() {
    let Some(lab) = Lab::for_test("vip-planned") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 1);
    guard_by_ebpf(&mut mesh, "s2");
    let mut web = Watched::new(mesh, "a1", "s1,s2,s3", "safe");
    web.moves_on_request("moved to the gate with deadlines", Some("s2"));
    web.moves_on_request("moved from the gate with deadlines", Some("s1"));
    let mut servers = CANDIDATES.map(|name| serve_pages(&web.host(name)));
    refuses_no_connection_while_it_moves(&mut web);

    let check = format!("tcp:{PAGES}");
    web.host("a1").shoal(&["vip", "check", "web", &check]).ok();
    for name in CANDIDATES {
        web.wait_until_fit(name, true);
    }
    let unready = web.moves_when("its listener died", |_, holder| {
        let position = CANDIDATES.iter().position(|name| *name == holder);
        servers[position.expect("a candidate holds it")].kill9();
    });
    web.wait_until_fit(&unready, false);
    let position = CANDIDATES.iter().position(|name| *name == unready);
    servers[position.expect("it was a candidate")] = serve_pages(&web.host(&unready));
    let before = web.wait_until_served(None);
    web.wait_until_fit(&unready, true);
    let after = web.show();
    let moves = after["moves"].as_array().expect("moves are a list");
    let mut since = moves.iter().filter(|done| epoch(done) > epoch(&before));
    // On a machine as busy as this one a holder may fall silent; that is no failback.
    assert!(
        since.all(|done| done["reason"] == "its holder was not heard"),
        "it went back by itself: {after}"
    );
    stays_where_nobody_is_ready(&mut web, |_, name| {
        let position = CANDIDATES.iter().position(|candidate| *candidate == name);
        servers[position.expect("it is a candidate")].kill9();
    });
    is_gone_when_deleted(&web);
    web.judge("planned");
}

#[track_caller]
fn refuses_no_connection_while_it_moves(web: &mut Watched) {
    let url = format!("http://[{}]:{PAGES}/", web.address);
    let agent = web.host("a1");
    let said = || std::fs::read_to_string(agent.disk("/tmp/connections")).unwrap_or_default();
    let made = || said().lines().filter(|line| line.starts_with("0 ")).count();
    let one = format!(
        "while [ ! -e /tmp/enough ]; do curl -s -o /dev/null --max-time 5 \
         -w '%{{exitcode}} %{{errormsg}}\\n' {url} >> /tmp/connections; done"
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| agent.spawn(&["bash", "-c", &one]))
        .collect();
    wait_until(SOON, "pages are served", || made() > CLIENTS);
    for _ in 0..8 {
        let before = made();
        web.moves_on_request("moved on request", None);
        wait_until(SOON, "pages are still served", || made() > before);
    }
    agent.sh("touch /tmp/enough").ok();
    for client in clients {
        client.wait(SOON);
    }
    let connections = said();
    let failed = connections.lines().filter(|line| !line.starts_with("0 "));
    let failed: BTreeSet<&str> = failed.collect();
    let made = made();
    say(&format!(
        "  {made} connections while it moved; others: {failed:?}"
    ));
    // 7: no connection. What is connected when the address leaves may be cut.
    let refused = failed.iter().find(|line| line.starts_with("7 "));
    assert_eq!(refused, None);
}

#[track_caller]
fn stays_where_nobody_is_ready(web: &mut Watched, unready: impl Fn(&Watched, &str)) {
    let said = |web: &Watched| {
        let logs = web.mesh.nodes.iter().map(|node| node.host.log("shoald"));
        logs.map(|log| log.matches("nobody may take it").count())
            .sum::<usize>()
    };
    let before = web.wait_until_served(None);
    let (said_before, holder) = (said(web), text(&before, "holder"));
    // The holder last: it would move to one that is not known to be unready.
    let (last, first): (Vec<_>, Vec<_>) = CANDIDATES.iter().partition(|name| **name == holder);
    for name in first.into_iter().chain(last) {
        unready(web, name);
        web.wait_until_fit(name, false);
    }
    wait_until(SOON, "the leader says that nobody may take it", || {
        said(web) > said_before
    });
    let after = web.wait_until_served(None);
    assert_eq!(after["holder"], before["holder"], "{after}");
    let rows = after["readiness"].as_array().expect("they are a list");
    for row in rows {
        assert!(
            row["fit"] == false && !text(row, "reason").is_empty(),
            "{row}"
        );
    }
}

#[track_caller]
fn is_gone_when_deleted(web: &Watched) {
    let address = &web.address;
    web.host("a1")
        .shoal(&["vip", "delete", "web", "--yes"])
        .ok();
    for name in web.all_but(None) {
        let host = web.host(&name);
        let there = format!(
            "ip -o -6 addr show to {address} | grep -q . || ip -6 route show to exact {address} table all | grep -q ."
        );
        wait_until(SOON, &format!("{name} knows the address no more"), || {
            !host.sh(&there).success() && !host.pings(address)
        });
    }
}

/// What the checks of [`a_vip_is_handed_over_checked_and_drilled_and_outlives_a_flush_and_a_late_device`]
/// look at.
const READY: &str = "/tmp/ready";

#[test]
fn a_vip_is_handed_over_checked_and_drilled_and_outlives_a_flush_and_a_late_device() {
    let Some(lab) = Lab::for_test("vip-care") else {
        return;
    };
    let mut web = Watched::new(Mesh::new(&lab, 3, 1), "a1", "s1,s2,s3", "safe");
    is_handed_over_when_its_holder_is_stopped(&mut web);
    let _pages = CANDIDATES.map(|name| serve_pages(&web.host(name)));
    for name in CANDIDATES {
        set_ready(&web, name, true);
    }
    follows_a_check(&mut web, &format!("http:{PAGES}/ready"), "404");
    follows_a_check(
        &mut web,
        "command:/usr/bin/test -e /tmp/ready",
        "exit status: 1",
    );
    stays_where_nobody_is_ready(&mut web, |web, name| set_ready(web, name, false));
    web.host("a1").shoal(&["vip", "check", "web", "none"]).ok();
    for name in CANDIDATES {
        web.wait_until_fit(name, true);
    }
    outlives_a_flush(&mut web);
    outlives_a_late_device(&mut web);
    is_drilled(&mut web);
    passes_over_those_that_are_unheard_or_without_the_network(&mut web);
    web.judge("care");
}

/// Of a daemon that is asked to stop; all others, and that host too, are answered by the next.
#[track_caller]
fn is_handed_over_when_its_holder_is_stopped(web: &mut Watched) {
    let before = web.wait_until_served(None);
    let holder = text(&before, "holder");
    web.moves_from("stopped by SIGTERM", &before, None, |web, holder| {
        let status = web.mesh.node(holder).daemon.stop();
        assert!(status.success(), "{status}");
    });
    let shown = web.show();
    for key in "name network address holder epoch state candidates".split(' ') {
        assert!(!shown[key].is_null(), "{key}: {shown}");
    }
    let done = &shown["moves"][0];
    assert_eq!(done["from"], *holder, "{shown}");
    assert_eq!(done["reason"], "its holder let go", "{shown}");
    let log = web.host(&holder).log("shoald");
    assert!(log.contains("virtual IPs are handed over"), "{log}");
    web.restart(&holder);
}

#[track_caller]
fn set_ready(web: &Watched, name: &str, ready: bool) {
    let command = if ready { "touch" } else { "rm" };
    web.host(name).sh(&format!("{command} {READY}")).ok();
}

/// A candidate, as that host sees it.
#[track_caller]
pub(crate) fn candidate(host: &Host, name: &str) -> Value {
    let shown = host.shoal_json(&["vip", "show", "web"]);
    let rows = shown["readiness"].as_array().expect("they are a list");
    let row = rows.iter().find(|row| row["node"] == name);
    row.expect("it is a candidate").clone()
}

#[track_caller]
fn follows_a_check(web: &mut Watched, check: &str, why_not: &str) {
    web.host("a1").shoal(&["vip", "check", "web", check]).ok();
    for name in CANDIDATES {
        web.wait_until_fit(name, true);
    }
    let before = web.wait_until_served(None);
    let unready = text(&before, "holder");
    web.moves_from(&format!("{check} failed"), &before, None, |web, holder| {
        set_ready(web, holder, false);
    });
    web.wait_until_fit(&unready, false);
    let reason = text(&candidate(&web.host("a1"), &unready), "reason");
    assert!(reason.contains(why_not), "{reason}");
    set_ready(web, &unready, true);
    web.wait_until_fit(&unready, true);
}

/// Somebody flushes the holder's rules while it holds: the gate's are kept from him, or put back.
#[track_caller]
fn outlives_a_flush(web: &mut Watched) {
    let before = web.wait_until_served(None);
    let (holder, from) = (web.host(&text(&before, "holder")), Micros::now());
    holder.sh("nft flush ruleset").ok();
    web.wait_until_served(None);
    wait_until(SOON, "the gate's rules are there", || {
        holder.sh("nft list table inet shoal_gate").success()
    });
    web.report("flushed its rules", None, from);
}

/// Its holder's device keeps its daemon waiting, and once that is no reason to say that the interface is
/// down. What is sent to the address waits meanwhile; leases go another way.
#[track_caller]
fn outlives_a_late_device(web: &mut Watched) {
    let before = web.wait_until_served(None);
    let name = text(&before, "holder");
    let holder = web.host(&name);
    if holder.shoal_json(&["status"])["wireguard"] != "userspace" {
        say("  the kernel has WireGuard: there is no device that could be late");
        return;
    }
    let late = |status: &Value| status["conditions"].to_string().contains("the device of");
    let said_down = || holder.log("shoald").matches("its interface is").count();
    let (said_before, from) = (said_down(), Micros::now());
    holder.signal_program(DEVICE, "STOP");
    // Peers may follow from labels: the device is asked at once, and not within ten seconds.
    let label = ["node", "label", &name, "asked=now"];
    web.host(web.calm).shoal(&label).ok();
    holder.wait_for_status(SOON, "the device has not answered in time", late);
    holder.signal_program(DEVICE, "CONT");
    // Who had taken the interface for down would have said so by the time at which it is up again.
    holder.wait_for_status(SOON, "it has answered", |status| !late(status));
    let after = web.wait_until_served(None);
    assert_eq!(
        (&after["holder"], &after["epoch"]),
        (&before["holder"], &before["epoch"]),
        "{after}"
    );
    assert_eq!(said_down(), said_before, "it was taken for down");
    web.report("its device was late", None, from);
}

#[track_caller]
fn is_drilled(web: &mut Watched) {
    let refused = web.host("a1").shoal_refused(&["vip", "drill", "web"]);
    assert_eq!(refused["code"], "DrillNeedsServerError", "{refused}");
    let holder = text(&web.wait_until_served(None), "holder");
    let drilled = web.host("s1").shoal_json(&["vip", "drill", "web"]);
    assert_eq!(drilled["killed"], false);
    tells_what_peers_saw(web, &drilled, &holder);

    let holder = text(&web.wait_until_served(None), "holder");
    let asked = CANDIDATES.into_iter().find(|name| *name != holder);
    let asked = web.host(asked.expect("there are three"));
    let drilled = asked.shoal_json(&["vip", "drill", "web", "--kill", "--yes"]);
    assert_eq!(drilled["killed"], true);
    tells_what_peers_saw(web, &drilled, &holder);
    let dead = web.mesh.node(&holder).daemon.process().wait(SOON);
    assert!(!dead.success(), "{dead}");
    web.restart(&holder);
}

#[track_caller]
fn tells_what_peers_saw(web: &mut Watched, drilled: &Value, from: &str) {
    let keys = |row: &Value| -> BTreeSet<String> {
        let row = row.as_object().expect("it has keys");
        row.keys().cloned().collect()
    };
    let of = |words: &str| words.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    let all = "address epoch every_us from killed moved outage_us peers to took_us vip warnings";
    assert_eq!(keys(drilled), of(all));
    assert_eq!(
        (&drilled["moved"], &drilled["from"]),
        (&true.into(), &from.into()),
        "{drilled}"
    );
    assert_ne!(drilled["to"], *from, "{drilled}");
    let peers = drilled["peers"].as_array().expect("they are a list");
    let names: BTreeSet<String> = peers.iter().map(|peer| text(peer, "node")).collect();
    assert_eq!(names, web.all_but(None).into_iter().collect(), "{drilled}");
    for peer in peers {
        assert_eq!(
            keys(peer),
            of("answering answers node outage_us pause_us reason sent")
        );
        let killed = drilled["killed"] == true && peer["node"] == *from;
        let looked = peer["outage_us"].is_u64();
        assert!(looked || !text(peer, "reason").is_empty(), "{peer}");
        assert!(!(looked && killed), "{peer}");
    }
    let saw = peers.iter().filter_map(|peer| peer["outage_us"].as_u64());
    assert_eq!(drilled["outage_us"].as_u64(), saw.max(), "{drilled}");
    let shown = web.show();
    web.observers.learn(&shown);
    let moves = shown["moves"].as_array().expect("they are a list");
    let done = moves.iter().find(|done| done["epoch"] == drilled["epoch"]);
    let done = done.expect("it is remembered");
    assert_eq!(done["outage_us"], drilled["outage_us"], "{shown}");
    let how = if drilled["killed"] == true {
        "killed"
    } else {
        "asked"
    };
    say(&format!(
        "  drill, {how}: {} us at worst, moved within {} us",
        drilled["outage_us"], drilled["took_us"]
    ));
    web.moves += 1;
}

#[track_caller]
fn passes_over_those_that_are_unheard_or_without_the_network(web: &mut Watched) {
    let before = web.wait_until_served(None);
    let holder = text(&before, "holder");
    let mut others = CANDIDATES.into_iter().filter(|name| *name != holder);
    let [next, last] = [others.next(), others.next()].map(|name| name.expect("there are three"));
    web.host(next).cut();
    // Whoever leads chooses by what it hears itself.
    for witness in [&holder, last, "a1"] {
        let host = web.host(witness);
        wait_until(
            SOON,
            &format!("{next} is not heard of by {witness}"),
            || candidate(&host, next)["reason"] == "not heard of",
        );
    }
    let what = format!("moved on request, {next} is cut off");
    web.moves_from(&what, &before, Some(next), |web, _| web.ask_to_move(None));
    assert_eq!(web.show()["holder"], last);
    web.host(next).heal();
    web.wait_until_fit(next, true);

    web.wait_until_served(None);
    // Put up again at once by the daemon, but again and again in vain.
    let down = "while :; do ip link set shoal-default down; sleep 0.02; done";
    let down = web.host(next).spawn(&["bash", "-c", down]);
    let calm = web.host("a1");
    wait_until(SOON, "its interface is missed", || {
        let row = candidate(&calm, next);
        let why = row["reason"].as_str().unwrap_or_default();
        why.starts_with("not ready: its interface is")
    });
    down.kill9();
    web.wait_until_fit(next, true);
}
