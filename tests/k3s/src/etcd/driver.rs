//! Runs a [`Register`] over the network and the disk.
//!
//! Tasks: one ticker; while leading, one replicator per other member. Every change of the
//! register is written to the disk under its lock, before anything that follows from it is said
//! to anybody. Requests that come in time to no end fail with etcd's words.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::Method;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    register::{Append, AppendAnswer, Ballot, Durable, Register, VoteAnswer, VoteRequest},
    state::{Command, Member, Refusal, State},
};
use crate::{
    Fatal, files, logline,
    wire::client::{Answer, Call, Client},
};

/// etcd waits this long for an answer, and two election timeouts more.
const REQUEST_BASE: Duration = Duration::from_secs(5);
/// How long an API server waits for etcd before it calls itself not ready.
const READY_CHECK: Duration = Duration::from_secs(2);
/// Where there is no leader to ask, one is looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A committed state.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) ballot: Ballot,
    pub(crate) state: Arc<State>,
}

/// How a member runs.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    pub(crate) heartbeat: Duration,
    pub(crate) election: Duration,
}

/// One member of the agreement.
pub(crate) struct Etcd {
    me: String,
    disk: PathBuf,
    timing: Timing,
    /// None: this member is all there is.
    client: Option<Arc<Client>>,
    register: Mutex<Register>,
    published: watch::Sender<Published>,
    /// Rises when followers should hear from the leader at once.
    kick: watch::Sender<u64>,
    /// Rises with every answer of a follower.
    progress: watch::Sender<u64>,
    expelled: watch::Sender<bool>,
    replicated: Mutex<BTreeSet<String>>,
    proposing: tokio::sync::Mutex<()>,
}

impl Etcd {
    /// Starts from what is on the disk, or from `first`.
    pub(crate) fn start(
        me: &str,
        disk: PathBuf,
        first: Durable,
        timing: Timing,
        client: Option<Arc<Client>>,
    ) -> Result<Arc<Self>, Fatal> {
        let durable = if disk.exists() { load(&disk)? } else { first };
        store(&disk, &durable)?;
        let register = Register::new(
            me.to_owned(),
            durable,
            timing.election,
            Instant::now(),
            rand::random(),
        );
        let published = Published {
            ballot: Ballot::default(),
            state: Arc::default(),
        };
        let etcd = Arc::new(Self {
            me: me.to_owned(),
            disk,
            timing,
            client,
            register: Mutex::new(register),
            published: watch::Sender::new(published),
            kick: watch::Sender::new(0),
            progress: watch::Sender::new(0),
            expelled: watch::Sender::new(false),
            replicated: Mutex::default(),
            proposing: tokio::sync::Mutex::default(),
        });
        tokio::spawn(etcd.clone().tick());
        tokio::spawn(etcd.clone().promote());
        Ok(etcd)
    }

