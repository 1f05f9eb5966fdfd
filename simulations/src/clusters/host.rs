//! A machine as far as K3s matters: its disk, and the process that runs.
//!
//! Decides: what a step leaves behind, piece by piece, so that it can be cut off between any two. Never:
//! which step comes.

use std::time::Duration;

use consensus_core::{BinaryOrigin, K3sBinary, LogIndex};
use runtimes_core::k3s::{
    Daemon, LOST_AFTER, Observed, Program, Record, SecretFiles, StartedWith, Step, TokenMark,
};

/// What `k3s --version` says unless something else was wanted.
pub(super) const VERSION: &str = "v1.31.2+k3s1";

/// What K3s keeps on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Data {
    /// Of which datastore.
    pub(super) store: usize,
    /// Whether it holds a copy of it.
    pub(super) serves: bool,
    /// What it proves with that it is the node of its name.
    pub(super) password: u64,
}

/// The program in place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Installed {
    origin: Option<BinaryOrigin>,
    version: String,
}

/// K3s as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Tells it from others.
    pub(super) number: u64,
    pub(super) with: StartedWith,
    /// Whether it has come up.
    pub(super) up: bool,
    /// Whether it was seen ready.
    pub(super) was_ready: bool,
}

/// What a token says to who may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sealed {
    /// Lets a node into the datastore that was made with it.
    pub(super) secret: u64,
    /// For whom it was sealed, and in which stay.
    pub(super) node: usize,
    pub(super) attempt: LogIndex,
}

/// A disk, and what runs on top of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Host {
    installed: Option<Installed>,
    pub(super) record: Option<Record>,
    pub(super) data: Option<Data>,
    /// What a founder made, or a token brought.
    pub(super) secret: Option<u64>,
    settings: Option<String>,
    vacated: bool,
    pub(super) process: Option<Process>,
}

/// One piece of a step: what is on the disk all at once.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Record(Record),
    Program(K3sBinary),
    Secret(u64),
    TokenTaken(TokenMark),
    Settings(String),
    Started { founds: bool },
    Ended,
    Spawned { with: StartedWith, number: u64 },
    Vacated(bool),
    DataGone,
    FilesGone,
    RecordGone,
}

pub(super) fn files() -> SecretFiles {
    SecretFiles {
        server_token: "/etc/rancher/k3s/server-token".to_owned(),
        agent_token: "/etc/rancher/k3s/agent-token".to_owned(),
        data_dir: "/var/lib/rancher/k3s".to_owned(),
        kubeconfig: "/etc/rancher/k3s/k3s.yaml".to_owned(),
    }
}

impl Host {
    /// What the adapter sees; whether K3s is ready, or down, is for the cluster to say.
    pub(super) fn observe(
        &self,
        now: consensus_core::Time,
        wanted: &K3sBinary,
        ready: bool,
        down: bool,
    ) -> Observed {
        let program = self.installed.as_ref().map(|installed| Program {
            version: installed.version.clone(),
            sum: None,
            wanted: installed.is(wanted),
            stale: false,
        });
        Observed {
            now,
            program,
            record: self.record.clone(),
            data: self.data.is_some(),
            unmounted: None,
            bare_for: LOST_AFTER,
            secrets: self.secret.is_some(),
            settings: self.settings.clone(),
            emptying: self.vacated,
            vacated: self.vacated,
            down,
            was_ready: self.process.as_ref().is_some_and(|it| it.was_ready),
            // What runs here listens.
            refused_for: Duration::ZERO,
            daemon: match &self.process {
                Some(process) => Daemon::Ours {
                    started_with: Some(process.with.clone()),
                    ready,
                },
                None => Daemon::Absent,
            },
            leftovers: !self.is_clean(),
        }
    }

    /// Whether nothing of K3s is on it.
    pub(super) fn is_clean(&self) -> bool {
        self.installed.is_none()
            && self.record.is_none()
            && self.data.is_none()
            && self.secret.is_none()
            && self.settings.is_none()
            && self.process.is_none()
    }

    /// Whether the program that is to be installed is there already.
    pub(super) fn has(&self, binary: &K3sBinary) -> bool {
        self.installed.as_ref().is_some_and(|one| one.is(binary))
    }

    /// The pieces of a step, in the order in which the adapter leaves them. `fresh` numbers what is made.
    pub(super) fn pieces(step: &Step, token: Option<Sealed>, fresh: u64) -> Vec<Piece> {
        let spawned = |with: &StartedWith| Piece::Spawned {
            with: with.clone(),
            number: fresh,
        };
        let started = |with: &StartedWith| Piece::Started {
            founds: with.founds,
        };
        match step {
            Step::Begin { attempt } => vec![Piece::Record(Record::of(*attempt))],
            Step::Vacate => vec![Piece::Vacated(true)],
            Step::Return => vec![Piece::Vacated(false)],
            Step::Install { binary } => vec![Piece::Program(binary.clone())],
            Step::MakeSecrets => vec![Piece::Secret(fresh)],
            Step::RequestToken | Step::Probe => Vec::new(),
            Step::WriteToken(mark) => {
                let secret = token.map(|token| Piece::Secret(token.secret));
                secret
                    .into_iter()
                    .chain([Piece::TokenTaken(*mark)])
                    .collect()
            }
            Step::WriteSettings(text) => vec![Piece::Settings(text.clone())],
            Step::Start(with) => vec![started(with), spawned(with)],
            Step::Restart(with) => vec![Piece::Ended, started(with), spawned(with)],
            Step::Stop => vec![Piece::Ended],
            Step::Clean => vec![Piece::DataGone, Piece::FilesGone, Piece::RecordGone],
        }
    }

    pub(super) fn put(&mut self, piece: Piece) {
        match piece {
            Piece::Record(record) => self.record = Some(record),
            Piece::Program(binary) => {
                let version = binary.version.unwrap_or_else(|| VERSION.to_owned());
                let origin = binary.origin;
                self.installed = Some(Installed { origin, version });
            }
            Piece::Secret(secret) => self.secret = Some(secret),
            Piece::TokenTaken(mark) => {
                if let Some(record) = &mut self.record {
                    record.token = Some(mark);
                }
            }
            Piece::Settings(text) => self.settings = Some(text),
            Piece::Started { founds } => {
                if let Some(record) = &mut self.record {
                    record.started = true;
                    record.founded |= founds;
                }
            }
            Piece::Ended => self.process = None,
            Piece::Spawned { with, number } => {
                self.process = Some(Process {
                    number,
                    with,
                    up: false,
                    was_ready: false,
                });
            }
            Piece::Vacated(vacated) => self.vacated = vacated,
            Piece::DataGone => self.data = None,
            Piece::FilesGone => {
                self.installed = None;
                self.secret = None;
                self.settings = None;
                self.vacated = false;
            }
            Piece::RecordGone => self.record = None,
        }
    }
}

impl Installed {
    fn is(&self, wanted: &K3sBinary) -> bool {
        let version = wanted.version.as_ref();
        self.origin == wanted.origin && version.is_none_or(|version| *version == self.version)
    }
}

impl Sealed {
    /// As it is carried: nobody but the recipient reads it, and that the laboratory looks.
    pub(super) fn to_bytes(self, salt: u64) -> Vec<u8> {
        let words = [self.secret, self.node as u64, self.attempt.0, salt];
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |place: usize| {
            let bytes = bytes.get(8 * place..8 * place + 8)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        Some(Self {
            secret: word(0)?,
            node: usize::try_from(word(1)?).ok()?,
            attempt: LogIndex(word(2)?),
        })
    }
}
