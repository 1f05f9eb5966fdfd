//! Whether a K3s that runs is ready.
//!
//! Decides: what counts as an answer, and for how long one is waited for. Never: restarts one; whether that is
//! of any use the plan says.
//!
//! Invariant: that a process was ready is known as long as it lives, also to the shoald that comes after this
//! one; what runs in its place, whoever started that, has it to show anew.

use std::time::Duration;

use consensus_core::K3sRole;
use runtimes_host::process::{self, Identity};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    api::ApiError,
    daemon::{DaemonError, Found},
    error::StepError,
    runtime::{Context, K3sRuntime, Sight},
};

/// One look at whether K3s is ready; more than that at a time would keep the node from being told
/// something else.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// Who takes longer for all that it is asked is not ready, as busy as it may be.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// A question to an API server on the same host costs a few milliseconds.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(100);
/// A first start unpacks, makes certificates and starts etcd: some 20 s, and minutes on a slow disk. One that
/// was ready and is not for so long says why.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// Longer than an election of etcd, or than a busy machine needs to catch its breath: who is not ready for
/// so long has more than a hiccup.
const DOWN_AFTER: Duration = Duration::from_secs(30);
/// How much of a reason is told.
const REASON_CHARS_MAX: usize = 500;

impl K3sRuntime {
    /// Whether K3s runs and was last seen ready more than a moment ago.
    pub fn is_down(&self) -> bool {
        let missed = self.missed.map(|since| since.elapsed());
        missed.is_some_and(|silent| silent >= DOWN_AFTER)
    }

    /// One look at whether it is ready.
    pub(crate) async fn see(&mut self, identity: Identity, context: &Context<'_>) -> Option<Sight> {
        // Who is not wanted is not asked; who says nothing is there.
        let (seen, answers) = match context.wanted {
            true => match timeout(SEEN_WITHIN, self.ready(context)).await {
                Ok(seen) => (seen.ok(), true),
                Err(_) => (None, false),
            },
            false => (None, false),
        };
        if seen.is_some() {
            (self.awaited, self.missed, self.refused) = (None, None, None);
            self.note_ready(identity);
            return seen;
        }
        self.missed.get_or_insert_with(Instant::now);
        let refused = answers && self.was_ready(identity) && self.is_refused(context.role).await;
        self.refused = refused.then(|| self.refused.unwrap_or_else(Instant::now));
        None
    }

    /// Written down for the shoald that comes after this one.
    fn note_ready(&mut self, identity: Identity) {
        if self.was_ready(identity) {
            return;
        }
        self.was_ready = Some(identity);
        let process = process::OurProcess {
            identity,
            started_with: Some(()),
        };
        let path = self.paths.ready_record();
        if let Err(error) = process::record(&path, &self.files, &process) {
            // It is no less ready for that.
            tracing::warn!(%error, "not written down that K3s was ready");
        }
    }

    /// Whether this process was ready since it was started.
    pub(crate) fn was_ready(&mut self, identity: Identity) -> bool {
        if self.was_ready.is_none() {
            let recorded = process::recorded::<()>(&self.paths.ready_record());
            self.was_ready = recorded.map(|process| process.identity);
        }
        self.was_ready == Some(identity)
    }

    /// Whether nobody listens where it answers this host.
    async fn is_refused(&self, role: K3sRole) -> bool {
        let Ok(api) = self.api(role).await else {
            return false;
        };
        let refused = timeout(PROBE_WITHIN, api.is_refused()).await;
        refused.unwrap_or(false)
    }

