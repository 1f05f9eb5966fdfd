//! The world of a search: machines, disks, clocks, a network and a log.
//!
//! Left to chance, and so tried in every order: when each message arrives and how often; who learns
//! of which entry when; when a write reaches the disk; when whom to close is decided, by whom and
//! how rightly; when threads run. What is not done is stalled, lost or cut off.
//!
//! Left out because it can only hide a violation: a voter that learns of an entry without being
//! asked about it refuses more; so it learns when a message makes it matter. A renewal that nobody
//! can still count binds voters for nothing; so it is dropped from the network when it is that old.
//!
//! Of runs that differ in nothing that counts one is enough:
//! - A process dies right after a step of its own. What comes between does not concern it, but for
//!   time, and the earlier a voter dies the earlier its quarantine ends.
//! - A close arrives when it can be answered, unless disks are slow: one that comes before only
//!   keeps the voter from acknowledging meanwhile.
//! - A holder renews when the first of its renewals arrives, where they take no time: one that
//!   arrives nowhere does nothing.

use std::{fmt, sync::RwLock};

use consensus_core::{LogIndex, Time};
use consensus_lease::{Assignments, GateRule, planted::PlantedBug};
use stateright::{Model, Property};

use crate::{
    gate::{self, Gate},
    log::{Entry, Logs, Voters},
    machines::{HOLDERS, HolderDid, HolderInput, Machines, NOW, VoterDid, VoterInput},
};

/// Voters' machines in the largest search.
pub(crate) const VOTERS_MAX: usize = 4;
const HOLDERS_MAX: usize = 2;

/// What a search covers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    /// The voters in the beginning, as bits.
    pub(crate) old: u8,
    /// What they may change to, once.
    pub(crate) new: Option<u8>,
    pub(crate) last_epoch: u8,
    /// How often voters may restart, taken together.
    pub(crate) voter_restarts: u8,
    /// How often holders may restart, taken together.
    pub(crate) holder_restarts: u8,
    /// Whether holders may be asked to let go.
    pub(crate) releases: bool,
    /// Whether renewals take time; if not, they arrive within the tick or never. (One that arrives
    /// late binds its voter longer and carries the lease no further.)
    pub(crate) late_renewals: bool,
    /// Whether acknowledgements take time; if not, they arrive at once or never.
    pub(crate) slow_acks: bool,
    /// Whether gates are made of elements, or taken for open while there is a lease.
    pub(crate) elements: bool,
    /// Whether writes take time; if not, they are done at once or, with the process, never begun.
    pub(crate) slow_disks: bool,
    pub(crate) bug: Option<PlantedBug>,
}

/// A renewal on its way; copies may arrive at every voter it was sent to, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Sent {
    epoch: u8,
    life: u8,
    age: u8,
    to: u8,
}

/// An acknowledgement on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Ack {
    epoch: u8,
    life: u8,
    age: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct VoterMachine {
    voter: u32,
    /// How much of the log it has applied.
    applied: u8,
    /// The epoch that the disk has as closed.
    disk: u8,
    /// The epoch that is being written.
    writing: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct HolderMachine {
    holder: u32,
    applied: u8,
    life: u8,
    disk: u8,
    writing: u8,
    gate: Gate,
    sent: Sent,
    acks: [Ack; VOTERS_MAX],
}

/// One state of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct World {
    log: u8,
    voters: [VoterMachine; VOTERS_MAX],
    holders: [HolderMachine; HOLDERS_MAX],
    /// Whose answers that the epoch is closed are known.
    closed: u8,
    /// Which epoch's release was proposed.
    released: u8,
    /// Which joint phase the holder's lease rests on.
    rests_since: u8,
    voter_restarts: u8,
    holder_restarts: u8,
}

