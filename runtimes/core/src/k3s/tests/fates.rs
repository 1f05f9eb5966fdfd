//! Claims that hold whatever befalls a host.

use proptest::prelude::*;

use super::*;

/// What may happen to a host between two steps.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Dies,
    Falters,
    IsDown,
    LosesItsDisk,
    ClusterIsActive,
    Leaves,
    ComesAgain,
    Upgraded,
    Turn,
}

fn fate() -> impl Strategy<Value = Option<Fate>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Fate::Dies)),
        2 => Just(Some(Fate::Falters)),
        1 => Just(Some(Fate::IsDown)),
        1 => Just(Some(Fate::LosesItsDisk)),
        1 => Just(Some(Fate::ClusterIsActive)),
        1 => Just(Some(Fate::Leaves)),
        1 => Just(Some(Fate::ComesAgain)),
        1 => Just(Some(Fate::Upgraded)),
        1 => Just(Some(Fate::Turn)),
    ]
}

proptest! {
    /// Whatever befalls a host: it comes to rest ready, waiting or stopped, and a cluster that was
    /// active is not initialised again by it. Who was ready is made into something else only in its turn.
    #[test]
    fn every_way_comes_to_rest(
        founds in any::<bool>(),
        fates in prop::collection::vec(fate(), 0..40),
    ) {
        let first = if founds { founder() } else { agent() };
        let mut host = Host::new(first.clone());
        let (mut attempt, mut before_active) = (7, 0);
        for fate in fates {
            match fate {
                Some(Fate::Dies) => host.observed.daemon = Daemon::Absent,
                Some(Fate::Falters) => host.falters(),
                Some(Fate::IsDown) => {
                    host.falters();
                    host.observed.down = true;
                }
                Some(Fate::LosesItsDisk) => {
                    host.observed = bare();
                    // The mesh was told so, and begins anew.
                    if let Some(stay) = &mut host.desired.stay {
                        stay.settled = false;
                    }
                }
                Some(Fate::ClusterIsActive) => {
                    if let Some(stay) = host.desired.stay.as_mut().filter(|stay| !stay.active) {
                        stay.active = true;
                        before_active = host.initialised;
                    }
                }
                Some(Fate::Leaves) => host.desired.stay = None,
                Some(Fate::ComesAgain) => {
                    attempt += 1;
                    host.desired.stay = Some(Stay {
                        attempt: LogIndex(attempt),
                        active: true,
                        ..agent()
                    });
                    before_active = host.initialised;
                }
                Some(Fate::Upgraded) if host.desired.stay.is_some() => {
                    if host.observed.program.is_some() {
                        host.upgraded();
                    }
                }
                Some(Fate::Turn) => {
                    if let Some(stay) = &mut host.desired.stay {
                        stay.turn = true;
                    }
                }
                Some(Fate::Upgraded) | None => {}
            }
            if let Some(step) = host.plan().step {
                if step == Step::RequestToken {
                    host.stay().token = Some(TOKEN);
                }
                let settled = host.desired.stay.as_ref().is_some_and(|s| s.settled && !s.turn);
                if let (true, Step::Restart(with)) = (settled, &step) {
                    let had = host.started_with();
                    prop_assert_eq!(Some(with), had.as_ref());
                }
                host.perform(&step);
            }
            let ready = is_ready(&host.observed);
            if let Some(stay) = &mut host.desired.stay {
                stay.settled |= ready;
            }
            if host.desired.stay.as_ref().is_some_and(|stay| stay.active) {
                prop_assert_eq!(host.initialised, before_active);
            }
        }
        let phase = host.run();
        let rests = match &host.desired.stay {
            None => phase == Phase::Stopped,
            Some(stay) if !stay.active && !founds => phase == Phase::Installing,
            Some(_) => matches!(phase, Phase::Ready { .. }),
        };
        prop_assert!(rests, "{:?} after {:?}", phase, host.steps);
    }
}
