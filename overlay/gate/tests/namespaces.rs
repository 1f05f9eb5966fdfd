//! The gate in a real kernel: what a peer on the link sees while the holder's daemon stands still,
//! dies, comes back, or is disturbed. Needs root, iproute2, nftables, iptables.
//!
//! All of it once more in a guest with Debian's kernel, which is older than the table that nobody else
//! may change (6.9) and the places for programs with deadlines (6.6).
//!
//! Times are compared as the kernel's clock gives them, and never with how fast the test ran: an
//! observer counts a request as answered at the time it was sent, so that an answer after the
//! lease's end is a broken promise whatever the load.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the functions of a test fail as a test does; clippy exempts test functions only"
)]

#[allow(dead_code, reason = "guests on a wire are the overlay's tests' own")]
#[path = "../../wireguard/tests/guest/mod.rs"]
mod guest;
mod pair;

use pair::{
    LINK, Namespace, Pair, StandIn, VIP, root_or_say_so, seen, until, until_it_answers,
    until_silent,
};

/// L, T and delta of the LAN profile.
const LAN: &str = "400 150 25";
const LEASE_US: u64 = 400_000;
/// A lease of which less than two lives of 150 ms are left when it is renewed, as where renewals take
/// long.
const LATE: &str = "250 150 25";
/// A lease for a gate with deadlines; T does not matter.
const SHORT: &str = "200 150 25";
const SHORT_LEASE_US: u64 = 200_000;
/// The stand-in's gate with deadlines, and where it keeps them.
const EBPF: &str = "ebpf /mnt/gate";

#[test]
fn an_address_answers_while_its_lease_is_renewed_and_is_no_source_for_the_host() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
    until_it_answers(&mut observer);
    let address = pair
        .holder
        .shell(&format!("ip -6 addr show dev {LINK} to {VIP}"));
    for word in ["nodad", "deprecated", "dynamic", "noprefixroute"] {
        assert!(address.contains(word), "{word}: {address}");
    }
    let source = pair.holder.shell("ip -6 route get fd5a::2");
    assert!(source.contains("src fd5a::1"), "{source}");
    let events = holder.ask("events");
    assert!(events.starts_with("Opened"), "{events}");
}

#[test]
fn an_address_whose_lease_is_not_renewed_falls_silent_within_the_lease() {
    root_or_say_so!();
    falls_silent_within_its_leases(LAN);
}

fn falls_silent_within_its_leases(renewals: &str) {
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    for epoch in 1..=5 {
        let lease_until_us = held_for_a_while(&mut holder, epoch, renewals);
        let seen = until_silent(&mut observer, lease_until_us);
        assert!(
            seen.last_us <= lease_until_us,
            "{} us late",
            seen.last_us - lease_until_us
        );
        holder.await_event(&["Closed", &format!("epoch: {epoch},")]);
    }
    assert!(seen(&mut observer).answered > 0, "it was open in between");
}

#[test]
fn an_address_whose_renewals_are_late_answers_and_falls_silent_within_the_lease() {
    root_or_say_so!();
    falls_silent_within_its_leases(LATE);
}

#[test]
fn an_address_that_the_kernel_would_not_guard_is_guarded_later_and_not_put_up_before() {
    root_or_say_so!();
    let pair = Pair::new();
    pair.holder.shell(
        "nft 'add table inet shoal_gate; \
         add set inet shoal_gate guarded { type ipv6_addr; size 1; }; \
         add element inet shoal_gate guarded { fd5a::99 }'",
    );
    let (mut holder, mut observer) = pair.watched("watched");
    holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
    holder.await_event(&["Refused", "Kernel"]);
    let put_up = || {
        pair.holder
            .shell(&format!("ip -6 addr show dev {LINK} to {VIP}"))
    };
    assert_eq!(put_up(), "");
    let refused = holder.ask_any(&format!("close {VIP} 0"));
    assert!(refused.starts_with("err"), "{refused}");
    pair.holder
        .shell("nft 'delete element inet shoal_gate guarded { fd5a::99 }'");
    until_it_answers(&mut observer);
}

