//! The real machines, each state and each step of one worked out once.
//!
//! A search meets the same voter in the same state millions of times. So machines are numbered, and
//! what a numbered machine does on an input is looked up. The clock of a machine stands still at
//! [`NOW`]; to let time pass everything else is moved into the past (`age`).

use std::{
    collections::BTreeMap,
    hash::{BuildHasherDefault, Hasher},
};

use consensus_core::{Epoch, LeaseProfile, LeaseTiming, LeaseVoters, LogIndex, NodeId, Time};
use consensus_lease::{
    Assignments, Holder, HolderOutput, HolderRecord, Life, Message, Renewal, Timings, Voter,
    VoterOutput, planted::PlantedBug,
};

use crate::log::{VIP, any_voter_name, coordinator_name, holder_name, voter_name};

/// What was worked out.
#[expect(
    clippy::disallowed_types,
    reason = "looked up millions of times a second and never iterated"
)]
type Table<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Mixed>>;

/// A quick hash of a few small numbers.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number.unsigned_abs() as u64);
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing; the multiplier is 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What every clock shows at all times; long after the beginning.
pub(crate) const NOW: Time = Time::from_micros(1000);

/// In ticks of a fast clock: R is 1, L is 3, T is 1. The promise is L(1+rho) in whole ticks: 4.
const FAST: LeaseTiming = LeaseTiming {
    renew_every_us: 1,
    lease_us: 3,
    gate_us: 1,
    margin_us: 0,
};

/// The same on the slowest clock that is permitted, in ticks of the fast one: L takes as long as
/// a fast clock's L(1+rho).
const SLOW: LeaseTiming = LeaseTiming {
    lease_us: FAST.promise_us(),
    ..FAST
};

/// One renewal at a time is waited for: whatever is waited for longer carries a shorter lease.
pub(crate) const VOTERS: Timings = all(FAST);

/// Drift at its worst, all the time: every voter's clock is fast and every holder's is slow. Less
/// of it makes promises longer or leases shorter.
pub(crate) const HOLDERS: Timings = all(SLOW);

