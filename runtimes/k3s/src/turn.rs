//! A node's turn in a change that goes round its cluster: its pods leave before it, and may come back
//! after it.
//!
//! Decides: when a cluster that does not answer, or a pod that does not go, is waited for no longer; and
//! whose cordon it is. Which pods go, and that their disruption budgets are kept,
//! `runtimes_core::k3s::eviction` says. Never: keeps the node from being told something else: each step is
//! one round.
//!
//! Invariant: who had cordoned the node before finds it cordoned after it.

use std::time::Duration;

use runtimes_core::k3s::eviction::Evictions;
use runtimes_host::files;
use tokio::time::{Instant, sleep};

use crate::{
    api::{ApiError, ClusterApi, Eviction},
    error::StepError,
    runtime::{Context, K3sRuntime, RECORD_MODE},
};

/// Who cannot be moved within this keeps the node as it is.
const VACATE_WITHIN: Duration = Duration::from_secs(600);
/// A pod's budget is asked again, and a cluster that did not answer.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// What is written down where somebody else has cordoned the node.
const KEPT: &str = "kept";

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Whether for the node to be empty; else for the cluster to give it pods again.
    empties: bool,
    since: Instant,
    /// In words.
    what: String,
}

impl K3sRuntime {
    /// What its turn in a change waits for, in words.
    pub fn waits_for(&self) -> Option<&str> {
        self.waiting.as_ref().map(|waiting| waiting.what.as_str())
    }

    /// Asks once for what has to go.
    pub(crate) async fn vacate(&mut self, context: &Context<'_>) -> Result<(), StepError> {
        let left = match self.empty(context).await {
            Ok(None) => {
                self.waiting = None;
                // Only now: one that could not be emptied is not changed either.
                return Ok(self.files.write(&self.paths.emptied(), b"", RECORD_MODE)?);
            }
            Ok(Some(waits_for)) => StepError::Stalled { waits_for },
            Err(error @ StepError::Api(_)) => error,
            Err(error) => return Err(error),
        };
        self.wait(true, left).await
    }

    /// What is in the way of an empty node.
    async fn empty(&self, context: &Context<'_>) -> Result<Option<String>, StepError> {
        let mark = self.paths.vacated();
        let known = files::read(&mark)?;
        if known.is_none() {
            // The API's address goes before anything else, also from one whose own API does not answer.
            // Whose cordon it is, is not known yet; somebody else's is left alone.
            self.files.write(&mark, KEPT.as_bytes(), RECORD_MODE)?;
        }
        let api = self.api(context.role).await?;
        let cordoned = api
            .node(context.node)
            .await?
            .is_some_and(|node| node.cordoned);
        if !cordoned {
            if known.is_none_or(|said| said == KEPT) {
                self.files.write(&mark, b"", RECORD_MODE)?;
            }
            api.cordon(context.node, true).await?;
        }
        Ok(evict_once(&api, context.node).await?)
    }

    /// Lets pods come again, unless somebody else had cordoned the node, or drains it now.
    pub(crate) async fn come_back(&mut self, context: &Context<'_>) -> Result<(), StepError> {
        let mark = files::read(&self.paths.vacated())?;
        let kept = mark.is_some_and(|said| said == KEPT);
        if kept {
            return self.forget_turn();
        }
        if context.drained {
            // Whoever drains it found it cordoned, and leaves that to who did it.
            let cordoned = self.paths.cordoned();
            self.files.write(&cordoned, b"", RECORD_MODE)?;
            return self.forget_turn();
        }
        match self.uncordon(context).await {
            Ok(()) => {
                self.forget_turn()?;
                Ok(self.files.remove(&self.paths.cordoned())?)
            }
            Err(error) => self.wait(false, error.into()).await,
        }
    }

    async fn uncordon(&self, context: &Context<'_>) -> Result<(), ApiError> {
        let api = self.api(context.role).await?;
        api.cordon(context.node, false).await
    }

    fn forget_turn(&mut self) -> Result<(), StepError> {
        self.waiting = None;
        // In this order: a look between the two asks for the same once more.
        self.files.remove(&self.paths.emptied())?;
        Ok(self.files.remove(&self.paths.vacated())?)
    }

    /// Waits a moment, unless that has been done for long enough.
    async fn wait(&mut self, empties: bool, left: StepError) -> Result<(), StepError> {
        let before = self.waiting.take();
        let before = before.filter(|waiting| waiting.empties == empties);
        let since = before.map_or_else(Instant::now, |waiting| waiting.since);
        if since.elapsed() >= VACATE_WITHIN {
            return Err(left);
        }
        let what = if let StepError::Stalled { waits_for } = &left {
            waits_for.clone()
        } else {
            left.to_string()
        };
        self.waiting = Some(Waiting {
            empties,
            since,
            what,
        });
        sleep(ASK_EVERY).await;
        Ok(())
    }
}