#[test]
fn an_address_that_its_interface_does_not_take_back_is_given_up_and_held_again_when_it_does() {
    root_or_say_so!();
    is_given_up_while_its_interface_refuses_it("owned");
}

#[test]
fn an_address_behind_a_deadline_that_its_interface_does_not_take_back_is_given_up() {
    root_or_say_so!();
    is_given_up_while_its_interface_refuses_it(EBPF);
}

fn is_given_up_while_its_interface_refuses_it(how: &str) {
    // Each takes all addresses of IPv6 away, and permits no other.
    for (refuse, permit) in [
        (
            format!("echo 1 >/proc/sys/net/ipv6/conf/{LINK}/disable_ipv6"),
            format!("echo 0 >/proc/sys/net/ipv6/conf/{LINK}/disable_ipv6"),
        ),
        (
            format!("ip link set {LINK} mtu 1200"),
            format!("ip link set {LINK} mtu 1500"),
        ),
    ] {
        let pair = Pair::new();
        let (mut holder, mut observer) = pair.watched(how);
        holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
        until_it_answers(&mut observer);
        pair.holder.shell(&refuse);
        holder.await_event(&["Refused", "Address"]);
        holder.await_event(&["Closed", "AddressLost"]);
        // Once more, now as what keeps it from opening.
        holder.await_event(&["Refused", "Address"]);
        pair.holder.shell(&permit);
        pair.holder
            .shell(&format!("ip -6 addr add fd5a::1/64 dev {LINK} nodad"));
        holder.await_event(&["Opened"]);
        until_it_answers(&mut observer);
    }
}

#[test]
fn a_stopped_daemon_loses_the_address_within_the_lease_and_cannot_prolong_it() {
    root_or_say_so!();
    let pair = Pair::new();
    for how in ["owned", "watched"] {
        let (mut holder, mut observer) = pair.watched(how);
        holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
        until_it_answers(&mut observer);
        holder.signal("STOP");
        // No lease was taken after this.
        let stopped_us = observer.numbers("now")[0];
        let seen = until_silent(&mut observer, stopped_us + LEASE_US);
        assert!(seen.last_us <= stopped_us + LEASE_US);
        println!(
            "{how}: silent {} us after SIGSTOP",
            seen.last_us.saturating_sub(stopped_us)
        );
        until("the kernel has taken the address away", || {
            pair.holder
                .shell(&format!("ip -6 addr show dev {LINK} to {VIP}"))
                .is_empty()
        });
        holder.signal("CONT");
        holder.await_event(&["Opened"]);
    }
}

#[test]
fn a_killed_daemon_loses_the_address_within_the_lease() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
    until_it_answers(&mut observer);
    holder.crash();
    let crashed_us = observer.numbers("now")[0];
    let seen = until_silent(&mut observer, crashed_us + LEASE_US);
    assert!(seen.last_us <= crashed_us + LEASE_US);
}

#[test]
fn a_host_whose_processors_are_all_busy_loses_the_address_in_time() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    let busy: Vec<_> = (0..8)
        .map(|_| pair.holder.start("while :; do :; done"))
        .collect();
    holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
    until_it_answers(&mut observer);
    holder.signal("STOP");
    let stopped_us = observer.numbers("now")[0];
    let seen = until_silent(&mut observer, stopped_us + LEASE_US);
    assert!(seen.last_us <= stopped_us + LEASE_US);
    drop(busy);
}

#[test]
fn the_kernel_refuses_to_prolong_what_has_expired() {
    root_or_say_so!();
    let host = Namespace::new();
    let mut raw = host.stand_in();
    begin(&mut raw);
    raw.ask(&format!("raw arm {VIP} 1 20"));
    raw.ask(&format!("raw open {VIP} 1 20"));
    until_expired(&mut raw);
    let refused = raw.ask_any(&format!("raw refresh {VIP} 1 20"));
    assert!(refused.starts_with("err No such file"), "{refused}");
    assert_eq!(
        raw.ask("raw living"),
        "[]",
        "nothing of the transaction took effect"
    );
}

