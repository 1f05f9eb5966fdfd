//! A node's turn in a change that goes round its cluster: its pods leave before it, and may come back
//! after it.
//!
//! Decides: when a cluster that does not answer, or a pod that does not go, is waited for no longer; and
//! whose cordon it is. Which pods go, and that their disruption budgets are kept,
//! `runtimes_core::k3s::eviction` says; whose leaving is waited for, `runtimes_core::drain::residents`.
//! Never: keeps the node from being told something else: each step is one round.
//!
//! Invariant: who had cordoned the node before finds it cordoned after it.

use std::time::Duration;

use runtimes_core::drain::residents::Residents;
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
    /// Whose leaving it is.
    residents: Residents,
}

impl K3sRuntime {
    /// What its turn in a change waits for, in words.
    pub fn waits_for(&self) -> Option<&str> {
        self.waiting.as_ref().map(|waiting| waiting.what.as_str())
    }

    /// Asks once for what has to go.
    pub(crate) async fn vacate(&mut self, context: &Context<'_>) -> Result<(), StepError> {
        let before = self.waiting.as_ref().filter(|waiting| waiting.empties);
        let mut residents = before.map_or_else(Residents::default, |one| one.residents.clone());
        let left = match self.empty(context, &mut residents).await {
            Ok(None) => {
                self.waiting = None;
                let came = residents.who_came();
                if !came.is_empty() {
                    tracing::info!(reason = came, "k3s: the node counts as empty for its turn");
                }
                // Only now: one that could not be emptied is not changed either.
                return Ok(self.files.write(&self.paths.emptied(), b"", RECORD_MODE)?);
            }
            Ok(Some(waits_for)) => StepError::Stalled { waits_for },
            Err(error @ StepError::Api(_)) => error,
            Err(error) => return Err(error),
        };
        self.wait(true, left, residents).await
    }

    /// What is in the way of an empty node.
    async fn empty(
        &self,
        context: &Context<'_>,
        residents: &mut Residents,
    ) -> Result<Option<String>, StepError> {
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
            // Who has come before this was no guest.
            *residents = Residents::default();
        }
        Ok(evict_once(&api, context.node, residents).await?)
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
            Err(error) => self.wait(false, error.into(), Residents::default()).await,
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
    async fn wait(
        &mut self,
        empties: bool,
        left: StepError,
        residents: Residents,
    ) -> Result<(), StepError> {
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
            residents,
        });
        sleep(ASK_EVERY).await;
        Ok(())
    }
}