/// What can happen next: a step, and then perhaps the death of a process that took part in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    step: Step,
    voter_dies: bool,
    holder_dies: bool,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step.fmt(f)?;
        let died = [(self.voter_dies, "voter"), (self.holder_dies, "holder")];
        (died.iter().filter(|(dies, _)| *dies)).try_for_each(|(_, who)| write!(f, " +{who} dies"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Tick,
    RenewalArrives { holder: u8, voter: u8 },
    AckArrives { holder: u8, voter: u8 },
    CloseArrives { voter: u8 },
    VoterWrites { voter: u8 },
    Commits(Entry),
    HolderLearns { holder: u8 },
    HolderSends { holder: u8 },
    HolderWrites { holder: u8 },
    LetGoArrives { holder: u8 },
    GateShuts { holder: u8 },
    GateAsks { holder: u8 },
    GateCommits { holder: u8 },
}

impl Step {
    /// Whose step it is, as far as its death right after it can make a difference.
    fn of(self) -> (Option<u8>, Option<u8>) {
        match self {
            Self::RenewalArrives { holder, voter } => (Some(voter), Some(holder)),
            Self::CloseArrives { voter } | Self::VoterWrites { voter } => (Some(voter), None),
            Self::AckArrives { holder, .. }
            | Self::HolderLearns { holder }
            | Self::HolderWrites { holder }
            | Self::LetGoArrives { holder }
            | Self::GateShuts { holder }
            | Self::GateAsks { holder }
            | Self::GateCommits { holder } => (None, Some(holder)),
            Self::Tick | Self::Commits(_) | Self::HolderSends { .. } => (None, None),
        }
    }
}

pub(crate) struct Search {
    scope: Scope,
    logs: Logs,
    rule: GateRule,
    machines: RwLock<Machines>,
}

impl Search {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            logs: Logs::new(&scope),
            rule: gate::rule(HOLDERS.lan, scope.bug),
            machines: RwLock::new(Machines::new(scope.bug)),
        }
    }

    pub(crate) fn met(&self) -> (usize, usize) {
        self.machines.read().expect("no panic elsewhere").met()
    }

    fn machines(&self) -> std::sync::RwLockWriteGuard<'_, Machines> {
        self.machines.write().expect("no panic elsewhere")
    }

    /// The state after some entries.
    fn agreed(&self, log: u8) -> (LogIndex, Assignments) {
        let node = self.logs.node(log);
        (LogIndex(node.length().into()), node.agreed.clone())
    }

    /// All machines with a voter.
    fn numbers(&self) -> impl Iterator<Item = u8> + Clone + use<> {
        let everyone = self.scope.old | self.scope.new.unwrap_or_default();
        (0..4_u8).filter(move |number| everyone & (1 << number) != 0)
    }

    fn voter(&self, world: &mut World, number: u8, input: VoterInput) -> VoterDid {
        let machine = &mut world.voters[usize::from(number)];
        let agreed = |log| self.agreed(log);
        let (next, did) = self.machines().voter_step(machine.voter, input, agreed);
        machine.voter = next;
        if let Some(epoch) = did.writes {
            machine.writing = epoch;
            if !self.scope.slow_disks {
                self.voter_writes(world, number);
            }
        }
        if did.closed == Some(self.logs.node(world.log).epoch) {
            world.closed |= 1 << number;
        }
        did
    }

    fn holder(&self, world: &mut World, number: u8, input: HolderInput) {
        let machine = &mut world.holders[usize::from(number)];
        let agreed = |log| self.agreed(log);
        let (next, did) = self.machines().holder_step(machine.holder, input, agreed);
        machine.holder = next;
        let HolderDid {
            renewed,
            gate,
            writes,
            released,
            rests_since,
        } = did;
        if let Some((epoch, to)) = renewed {
            machine.sent = Sent {
                epoch,
                life: machine.life,
                age: 0,
                to,
            };
        }
        if let Some((epoch, left)) = gate {
            machine.gate.order(epoch, left);
        }
        let node = self.logs.node(world.log);
        if released == Some(node.epoch) && node.holder.is_some() {
            world.released = node.epoch;
        }
        if rests_since == Some(node.voters_since) && matches!(node.voters, Voters::Joint(..)) {
            world.rests_since = node.voters_since;
        }
        if let Some(record) = writes {
            world.holders[usize::from(number)].writing = record;
            if !self.scope.slow_disks {
                self.holder_writes(world, number);
            }
        }
    }

    fn tick(&self, world: &mut World) {
        let lost = !self.scope.late_renewals;
        for number in self.numbers() {
            self.voter(world, number, VoterInput::Tick);
        }
        for number in 0..2 {
            self.holder(world, number, HolderInput::Tick { lost });
            let machine = &mut world.holders[usize::from(number)];
            machine.gate.tick();
            let old = |age: u8| u64::from(age) + 1 >= HOLDERS.lan.lease_us;
            machine.sent.age += 1;
            if lost || machine.sent.to == 0 || old(machine.sent.age - 1) {
                machine.sent = Sent::default();
            }
            for ack in &mut machine.acks {
                ack.age += 1;
                if ack.epoch == 0 || old(ack.age - 1) {
                    *ack = Ack::default();
                }
            }
        }
    }

    /// A voter learns what the first entries of a log say.
    fn voter_learns(&self, world: &mut World, number: u8, length: u8) {
        world.voters[usize::from(number)].applied = length;
        let log = self.logs.prefix(world.log, length);
        let votes = self.logs.node(log).voters.everyone() & (1 << number) != 0;
        self.voter(world, number, VoterInput::Learn { log, votes });
    }

    /// The voter learns as much of the log as makes it a voter of this epoch (held by this node).
    fn prepare(&self, world: &mut World, number: u8, epoch: u8, holder: Option<u8>) -> bool {
        let known = |length: u8| {
            let node = self.logs.node(self.logs.prefix(world.log, length));
            let votes = node.voters.everyone() & (1 << number) != 0;
            votes
                && match holder {
                    Some(holder) => node.epoch == epoch && node.holder == Some(holder),
                    None => node.epoch >= epoch,
                }
        };
        let applied = world.voters[usize::from(number)].applied;
        if known(applied) {
            return true;
        }
        let length = self.logs.node(world.log).length();
        let Some(enough) = (applied + 1..=length).find(|length| known(*length)) else {
            return self.scope.bug == Some(PlantedBug::EpochIgnored);
        };
        self.voter_learns(world, number, enough);
        true
    }

    fn renewal_arrives(&self, world: &mut World, holder: u8, voter: u8) -> bool {
        if self.sends_when_it_arrives() && world.holders[usize::from(holder)].sent.to == 0 {
            self.holder(world, holder, HolderInput::Timer);
        }
        let sent = world.holders[usize::from(holder)].sent;
        if sent.to & (1 << voter) == 0 || !self.prepare(world, voter, sent.epoch, Some(holder)) {
            return false;
        }
        let Sent {
            epoch, life, age, ..
        } = sent;
        let input = VoterInput::Renew {
            holder,
            life,
            age,
            epoch,
        };
        if !self.voter(world, voter, input).acked {
            return false;
        }
        let ack = Ack { epoch, life, age };
        let before = world.holders[usize::from(holder)];
        world.holders[usize::from(holder)].acks[usize::from(voter)] = ack;
        if !self.scope.slow_acks {
            self.ack_arrives(world, holder, voter);
        }
        // A promise that the holder learns nothing from only binds the voter longer.
        before != world.holders[usize::from(holder)]
    }

    fn ack_arrives(&self, world: &mut World, holder: u8, voter: u8) -> bool {
        let slot = &mut world.holders[usize::from(holder)].acks[usize::from(voter)];
        let Ack { epoch, life, age } = *slot;
        // A copy that arrives again changes nothing: the holder counts names.
        *slot = Ack::default();
        let input = HolderInput::Ack {
            voter,
            life,
            age,
            epoch,
        };
        if epoch != 0 {
            self.holder(world, holder, input);
        }
        epoch != 0
    }

    fn close_arrives(&self, world: &mut World, voter: u8) -> bool {
        let node = self.logs.node(world.log);
        if world.closed & (1 << voter) != 0 || node.voters.everyone() & (1 << voter) == 0 {
            return false;
        }
        self.prepare(world, voter, node.epoch, None) && {
            let epoch = node.epoch;
            self.voter(world, voter, VoterInput::Close { epoch });
            self.scope.slow_disks || world.closed & (1 << voter) != 0
        }
    }

    /// Whether a renewal need not be told from its first arrival. Where a holder lets go, what it
    /// says again is a step of its own as well.
    fn sends_when_it_arrives(&self) -> bool {
        !self.scope.late_renewals && !self.scope.releases
    }

    fn voter_writes(&self, world: &mut World, voter: u8) -> bool {
        let machine = &mut world.voters[usize::from(voter)];
        let epoch = std::mem::take(&mut machine.writing);
        if epoch == 0 {
            return false;
        }
        machine.disk = epoch;
        self.voter(world, voter, VoterInput::Persisted { epoch });
        true
    }

    fn voter_restarts(&self, world: &mut World, voter: u8) -> bool {
        if world.voter_restarts == 0 {
            return false;
        }
        world.voter_restarts -= 1;
        let disk = world.voters[usize::from(voter)].disk;
        world.voters[usize::from(voter)] = VoterMachine {
            voter: self.machines().voter(disk, NOW),
            applied: 1,
            disk,
            writing: 0,
        };
        self.voter_learns(world, voter, 1);
        true
    }

    fn holder_learns(&self, world: &mut World, holder: u8) -> bool {
        let machine = &mut world.holders[usize::from(holder)];
        let length = self.logs.node(world.log).length();
        let concerns = |length: &u8| {
            let node = self.logs.node(self.logs.prefix(world.log, *length));
            node.holder == Some(holder)
        };
        let Some(next) = (machine.applied + 1..=length).find(concerns) else {
            return false;
        };
        machine.applied = next;
        let log = self.logs.prefix(world.log, machine.applied);
        self.holder(world, holder, HolderInput::Learn { log });
        true
    }

    fn holder_writes(&self, world: &mut World, holder: u8) -> bool {
        let machine = &mut world.holders[usize::from(holder)];
        let record = std::mem::take(&mut machine.writing);
        if record == 0 {
            return false;
        }
        machine.disk = record;
        self.holder(world, holder, HolderInput::Persisted { record });
        true
    }

    fn holder_restarts(&self, world: &mut World, holder: u8) -> bool {
        if world.holder_restarts == 0 {
            return false;
        }
        world.holder_restarts -= 1;
        let machine = &mut world.holders[usize::from(holder)];
        machine.life += 1;
        machine.writing = 0;
        machine.applied = 0;
        machine.gate.forget();
        let (life, disk) = (machine.life, machine.disk);
        machine.holder = self.machines().holder(holder, life, disk);
        true
    }

    fn commits(&self, world: &mut World, entry: Entry) -> bool {
        let node = self.logs.node(world.log);
        let allowed = match entry {
            Entry::Assign { .. } => node.holder.is_none() || self.may_close(world),
            Entry::Release => world.released == node.epoch,
            Entry::Joint | Entry::Replace => true,
            Entry::Stable => world.rests_since == node.voters_since,
        };
        let Some(next) = self.logs.after(world.log, entry).filter(|_| allowed) else {
            return false;
        };
        world.log = next;
        if matches!(entry, Entry::Assign { .. }) {
            world.closed = 0;
        }
        if world.released != 0 {
            world.released = 0;
        }
        world.rests_since = 0;
        true
    }

    fn may_close(&self, world: &World) -> bool {
        let voters = self.logs.node(world.log).voters;
        let voters = match (voters, self.scope.bug) {
            (Voters::Joint(_, new), Some(PlantedBug::JointClosesWithNew)) => Voters::Stable(new),
            _ => voters,
        };
        let closed = crate::log::named(world.closed);
        voters.lease_voters().close_majority(&closed)
    }

    /// Voters that are in the same sets differ only by name: they are put in order.
    fn put_in_order(&self, world: &mut World) {
        let counted = (world.holders).map(|one| self.machines().counted(one.holder));
        let key = |number: usize| {
            let bit = 1_u8 << number;
            let new = self.scope.new.unwrap_or_default();
            let sets = (self.scope.old & bit != 0, new & bit != 0);
            let acks = world
                .holders
                .map(|one| (one.sent.to & bit != 0, one.acks[number]));
            let counted = counted.map(|counted| counted & bit != 0);
            (
                sets,
                world.voters[number],
                world.closed & bit != 0,
                acks,
                counted,
            )
        };
        let keys = [0, 1, 2, 3].map(key);
        if keys.is_sorted() {
            return;
        }
        let mut order = [0, 1, 2, 3];
        order.sort_by_key(|number| &keys[*number]);
        let before = *world;
        let mut names = [0; VOTERS_MAX];
        let (mut at, mut slots) = ([0; VOTERS_MAX], [0, 1, 2, 3]);
        // Each voter takes a place that voters of its sets had.
        slots.sort_by_key(|number| (keys[*number].0, *number));
        for (place, number) in slots.iter().zip(order) {
            at[*place] = number;
            names[number] = u8::try_from(*place).expect("four places");
        }
        let permuted = |bits: u8| {
            (0..VOTERS_MAX).fold(0, |sum, place| {
                sum | u8::from(bits & (1 << at[place]) != 0) << place
            })
        };
        world.closed = permuted(before.closed);
        world.voters = at.map(|number| before.voters[number]);
        for (one, old) in world.holders.iter_mut().zip(before.holders) {
            one.sent.to = permuted(old.sent.to);
            one.acks = at.map(|number| old.acks[number]);
            one.holder = self.machines().renamed(old.holder, names);
        }
    }

    fn happens(&self, world: &mut World, event: Event) -> bool {
        let (voter, holder) = event.step.of();
        self.takes(world, event.step)
            && (voter.filter(|_| event.voter_dies))
                .is_none_or(|one| self.voter_restarts(world, one))
            && (holder.filter(|_| event.holder_dies))
                .is_none_or(|one| self.holder_restarts(world, one))
    }

    fn takes(&self, world: &mut World, step: Step) -> bool {
        match step {
            Step::Tick => {
                self.tick(world);
                true
            }
            Step::RenewalArrives { holder, voter } => self.renewal_arrives(world, holder, voter),
            Step::AckArrives { holder, voter } => self.ack_arrives(world, holder, voter),
            Step::CloseArrives { voter } => self.close_arrives(world, voter),
            Step::VoterWrites { voter } => self.voter_writes(world, voter),
            Step::Commits(entry) => self.commits(world, entry),
            Step::HolderLearns { holder } => self.holder_learns(world, holder),
            Step::HolderSends { holder } => {
                self.holder(world, holder, HolderInput::Timer);
                true
            }
            Step::HolderWrites { holder } => self.holder_writes(world, holder),
            Step::LetGoArrives { holder } => {
                let epoch = self.logs.node(world.log).epoch;
                self.holder(world, holder, HolderInput::LetGo { epoch });
                true
            }
            Step::GateShuts { holder } => {
                let shut = world.holders[usize::from(holder)].gate.shut();
                if let Some(epoch) = shut {
                    self.holder(world, holder, HolderInput::Shut { epoch });
                }
                shut.is_some()
            }
            Step::GateAsks { holder } => gate_of(world, holder).ask(&self.rule),
            Step::GateCommits { holder } => gate_of(world, holder).commit(),
        }
    }

    /// What can be tried next.
    fn steps(&self, steps: &mut Vec<Step>) {
        steps.push(Step::Tick);
        let voters = self.numbers();
        for holder in 0..2 {
            for voter in voters.clone() {
                steps.push(Step::RenewalArrives { holder, voter });
                if self.scope.slow_acks {
                    steps.push(Step::AckArrives { holder, voter });
                }
            }
            steps.push(Step::HolderLearns { holder });
            if !self.sends_when_it_arrives() {
                steps.push(Step::HolderSends { holder });
            }
            steps.push(Step::HolderWrites { holder });
            if self.scope.elements {
                steps.push(Step::GateAsks { holder });
                steps.push(Step::GateCommits { holder });
            }
            steps.push(Step::GateShuts { holder });
            if self.scope.releases {
                steps.push(Step::LetGoArrives { holder });
            }
            steps.push(Step::Commits(Entry::Assign { to: holder }));
        }
        for voter in voters {
            steps.push(Step::CloseArrives { voter });
            steps.push(Step::VoterWrites { voter });
        }
        let changes = [Entry::Joint, Entry::Stable, Entry::Replace, Entry::Release];
        steps.extend(changes.map(Step::Commits));
    }
}