#[test]
fn an_arm_opens_once_and_only_its_own_epoch() {
    root_or_say_so!();
    let host = Namespace::new();
    let mut raw = host.stand_in();
    begin(&mut raw);
    raw.ask(&format!("raw arm {VIP} 7 10000"));
    for epoch in [6, 8] {
        let refused = raw.ask_any(&format!("raw open {VIP} {epoch} 20"));
        assert!(refused.starts_with("err No such file"), "{refused}");
    }
    raw.ask(&format!("raw open {VIP} 7 20"));
    until_expired(&mut raw);
    let refused = raw.ask_any(&format!("raw open {VIP} 7 20"));
    assert!(refused.starts_with("err No such file"), "{refused}");
    assert_eq!(raw.ask("raw living"), "[]");
}

#[test]
fn an_arm_that_was_not_used_in_time_opens_nothing() {
    root_or_say_so!();
    let host = Namespace::new();
    let mut raw = host.stand_in();
    begin(&mut raw);
    raw.ask(&format!("raw arm {VIP} 1 20"));
    until("the arm has expired", || {
        !host
            .shell("nft list set inet try armed")
            .contains("elements")
    });
    let refused = raw.ask_any(&format!("raw open {VIP} 1 10000"));
    assert!(refused.starts_with("err No such file"), "{refused}");
    assert_eq!(raw.ask("raw living"), "[]");
}

#[test]
fn refreshes_in_a_row_each_count_from_their_own_time() {
    root_or_say_so!();
    let host = Namespace::new();
    let mut raw = host.stand_in();
    begin(&mut raw);
    raw.ask(&format!("raw arm {VIP} 1 60000"));
    raw.ask(&format!("raw open {VIP} 1 60000"));
    raw.ask(&format!("raw refresh {VIP} 1 30000"));
    raw.ask(&format!("raw refresh {VIP} 1 10000"));
    let living = raw.ask("raw living");
    let left_us = living.split([' ', ')']).nth(1).unwrap();
    let left_us: u64 = left_us.parse().unwrap();
    assert!((1..=10_000_000).contains(&left_us), "{living}");
}

#[test]
fn a_planned_close_answers_after_the_kernel_has_closed_and_is_for_good() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("renew {VIP} {LINK} 3 {LAN}"));
    until_it_answers(&mut observer);
    let times = holder.numbers(&format!("close {VIP} 3"));
    println!("closed {} us after it was asked for", times[1] - times[0]);
    let seen = until_silent(&mut observer, times[2]);
    assert!(
        seen.last_us <= times[1],
        "{} us late",
        seen.last_us - times[1]
    );
    let address = pair
        .holder
        .shell(&format!("ip -6 addr show dev {LINK} to {VIP}"));
    assert_eq!(address, "");
    // The lease is still being renewed, as far as this stand-in is concerned.
    holder.await_event(&["Refused", "EpochOver { lowest: 4 }"]);
    holder.ask("halt");
    holder.ask(&format!("renew {VIP} {LINK} 4 {LAN}"));
    until_it_answers(&mut observer);
}

#[test]
fn a_restarted_daemon_goes_on_with_what_lives_and_opens_no_older_epoch() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("hold {VIP} {LINK} 5 60000 20000 25"));
    until_it_answers(&mut observer);
    holder.crash();
    let mut holder = pair.holder.stand_in();
    holder.ask("start owned");
    holder.ask(&format!("hold {VIP} {LINK} 4 60000 20000 25"));
    holder.await_event(&["Refused", "EpochOver { lowest: 5 }"]);
    holder.ask(&format!("renew {VIP} {LINK} 5 60000 150 25"));
    // The refresh gave it the new, shorter life.
    until("the element was adopted", || {
        pair.holder
            .shell("nft list set inet shoal_gate open")
            .contains("timeout 148ms")
            || pair
                .holder
                .shell("nft list set inet shoal_gate open")
                .contains("timeout 150ms")
    });
    let events = holder.ask("events");
    assert_eq!(events, "", "it was open all the time");
    until_it_answers(&mut observer);
}