const fn all(timing: LeaseTiming) -> Timings {
    Timings {
        lan: timing,
        safe: timing,
        wan: timing,
        slow: timing,
        renewals_open_max: 1,
        // A holder may be asked to let go at any time: that includes the time at which it would.
        leases_without_majority: u64::MAX,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum VoterInput {
    Learn {
        log: u8,
        /// Whether the voter is one of those that the state names. It asks nothing else of them.
        votes: bool,
    },
    Renew {
        holder: u8,
        life: u8,
        age: u8,
        epoch: u8,
    },
    Close {
        epoch: u8,
    },
    Persisted {
        epoch: u8,
    },
    Tick,
}

/// What a voter did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct VoterDid {
    pub(crate) acked: bool,
    pub(crate) closed: Option<u8>,
    pub(crate) writes: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HolderInput {
    Learn {
        log: u8,
    },
    Ack {
        voter: u8,
        life: u8,
        age: u8,
        epoch: u8,
    },
    LetGo {
        epoch: u8,
    },
    Shut {
        epoch: u8,
    },
    Persisted {
        record: u8,
    },
    Timer,
    /// Renewals that were not answered within the tick are lost, or are not.
    Tick {
        lost: bool,
    },
}

/// What a holder did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HolderDid {
    /// The epoch of a renewal sent, and the voters it was sent to.
    pub(crate) renewed: Option<(u8, u8)>,
    /// Epoch and ticks left of an order to the gate.
    pub(crate) gate: Option<(u8, u8)>,
    pub(crate) writes: Option<u8>,
    pub(crate) released: Option<u8>,
    pub(crate) rests_since: Option<u8>,
}

/// Numbered values.
#[derive(Debug)]
struct Numbered<T> {
    all: Vec<T>,
    numbers: BTreeMap<T, u32>,
}

impl<T: Ord + Clone> Numbered<T> {
    const fn new() -> Self {
        Self {
            all: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = u32::try_from(self.all.len()).expect("few machines");
        self.all.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    fn get(&self, number: u32) -> &T {
        &self.all[number as usize]
    }
}

/// Every state of every machine that was met, and every step that was taken.
#[derive(Debug)]
pub(crate) struct Machines {
    bug: Option<PlantedBug>,
    voters: Numbered<Voter>,
    holders: Numbered<Holder>,
    records: Numbered<Option<HolderRecord>>,
    voter_steps: Table<(u32, VoterInput), (u32, VoterDid)>,
    holder_steps: Table<(u32, HolderInput), (u32, HolderDid)>,
    renamed: Table<(u32, [u8; 4]), u32>,
    counted: Vec<u8>,
}

impl Machines {
    pub(crate) fn new(bug: Option<PlantedBug>) -> Self {
        let mut records = Numbered::new();
        records.number(None);
        Self {
            bug,
            voters: Numbered::new(),
            holders: Numbered::new(),
            records,
            voter_steps: Table::default(),
            holder_steps: Table::default(),
            renamed: Table::default(),
            counted: Vec::new(),
        }
    }

    /// How many states of voters and of holders there were.
    pub(crate) fn met(&self) -> (usize, usize) {
        (self.voters.all.len(), self.holders.all.len())
    }

    /// A voter that started at `at`, with the epoch that its disk has as closed.
    pub(crate) fn voter(&mut self, closed: u8, at: Time) -> u32 {
        let disk = (closed > 0).then_some((VIP, Epoch(closed.into())));
        let mut voter = Voter::new(any_voter_name(), VOTERS, disk.into_iter().collect(), at);
        if let Some(bug) = self.bug {
            voter.plant(bug);
        }
        voter.handle_timeout(NOW);
        self.voters.number(voter)
    }

    /// A holder in its given life, with what its disk has.
    pub(crate) fn holder(&mut self, number: u8, life: u8, record: u8) -> u32 {
        let record = *self.records.get(record.into());
        let disk = record.map(|record| (VIP, record)).into_iter().collect();
        let mut holder = Holder::new(holder_name(number), Life(life.into()), HOLDERS, disk);
        if let Some(bug) = self.bug {
            holder.plant(bug);
        }
        self.holders.number(holder)
    }

    /// Whose acknowledgements the holder counts, as bits.
    pub(crate) fn counted(&mut self, at: u32) -> u8 {
        for holder in &self.holders.all[self.counted.len()..] {
            self.counted.push(holder.counted().iter().map(bit).sum());
        }
        self.counted[at as usize]
    }

    /// The same holder where voter n is called `names[n]`.
    pub(crate) fn renamed(&mut self, at: u32, names: [u8; 4]) -> u32 {
        if let Some(renamed) = self.renamed.get(&(at, names)) {
            return *renamed;
        }
        let mut holder = self.holders.get(at).clone();
        holder.rename(|name| {
            let number = bit(name).trailing_zeros() as usize;
            voter_name(names[number])
        });
        let number = self.holders.number(holder);
        self.renamed.insert((at, names), number);
        number
    }

    pub(crate) fn voter_step(
        &mut self,
        at: u32,
        input: VoterInput,
        agreed: impl Fn(u8) -> (LogIndex, Assignments),
    ) -> (u32, VoterDid) {
        if let Some(step) = self.voter_steps.get(&(at, input)) {
            return *step;
        }
        let mut voter = self.voters.get(at).clone();
        match input {
            VoterInput::Learn { log, votes } => {
                let (revision, mut agreed) = agreed(log);
                let named = if votes {
                    any_voter_name()
                } else {
                    voter_name(0)
                };
                for one in agreed.values_mut() {
                    one.voters = LeaseVoters::Stable([named.clone()].into());
                }
                voter.handle_assignments(revision, &agreed, NOW);
            }
            VoterInput::Renew {
                holder,
                life,
                age,
                epoch,
            } => {
                let message = renew(life, age, epoch);
                voter.handle_message(&holder_name(holder), &message, NOW);
            }
            VoterInput::Close { epoch } => {
                let epoch = Epoch(epoch.into());
                let message = Message::Close { vip: VIP, epoch };
                voter.handle_message(&coordinator_name(), &message, NOW);
            }
            VoterInput::Persisted { epoch } => {
                voter.handle_persisted(VIP, Epoch(epoch.into()), NOW);
            }
            VoterInput::Tick => {
                voter.age(1);
                voter.handle_timeout(NOW);
            }
        }
        let mut did = VoterDid::default();
        while let Some(output) = voter.poll_output() {
            did.note(&output, input);
        }
        voter.settle();
        let step = (self.voters.number(voter), did);
        self.voter_steps.insert((at, input), step);
        step
    }

    pub(crate) fn holder_step(
        &mut self,
        at: u32,
        input: HolderInput,
        agreed: impl Fn(u8) -> (LogIndex, Assignments),
    ) -> (u32, HolderDid) {
        if let Some(step) = self.holder_steps.get(&(at, input)) {
            return *step;
        }
        let mut holder = self.holders.get(at).clone();
        match input {
            HolderInput::Learn { log } => {
                let (revision, agreed) = agreed(log);
                holder.handle_assignments(revision, &agreed, NOW);
            }
            HolderInput::Ack {
                voter,
                life,
                age,
                epoch,
            } => {
                let message = ack(life, age, epoch);
                holder.handle_message(&voter_name(voter), &message, NOW);
            }
            HolderInput::LetGo { epoch } => holder.let_go(VIP, Epoch(epoch.into()), NOW),
            HolderInput::Shut { epoch } => {
                holder.handle_gate_shut(VIP, Epoch(epoch.into()), NOW);
            }
            HolderInput::Persisted { record } => {
                let record = self
                    .records
                    .get(record.into())
                    .expect("something was written");
                holder.handle_persisted(VIP, record, NOW);
            }
            HolderInput::Timer => holder.handle_timeout(NOW),
            HolderInput::Tick { lost } => {
                holder.age(1);
                if lost {
                    holder.give_up();
                }
            }
        }
        let mut did = HolderDid::default();
        while let Some(output) = holder.poll_output() {
            did.note(&output, &mut self.records);
        }
        holder.settle(NOW);
        let step = (self.holders.number(holder), did);
        self.holder_steps.insert((at, input), step);
        step
    }
}

impl VoterDid {
    fn note(&mut self, output: &VoterOutput, input: VoterInput) {
        match output {
            VoterOutput::Send { to, message } => match message {
                Message::Ack {
                    life,
                    sent,
                    granted,
                } => {
                    let VoterInput::Renew {
                        holder,
                        life: asked,
                        age,
                        epoch,
                    } = input
                    else {
                        panic!("an acknowledgement without a renewal")
                    };
                    let right = (holder_name(holder), Life(asked.into()), sent_at(age));
                    assert_eq!((to, life, sent), (&right.0, &right.1, &right.2));
                    assert_eq!(granted[0].epoch, Epoch(epoch.into()));
                    self.acked = true;
                }
                Message::Closed { epoch, .. } => self.closed = Some(small(epoch.0)),
                Message::Renew { .. }
                | Message::Close { .. }
                | Message::LetGo { .. }
                | Message::RestsOnJoint { .. } => panic!("a voter says {message:?}"),
            },
            VoterOutput::PersistClosure { through, .. } => self.writes = Some(small(through.0)),
            VoterOutput::Renewed { .. } => {}
            VoterOutput::ForgetClosure { .. } => panic!("nothing was deleted"),
        }
    }
}

impl HolderDid {
    fn note(&mut self, output: &HolderOutput, records: &mut Numbered<Option<HolderRecord>>) {
        match output {
            HolderOutput::Send { to, message } => match message {
                Message::Renew { renewals, sent, .. } => {
                    assert_eq!((*sent, renewals.len()), (NOW, 1));
                    let (_, voters) = self.renewed.unwrap_or_default();
                    let voters = voters | bit(to);
                    self.renewed = Some((small(renewals[0].epoch.0), voters));
                }
                Message::RestsOnJoint { voters_since, .. } => {
                    self.rests_since = Some(small(voters_since.0));
                }
                Message::Ack { .. }
                | Message::Close { .. }
                | Message::Closed { .. }
                | Message::LetGo { .. } => panic!("a holder says {message:?}"),
            },
            HolderOutput::Gate(order) => {
                let left = order.lease_until_us.saturating_sub(NOW.as_micros());
                self.gate = Some((small(order.epoch.0), small(left)));
            }
            HolderOutput::Persist { record, .. } => {
                self.writes = Some(small(records.number(Some(*record)).into()));
            }
            HolderOutput::ProposeRelease { epoch, .. } => self.released = Some(small(epoch.0)),
            HolderOutput::ProposeStable { voters_since, .. } => {
                self.rests_since = Some(small(voters_since.0));
            }
            HolderOutput::ForgetRecord { .. } => panic!("nothing was deleted"),
        }
    }
}

fn renew(life: u8, age: u8, epoch: u8) -> Message {
    Message::Renew {
        life: Life(life.into()),
        sent: sent_at(age),
        renewals: vec![Renewal {
            vip: VIP,
            epoch: Epoch(epoch.into()),
            profile: LeaseProfile::Lan,
        }],
    }
}

fn ack(life: u8, age: u8, epoch: u8) -> Message {
    let granted = consensus_lease::Granted {
        vip: VIP,
        epoch: Epoch(epoch.into()),
    };
    Message::Ack {
        life: Life(life.into()),
        sent: sent_at(age),
        granted: vec![granted],
    }
}

fn sent_at(age: u8) -> Time {
    Time::from_micros(NOW.as_micros() - u64::from(age))
}

fn bit(voter: &NodeId) -> u8 {
    let number = (0..8).find(|number| voter_name(*number) == *voter);
    1 << number.expect("renewals go to voters")
}

fn small(number: u64) -> u8 {
    u8::try_from(number).expect("small in a small world")
}
