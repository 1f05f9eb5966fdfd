//! The searches: the protocol as it is, and with each of its rules broken.
//!
//! Every search of the protocol ends by itself: there is no state left that was not visited. Every
//! search for a planted bug ends with two open gates. Their figures are in docs/leases.md.

use std::time::Instant;

use consensus_lease::planted::PlantedBug;
use stateright::{Checker, HasDiscoveries, Model};

use crate::world::{Scope, Search};

/// Three voters, two holders, two epochs, and nothing goes wrong but messages and clocks.
const PLAIN: Scope = Scope {
    old: 0b111,
    new: None,
    last_epoch: 2,
    voter_restarts: 0,
    holder_restarts: 0,
    releases: false,
    late_renewals: false,
    slow_acks: false,
    elements: false,
    slow_disks: false,
    bug: None,
};

/// From three voters to one of them: a majority of the old set without any of the new.
const SHRINKING: Scope = Scope {
    new: Some(0b100),
    ..PLAIN
};

/// From one voter to three: a majority of the new set without any of the old.
const GROWING: Scope = Scope {
    old: 0b001,
    new: Some(0b111),
    ..PLAIN
};

/// From one voter to another.
const REPLACING: Scope = Scope {
    old: 0b001,
    new: Some(0b010),
    ..PLAIN
};

/// Searches to the end.
#[expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "says how large the search was and how long it took; nothing depends on it"
)]
fn exhausted(name: &str, scope: Scope) {
    let started = Instant::now();
    let checker = Search::new(scope).checker().spawn_bfs().join();
    let (voters, holders) = checker.model().met();
    println!(
        "{name}: {} states, {} steps, {} deep, of {voters} states of a voter and {holders} of a holder; {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
    );
    assert!(checker.is_done());
    checker.assert_properties();
}

/// Searches until two gates are open.
#[expect(clippy::print_stdout, reason = "shows the way to the violation")]
fn violated(bug: PlantedBug, scope: Scope) {
    let scope = Scope {
        bug: Some(bug),
        ..scope
    };
    let checker = Search::new(scope).checker();
    let search = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs();
    let search = search.join();
    let path = search.discovery("never two open gates");
    let path = path.unwrap_or_else(|| panic!("{bug:?} was not caught"));
    println!(
        "{bug:?}: after {} states: {:?}",
        search.unique_state_count(),
        path.into_actions()
    );
}

/// The smallest world in which a bug shows.
const fn world_of(bug: PlantedBug) -> Scope {
    match bug {
        PlantedBug::NoQuarantine => Scope {
            voter_restarts: 1,
            ..PLAIN
        },
        PlantedBug::ClosureNotDurable => Scope {
            voter_restarts: 1,
            slow_disks: true,
            ..PLAIN
        },
        PlantedBug::NoDriftMargin | PlantedBug::AckAfterClose | PlantedBug::EpochIgnored => PLAIN,
        PlantedBug::GateRefreshedTooLate => Scope {
            elements: true,
            ..PLAIN
        },
        PlantedBug::MembershipOfNow
        | PlantedBug::JointClosesWithNew
        | PlantedBug::JointRenewsWithOld
        | PlantedBug::JointRenewsWithNew
        | PlantedBug::JointEndsOnSight => SHRINKING,
        PlantedBug::ReportNotDurable => Scope {
            holder_restarts: 1,
            ..REPLACING
        },
        PlantedBug::ReleaseNotDurable => Scope {
            holder_restarts: 1,
            releases: true,
            ..PLAIN
        },
        PlantedBug::ReleaseBeforeShut => Scope {
            releases: true,
            ..PLAIN
        },
        PlantedBug::LeaseFromReceipt => Scope {
            late_renewals: true,
            ..PLAIN
        },
    }
}

#[test]
fn three_epochs_with_a_restarted_voter_never_have_two_open_gates() {
    let scope = Scope {
        last_epoch: 3,
        voter_restarts: 1,
        ..PLAIN
    };
    exhausted("three epochs, a voter restarts", scope);
}

#[test]
fn three_epochs_and_a_shrinking_set_of_voters_never_have_two_open_gates() {
    let scope = Scope {
        last_epoch: 3,
        ..SHRINKING
    };
    exhausted("three epochs, voters shrink", scope);
}

#[test]
fn a_growing_set_of_voters_never_has_two_open_gates() {
    exhausted("voters grow", GROWING);
}

#[test]
fn acknowledgements_that_come_late_never_open_two_gates() {
    let scope = Scope {
        holder_restarts: 1,
        late_renewals: true,
        slow_acks: true,
        ..REPLACING
    };
    let name = "a voter is replaced, a holder restarts, all messages late";
    exhausted(name, scope);
}

#[test]
fn slow_disks_a_change_of_voters_and_restarts_never_open_two_gates() {
    let scope = Scope {
        voter_restarts: 1,
        holder_restarts: 1,
        slow_disks: true,
        ..REPLACING
    };
    exhausted("a voter is replaced, all restart, slow disks", scope);
}

/// Three voters, three epochs, a change of voters and restarts of everybody. The whole of it takes
/// minutes and gigabytes, and is only done where `LEASE_SEARCH=wide` asks for it; two epochs
/// otherwise.
#[test]
fn everything_at_once_never_has_two_open_gates() {
    let wide = std::env::var("LEASE_SEARCH").is_ok_and(|width| width == "wide");
    let scope = Scope {
        last_epoch: if wide { 3 } else { 2 },
        voter_restarts: 1,
        holder_restarts: 1,
        ..SHRINKING
    };
    exhausted("voters shrink, all restart", scope);
}

#[test]
fn a_growing_set_of_voters_and_a_restarted_one_never_have_two_open_gates() {
    let scope = Scope {
        voter_restarts: 1,
        ..GROWING
    };
    exhausted("voters grow, a voter restarts", scope);
}

#[test]
fn a_holder_that_is_asked_to_go_and_restarts_never_has_a_rival() {
    let scope = Scope {
        holder_restarts: 1,
        releases: true,
        ..PLAIN
    };
    exhausted("releases, a holder restarts", scope);
}

/// The gate stays open while the disk writes that the holder lets go.
#[test]
fn a_holder_that_lets_go_on_a_slow_disk_never_has_a_rival() {
    let scope = Scope {
        old: 0b001,
        holder_restarts: 1,
        releases: true,
        slow_disks: true,
        ..PLAIN
    };
    exhausted("one voter, releases, a holder restarts, slow disks", scope);
}

#[test]
fn late_renewals_and_a_restarted_holder_never_open_two_gates() {
    let scope = Scope {
        holder_restarts: 1,
        late_renewals: true,
        ..PLAIN
    };
    exhausted("late renewals, a holder restarts", scope);
}

#[test]
fn gates_of_elements_are_never_two_open() {
    let scope = Scope {
        last_epoch: 3,
        elements: true,
        ..PLAIN
    };
    exhausted("three epochs, gates made of elements", scope);
}

#[test]
fn every_planted_bug_opens_two_gates() {
    for bug in PlantedBug::ALL {
        violated(bug, world_of(bug));
    }
}