#[test]
fn an_epoch_is_remembered_after_its_element_has_died_with_its_daemon() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("renew {VIP} {LINK} 5 {LAN}"));
    until_it_answers(&mut observer);
    holder.crash();
    let crashed_us = observer.numbers("now")[0];
    until_silent(&mut observer, crashed_us + LEASE_US);
    let mut holder = pair.holder.stand_in();
    holder.ask("start owned");
    let address = pair
        .holder
        .shell(&format!("ip -6 addr show dev {LINK} to {VIP}"));
    assert_eq!(address, "", "what an earlier process left is taken away");
    holder.ask(&format!("hold {VIP} {LINK} 4 {LAN}"));
    holder.await_event(&["Refused", "EpochOver { lowest: 5 }"]);
    holder.ask(&format!("renew {VIP} {LINK} 5 {LAN}"));
    until_it_answers(&mut observer);
}

#[test]
fn nobody_flushes_a_table_that_the_kernel_lets_the_daemon_own() {
    root_or_say_so!();
    let pair = Pair::new();
    let mut holder = pair.holder.stand_in();
    let started = holder.ask("start owned");
    if !started.contains("Nftables true") {
        assert!(
            std::env::var_os("SHOAL_NO_SKIP").is_none(),
            "this kernel lets nobody own a table: {started}"
        );
        eprintln!("SKIPPED: this kernel (before 6.9) lets nobody own a table");
        return;
    }
    let mut observer = pair.peer.stand_in();
    observer.ask(&format!("observe {VIP}"));
    holder.ask(&format!("hold {VIP} {LINK} 1 60000 20000 25"));
    until_it_answers(&mut observer);
    let expected = pair.holder.shell("nft list chains");
    pair.holder.shell("nft flush ruleset");
    assert_eq!(pair.holder.shell("nft list chains"), expected);
    pair.holder
        .shell("! nft delete table inet shoal_gate 2>/dev/null");
    assert_eq!(holder.ask("events").matches("Opened").count(), 1);
    until_it_answers(&mut observer);
    let mut second = pair.holder.stand_in();
    let refused = second.ask_any("start owned");
    assert_eq!(refused, "err another process owns the table shoal_gate");
}

#[test]
fn rules_that_somebody_flushed_are_put_back_and_the_address_opens_again() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("watched");
    holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
    until_it_answers(&mut observer);
    for _ in 0..5 {
        pair.holder.shell("nft flush ruleset");
        let flushed_us = observer.numbers("now")[0];
        let events = holder.await_event(&["RulesRestored"]);
        println!(
            "rules back {} us after nft's end",
            at_us(&events).saturating_sub(flushed_us)
        );
        holder.await_event(&["Opened", "epoch: 1,"]);
        until_it_answers(&mut observer);
    }
    holder.ask(&format!("close {VIP} 1"));
    // Somebody gives the host the address while the gate is closed, and flushes again.
    pair.holder
        .shell(&format!("ip -6 addr add {VIP}/128 dev {LINK} nodad"));
    pair.holder.shell("nft flush ruleset");
    holder.await_event(&["RulesRestored"]);
    let restored_us = observer.numbers("now")[0];
    let seen = until_silent(&mut observer, restored_us);
    assert!(seen.last_us <= restored_us);
}