fn gate_of(world: &mut World, holder: u8) -> &mut Gate {
    &mut world.holders[usize::from(holder)].gate
}

impl World {
    pub(crate) fn open_gates(&self) -> usize {
        self.holders.iter().filter(|one| one.gate.is_open()).count()
    }
}

impl Model for Search {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            log: 0,
            voters: Default::default(),
            holders: Default::default(),
            closed: 0,
            released: 0,
            rests_since: 0,
            voter_restarts: self.scope.voter_restarts,
            holder_restarts: self.scope.holder_restarts,
        };
        for number in self.numbers() {
            let voter = self.machines().voter(0, Time::ZERO);
            world.voters[usize::from(number)].voter = voter;
            self.voter_learns(&mut world, number, 1);
        }
        for number in 0..2 {
            let holder = self.machines().holder(number, 0, 0);
            world.holders[usize::from(number)].holder = holder;
            if !self.scope.elements {
                world.holders[usize::from(number)].gate = Gate::coarse();
            }
        }
        vec![world]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        let mut steps = Vec::with_capacity(64);
        self.steps(&mut steps);
        for step in steps {
            let (voter, holder) = step.of();
            let voter = voter.is_some() && world.voter_restarts > 0;
            let holder = holder.is_some() && world.holder_restarts > 0;
            for (voter_dies, holder_dies) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                if (voter || !voter_dies) && (holder || !holder_dies) {
                    events.push(Event {
                        step,
                        voter_dies,
                        holder_dies,
                    });
                }
            }
        }
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut next = *world;
        if !self.happens(&mut next, event) {
            return None;
        }
        self.put_in_order(&mut next);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never two open gates", |_, world: &World| {
                world.open_gates() < 2
            }),
            Property::sometimes(
                "the last epoch's gate opens",
                |search: &Self, world: &World| {
                    let node = search.logs.node(world.log);
                    let holder = node.holder.map(usize::from);
                    node.epoch == search.scope.last_epoch
                        && holder.is_some_and(|holder| {
                            let machine = world.holders[holder];
                            machine.applied == node.length() && machine.gate.is_open()
                        })
                },
            ),
            Property::sometimes(
                "the change of voters ends",
                |search: &Self, world: &World| {
                    let node = search.logs.node(world.log);
                    search
                        .scope
                        .new
                        .is_none_or(|new| node.epoch == 1 && node.voters == Voters::Stable(new))
                },
            ),
        ]
    }
}
