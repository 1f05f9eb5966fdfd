//! Claims about whole groups whose time is simulated: how long something takes is exact here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_log::simulation::SimDisk;
use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::Process;
use crate::{
    Agreement, Carrier, CarrierError, Lane, Machine, ProposeError, RaftStatus, Removed, Role,
    Settings, Timers,
};

/// How long a message is under way.
const TRAVEL: Duration = Duration::from_millis(1);
/// Longer than anything takes that happens at all.
const DEADLINE: Duration = Duration::from_secs(600);

/// Counts its entries.
#[derive(Clone, Default)]
struct Count(u64);

impl Machine for Count {
    fn apply(&mut self, _: LogIndex, _: &[u8]) -> Vec<u8> {
        self.0 += 1;
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.try_into().map_err(|_| "no count".to_owned())?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }
}

#[derive(Default)]
struct Links {
    servers: BTreeMap<u64, Agreement<Count>>,
    /// From whom to whom nothing passes.
    cuts: BTreeSet<(u64, u64)>,
    /// How much longer than usual a message takes, from one to another.
    delays: BTreeMap<(u64, u64), Duration>,
}

/// A group whose servers are all there; only its links fail.
#[derive(Clone, Default)]
struct Group(Arc<Mutex<Links>>);

/// One server's end of the links.
struct Post {
    own: u64,
    group: Group,
}

fn node(number: u64) -> NodeId {
    let name = format!("12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfc{number}");
    name.parse().unwrap()
}

impl Carrier for Post {
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        let (own, group) = (self.own, self.group.clone());
        let to = (1..10).find(|number| node(*number) == *to).unwrap();
        Box::pin(async move {
            group.travel(own, to).await;
            let server = group.0.lock().unwrap().servers.get(&to).cloned();
            let server =
                server.ok_or_else(|| CarrierError::Unreachable("nobody there".to_owned()))?;
            let reply = server.handle(lane, body).await;
            group.travel(to, own).await;
            reply.map_err(|error| CarrierError::Broken(error.to_string()))
        })
    }
}

impl Group {
    /// Voters `1..=count`.
    async fn founded(count: u64, timers: Timers) -> Self {
        let group = Self::default();
        for number in 1..=count {
            let settings = Settings {
                dir: PathBuf::new(),
                raft_id: RaftId(number),
                node: node(number),
                timers,
            };
            let post = Post {
                own: number,
                group: group.clone(),
            };
            let process = Process::new(number, Arc::new(SimDisk::new()));
            let server = Agreement::open_in(process, settings, Count::default(), Arc::new(post));
            let server = server.await.unwrap();
            group.0.lock().unwrap().servers.insert(number, server);
        }
        let first = group.server(1);
        first.found().await.unwrap();
        until(&first, RaftStatus::leads).await;
        for number in 2..=count {
            let add = || first.add_learner(RaftId(number), node(number));
            while add().await.is_err() {
                sleep(timers.heartbeat).await;
            }
        }
        let all: BTreeSet<RaftId> = (1..=count).map(RaftId).collect();
        let vote = || first.change_voters(all.clone(), Removed::Leave);
        while vote().await.is_err() {
            sleep(timers.heartbeat).await;
        }
        let made = |status: &RaftStatus| !status.changing && status.voters.len() as u64 == count;
        for number in 1..=count {
            until(&group.server(number), made).await;
        }
        group
    }

    fn server(&self, number: u64) -> Agreement<Count> {
        self.0.lock().unwrap().servers[&number].clone()
    }

    fn cut(&self, from: u64, to: u64) {
        self.0.lock().unwrap().cuts.insert((from, to));
    }

    /// From now on each message takes as much longer as `delay` says, by who sends and who receives.
    fn slow_down(&self, delay: impl Fn(u64, u64) -> Duration) {
        let mut links = self.0.lock().unwrap();
        let all: Vec<u64> = links.servers.keys().copied().collect();
        let pairs = all
            .iter()
            .flat_map(|from| all.iter().map(move |to| (*from, *to)));
        links.delays = pairs.map(|pair| (pair, delay(pair.0, pair.1))).collect();
    }

    fn heal(&self) {
        self.0.lock().unwrap().cuts.clear();
    }

    /// Ends when a message has arrived; never, if it does not.
    async fn travel(&self, from: u64, to: u64) {
        let delay = self.0.lock().unwrap().delays.get(&(from, to)).copied();
        sleep(TRAVEL + delay.unwrap_or_default()).await;
        if self.0.lock().unwrap().cuts.contains(&(from, to)) {
            std::future::pending::<()>().await;
        }
    }

    /// Ends them all: servers and links hold each other.
    fn end(self) {
        let servers = std::mem::take(&mut self.0.lock().unwrap().servers);
        drop(servers);
    }
}