    /// Waits until K3s is ready, but not for long: a start may take minutes, and the node may be told
    /// otherwise meanwhile.
    pub(crate) async fn probe(&mut self, context: &Context<'_>) -> Result<(), StepError> {
        let awaited = *self.awaited.get_or_insert_with(Instant::now);
        let deadline = Instant::now() + PROBE_WITHIN;
        loop {
            let why = match timeout(PROBE_WITHIN, self.ready(context)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(why)) => why,
                Err(_) => silent(),
            };
            let Found::Ours(process) = self.supervision.find(&self.paths).await? else {
                let error = DaemonError::NotReady {
                    how: "ended".to_owned(),
                    reason: why_it_ended(&self.words(context.role).await),
                };
                return Err(error.into());
            };
            if awaited.elapsed() > READY_WITHIN {
                self.awaited = None;
                let within = READY_WITHIN.as_secs();
                let how = match self.was_ready(process.identity) {
                    true => format!("was ready, and has not been for {within} s ({why})"),
                    false => format!("is not ready after {within} s ({why})"),
                };
                let reason = last_complaint(&self.words(context.role).await);
                return Err(DaemonError::NotReady { how, reason }.into());
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// What it said since its start; where another shoald started it, the last of all that is kept.
    async fn words(&self, role: K3sRole) -> String {
        match &self.said {
            Some(said) => said.text().await,
            None => self.supervision.said_before(role, &self.paths).text().await,
        }
    }

    /// What it said last, if it was this shoald that started it: of one that ended, why.
    pub async fn last_words(&self) -> Option<String> {
        let said = self.said.as_ref()?.read().await?;
        Some(why_it_ended(&said))
    }

    /// A server is ready when its API is and knows this node as ready; an agent, when the cluster
    /// does.
    async fn ready(&self, context: &Context<'_>) -> Result<Sight, ApiError> {
        let api = self.api(context.role).await?;
        if context.role == K3sRole::Server {
            api.ready().await?;
        }
        let refused = |reason: String| ApiError::Refused { code: 0, reason };
        match api.node(context.node).await? {
            Some(node) if node.ready || (context.foreign_network && node.lacks_network) => {
                Ok(Sight { pods: node.pods })
            }
            Some(node) => Err(refused(format!("the node is not ready: {}", node.reason))),
            None => Err(refused("the cluster does not know the node yet".to_owned())),
        }
    }
}

fn silent() -> ApiError {
    ApiError::Unreachable {
        reason: format!("not a word in {} s", PROBE_WITHIN.as_secs()),
    }
}

/// The last line that K3s marks as an error, else its last one.
fn last_complaint(said: &str) -> String {
    let lines = || said.lines().rev().filter(|line| !line.trim().is_empty());
    let grave = |line: &&str| line.contains("level=fatal") || line.contains("level=error");
    let line = lines().find(grave).or_else(|| lines().next());
    shortened(line.unwrap_or("its log is empty"))
}

/// Its last line, where a part of Kubernetes complains in it: such a part's end is that of all of K3s. A
/// leading server's is, some ten seconds after its etcd lost the majority. Else its last complaint.
fn why_it_ended(said: &str) -> String {
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    match last.filter(|line| is_error_of_kubernetes(line)) {
        Some(line) => shortened(line),
        None => last_complaint(said),
    }
}

/// klog's header begins with how grave a line is, and the month and the day in two digits each.
fn is_error_of_kubernetes(line: &str) -> bool {
    let header = line.as_bytes();
    let date = header.get(1..5);
    matches!(header.first(), Some(b'E' | b'F'))
        && date.is_some_and(|date| date.iter().all(u8::is_ascii_digit))
}

fn shortened(line: &str) -> String {
    line.trim().chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, net::SocketAddr};

    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };

    use super::*;
    use crate::{daemon::OurProcess, paths::Paths};