#[test]
fn other_peoples_rules_come_and_go_and_the_address_stays() {
    root_or_say_so!();
    let pair = Pair::new();
    for how in ["owned", "watched"] {
        let (mut holder, mut observer) = pair.watched(how);
        holder.ask(&format!("hold {VIP} {LINK} 1 60000 20000 25"));
        until_it_answers(&mut observer);
        pair.holder.shell(
            "for i in $(seq 20); do \
               printf 'table inet other { chain c { type filter hook input priority 0; }; }' \
               | nft -f -; \
               nft flush table inet other; nft delete table inet other; \
               ip6tables-save | ip6tables-restore; done",
        );
        let events = holder.ask("events");
        assert!(
            !events.contains("Closed") && !events.contains("Rules"),
            "{events}"
        );
        until_it_answers(&mut observer);
        holder.ask(&format!("forget {VIP}"));
        holder.await_event(&["Closed"]);
        holder.ask("stop");
        holder.ask("uninstall shoal_gate");
    }
}

#[test]
fn a_closed_address_is_closed_in_both_directions_though_the_host_has_it() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("hold {VIP} {LINK} 1 60000 20000 25"));
    until_it_answers(&mut observer);
    let closed_us = holder.numbers(&format!("close {VIP} 1"))[1];
    pair.holder
        .shell(&format!("ip -6 addr add {VIP}/128 dev {LINK} nodad"));
    pair.holder
        .shell(&format!("! ping -c 2 -i 0.1 -W 1 -I {VIP} fd5a::2"));
    let seen = until_silent(&mut observer, closed_us);
    assert!(seen.last_us <= closed_us);
    let rules = pair.holder.shell("nft list table inet shoal_gate");
    assert!(
        !rules.contains("counter packets 0 "),
        "both rules dropped: {rules}"
    );
}

#[test]
fn a_candidate_passes_on_the_holders_packets_between_peers() {
    root_or_say_so!();
    let pair = Pair::new();
    let _behind = behind(&pair);
    // The host in the middle is a candidate whose gate is closed.
    let (mut candidate, mut observer) = pair.watched("owned");
    candidate.ask(&format!("close {VIP} 1"));
    until_it_answers(&mut observer);
}

#[test]
fn neighbours_learn_where_the_address_is_now() {
    root_or_say_so!();
    let pair = Pair::new();
    let mut holder = pair.holder.stand_in();
    holder.ask("start owned");
    let stale = "02:00:00:00:00:99";
    pair.peer.shell(&format!(
        "ip -6 route del {VIP}/128 && ip -6 neigh replace {VIP} lladdr {stale} dev {LINK} nud reachable"
    ));
    holder.ask(&format!("renew {VIP} {LINK} 1 {LAN}"));
    holder.await_event(&["Opened"]);
    let hardware = pair.holder.shell(&format!(
        "cat /sys/class/net/{LINK}/address 2>/dev/null || ip -br link show {LINK}"
    ));
    let own = pair.holder.shell(&format!("ip -br link show {LINK}"));
    let own = own
        .split_whitespace()
        .nth(2)
        .unwrap_or(&hardware)
        .to_owned();
    until("the neighbour has the new address", || {
        pair.peer
            .shell(&format!("ip -6 neigh show {VIP}"))
            .contains(&own)
    });
}

#[test]
fn without_nf_tables_the_lifetime_of_the_address_is_what_ends_it() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("address");
    // A lease of the LAN profile is too short for this gate, and that is said.
    holder.ask(&format!("hold {VIP} {LINK} 1 {LAN}"));
    holder.await_event(&["Refused", "LeaseTooShort"]);
    assert_eq!(seen(&mut observer).answered, 0);
    let lease_us = 8_000_000;
    holder.ask(&format!("renew {VIP} {LINK} 1 8000 150 25"));
    until_it_answers(&mut observer);
    holder.signal("STOP");
    let stopped_us = observer.numbers("now")[0];
    let seen = until_silent(&mut observer, stopped_us + 3_000_000);
    assert!(seen.last_us <= stopped_us + lease_us);
    println!(
        "silent {} us after SIGSTOP",
        seen.last_us.saturating_sub(stopped_us)
    );
}