    /// Every committed state from now on; states may be skipped.
    pub(crate) fn follow(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// The newest committed state that this member knows.
    pub(crate) fn local(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Whether this member leads, and so has the controllers' work to do.
    pub(crate) fn leads(&self) -> bool {
        self.lock().leads()
    }

    /// Returns when the others have removed this member.
    pub(crate) async fn until_expelled(&self) {
        let mut expelled = self.expelled.subscribe();
        let _ = expelled.wait_for(|expelled| *expelled).await;
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the register and writes it down. A disk that takes nothing ends the program, as it
    /// ends etcd.
    fn change<T>(&self, act: impl FnOnce(&mut Register) -> T) -> T {
        let (result, is_member) = {
            let mut register = self.lock();
            let before = written(&register);
            let result = act(&mut register);
            if before != written(&register)
                && let Err(fatal) = store(&self.disk, register.durable())
            {
                logline::fatal(format!("etcd: {fatal}"));
                std::process::exit(1);
            }
            let (ballot, state) = register.committed();
            let news = ballot > self.published.borrow().ballot;
            if news {
                self.published.send_replace(Published { ballot, state });
            }
            (result, register.is_member())
        };
        if !is_member {
            self.expelled.send_replace(true);
        }
        result
    }

    async fn tick(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            if self.lock().tick(now, rand::random()) {
                self.campaign().await;
            }
            if self.lock().leads() {
                self.replicate_to_all();
            }
            sleep((self.timing.heartbeat / 4).max(LOOK_EVERY)).await;
        }
    }

    async fn campaign(&self) {
        for pre in [true, false] {
            let request = self.change(|register| register.campaign(pre));
            if !self.ask_voters(&request).await {
                return;
            }
            if !pre && self.change(|register| register.lead(request.term, Instant::now())) {
                logline::info(format!(
                    "etcd: {} became leader at term {}",
                    self.me, request.term
                ));
                bump(&self.kick);
            }
        }
    }

    async fn ask_voters(&self, request: &VoteRequest) -> bool {
        let mut granted = Vec::new();
        if self.lock().is_majority(&granted) {
            return true;
        }
        let Some(client) = &self.client else {
            return false;
        };
        let voters = self.lock().members().into_iter();
        let voters = voters.filter(|voter| voter.name != self.me && !voter.learner);
        let mut answers = JoinSet::new();
        for voter in voters {
            let (client, request) = (client.clone(), request.clone());
            answers.spawn(async move {
                let answer = post(&client, &voter.peer_url, "vote", &request).await;
                (voter.name, answer)
            });
        }
        while let Some(answered) = answers.join_next().await {
            let answered: Option<(String, Option<VoteAnswer>)> = answered.ok();
            if let Some((name, Some(answer))) = answered {
                if answer.removed {
                    self.expelled.send_replace(true);
                    return false;
                }
                if answer.granted {
                    granted.push(name);
                }
            }
            if self.lock().is_majority(&granted) {
                return true;
            }
        }
        false
    }

    fn replicate_to_all(self: &Arc<Self>) {
        let members = self.lock().members();
        let mut running = self
            .replicated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for member in members {
            if member.name != self.me && running.insert(member.name.clone()) {
                tokio::spawn(self.clone().replicate(member));
            }
        }
    }

    /// Keeps one follower up to date while this member leads and that one is a member.
    async fn replicate(self: Arc<Self>, member: Member) {
        let mut kicked = self.kick.subscribe();
        loop {
            kicked.mark_unchanged();
            let Some((append, goes)) = self.next_append(&member) else {
                break;
            };
            let sent = Instant::now();
            let answer = match &self.client {
                Some(client) => {
                    post::<_, AppendAnswer>(client, &member.peer_url, "append", &append).await
                }
                None => None,
            };
            if let Some(answer) = &answer {
                let committed = self
                    .change(|register| register.handle_append_answer(&member.name, answer, sent));
                bump(&self.progress);
                if committed {
                    bump(&self.kick);
                }
            }
            if goes {
                break;
            }
            tokio::select! {
                // Both are safe to cancel: a kick that is missed here is seen at the next turn.
                _ = kicked.changed(), if answer.is_some() => {}
                () = sleep(self.timing.heartbeat) => {}
            }
        }
        let mut running = self
            .replicated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        running.remove(&member.name);
    }

    /// What the follower is to hear next, and whether it is the last: that it was removed.
    fn next_append(&self, member: &Member) -> Option<(Append, bool)> {
        let register = self.lock();
        let append = register.append_for(&member.name)?;
        let gone = !register.durable().state.members.contains_key(&member.name);
        let agreed = append.committed == append.ballot;
        Some((append, gone && agreed))
    }

    /// Lets newcomers vote as soon as they have everything.
    async fn promote(self: Arc<Self>) {
        loop {
            let ready = self.lock().ready_learner();
            if let Some(name) = ready
                && self
                    .submit(Command::Promote { name: name.clone() })
                    .await
                    .is_ok()
            {
                logline::info(format!("etcd: promoted learner member {name}"));
            }
            sleep((self.timing.heartbeat / 4).max(LOOK_EVERY)).await;
        }
    }

    fn request_deadline(&self) -> Instant {
        Instant::now() + REQUEST_BASE + 2 * self.timing.election
    }

    /// Has a command agreed on. A refusal has no effect; a timeout may have one.
    pub(crate) async fn submit(&self, command: Command) -> Result<Value, Refusal> {
        let until = self.request_deadline();
        loop {
            if self.lock().leads() {
                return self.submit_here(&command, until).await;
            }
            if let Some(url) = self.leader_url()
                && let Some(client) = &self.client
                && let Some(result) = post(client, &url, "propose", &command).await
            {
                return result;
            }
            if Instant::now() >= until {
                return Err(Refusal::timed_out());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn submit_here(&self, command: &Command, until: Instant) -> Result<Value, Refusal> {
        let turn = tokio::time::timeout_at(until.into(), self.proposing.lock());
        let Ok(_turn) = turn.await else {
            return Err(Refusal::timed_out());
        };
        let mut published = self.published.subscribe();
        let (result, ballot) = self.change(|register| register.propose(command))?;
        bump(&self.kick);
        let agreed = published.wait_for(|published| published.ballot >= ballot);
        match tokio::time::timeout_at(until.into(), agreed).await {
            // Of a later term: another leader's, and nobody knows whether this is part of it.
            Ok(Ok(published)) if published.ballot.term == ballot.term => Ok(result),
            Ok(_) | Err(_) => Err(Refusal::timed_out()),
        }
    }

    /// The newest state that anybody could have been told of.
    pub(crate) async fn read(&self) -> Result<Published, Refusal> {
        self.read_until(self.request_deadline()).await
    }

    /// Whether etcd answers at all, in the time that an API server gives it.
    pub(crate) async fn answers(&self) -> bool {
        self.read_until(Instant::now() + READY_CHECK).await.is_ok()
    }

    async fn read_until(&self, until: Instant) -> Result<Published, Refusal> {
        let asked = async {
            loop {
                if let Some(ballot) = self.agreed_ballot().await {
                    let mut published = self.published.subscribe();
                    if let Ok(newest) = published.wait_for(|newest| newest.ballot >= ballot).await {
                        return newest.clone();
                    }
                }
                sleep(LOOK_EVERY).await;
            }
        };
        let answered = tokio::time::timeout_at(until.into(), asked).await;
        answered.map_err(|_| Refusal::timed_out())
    }

    /// What was committed when this was asked; a leader asks a majority whether it still leads.
    async fn agreed_ballot(&self) -> Option<Ballot> {
        if let Some(url) = self.leader_url() {
            return post::<_, Option<Ballot>>(self.client.as_ref()?, &url, "read", &()).await?;
        }
        let since = Instant::now();
        let mut progress = self.progress.subscribe();
        bump(&self.kick);
        loop {
            {
                let register = self.lock();
                if !register.leads() {
                    return None;
                }
                let own_term = register.committed().0.term == register.durable().term;
                if own_term && register.heard_majority_since(since) {
                    return Some(register.committed().0);
                }
            }
            progress.changed().await.ok()?;
        }
    }

    /// Where the leader is, if it is somebody else.
    fn leader_url(&self) -> Option<String> {
        let register = self.lock();
        let leader = register.leader(Instant::now())?.to_owned();
        let members = register.members();
        let found = members
            .into_iter()
            .find(|member| member.name == leader && leader != self.me);
        found.map(|member| member.peer_url)
    }

    /// Answers another member; `None` for what no member asks.
    pub(crate) async fn handle(&self, path: &str, body: &[u8]) -> Option<Vec<u8>> {
        match path.strip_prefix("/stand-in/")? {
            "vote" => {
                let request: VoteRequest = serde_json::from_slice(body).ok()?;
                let now = Instant::now();
                encode(&self.change(|register| register.handle_vote(&request, now, rand::random())))
            }
            "append" => {
                let append: Append = serde_json::from_slice(body).ok()?;
                let now = Instant::now();
                encode(&self.change(|register| register.handle_append(append, now, rand::random())))
            }
            "propose" => {
                let command: Command = serde_json::from_slice(body).ok()?;
                let until = self.request_deadline();
                encode(&self.submit_here(&command, until).await)
            }
            "propose-anywhere" => {
                let command: Command = serde_json::from_slice(body).ok()?;
                encode(&self.submit(command).await)
            }
            "read" => {
                let agreed = tokio::time::timeout(READY_CHECK, self.agreed_ballot()).await;
                encode(&agreed.ok().flatten())
            }
            _ => None,
        }
    }
}

/// What changes whenever something must be written; the state changes only with its ballot.
fn written(register: &Register) -> (u64, Option<String>, Ballot) {
    let durable = register.durable();
    (durable.term, durable.voted_for.clone(), durable.ballot)
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}

fn encode(value: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

/// Asks another member; no answer is `None`.
async fn post<Q: Serialize, A: DeserializeOwned>(
    client: &Client,
    peer_url: &str,
    what: &str,
    question: &Q,
) -> Option<A> {
    let url = format!("{peer_url}/stand-in/{what}");
    let body = Bytes::from(encode(question)?);
    let call = Call {
        method: Method::POST,
        url: &url,
        headers: &[],
        body,
    };
    let answer = client.call(call).await.ok().filter(Answer::ok)?;
    serde_json::from_slice(&answer.body).ok()
}

/// Has a newcomer added through a member that is there.
pub(crate) async fn ask_to_join(
    client: &Client,
    peer_url: &str,
    member: &Member,
) -> Option<Result<Value, Refusal>> {
    post(
        client,
        peer_url,
        "propose-anywhere",
        &Command::AddMember(member.clone()),
    )
    .await
}

/// Reads what was written by [`store`].
pub(crate) fn load(disk: &std::path::Path) -> Result<Durable, Fatal> {
    let content = files::read(disk)?;
    serde_json::from_str(&content)
        .map_err(|error| Fatal::new(format!("etcd: {}: {error}", disk.display())))
}

/// Writes what must survive.
pub(crate) fn store(disk: &std::path::Path, durable: &Durable) -> Result<(), Fatal> {
    let content = serde_json::to_vec(durable)
        .map_err(|error| Fatal::new(format!("etcd: {}: {error}", disk.display())))?;
    files::write_private(disk, &content)
}