    /// An API that knows one node, ready or not.
    async fn api(ready: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let status = if ready { "True" } else { "False" };
        let said = json!({
            "kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        });
        let (said, length) = (said.to_string(), said.to_string().len());
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{said}"
        );
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut asked).await.unwrap_or_default() == 0 {
                        break;
                    }
                }
                // Somebody may only have tried whether anybody listens.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    /// Nobody listens there, and nobody else can as long as it is held.
    fn refusing() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket
    }

    const CONTEXT: Context<'_> = Context {
        role: K3sRole::Agent,
        node: "n1",
        foreign_network: false,
        wanted: true,
        drained: false,
        token: None,
    };

    fn agent() -> (tempfile::TempDir, K3sRuntime) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            data_dir: root.path().join("data"),
            systemd_marker: root.path().join("systemd"),
            ..Paths::under(root.path())
        };
        (root, K3sRuntime::new(paths))
    }

    /// Its API is there from now on.
    fn leads_to(paths: &Paths, at: SocketAddr) {
        let kubeconfig = paths.kubelet_kubeconfig();
        fs::create_dir_all(kubeconfig.parent().unwrap()).unwrap();
        let text = json!({
            "kind": "Config", "apiVersion": "v1", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{at}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        fs::write(&kubeconfig, text.to_string()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_hangs_holds_no_look_up_for_long_and_counts_as_listening() {
        let (_root, mut runtime) = agent();
        // Connected to, and never answered.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        leads_to(runtime.paths(), listener.local_addr().unwrap());
        let own = Identity::of(std::process::id()).unwrap();
        let process = OurProcess {
            identity: own,
            started_with: None,
        };
        process::record(&runtime.paths.process_record(), &runtime.files, &process).unwrap();
        runtime.note_ready(own);
        let moment = Duration::from_millis(100);
        let begun = Instant::now();
        assert_eq!(runtime.see(own, &CONTEXT).await, None);
        assert!(begun.elapsed() <= SEEN_WITHIN + moment);
        assert!(runtime.missed.is_some() && runtime.refused.is_none());
        let begun = Instant::now();
        runtime.probe(&CONTEXT).await.unwrap();
        assert!(begun.elapsed() <= PROBE_WITHIN + moment);
    }

    #[tokio::test]
    async fn that_nobody_listens_counts_only_where_somebody_did() {
        let (_root, mut runtime) = agent();
        let own = Identity::of(std::process::id()).unwrap();
        let refusing = refusing();
        let nobody = refusing.local_addr().unwrap();
        // Where it is asked, whether it is ready, was, and refuses.
        for (at, expected) in [
            (nobody, (false, false, false)),
            (api(false).await, (false, false, false)),
            (api(true).await, (true, true, false)),
            (api(false).await, (false, true, false)),
            (nobody, (false, true, true)),
            (api(false).await, (false, true, false)),
        ] {
            leads_to(runtime.paths(), at);
            let ready = runtime.see(own, &CONTEXT).await.is_some();
            let seen = (ready, runtime.was_ready(own), runtime.refused.is_some());
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn the_last_error_is_the_reason_of_an_end() {
        let said = "time=\"x\" level=info msg=\"Starting k3s\"\ntime=\"x\" level=fatal msg=\"no token\"\nbye\n";
        assert!(last_complaint(said).ends_with("msg=\"no token\""));
        assert_eq!(last_complaint("a\nb\n"), "b");
        assert_eq!(last_complaint(""), "its log is empty");
    }

    #[test]
    fn what_a_part_of_kubernetes_says_last_is_the_reason_of_an_end_and_of_nothing_else() {
        let complaint = "time=\"x\" level=error msg=\"no answer\"";
        let lost = "E0229 12:34:56.000789   42 manager.go:332] \"leaderelection lost\"";
        let said = format!("{complaint}\n{lost}\n\n");
        assert_eq!(why_it_ended(&said), lost);
        assert_eq!(last_complaint(&said), complaint);
        // It went on after it.
        assert_eq!(why_it_ended(&format!("{said}bye\n")), complaint);
        assert_eq!(why_it_ended("Error\n"), "Error");
        assert_eq!(why_it_ended(""), "its log is empty");
    }

    #[tokio::test]
    async fn why_it_ended_is_known_of_one_that_another_shoald_started() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            systemd_marker: root.path().join("systemd"),
            ..Paths::under(root.path())
        };
        fs::create_dir_all(&paths.state_dir).unwrap();
        fs::write(paths.log(), "time=\"x\" level=fatal msg=\"no disk\"\n").unwrap();
        let runtime = K3sRuntime::new(paths);
        let words = runtime.words(K3sRole::Server).await;
        assert!(why_it_ended(&words).ends_with("msg=\"no disk\""), "{words}");
    }

    #[test]
    fn that_a_process_was_ready_outlives_shoald_and_not_the_process() {
        let root = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("86397")
            .spawn()
            .unwrap();
        let own = Identity::of(std::process::id()).unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let mut first = K3sRuntime::new(Paths::under(root.path()));
        assert!(!first.was_ready(identity));
        first.note_ready(identity);
        assert!(first.was_ready(identity) && !first.was_ready(own));
        let mut second = K3sRuntime::new(Paths::under(root.path()));
        assert!(second.was_ready(identity) && !second.was_ready(own));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut third = K3sRuntime::new(Paths::under(root.path()));
        assert!(!third.was_ready(identity));
        // What systemd started in its place is ready in its turn.
        second.note_ready(own);
        assert!(second.was_ready(own) && !second.was_ready(identity));
        assert!(K3sRuntime::new(Paths::under(root.path())).was_ready(own));
    }
}