#[test]
fn who_goes_over_to_lifetimes_alone_leaves_no_rules_behind() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("hold {VIP} {LINK} 1 60000 20000 25"));
    until_it_answers(&mut observer);
    holder.ask("stop");
    holder.ask("start address");
    assert_eq!(pair.holder.shell("nft list ruleset"), "");
    let put_up = format!("ip -6 addr show dev {LINK} to {VIP}");
    assert_eq!(pair.holder.shell(&put_up), "");
    holder.ask(&format!("renew {VIP} {LINK} 2 60000 150 25"));
    until_it_answers(&mut observer);
}

#[test]
fn uninstalling_leaves_neither_table_nor_address() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched("owned");
    holder.ask(&format!("hold {VIP} {LINK} 1 60000 20000 25"));
    until_it_answers(&mut observer);
    holder.ask("stop");
    holder.ask("uninstall shoal_gate");
    assert_eq!(pair.holder.shell("nft list ruleset"), "");
    assert_eq!(
        pair.holder
            .shell(&format!("ip -6 addr show dev {LINK} to {VIP}")),
        ""
    );
    holder.ask("uninstall shoal_gate");
}

#[test]
fn the_thread_is_a_real_time_one() {
    root_or_say_so!();
    let host = Namespace::new();
    let mut holder = host.stand_in();
    let started = holder.ask("start owned");
    if !started.ends_with("true true") {
        eprintln!("SKIPPED: this machine grants no real-time priority: {started}");
        return;
    }
    let threads = host.shell(&format!("ps -L -o comm=,cls=,rtprio= -p {}", holder.id()));
    let gate = threads.lines().find(|line| line.starts_with("vip-gate"));
    let words: Vec<_> = gate.unwrap_or(&threads).split_whitespace().collect();
    assert_eq!(words, ["vip-gate", "FF", "1"], "{threads}");
}

#[test]
fn a_kernel_without_a_place_for_programs_is_known_by_the_gate_at_its_start() {
    root_or_say_so!();
    let host = Namespace::new();
    let mut holder = host.stand_in();
    let started = holder.ask(&format!("start {EBPF}"));
    // TCX came with Linux 6.6.
    let kind = if kernel_version() < (6, 6) {
        "AddressLifetime"
    } else {
        "Ebpf"
    };
    assert!(started.starts_with(kind), "{started}");
}

/// Debian 12's, as a node there has it.
#[test]
fn debians_kernel_keeps_the_gates_promises_too() {
    if guest::inside() {
        return;
    }
    guest::run_again(
        "debians_kernel_keeps_the_gates_promises_too",
        &guest::Inside {
            // What its kernel is too old for, and this test.
            arguments: &[
                "--skip",
                "debians_kernel",
                "--skip",
                "nobody_flushes_a_table_that_the_kernel_lets_the_daemon_own",
                "--skip",
                "deadline",
            ],
            stand_in: &pair::stand_in(),
            programs: &[
                "sh",
                "sleep",
                "mount",
                "unshare",
                "nsenter",
                "ip",
                "ip6tables-save",
                "ip6tables-restore",
                "ping",
                "nft",
                "sysctl",
                "seq",
                "ps",
                "kill",
                "cat",
                "ls",
                "id",
            ],
            modules: &[
                "veth",
                "nf_tables",
                "nft_fib_inet",
                "nft_fib_ipv4",
                "nft_fib_ipv6",
                "nft_compat",
            ],
        },
    );
}

#[test]
fn a_deadline_in_the_kernel_silences_a_stopped_daemon_within_a_shorter_lease() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched(EBPF);
    holder.ask(&format!("renew {VIP} {LINK} 1 {SHORT}"));
    until_it_answers(&mut observer);
    holder.signal("STOP");
    let stopped_us = observer.numbers("now")[0];
    let seen = until_silent(&mut observer, stopped_us + SHORT_LEASE_US);
    assert!(seen.last_us <= stopped_us + SHORT_LEASE_US);
    println!(
        "silent {} us after SIGSTOP",
        seen.last_us.saturating_sub(stopped_us)
    );
    holder.signal("CONT");
    holder.await_event(&["Closed"]);
    until_it_answers(&mut observer);
}

