//! The clients: a few at once, on a few objects, with little patience.
//!
//! Decides what is asked of whom and when a request is repeated. Never tells more to the history
//! than a client knows.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::{LogIndex, NodeId};
use consensus_raft::{Agreement, Lane, ProposeError, Role};
use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep, timeout};

use super::{
    bugs::Bug,
    history::{History, Place},
    machine::{Book, Request, read_answer},
    network::{Seat, World, lock},
    object::{Answer, Content, Key, Op},
    seats::{SEATS, reached},
};

/// Clients at work at once.
pub(crate) const CLIENTS: u32 = 6;
/// Objects of each kind; so few that clients meet.
const OBJECTS: u32 = 2;
/// How long a client thinks between two operations, in milliseconds.
const THINK_MS: (u64, u64) = (2, 60);
/// How long it waits for one server, in milliseconds.
const PATIENCE_MS: (u64, u64) = (150, 1_200);
/// How long it waits before it turns to another.
const RETRY_MS: (u64, u64) = (5, 150);
/// How often it tries before it leaves the outcome open.
const TRIES: u32 = 5;
/// Answers lost on their way, in 100: the client repeats what was done already.
const ANSWER_LOST_PERCENT: u32 = 8;

/// Operations of all clients.
pub(crate) type Shared = std::sync::Arc<std::sync::Mutex<History>>;

/// One client.
pub(crate) struct Client {
    number: u32,
    world: World,
    history: Shared,
    random: ChaCha8Rng,
    /// What it last saw of each object.
    seen: BTreeMap<Key, Content>,
    /// Whom it takes for the leader.
    leader: Option<Seat>,
    bug: Option<Bug>,
}

/// What one server made of a request.
enum Told {
    Answer(Answer),
    /// Certainly nothing was written; perhaps somebody else leads.
    Nothing(Option<NodeId>),
    Unknown,
}

impl Client {
    /// A client with a seed of its own.
    pub(crate) fn new(number: u32, seed: u64, world: &World, history: &Shared) -> Self {
        let bug = lock(&world.judge).bug();
        Self {
            number,
            world: world.clone(),
            history: history.clone(),
            random: ChaCha8Rng::seed_from_u64(seed ^ u64::from(number).rotate_left(40)),
            seen: BTreeMap::new(),
            leader: None,
            bug,
        }
    }

    /// Works until `end`.
    pub(crate) async fn work(mut self, end: Instant) {
        while Instant::now() < end {
            let think = self.random.random_range(THINK_MS.0..THINK_MS.1);
            sleep(Duration::from_millis(think)).await;
            let (key, op) = self.idea();
            if op == Op::Read {
                self.read(key).await;
            } else {
                self.write(key, op).await;
            }
        }
    }

    fn idea(&mut self) -> (Key, Op) {
        let object = self.random.random_range(0..OBJECTS);
        let value = lock(&self.history).value();
        let kind = self.random.random_range(0..100);
        let read = self.random.random_range(0..100) < 40;
        let known = |client: &Self, key| client.seen.get(&key).copied().unwrap_or_default();
        match kind {
            0..45 => {
                let key = Key::Register(object);
                let expected = known(self, key).value;
                let op = match (read, self.random.random_bool(0.5)) {
                    (true, _) => Op::Read,
                    (false, true) => Op::Set(value),
                    (false, false) => Op::CompareAndSet {
                        expected,
                        new: value,
                    },
                };
                (key, op)
            }
            45..65 => {
                let key = Key::Vip(object);
                let epoch = known(self, key).epoch;
                let op = if read {
                    Op::Read
                } else {
                    Op::Move { to: value, epoch }
                };
                (key, op)
            }
            65..75 => {
                let op = match (read, self.random.random_bool(0.5)) {
                    (true, _) => Op::Read,
                    (false, true) => Op::Claim { by: value },
                    (false, false) => Op::Free,
                };
                (Key::DockerHost(object), op)
            }
            75..88 => (
                Key::Counter(object),
                if read { Op::Read } else { Op::Count },
            ),
            _ => {
                // A new token every so often; several clients go for the newest.
                let newest = u32::try_from(value / 64).unwrap_or(u32::MAX);
                let op = if read {
                    Op::Read
                } else {
                    Op::Use { by: value }
                };
                (Key::Token(newest), op)
            }
        }
    }

    /// Writes, repeating the request until it has an answer or has had enough.
    async fn write(&mut self, key: Key, op: Op) {
        let (place, id) = {
            let mut history = lock(&self.history);
            (history.called(self.number, key, op), history.request_id())
        };
        let request = Request { id, key, op };
        let mut perhaps_written = false;
        for _ in 0..TRIES {
            let seat = self.whom();
            match self.propose(seat, &request).await {
                Told::Answer(answer) => {
                    if self.random.random_range(0..100) < ANSWER_LOST_PERCENT {
                        self.world.count("answer lost");
                        perhaps_written = true;
                    } else {
                        return self.learn(place, key, op, answer);
                    }
                }
                Told::Nothing(leader) => {
                    let seats = lock(&self.world.seats);
                    self.leader = leader.and_then(|node| seats.seat_of(&node));
                }
                Told::Unknown => {
                    perhaps_written = true;
                    self.leader = None;
                }
            }
            let wait = self.random.random_range(RETRY_MS.0..RETRY_MS.1);
            sleep(Duration::from_millis(wait)).await;
        }
        if !perhaps_written {
            self.world.count("write refused, nothing written");
            lock(&self.history).void(place);
        }
    }