async fn until(
    server: &Agreement<Count>,
    mut reached: impl FnMut(&RaftStatus) -> bool,
) -> RaftStatus {
    let mut status = server.status();
    let waited = timeout(DEADLINE, status.wait_for(|now| reached(now))).await;
    match waited {
        Ok(now) => now.unwrap().clone(),
        Err(_) => panic!("not reached; the status is {:#?}", server.status().borrow()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_speaks_as_soon_as_the_links_are_there_again() {
    for timers in [Timers::SAFE, Timers::LAN, Timers::WAN] {
        let group = Group::founded(2, timers).await;
        let leader = group.server(1);
        let before = until(&leader, RaftStatus::leads).await;
        group.cut(1, 2);
        group.cut(2, 1);
        // The other one has not got it, and so cannot be elected: only this leader's word helps.
        let longer = tokio::spawn({
            let leader = leader.clone();
            async move { leader.propose(b"longer".to_vec()).await }
        });
        until(&leader, |status| status.deaf).await;
        // Half of the silence is over, or a bit more.
        sleep(timers.election_max * 2).await;
        group.heal();
        let healed = Instant::now();
        let after = until(&leader, RaftStatus::leads).await;
        let took = healed.elapsed();
        println!("{took:?} of {:?}", timers.election_max * 2);
        // To ask, to see the answer, to speak, to see the answer; Raft counts in ticks of its own.
        assert!(took < timers.heartbeat * 5, "{took:?}");
        assert_eq!(
            (after.term, after.leader_id),
            (before.term, before.leader_id)
        );
        leader.propose(b"next".to_vec()).await.unwrap();
        assert!(longer.await.is_ok());
        group.end();
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_cut_off_knows_of_no_leader_until_it_hears_one() {
    for timers in [Timers::SAFE, Timers::LAN, Timers::WAN] {
        let group = Group::founded(3, timers).await;
        until(&group.server(1), RaftStatus::leads).await;
        let (follower, other) = (group.server(3), group.server(2));
        let led = |status: &RaftStatus| status.leader_id == Some(RaftId(1));
        let before = until(&follower, led).await;
        until(&other, led).await;
        for server in [1, 2] {
            group.cut(server, 3);
            group.cut(3, server);
        }
        let cut = Instant::now();
        let lost = until(&follower, |status| status.leader_id.is_none()).await;
        let took = cut.elapsed();
        println!("{took:?} of {:?}", timers.election_max * 5);
        assert!(took > timers.election_max * 4 && took < timers.election_max * 6);
        // It asked in vain, and disturbs nobody.
        assert_eq!((lost.role, lost.leader), (Role::Follower, None));
        assert!(led(&other.status().borrow()));
        group.heal();
        let after = until(&follower, led).await;
        assert_eq!((after.term, after.leader), (before.term, before.leader));
        group.end();
    }
}

#[tokio::test(start_paused = true)]
async fn a_deaf_leader_is_replaced_within_its_first_silence_whatever_it_asks_meanwhile() {
    for timers in [Timers::SAFE, Timers::LAN, Timers::WAN] {
        let group = Group::founded(3, timers).await;
        let deaf = group.server(1);
        until(&deaf, RaftStatus::leads).await;
        // Everybody hears it, and it hears nobody.
        group.cut(2, 1);
        group.cut(3, 1);
        until(&deaf, |status| status.deaf).await;
        let silent = Instant::now();
        let other = |status: &RaftStatus| status.leader_id.is_some_and(|id| id != RaftId(1));
        let next = until(&group.server(2), other).await.leader_id.unwrap();
        let took = silent.elapsed();
        println!("{took:?} of {:?}", timers.election_max * 4);
        assert!(took < timers.election_max * 4, "{took:?}");
        group.heal();
        until(&deaf, |status| {
            status.role == Role::Follower && !status.deaf
        })
        .await;
        until(&group.server(next.0), RaftStatus::leads).await;
        group.end();
    }
}

#[tokio::test(start_paused = true)]
async fn servers_that_lost_each_other_in_the_middle_of_a_silence_find_each_other_again() {
    // Whenever the links come back, and whoever's log is longer.
    for heartbeats in [1, 7, 20, 30, 50, 80] {
        let group = Group::founded(2, Timers::SAFE).await;
        let leader = group.server(1);
        until(&leader, RaftStatus::leads).await;
        group.cut(1, 2);
        group.cut(2, 1);
        sleep(Timers::SAFE.heartbeat * heartbeats).await;
        group.heal();
        let healed = Instant::now();
        let agreed = async {
            loop {
                for number in [1, 2] {
                    if group.server(number).propose(Vec::new()).await.is_ok() {
                        return;
                    }
                }
                sleep(TRAVEL).await;
            }
        };
        timeout(DEADLINE, agreed).await.expect("never again");
        let took = healed.elapsed();
        println!("cut for {heartbeats} heartbeats: agreed {took:?} after");
        // An election with a split vote or two.
        assert!(took < Timers::SAFE.election_max * 6, "{took:?}");
        group.end();
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_every_now_and_then_is_agreed_over_steadily_slow_links() {
    const WRITES: u32 = 20;
    let timers = Timers::SAFE;
    let ms = Duration::from_millis;
    // All alike, and each in its own way, from 25 to 65 ms.
    let alike = |delay| move |_: u64, _: u64| ms(delay);
    let mixed = |from: u64, to: u64| ms(25 + (from * 17 + to * 29) % 41);
    let delays: [&dyn Fn(u64, u64) -> Duration; 4] = [&alike(25), &alike(45), &alike(65), &mixed];
    for (count, delay) in [3, 5]
        .into_iter()
        .flat_map(|count| delays.map(|one| (count, one)))
    {
        let group = Group::founded(count, timers).await;
        let leader = group.server(1);
        let before = until(&leader, RaftStatus::leads).await;
        group.slow_down(delay);
        let mut slowest = Duration::ZERO;
        for _ in 0..WRITES {
            // Meanwhile nothing but heartbeats is sent.
            sleep(Duration::from_secs(2)).await;
            let begun = Instant::now();
            leader.propose(Vec::new()).await.unwrap();
            slowest = slowest.max(begun.elapsed());
            leader.read_index().await.unwrap();
        }
        let after = leader.status().borrow().clone();
        println!("{count} voters: {WRITES} writes, the slowest {slowest:?}");
        assert!(slowest <= timers.commit_wait(), "{slowest:?}");
        assert_eq!(after.term, before.term);
        // Whoever answers is known to, late or not, and can be handed the lead.
        assert_eq!(after.reachable(timers.election_max), after.voters.len());
        assert!(leader.hand_over().await.unwrap().is_some());
        group.end();
    }
}

#[tokio::test(start_paused = true)]
async fn writes_are_agreed_where_an_answer_takes_longer_than_the_shortest_election_timeout() {
    let timers = Timers::SAFE;
    let group = Group::founded(3, timers).await;
    let leader = group.server(1);
    until(&leader, RaftStatus::leads).await;
    group.slow_down(|_, _| timers.election_min * 3 / 5);
    // Each answer is the leader's lease for the next one.
    for _ in 0..20 {
        let begun = Instant::now();
        leader.propose(Vec::new()).await.unwrap();
        println!("{:?}", begun.elapsed());
    }
    // With heartbeats alone it has none: it tries for as long as a commit may take, then says who
    // answers, and that nothing was written.
    sleep(timers.election_max * 5).await;
    let status = leader.status().borrow().clone();
    assert!(status.leads() && status.reachable(timers.election_max) == 3);
    let begun = Instant::now();
    let refused = leader.propose(Vec::new()).await.unwrap_err();
    let all = ProposeError::NoMajority {
        reachable: 3,
        needed: 2,
    };
    assert_eq!(refused.to_string(), all.to_string());
    let took = begun.elapsed();
    assert!(
        took > timers.commit_wait() / 2 && took < timers.commit_wait(),
        "{took:?}"
    );
    group.end();
}

/// How often whoever follows a status is woken.
async fn wakes(mut status: watch::Receiver<RaftStatus>, span: Duration) -> u32 {
    status.mark_unchanged();
    let mut count = 0;
    let counting = async {
        while status.changed().await.is_ok() {
            count += 1;
        }
    };
    drop(timeout(span, counting).await);
    count
}

#[tokio::test(start_paused = true)]
async fn a_leaders_status_wakes_once_per_heartbeat_and_that_of_others_never() {
    const HEARTBEATS: u32 = 200;
    let timers = Timers::SAFE;
    for count in [1, 2, 3, 5, 7] {
        let group = Group::founded(count, timers).await;
        until(&group.server(1), RaftStatus::leads).await;
        // Everything that the founding has begun is over.
        sleep(timers.election_max * 4).await;
        let span = timers.heartbeat * HEARTBEATS;
        let counting = (1..=count).map(|number| wakes(group.server(number).status(), span));
        let counts = futures::future::join_all(counting).await;
        println!("{count} voters: {counts:?} in {HEARTBEATS} heartbeats");
        if count == 1 {
            assert_eq!(counts, [0]);
        } else {
            // Of a heartbeat that is not over at the beginning or the end, too.
            assert!((HEARTBEATS / 2..=HEARTBEATS + 2).contains(&counts[0]));
            assert!(counts[1..].iter().all(|woken| *woken == 0), "{counts:?}");
        }
        group.end();
    }
}
