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
use tokio::time::{Instant, sleep};

use crate::{
    api::ApiError,
    daemon::{DaemonError, Found},
    error::StepError,
    runtime::{Context, K3sRuntime, Sight},
};

/// One look at whether K3s is ready; more than that at a time would keep the node from being told
/// something else.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
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
        let seen = match context.wanted {
            true => self.ready(context).await.ok(),
            false => None,
        };
        if seen.is_some() {
            (self.awaited, self.missed, self.refused) = (None, None, None);
            self.note_ready(identity);
            return seen;
        }
        self.missed.get_or_insert_with(Instant::now);
        let refused =
            context.wanted && self.was_ready(identity) && self.is_refused(context.role).await;
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
        match self.api(role).await {
            Ok(api) => api.is_refused().await,
            Err(_) => false,
        }
    }

    /// Waits until K3s is ready, but not for long: a start may take minutes, and the node may be told
    /// otherwise meanwhile.
    pub(crate) async fn probe(&mut self, context: &Context<'_>) -> Result<(), StepError> {
        let awaited = *self.awaited.get_or_insert_with(Instant::now);
        let deadline = Instant::now() + PROBE_WITHIN;
        loop {
            let why = match self.ready(context).await {
                Ok(_) => return Ok(()),
                Err(why) => why,
            };
            let Found::Ours(process) = self.supervision.find(&self.paths).await? else {
                return Err(self.not_ready("ended".to_owned()).await.into());
            };
            if awaited.elapsed() > READY_WITHIN {
                self.awaited = None;
                let within = READY_WITHIN.as_secs();
                let how = match self.was_ready(process.identity) {
                    true => format!("was ready, and has not been for {within} s ({why})"),
                    false => format!("is not ready after {within} s ({why})"),
                };
                return Err(self.not_ready(how).await.into());
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
            sleep(POLL_EVERY).await;
        }
    }

    async fn not_ready(&self, how: String) -> DaemonError {
        let said = match &self.said {
            Some(said) => said.text().await,
            None => String::new(),
        };
        DaemonError::NotReady {
            how,
            reason: last_complaint(&said),
        }
    }

    /// What it said last, if it was this shoald that started it: of one that ended, why.
    pub async fn last_words(&self) -> Option<String> {
        let said = self.said.as_ref()?.read().await?;
        Some(last_complaint(&said))
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

/// The last line that K3s marks as an error, else its last one.
fn last_complaint(said: &str) -> String {
    let lines = || said.lines().rev().filter(|line| !line.trim().is_empty());
    let grave = |line: &&str| line.contains("level=fatal") || line.contains("level=error");
    let line = lines().find(grave).or_else(|| lines().next());
    let line = line.unwrap_or("its log is empty").trim();
    line.chars().take(REASON_CHARS_MAX).collect()
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
    use crate::paths::Paths;

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

    #[tokio::test]
    async fn that_nobody_listens_counts_only_where_somebody_did() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            data_dir: root.path().join("data"),
            ..Paths::under(root.path())
        };
        let kubeconfig = paths.kubelet_kubeconfig();
        fs::create_dir_all(kubeconfig.parent().unwrap()).unwrap();
        let mut runtime = K3sRuntime::new(paths);
        let context = Context {
            role: K3sRole::Agent,
            node: "n1",
            foreign_network: false,
            wanted: true,
            drained: false,
            token: None,
        };
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
            let text = json!({
                "kind": "Config", "apiVersion": "v1", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": format!("http://{at}")}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {}}],
            });
            fs::write(&kubeconfig, text.to_string()).unwrap();
            let ready = runtime.see(own, &context).await.is_some();
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
