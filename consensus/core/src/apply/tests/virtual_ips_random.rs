//! Whatever is asked for in whatever order: no epoch falls, and none has two holders.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    virtual_ips::{checked, create_vip, fail_over, ids, set_candidates},
    world::*,
};
use crate::{
    Agreed, Command, Epoch, LeaseVoters, LogIndex, NodeId, RaftId, Role, VipId, VirtualIp,
    go_on_alone, limits::VIP_MOVES_KEPT, wire::v1,
};

/// Raw material of one command.
type Draw = (u8, u8, u8, u8);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_epoch_never_falls_and_never_has_two_holders(
        draws in prop::collection::vec(any::<Draw>(), 1..300),
    ) {
        let mut seen = Seen::default();
        let mut world = World::of(3, 6);
        for draw in draws {
            step(&mut world, draw);
            seen.look(world.agreed());
            check(&world);
        }
        let bytes = v1::encode(&world.state);
        prop_assert_eq!(v1::decode::<crate::State>(&bytes).unwrap(), world.state);
    }
}

#[test]
fn the_random_commands_move_change_and_lose_virtual_ips() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let draws = prop::collection::vec(any::<Draw>(), 300);
    let (mut highest, mut joint, mut unheld, mut stranded) = (Epoch(0), 0, 0, 0);
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let mut world = World::of(3, 6);
        for draw in draws.new_tree(&mut runner).unwrap().current() {
            step(&mut world, draw);
            for vip in world.agreed().virtual_ips.values() {
                highest = highest.max(Epoch(vip.epoch.0 % (1 << 32)));
                joint += u32::from(matches!(vip.voters, LeaseVoters::Joint { .. }));
                unheld += u32::from(vip.holder.is_none());
                let gone = |node| !world.agreed().nodes.contains_key(node);
                stranded += u32::from(vip.holder.as_ref().is_some_and(gone));
            }
        }
        kinds.extend(world.state.events.iter().map(|event| event.kind));
    }
    let reached = format!("{highest} {joint} {unheld} {stranded} {kinds:?}");
    assert!(
        highest >= Epoch(10) && joint > 100 && unheld > 10 && stranded > 10,
        "{reached}"
    );
    use crate::EventKind::{VipAllocated, VipMoved, VipReleased};
    assert!(
        [VipAllocated, VipMoved, VipReleased]
            .iter()
            .all(|kind| kinds.contains(kind)),
        "{reached}"
    );
}

/// Every holder that any epoch ever had.
#[derive(Default)]
struct Seen {
    epochs: BTreeMap<VipId, Epoch>,
    holders: BTreeMap<(VipId, Epoch), Option<NodeId>>,
}

impl Seen {
    fn look(&mut self, agreed: &Agreed) {
        for (id, vip) in agreed.virtual_ips.iter() {
            let before = self.epochs.insert(*id, vip.epoch);
            assert!(
                before <= Some(vip.epoch),
                "{} fell from {before:?}",
                vip.name
            );
            let first = self
                .holders
                .entry((*id, vip.epoch))
                .or_insert_with(|| vip.holder.clone());
            assert_eq!(*first, vip.holder, "two holders in epoch {}", vip.epoch);
        }
    }
}

fn step(world: &mut World, draw: Draw) {
    let before = world.state.agreed.clone();
    if draw.0 == 255 {
        recover(world, draw.1);
        return;
    }
    let (actor, command) = command_of(draw, world);
    if world.give(actor, command.clone()).is_ok() {
        for (id, vip) in before.virtual_ips.iter() {
            let after = world.agreed().virtual_ips.get(id);
            if let Some(after) = after.filter(|after| after.epoch != vip.epoch) {
                let earned = earned(vip, actor, &command);
                assert!(earned, "{after:?} by {command:?} of n{actor}");
                assert_eq!(after.epoch, vip.epoch.next());
            }
        }
    }
}

/// Whether an epoch may end so.
fn earned(before: &VirtualIp, actor: u32, command: &Command) -> bool {
    let Some(holder) = &before.holder else {
        return matches!(command, Command::AssignVip { .. });
    };
    if let Command::AssignVip { closed_by, .. } = command {
        return before.voters.close_majority(closed_by);
    }
    matches!(command, Command::ReleaseVip { .. }) && *holder == id(actor)
}