#[test]
fn a_deadline_in_the_kernel_ends_each_lease_by_itself() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched(EBPF);
    for epoch in 1..=5 {
        let until_us = held_for_a_while(&mut holder, epoch, SHORT);
        let seen = until_silent(&mut observer, until_us);
        assert!(
            seen.last_us <= until_us,
            "{} us late",
            seen.last_us - until_us
        );
        holder.await_event(&["Closed", &format!("epoch: {epoch},")]);
    }
    assert!(seen(&mut observer).answered > 0, "it was open in between");
}

#[test]
fn deadlines_and_epochs_outlive_a_killed_daemon_and_its_programs_stay() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched(EBPF);
    holder.ask(&format!("renew {VIP} {LINK} 5 {SHORT}"));
    until_it_answers(&mut observer);
    holder.crash();
    let crashed_us = observer.numbers("now")[0];
    // The address itself lives on for two or three seconds: the programs are what drops.
    let seen = until_silent(&mut observer, crashed_us + SHORT_LEASE_US);
    assert!(seen.last_us <= crashed_us + SHORT_LEASE_US);
    let mut holder = pair.holder.stand_in();
    holder.ask(&format!("start {EBPF}"));
    holder.ask(&format!("hold {VIP} {LINK} 4 {SHORT}"));
    holder.await_event(&["Refused", "EpochOver { lowest: 5 }"]);
    holder.ask(&format!("hold {VIP} {LINK} 5 60000 150 25"));
    until_it_answers(&mut observer);
    holder.crash();
    let mut holder = pair.holder.stand_in();
    holder.ask(&format!("start {EBPF}"));
    let renewed = holder.numbers(&format!("hold {VIP} {LINK} 5 60000 150 25"));
    until("the new daemon serves the address", || {
        let shown = pair
            .holder
            .shell(&format!("ip -6 addr show dev {LINK} to {VIP}"));
        !shown.is_empty()
    });
    assert_eq!(
        holder.ask("events"),
        "",
        "it was open all the time, until {renewed:?}"
    );
    until_it_answers(&mut observer);
    let times = holder.numbers(&format!("close {VIP} 5"));
    let seen = until_silent(&mut observer, times[2]);
    assert!(seen.last_us <= times[1]);
    println!("closed {} us after it was asked for", times[1] - times[0]);
    holder.ask(&format!("hold {VIP} {LINK} 5 {SHORT}"));
    holder.await_event(&["Refused", "EpochOver { lowest: 6 }"]);
    holder.ask("stop");
    holder.ask("uninstall /mnt/gate");
    assert_eq!(pair.holder.shell("ls /mnt"), "maps.debug\nprogs.debug");
}

#[test]
fn an_interface_that_was_made_anew_knows_the_deadlines_when_it_gets_the_address_back() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched(EBPF);
    holder.ask(&format!("renew {VIP} {LINK} 1 {SHORT}"));
    until_it_answers(&mut observer);
    pair.holder.shell(&format!("ip link del {LINK}"));
    pair.connect();
    until_it_answers(&mut observer);
    holder.signal("STOP");
    let stopped_us = observer.numbers("now")[0];
    let seen = until_silent(&mut observer, stopped_us + SHORT_LEASE_US);
    assert!(seen.last_us <= stopped_us + SHORT_LEASE_US);
}

#[test]
fn a_gate_with_deadlines_and_one_without_take_over_from_each_other_and_shut_what_was_open() {
    root_or_say_so!();
    let pair = Pair::new();
    let mut observer = pair.peer.stand_in();
    observer.ask(&format!("observe {VIP}"));
    for how in ["owned", EBPF, "watched", EBPF] {
        let mut holder = pair.holder.stand_in();
        holder.ask(&format!("start {how}"));
        let started_us = observer.numbers("now")[0];
        let seen = until_silent(&mut observer, started_us);
        assert!(seen.last_us <= started_us, "{how}");
        holder.ask(&format!("hold {VIP} {LINK} 1 60000 20000 25"));
        until_it_answers(&mut observer);
        holder.crash();
    }
    let tables = pair.holder.shell("nft list tables");
    assert_eq!(tables, "", "the last gate has none");
}