/// Asks every pod that has to go once. What is waited for, unless the node is empty.
pub async fn evict_once(api: &ClusterApi, node: &str) -> Result<Option<String>, ApiError> {
    let evictions = Evictions::of(api.pods_on(node).await?);
    let mut kept = Vec::new();
    for pod in &evictions.ask {
        if let Eviction::Forbidden { reason } = api.evict(pod).await? {
            kept.push((pod.clone(), reason));
        }
    }
    Ok(
        (!evictions.is_empty()).then(|| match evictions.waits_for(&kept) {
            waits_for if waits_for.is_empty() => "pods to end".to_owned(),
            waits_for => waits_for,
        }),
    )
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{Arc, Mutex},
    };

    use consensus_core::K3sRole;
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::paths::Paths;

    const NODE: &str = "/api/v1/nodes/n1";

    /// A cluster of one node without pods, which knows whether that is cordoned.
    async fn answer(mut stream: TcpStream, cordoned: Arc<Mutex<bool>>) {
        let mut asked = Vec::new();
        let (head, body) = loop {
            let read = stream.read_buf(&mut asked).await.unwrap();
            let text = String::from_utf8_lossy(&asked).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(read > 0, "half a question");
                continue;
            };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or_default() {
                break (head.to_owned(), body.to_owned());
            }
        };
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let path = path.split('?').next().unwrap();
        if (method, path) == ("PATCH", NODE) {
            let patch: Value = serde_json::from_str(&body).unwrap();
            *cordoned.lock().unwrap() = patch["spec"]["unschedulable"] == true;
        }
        let said = match path {
            NODE => json!({
                "kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"},
                "spec": {"unschedulable": *cordoned.lock().unwrap()},
            }),
            _ => json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}),
        };
        let said = said.to_string();
        let length = said.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{said}"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    struct Scene {
        _root: tempfile::TempDir,
        runtime: K3sRuntime,
        cordoned: Arc<Mutex<bool>>,
    }

    impl Scene {
        async fn new(cordoned: bool) -> Self {
            let root = tempfile::tempdir().unwrap();
            let paths = Paths {
                config_dir: root.path().join("etc"),
                ..Paths::under(root.path())
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let kubeconfig = json!({
                "kind": "Config", "apiVersion": "v1", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {}}],
            });
            fs::create_dir_all(&paths.config_dir).unwrap();
            fs::write(paths.kubeconfig(), kubeconfig.to_string()).unwrap();
            let cordoned = Arc::new(Mutex::new(cordoned));
            let known = cordoned.clone();
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(answer(stream, known.clone()));
                }
            });
            Self {
                _root: root,
                runtime: K3sRuntime::new(paths),
                cordoned,
            }
        }

        fn is_cordoned(&self) -> bool {
            *self.cordoned.lock().unwrap()
        }

        async fn vacates(&mut self) {
            self.runtime.vacate(&context(false)).await.unwrap();
            assert!(self.is_cordoned());
            let paths = self.runtime.paths();
            assert!(paths.vacated().exists() && paths.emptied().exists());
        }

        async fn comes_back(&mut self, drained: bool) {
            self.runtime.come_back(&context(drained)).await.unwrap();
            let paths = self.runtime.paths();
            assert!(!paths.vacated().exists() && !paths.emptied().exists());
        }
    }

    fn context(drained: bool) -> Context<'static> {
        Context {
            role: K3sRole::Server,
            node: "n1",
            foreign_network: false,
            wanted: true,
            drained,
            token: None,
        }
    }

    #[tokio::test]
    async fn who_had_cordoned_a_node_before_its_turn_finds_it_so_after_it() {
        for cordoned in [false, true] {
            let mut scene = Scene::new(cordoned).await;
            scene.vacates().await;
            scene.comes_back(false).await;
            assert_eq!(scene.is_cordoned(), cordoned);
        }
    }

    #[tokio::test]
    async fn a_cordon_that_somebody_takes_back_in_a_turn_is_shoals_from_then_on() {
        let mut scene = Scene::new(true).await;
        scene.vacates().await;
        *scene.cordoned.lock().unwrap() = false;
        scene.vacates().await;
        scene.comes_back(false).await;
        assert!(!scene.is_cordoned());
    }

    #[tokio::test]
    async fn a_node_that_is_drained_meanwhile_has_pods_again_after_the_drain() {
        let mut scene = Scene::new(false).await;
        scene.vacates().await;
        scene.comes_back(true).await;
        assert!(scene.is_cordoned() && scene.runtime.paths().cordoned().exists());
        // Another turn in between changes nothing about that.
        scene.vacates().await;
        scene.comes_back(true).await;
        assert!(scene.is_cordoned());
        scene.comes_back(false).await;
        assert!(!scene.is_cordoned() && !scene.runtime.paths().cordoned().exists());
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_answer_is_waited_for_and_not_for_ever() {
        let mut scene = Scene::new(false).await;
        fs::remove_file(scene.runtime.paths().kubeconfig()).unwrap();
        scene.runtime.vacate(&context(false)).await.unwrap();
        // The API's address goes all the same, and nobody takes the node for empty.
        let paths = scene.runtime.paths();
        assert!(paths.vacated().exists() && !paths.emptied().exists());
        assert!(scene.runtime.waits_for().unwrap().contains("k3s.yaml"));
        let waiting = scene.runtime.waiting.as_mut().unwrap();
        waiting.since = Instant::now().checked_sub(VACATE_WITHIN).unwrap();
        let error = scene.runtime.vacate(&context(false)).await.unwrap_err();
        assert_eq!(error.code(), "K3sKubeconfigError");
        assert_eq!(scene.runtime.waits_for(), None);
    }
}
