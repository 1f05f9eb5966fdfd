//! The replicated machine of the simulation: the objects, the answers given, and a fingerprint of
//! all that was ever applied.
//!
//! Decides nothing that [`step`](super::object::step) does not. A request that was carried out is
//! answered again and not carried out twice. Lies when a planted bug says so.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use consensus_core::{Command, Envelope, LogIndex, Mesh, MeshId, RequestId, State, WallMs, apply};
use consensus_raft::Machine;
use serde::{Deserialize, Serialize};

use super::{
    bugs::Bug,
    judge::Judge,
    object::{Answer, Content, Key, Op, step},
    seats::node,
};

/// When every command is given; nothing here expires.
const NOW: WallMs = WallMs(1_700_000_000_000);
/// Answers remembered; a client repeats a request long before so many others were applied.
const ANSWERS_KEPT: usize = 512;

/// With that bug planted, every so many-th request is carried out twice.
const APPLIED_TWICE_EVERY: u64 = 16;

thread_local! {
    /// Who watches the machines of this thread's run: machines are also made by decoding.
    static JUDGE: RefCell<Option<Arc<Mutex<Judge>>>> = const { RefCell::new(None) };
}

/// From now on this thread's machines are watched by `judge`.
pub(crate) fn watched_by(judge: &Arc<Mutex<Judge>>) {
    JUDGE.set(Some(Arc::clone(judge)));
}

fn tell<T>(story: impl FnOnce(&mut Judge) -> T) -> Option<T> {
    JUDGE.with_borrow(|judge| {
        let judge = judge.as_ref()?;
        Some(story(
            &mut judge.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    })
}

/// One request as it stands in the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The same for every repetition.
    pub(crate) id: u64,
    /// The object.
    pub(crate) key: Key,
    /// What to do with it.
    pub(crate) op: Op,
}

impl Request {
    /// The log entry.
    pub(crate) fn entry(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a request is always encodable")
    }
}

/// The answer in an applied entry's answer.
pub(crate) fn read_answer(bytes: &[u8]) -> Option<Answer> {
    postcard::from_bytes(bytes).ok()
}

/// The replicated state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Book {
    /// The mesh's real state, which keeps some of the objects.
    mesh: State,
    cells: BTreeMap<Key, Content>,
    answers: VecDeque<(u64, Answer)>,
    /// The last entry applied here.
    pub(crate) applied: u64,
    /// A digest of every entry applied, in order.
    pub(crate) fingerprint: u64,
}

impl Book {
    /// A book of a mesh that exists and has nothing yet.
    pub(crate) fn founded() -> Self {
        let mesh = Mesh {
            id: MeshId::from_bytes([1; 16]),
            name: "reef".to_owned(),
            created_at: NOW,
        };
        let mut state = State::default();
        Arc::make_mut(&mut state.agreed).mesh = Some(mesh);
        Self {
            mesh: state,
            ..Self::default()
        }
    }

    /// An object's content.
    pub(crate) fn content(&self, key: Key) -> Content {
        if let Key::DockerHost(number) = key {
            let hosts = &self.mesh.agreed.external_docker_hosts;
            let endpoint = hosts.get(&host_name(number));
            let value = endpoint.and_then(|endpoint| endpoint.rsplit(':').next()?.parse().ok());
            return Content {
                value: value.unwrap_or_default(),
                epoch: 0,
            };
        }
        self.cells.get(&key).copied().unwrap_or_default()
    }

    /// Has the mesh's real state carry out a command; it remembers requests by itself.
    fn command(&mut self, index: LogIndex, id: u64, command: Command) -> Answer {
        let request = RequestId::from_bytes(u128::from(id).to_be_bytes());
        if self.mesh.answers.find(&request).is_some() {
            tell(|judge| judge.answered_again());
        }
        let envelope = Envelope {
            request,
            actor: node(0),
            operator: None,
            time: NOW,
            command,
        };
        Answer::Changed(apply(&mut self.mesh, index, &envelope).is_ok())
    }

    fn carry_out(&mut self, request: &Request, bug: Option<Bug>) -> Answer {
        // Only now and then: a bug that shows in every answer would be no challenge.
        let twice =
            bug == Some(Bug::AppliedTwice) && request.id.is_multiple_of(APPLIED_TWICE_EVERY);
        let remembered = self.answers.iter().find(|(id, _)| *id == request.id);
        if let Some((_, answer)) = remembered
            && bug != Some(Bug::RequestForgotten)
        {
            tell(|judge| judge.answered_again());
            return *answer;
        }
        let (content, answer) = step(self.content(request.key), &request.op);
        self.cells.insert(request.key, content);
        self.answers.push_back((request.id, answer));
        if self.answers.len() > ANSWERS_KEPT {
            self.answers.pop_front();
        }
        if twice {
            let (content, _) = step(content, &request.op);
            self.cells.insert(request.key, content);
        }
        answer
    }
}

fn host_name(number: u32) -> String {
    format!("dock-{number}")
}

/// The real command for a request on an object that the mesh's real state keeps.
fn real_command(request: &Request) -> Option<Command> {
    let Key::DockerHost(number) = request.key else {
        return None;
    };
    let name = host_name(number);
    match request.op {
        Op::Claim { by } => Some(Command::RegisterDocker {
            name,
            endpoint: format!("tcp://dock:{by}"),
        }),
        Op::Free => Some(Command::UnregisterDocker { name }),
        Op::Read
        | Op::Set(_)
        | Op::CompareAndSet { .. }
        | Op::Move { .. }
        | Op::Count
        | Op::Use { .. } => None,
    }
}

/// A digest that changes with every bit and with the order.
fn digest(seed: u64, bytes: &[u8]) -> u64 {
    // FNV-1a, 64 bits.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let begun = seed.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix);
    bytes.iter().fold(begun, mix)
}

impl Machine for Book {
    fn apply(&mut self, index: LogIndex, entry: &[u8]) -> Vec<u8> {
        let bug = tell(|judge| judge.bug()).flatten();
        let before = (self.applied, self.fingerprint);
        self.applied = index.0;
        self.fingerprint = digest(digest(self.fingerprint, &index.0.to_le_bytes()), entry);
        let answer = postcard::from_bytes::<Request>(entry)
            .ok()
            .map(|request| match real_command(&request) {
                Some(command) => self.command(index, request.id, command),
                None => self.carry_out(&request, bug),
            });
        let after = (self.applied, self.fingerprint);
        tell(|judge| judge.applied(before, after));
        postcard::to_stdvec(&answer.unwrap_or(Answer::Changed(false)))
            .expect("an answer is always encodable")
    }

    fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a book is always encodable")
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        postcard::from_bytes(bytes).map_err(|error| error.to_string())
    }
}