#[test]
fn deadlines_that_a_living_daemon_writes_are_left_alone_by_another() {
    root_or_say_so!();
    let pair = Pair::new();
    let (mut holder, mut observer) = pair.watched(EBPF);
    holder.ask(&format!("renew {VIP} {LINK} 1 {SHORT}"));
    until_it_answers(&mut observer);
    for (how, kind) in [(EBPF, "AddressLifetime"), ("watched /mnt/gate", "Nftables")] {
        let mut other = pair.holder.stand_in();
        let started = other.ask(&format!("start {how}"));
        assert!(started.starts_with(kind), "{started}");
        until_it_answers(&mut observer);
    }
    holder.signal("STOP");
    let stopped_us = observer.numbers("now")[0];
    let seen = until_silent(&mut observer, stopped_us + SHORT_LEASE_US);
    assert!(seen.last_us <= stopped_us + SHORT_LEASE_US, "still guarded");
}

#[test]
fn a_candidate_with_deadlines_passes_on_the_holders_packets_between_peers() {
    root_or_say_so!();
    let pair = Pair::new();
    let mut candidate = pair.holder.stand_in();
    candidate.ask(&format!("start {EBPF}"));
    let mut observer = pair.peer.stand_in();
    observer.ask(&format!("observe {VIP}"));
    candidate.ask(&format!("hold {VIP} {LINK} 1 60000 150 25"));
    until_it_answers(&mut observer);
    let closed_us = candidate.numbers(&format!("close {VIP} 1"))[1];
    assert!(until_silent(&mut observer, closed_us).last_us <= closed_us);
    let _behind = behind(&pair);
    until_it_answers(&mut observer);
}

/// Opens an address and has it renewed no more; gives the end of its last lease. However long the
/// kernel takes to open it, some renewal is in time.
#[track_caller]
fn held_for_a_while(holder: &mut StandIn, epoch: u64, lease: &str) -> u64 {
    let asked_us = holder.numbers("now")[0];
    holder.ask(&format!("renew {VIP} {LINK} {epoch} {lease}"));
    let events = holder.await_event(&["Opened", &format!("epoch: {epoch},")]);
    println!(
        "epoch {epoch}: open {} us after it was asked for",
        at_us(&events) - asked_us
    );
    holder.numbers("halt")[0]
}

/// When the last of some events was.
fn at_us(events: &str) -> u64 {
    let (_, at) = events.rsplit_once("at_us: ").unwrap();
    let digits = at.split(|c: char| !c.is_ascii_digit()).next();
    digits.unwrap().parse().unwrap()
}

/// Of this machine's kernel.
fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|it| it.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Another holder, which the peer reaches through the first.
fn behind(pair: &Pair) -> Namespace {
    let behind = Namespace::new();
    pair.holder.shell(&format!(
        "ip link add shoal-b type veth peer name {LINK} netns {} && ip link set shoal-b up && \
         sysctl -qw net.ipv6.conf.all.forwarding=1 && ip addr add fd5b::1/64 dev shoal-b nodad && \
         ip -6 route add {VIP}/128 via fd5b::2",
        behind.id()
    ));
    behind.shell(&format!(
        "ip link set {LINK} up && ip addr add fd5b::2/64 dev {LINK} nodad && \
         ip addr add {VIP}/128 dev {LINK} nodad && ip -6 route add fd5a::/64 via fd5b::1"
    ));
    behind
}

/// A table of bare transactions with the address under guard.
#[track_caller]
fn begin(raw: &mut StandIn) {
    raw.ask("raw begin try");
    raw.ask(&format!("raw guard {VIP}"));
}

#[track_caller]
fn until_expired(raw: &mut StandIn) {
    until("the element has expired", || raw.ask("raw living") == "[]");
}