    fn learn(&mut self, place: Place, key: Key, op: Op, answer: Answer) {
        self.world.note("told", &[u64::from(self.number)]);
        lock(&self.history).answered(place, answer);
        let known = self.seen.get(&key).copied().unwrap_or_default();
        let now = match (answer, op) {
            (Answer::Content(content), _) => content,
            (Answer::Changed(true), Op::Move { to, epoch }) => Content {
                value: to,
                epoch: epoch + 1,
            },
            (Answer::Written, Op::Set(value))
            | (Answer::Changed(true), Op::CompareAndSet { new: value, .. }) => {
                Content { value, ..known }
            }
            _ => known,
        };
        self.seen.insert(key, now);
    }

    /// The server it takes for the leader, or any.
    fn whom(&mut self) -> Seat {
        let any = self.random.random_range(0..SEATS);
        self.leader.unwrap_or(any)
    }

    fn patience(&mut self) -> Duration {
        let ms = self.random.random_range(PATIENCE_MS.0..PATIENCE_MS.1);
        Duration::from_millis(ms)
    }

    async fn propose(&mut self, seat: Seat, request: &Request) -> Told {
        let patience = self.patience();
        sleep(Duration::from_millis(1)).await;
        let Some((_, server)) = lock(&self.world.seats).running(seat) else {
            return Told::Nothing(None);
        };
        let leads = server.status().borrow().role == Role::Leader;
        let entry = request.entry();
        // A task of nobody's: a server goes on with what a client gave up on.
        let work = tokio::spawn(async move { server.propose(entry).await });
        if let (Some(Bug::UncommittedAnswer), true, Op::Set(_)) = (self.bug, leads, request.op) {
            return Told::Answer(Answer::Written);
        }
        match timeout(patience, work).await {
            Ok(Ok(Ok((_, answer)))) => read_answer(&answer).map_or(Told::Unknown, Told::Answer),
            Ok(Ok(Err(ProposeError::NotLeader { leader }))) => Told::Nothing(leader),
            Ok(Ok(Err(ProposeError::NoMajority { .. } | ProposeError::Busy))) => {
                Told::Nothing(None)
            }
            Ok(_) | Err(_) => Told::Unknown,
        }
    }

    /// Reads on any server, linearizably.
    async fn read(&mut self, key: Key) {
        let place = lock(&self.history).called(self.number, key, Op::Read);
        for _ in 0..TRIES {
            let seat = self.random.random_range(0..SEATS);
            let patience = self.patience();
            let content = timeout(patience, read(&self.world, seat, key, self.bug)).await;
            if let Ok(Some(content)) = content {
                return self.learn(place, key, Op::Read, Answer::Content(content));
            }
            let wait = self.random.random_range(RETRY_MS.0..RETRY_MS.1);
            sleep(Duration::from_millis(wait)).await;
        }
        lock(&self.history).void(place);
    }
}

/// Reads every object through one server after another until each was read.
pub(crate) async fn read_all(world: &World, history: &Shared, seed: u64, end: Instant) -> bool {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let keys = lock(history).keys();
    for key in keys {
        let place = lock(history).called(CLIENTS, key, Op::Read);
        loop {
            if Instant::now() > end {
                return false;
            }
            let alive = lock(&world.seats).alive();
            let seat = *alive.choose(&mut random).unwrap_or(&0);
            let reading = read(world, seat, key, None);
            if let Ok(Some(content)) = timeout(Duration::from_secs(1), reading).await {
                lock(history).answered(place, Answer::Content(content));
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    true
}

/// Reads an object on one server: at the leader's read index, on the leader or on a follower.
async fn read(world: &World, seat: Seat, key: Key, bug: Option<Bug>) -> Option<Content> {
    sleep(Duration::from_millis(1)).await;
    let (_, server) = lock(&world.seats).running(seat)?;
    if bug == Some(Bug::StaleRead) {
        return Some(look(world, &server, key));
    }
    let index = read_index(world, seat, &server).await?;
    if bug == Some(Bug::ReadDoesNotWait) {
        return Some(look(world, &server, key));
    }
    // Asked again and again: several waiters on one watch are woken in an order of chance.
    while reached(&server) < index {
        sleep(Duration::from_millis(1)).await;
    }
    Some(look(world, &server, key))
}

fn look(world: &World, server: &Agreement<Book>, key: Key) -> Content {
    let published = server.published();
    let book = std::sync::Arc::clone(&published.borrow().machine);
    lock(&world.judge).seen(book.applied, book.fingerprint);
    book.content(key)
}

async fn read_index(world: &World, seat: Seat, server: &Agreement<Book>) -> Option<LogIndex> {
    let leader = server.status().borrow().leader_id?;
    let leader_seat = lock(&world.seats).seat_of_id(leader)?;
    if leader_seat == seat {
        let index = server.read_index().await.ok()?;
        world.count("read on a leader");
        return Some(index);
    }
    if !world.travel(seat, leader_seat, Lane::Rpc).await {
        return None;
    }
    let (_, leader) = lock(&world.seats).running(leader_seat)?;
    let index = leader.read_index().await.ok()?;
    if !world.travel(leader_seat, seat, Lane::Rpc).await {
        return None;
    }
    world.count("read on a follower");
    Some(index)
}
