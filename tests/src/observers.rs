//! Who answers at a virtual IP, as all hosts of a lab see it at once.
//!
//! On every host a responder says its name at the address, whenever the host lets it, and a watch
//! asks each millisecond and logs what is answered. Epochs are not asked of the hosts, which would
//! say what they believe: each answer gets the highest epoch that its host had been given by then,
//! by what the mesh agreed to. So an answer counts as stale only if no view of it is better.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use vip_bench::{
    Micros,
    judge::{Outage, Overlap, Stale, outages, overlaps, stale},
    log::{Answer, Log},
};

use crate::{host::Host, mesh::text, wait::wait_until};

/// Both programs have begun by then, on a machine that builds at the same time.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Of responders: no port that a daemon or an overlay network has.
const PORT: &str = "7540";
/// Of a log, what is read to know who answered last: some forty lines.
const TAIL_BYTES: u64 = 2048;
/// No holder loses an address and gets it again in less: that takes two agreements.
const WINDOW_US: u64 = 10_000;
/// A shorter silence is the machine's.
const OUTAGE_US: u64 = 5_000;

/// A host, and the logs that its watches wrote, one for each time it was on.
struct Post {
    host: Host,
    logs: Vec<String>,
}

/// Given to a node in an epoch.
struct Given {
    to: String,
    /// When that was proposed.
    at: Micros,
}

/// Watches and responders on hosts of a lab.
pub struct Observers {
    address: String,
    posts: Vec<Post>,
    given: BTreeMap<u64, Given>,
    /// Of the wall clock over the one that logs are written in.
    ahead_us: u64,
    from: Micros,
}

/// What all logs say together.
#[derive(Debug)]
pub struct Judgement {
    /// How many answers there were.
    pub answers: usize,
    /// Two at once.
    pub overlaps: Vec<Overlap>,
    /// One that had it no more.
    pub stale: Vec<Stale>,
}

impl Observers {
    /// None yet, for the virtual IP that `shoal vip show` described so.
    #[track_caller]
    pub fn of(shown: &Value) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("it is after 1970");
        let wall_us = u64::try_from(wall.as_micros()).expect("microseconds since 1970 fit");
        let from = Micros::now();
        let mut observers = Self {
            address: text(shown, "address"),
            posts: Vec::new(),
            given: BTreeMap::new(),
            ahead_us: wall_us - from.0,
            from,
        };
        observers.note(shown, Micros(0));
        observers
    }

    /// Has a host answer and watch, also when it comes back after its power was off.
    #[track_caller]
    pub fn post(&mut self, host: &Host) {
        for program in ["vip-responder", "vip-watch"] {
            host.require_program(program);
        }
        let known = |post: &Post| post.host.name() == host.name();
        let position = self.posts.iter().position(known).unwrap_or_else(|| {
            let (host, logs) = (host.clone(), Vec::new());
            self.posts.push(Post { host, logs });
            self.posts.len() - 1
        });
        let post = &mut self.posts[position];
        let log = format!("/tmp/watch-{}", post.logs.len());
        let (name, address) = (host.name(), &self.address);
        let at = ["--address", address, "--port", PORT];
        host.spawn(&[["vip-responder", "--name", name].as_slice(), &at].concat());
        let watch = ["vip-watch", "probe", "--observer", name, "--out", &log];
        host.spawn(&[watch.as_slice(), &at].concat());
        post.logs.push(log.clone());
        wait_until(START_DEADLINE, "the host watches and answers", || {
            let watches = std::fs::metadata(host.disk(&log)).is_ok_and(|file| file.len() > 0);
            watches && host.sh(&format!("ss -Hlun | grep -q :{PORT}")).success()
        });
    }

    /// Notes what the mesh agreed to so far. It keeps few moves, so this is due after each.
    #[track_caller]
    pub fn learn(&mut self, shown: &Value) {
        for done in shown["moves"].as_array().into_iter().flatten() {
            let at_us = done["at_ms"].as_u64().expect("a move has a time") * 1000;
            self.given_to(done, "to", Micros(at_us.saturating_sub(self.ahead_us)));
        }
    }

    fn note(&mut self, shown: &Value, at: Micros) {
        self.given_to(shown, "holder", at);
        self.learn(shown);
    }

    fn given_to(&mut self, row: &Value, key: &str, at: Micros) {
        let epoch = row["epoch"].as_u64().expect("it has an epoch");
        if let Some(to) = row[key].as_str() {
            let to = to.to_owned();
            self.given.entry(epoch).or_insert(Given { to, at });
        }
    }

    /// Whether those hosts were answered by `by` alone, the last time that they were, and asked
    /// after `since`.
    pub fn agree(&self, hosts: &[String], since: Micros, by: &str) -> bool {
        let posts = self.posts.iter();
        let mut posts = posts.filter(|post| hosts.iter().any(|name| name == post.host.name()));
        posts.all(|post| {
            let last = post.last();
            last.is_some_and(|last| last.sent >= since && last.responder == by)
        })
    }

    /// The longest outage that each of those hosts saw within `span`, as words of a report.
    pub fn outages(&self, hosts: &[String], span: &Range<Micros>) -> String {
        let posts = self.posts.iter();
        let posts = posts.filter(|post| hosts.iter().any(|name| name == post.host.name()));
        let longest = |log: &Log| {
            let found = outages(log, span.clone(), OUTAGE_US);
            found.into_iter().max_by_key(Outage::length_us)
        };
        let words = posts.filter_map(|post| {
            let longest = longest(&post.read().pop()?);
            let (length, blind) = longest.map_or((0, 0), |it| (it.length_us(), it.blind_us));
            let name = post.host.name();
            let blind = match blind {
                0 => String::new(),
                us => format!(" (itself asleep for {})", us / 1000),
            };
            Some(format!("{name} {} ms{blind}", length / 1000))
        });
        words.collect::<Vec<_>>().join(", ")
    }

    /// Judges everything that was ever answered.
    #[track_caller]
    pub fn judge(&self) -> Judgement {
        let mut logs: Vec<Log> = self.posts.iter().flat_map(Post::read).collect();
        for answer in logs.iter_mut().flat_map(|log| &mut log.answers) {
            answer.epoch = self.epoch_of(answer);
        }
        let span = self.from..Micros::now();
        Judgement {
            answers: logs.iter().map(|log| log.answers.len()).sum(),
            overlaps: overlaps(&logs, span.clone(), WINDOW_US),
            stale: stale(&logs, span),
        }
    }

    fn epoch_of(&self, answer: &Answer) -> u64 {
        let mut given = self.given.iter().rev();
        let had =
            given.find(|(_, given)| given.to == answer.responder && given.at <= answer.answered);
        had.map_or(0, |(epoch, _)| *epoch)
    }
}

impl Post {
    fn read(&self) -> Vec<Log> {
        let read = |path: &String| {
            let text = std::fs::read_to_string(self.host.disk(path)).ok()?;
            // A host that lost its power at once has an empty one.
            (!text.is_empty()).then(|| Log::read(&text).expect("a watch writes logs"))
        };
        self.logs.iter().filter_map(read).collect()
    }

    fn last(&self) -> Option<Answer> {
        let mut file = File::open(self.host.disk(self.logs.last()?)).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))
            .ok()?;
        let mut tail = String::new();
        file.read_to_string(&mut tail).ok()?;
        // Its first line may be cut.
        let (_, tail) = tail.split_once('\n')?;
        let log = Log::read(&format!("observer {} 0\n{tail}", self.host.name())).ok()?;
        log.answers.into_iter().next_back()
    }
}
