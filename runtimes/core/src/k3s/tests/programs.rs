//! Claims about which program runs.

use super::*;

/// Another file lies where the program came from, of the same version.
fn rebuilt(host: &mut Host) {
    host.source = ProgramSum([2; 32]);
    host.observed.program.as_mut().unwrap().stale = true;
    host.steps.clear();
}

fn settled() -> Host {
    let mut host = Host::new(agent());
    host.run();
    host.stay().settled = true;
    host
}

#[test]
fn another_program_of_the_same_version_is_put_in_place_and_started_in_the_nodes_turn() {
    let mut host = settled();
    rebuilt(&mut host);
    host.stay().turn = true;
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(
        host.steps,
        ["Install", "Vacate", "Restart", "Probe", "Return"]
    );
    let with = host.started_with().unwrap();
    assert_eq!((with.version.as_str(), with.sum), (OLD, Some(host.source)));
}

#[test]
fn a_file_that_was_replaced_comes_in_by_no_crash() {
    let mut host = settled();
    rebuilt(&mut host);
    host.run();
    assert!(host.steps.is_empty());
    host.observed.daemon = Daemon::Absent;
    host.run();
    assert_eq!(host.steps, ["Start", "Probe"]);
    assert_eq!(host.started_with().unwrap().sum, Some(ProgramSum([1; 32])));
}

#[test]
fn a_program_that_was_replaced_mends_a_k3s_that_never_got_ready() {
    let mut host = Host::new(agent());
    host.run();
    host.falters();
    host.observed.was_ready = false;
    rebuilt(&mut host);
    host.run();
    assert_eq!(host.steps, ["Install", "Restart", "Probe"]);
}

#[test]
fn what_was_started_before_sums_were_written_down_is_left_as_it_is() {
    let mut host = settled();
    if let Daemon::Ours {
        started_with: Some(with),
        ..
    } = &mut host.observed.daemon
    {
        with.sum = None;
    }
    host.stay().turn = true;
    host.steps.clear();
    host.run();
    host.falters();
    host.observed.down = true;
    host.run();
    assert_eq!(host.steps, ["Probe"]);
    let text = serde_json::to_value(host.started_with().unwrap()).unwrap();
    let mut older = text.as_object().unwrap().clone();
    older.remove("sum");
    let read: StartedWith = serde_json::from_value(older.into()).unwrap();
    assert_eq!(Some(read), host.started_with());
}