/// Asks every pod once that was there when the node began to be emptied, and has to go. What is waited
/// for; none once all of those have gone.
///
/// # Errors
/// The API did not answer, or refused to say which pods there are.
pub async fn evict_once(
    api: &ClusterApi,
    node: &str,
    residents: &mut Residents,
) -> Result<Option<String>, ApiError> {
    let evictions = residents.handle_listing(api.pods_on(node).await?);
    if evictions.is_empty() {
        return Ok(None);
    }
    let mut kept = Vec::new();
    for pod in &evictions.ask {
        match api.evict(pod).await {
            Ok(Eviction::Accepted) => {}
            // What speaks against one pod keeps no other from going.
            Ok(Eviction::Forbidden { reason }) | Err(ApiError::Refused { reason, .. }) => {
                kept.push((pod.clone(), reason));
            }
            Err(error) => return Err(error),
        }
    }
    let waits_for = match evictions.waits_for(&kept) {
        words if words.is_empty() => "pods to end".to_owned(),
        words => words,
    };
    Ok(Some(match residents.who_came() {
        came if came.is_empty() => waits_for,
        came => format!("{waits_for}; {came}"),
    }))
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
    const PODS: &str = "/api/v1/pods";

    /// A cluster of one node.
    #[derive(Debug, Default)]
    struct Cluster {
        cordoned: bool,
        /// Whether a pod is there that comes back, as another one, as often as it is evicted.
        stubborn: bool,
        /// Whether another pod is there, which two budgets count.
        counted_twice: bool,
        evictions: u32,
    }

    impl Cluster {
        fn pods(&self) -> Value {
            let pod = |name: &str, uid: String| json!({"metadata": {"name": name, "namespace": "d", "uid": uid}});
            let kept = self.counted_twice.then(|| pod("db-0", "db".to_owned()));
            let present = self.evictions.to_string();
            let comes_back = self.stubborn.then(|| pod("web-0", present));
            let pods: Vec<Value> = kept.into_iter().chain(comes_back).collect();
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})
        }

        /// HTTP's code, and the body.
        fn answer(&mut self, method: &str, path: &str, body: &str) -> (u16, Value) {
            if (method, path) == ("PATCH", NODE) {
                let patch: Value = serde_json::from_str(body).unwrap();
                self.cordoned = patch["spec"]["unschedulable"] == true;
            }
            if path.ends_with("/eviction") {
                return self.evict(&serde_json::from_str(body).unwrap());
            }
            let said = match path {
                NODE => json!({
                    "kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"},
                    "spec": {"unschedulable": self.cordoned},
                }),
                PODS => self.pods(),
                _ => status(200, "Success", ""),
            };
            (200, said)
        }

        fn evict(&mut self, eviction: &Value) -> (u16, Value) {
            if eviction["metadata"]["name"] == "db-0" {
                return (201, status(500, "Failure", "two budgets count it"));
            }
            let meant = &eviction["deleteOptions"]["preconditions"]["uid"];
            let present = self.evictions.to_string();
            if meant.as_str() != Some(&present) {
                return (409, status(409, "Failure", "it is another one"));
            }
            self.evictions += 1;
            (201, status(201, "Success", ""))
        }
    }

    fn status(code: u16, how: &str, message: &str) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": how, "code": code, "message": message,
        })
    }

    async fn answer(mut stream: TcpStream, cluster: Arc<Mutex<Cluster>>) {
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
        let (code, said) = cluster.lock().unwrap().answer(method, path, &body);
        let said = said.to_string();
        let length = said.len();
        let answer = format!(
            "HTTP/1.1 {code} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{said}"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    struct Scene {
        _root: tempfile::TempDir,
        runtime: K3sRuntime,
        cluster: Arc<Mutex<Cluster>>,
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
            let cluster = Cluster {
                cordoned,
                ..Cluster::default()
            };
            let cluster = Arc::new(Mutex::new(cluster));
            let known = cluster.clone();
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(answer(stream, known.clone()));
                }
            });
            Self {
                _root: root,
                runtime: K3sRuntime::new(paths),
                cluster,
            }
        }

        fn is_cordoned(&self) -> bool {
            self.cluster.lock().unwrap().cordoned
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
        scene.cluster.lock().unwrap().cordoned = false;
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
    async fn a_pod_that_tolerates_the_cordon_is_left_where_it_is_in_the_end() {
        let scene = Scene::new(true).await;
        scene.cluster.lock().unwrap().stubborn = true;
        let api = scene.runtime.api(K3sRole::Server).await.unwrap();
        let mut residents = Residents::default();
        let mut waited = Vec::new();
        for _ in 0..4 {
            waited.push(evict_once(&api, "n1", &mut residents).await.unwrap());
        }
        let pods = Some("pods to end".to_owned());
        assert_eq!(waited, [pods.clone(), pods, None, None]);
        assert_eq!(scene.cluster.lock().unwrap().evictions, 2);
        let words = "pod d/web-0 came after the cordon, and stays";
        assert_eq!(residents.who_came(), words);
    }

    #[tokio::test]
    async fn a_later_pod_of_the_same_name_is_not_evicted_for_the_one_before() {
        let scene = Scene::new(true).await;
        scene.cluster.lock().unwrap().stubborn = true;
        let api = scene.runtime.api(K3sRole::Server).await.unwrap();
        let earlier = api.pods_on("n1").await.unwrap();
        // That one has gone by itself, and another one has come.
        scene.cluster.lock().unwrap().evictions = 7;
        let present = api.pods_on("n1").await.unwrap();
        for (pods, evictions) in [(earlier, 7), (present, 8)] {
            let answer = api.evict(&pods[0]).await.unwrap();
            assert_eq!(answer, Eviction::Accepted);
            assert_eq!(scene.cluster.lock().unwrap().evictions, evictions);
        }
    }

    #[tokio::test]
    async fn a_pod_that_nobody_may_evict_is_named_and_keeps_no_other() {
        let scene = Scene::new(true).await;
        {
            let mut cluster = scene.cluster.lock().unwrap();
            (cluster.stubborn, cluster.counted_twice) = (true, true);
        }
        let api = scene.runtime.api(K3sRole::Server).await.unwrap();
        let mut residents = Residents::default();
        let waits_for = evict_once(&api, "n1", &mut residents).await.unwrap();
        let words = "pod d/db-0: two budgets count it";
        assert_eq!(waits_for.as_deref(), Some(words));
        assert_eq!(scene.cluster.lock().unwrap().evictions, 1);
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