fn recover(world: &mut World, a: u8) {
    let at = LogIndex((world.state.applied.0 >> 40 << 40) + (1 << 40));
    let survivor = id(u32::from(a % 6) + 1);
    let now = world.now;
    // Refused where it is no member.
    let _ = go_on_alone(&mut world.state, at, now, &survivor, RaftId(at.0));
}

fn command_of(draw @ (kind, a, b, c): Draw, world: &World) -> (u32, Command) {
    let n = u32::from(a % 6) + 1;
    let name = ["web", "db"][usize::from(b % 2)];
    let some = some_of(c);
    let Some((vip, row)) = world.agreed().find_vip(name) else {
        return (n, create_vip(name, &some));
    };
    let even = c % 2 == 0;
    let command = match kind % 24 {
        0 => Command::DeleteVip { vip: name.into() },
        1 | 2 => set_candidates(&some),
        3 => Command::SetVipCheck {
            vip: name.into(),
            check: checked().filter(|_| even),
        },
        4 => fail_over(some_of(b).first().copied().filter(|_| even), &some),
        5 => remove(n),
        6 => detach(n),
        7 => set_role(n, if even { Role::Agent } else { Role::Server }),
        8 => attach(n),
        _ => return lease_command(draw, world, vip, row),
    };
    (n, command)
}

fn lease_command(
    (kind, a, b, c): Draw,
    world: &World,
    vip: VipId,
    row: &VirtualIp,
) -> (u32, Command) {
    let n = u32::from(a % 6) + 1;
    let holder = (1..=6).find(|n| row.is_holder(&id(*n))).unwrap_or(n);
    let epoch = Epoch(row.epoch.0 - u64::from(c == 0));
    let to = some_of(b).first().copied().map(id);
    let reason = String::new();
    let command = match kind % 24 {
        9..=12 => Command::AssignVip {
            vip,
            after: epoch,
            to,
            closed_by: ids(&some_of(c)),
            reason,
        },
        13..=16 => Command::ReleaseVip {
            vip,
            epoch,
            to: to.filter(|_| c % 2 == 0),
            reason,
        },
        17 | 18 => {
            let servers = world.agreed().servers().map(|(id, _)| id.clone());
            let some = ids(&some_of(c));
            let new = if c % 4 == 0 { some } else { servers.collect() };
            let since = row.voters_since;
            Command::BeginLeaseVoters {
                vip,
                epoch,
                since,
                new,
            }
        }
        19 | 20 => {
            let since = LogIndex(row.voters_since.0 - u64::from(c % 8 == 0));
            Command::FinishLeaseVoters { vip, epoch, since }
        }
        21 | 22 => Command::ReportReadiness {
            vip,
            ready: c % 4 != 0,
            reason,
        },
        _ => Command::ReportMove {
            vip,
            epoch,
            outage_us: c.into(),
        },
    };
    let holders = matches!(kind % 24, 13..=16 | 19 | 20) && a < 240;
    (if holders { holder } else { n }, command)
}

/// Nodes by the bits of a number.
fn some_of(bits: u8) -> Vec<u32> {
    (1..=6).filter(|n| bits & (1 << n) != 0).collect()
}

fn check(world: &World) {
    let agreed = world.agreed();
    for vip in agreed.virtual_ips.values() {
        for node in &vip.candidates {
            let place = agreed.peers.contains_key(&(vip.network, node.clone()));
            assert!(place && agreed.nodes.contains_key(node), "{vip:?}");
        }
        if let Some(holder) = &vip.holder {
            let gone = !agreed.nodes.contains_key(holder);
            assert!(gone || vip.is_candidate(holder), "{vip:?}");
        }
        let wished = vip.wish.as_ref().and_then(|wish| wish.to.as_ref());
        assert!(wished.is_none_or(|node| vip.is_candidate(node)), "{vip:?}");
        assert!(
            vip.readiness.keys().all(|node| vip.is_candidate(node)),
            "{vip:?}"
        );
        assert!(!vip.voters.everyone().is_empty() && vip.moves.len() <= VIP_MOVES_KEPT);
    }
}
