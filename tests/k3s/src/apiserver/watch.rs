//! Watches: what changed, from a revision on.
//!
//! The last thousands of changes are kept; whoever asks for older ones gets 410 and lists anew.
//! States may be skipped where several were committed at once; then several changes share one
//! revision, which Kubernetes allows.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use hyper::Response;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::{kinds::Kind, selector::Selector, table};
use crate::{
    etcd::{driver::Etcd, state::State},
    wire::listener::Body,
};

/// Changes that are kept.
const KEPT: usize = 4096;
/// Changes that a slow watcher may be behind in sending.
const BUFFER: usize = 64;

#[derive(Debug)]
struct Change {
    revision: u64,
    key: String,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Default)]
struct Kept {
    changes: VecDeque<Arc<Change>>,
    /// All changes after this revision are there.
    complete_after: u64,
    at: u64,
    state: Arc<State>,
}

/// The newest changes.
pub(crate) struct History {
    kept: Mutex<Kept>,
    at: watch::Sender<u64>,
}

/// What a watcher wants.
pub(crate) struct Wanted {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    /// None: begin with what there is.
    pub(crate) since: Option<u64>,
    pub(crate) bookmark: bool,
    pub(crate) table: bool,
    pub(crate) until: Option<Duration>,
}

impl History {
    /// Follows the committed states for as long as the process runs.
    pub(crate) fn start(etcd: &Etcd) -> Arc<Self> {
        let history = Arc::new(Self {
            kept: Mutex::default(),
            at: watch::Sender::new(0),
        });
        let mut published = etcd.follow();
        let own = history.clone();
        tokio::spawn(async move {
            loop {
                let newest = published.borrow_and_update().clone();
                own.take(newest.ballot.revision, newest.state);
                if published.changed().await.is_err() {
                    return;
                }
            }
        });
        history
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, revision: u64, state: Arc<State>) {
        {
            let mut kept = self.lock();
            if kept.at == 0 {
                kept.complete_after = revision;
            } else {
                for change in differences(&kept.state, &state, revision) {
                    kept.changes.push_back(Arc::new(change));
                }
            }
            while kept.changes.len() > KEPT {
                if let Some(old) = kept.changes.pop_front() {
                    kept.complete_after = old.revision;
                }
            }
            kept.at = revision;
            kept.state = state;
        }
        self.at.send_replace(revision);
    }

    /// What there is, as changes, and the revision of it.
    fn beginning(&self, wanted: &Wanted) -> (Vec<Value>, u64) {
        let kept = self.lock();
        let prefix = wanted.kind.prefix(wanted.namespace.as_deref());
        let objects = kept.state.objects.range(prefix.clone()..);
        let events = objects
            .take_while(|(key, _)| key.starts_with(&prefix))
            .filter(|(_, object)| wanted.selector.matches(object))
            .map(|(_, object)| event(wanted, "ADDED", object))
            .collect();
        (events, kept.at)
    }

    /// What changed after a revision; `None`: that is too long ago.
    fn after(&self, wanted: &Wanted, since: u64) -> Option<(Vec<Value>, u64)> {
        let kept = self.lock();
        if since < kept.complete_after {
            return None;
        }
        let prefix = wanted.kind.prefix(wanted.namespace.as_deref());
        let events = (kept.changes.iter())
            .filter(|change| change.revision > since && change.key.starts_with(&prefix))
            .filter_map(|change| seen(wanted, change))
            .collect();
        Some((events, kept.at.max(since)))
    }

    /// Answers a watch; it ends when its time is up or nobody listens any more.
    pub(crate) fn watch(self: &Arc<Self>, wanted: Wanted) -> Response<Body> {
        let (mut sender, body) = Channel::<Bytes>::new(BUFFER);
        let history = self.clone();
        tokio::spawn(async move {
            let until = wanted.until.map(|time| Instant::now() + time);
            let mut news = history.at.subscribe();
            let mut since = wanted.since;
            loop {
                news.mark_unchanged();
                let found = match since {
                    None => Some(history.beginning(&wanted)),
                    Some(since) => history.after(&wanted, since),
                };
                let Some((mut events, at)) = found else {
                    let _ = sender.send_data(line(&expired())).await;
                    return;
                };
                if since.is_none() && wanted.bookmark {
                    events.push(bookmark(wanted.kind, at));
                }
                since = Some(at);
                for event in events {
                    if sender.send_data(line(&event)).await.is_err() {
                        return;
                    }
                }
                if !wait_for(&mut news, until).await {
                    return;
                }
            }
        });
        let response = Response::builder().header("Content-Type", "application/json");
        let response = response.body(body.boxed());
        response.unwrap_or_else(|_| Response::new(http_body_util::Empty::new().boxed()))
    }
}

/// Whether there is something new before the time is up.
async fn wait_for(news: &mut watch::Receiver<u64>, until: Option<Instant>) -> bool {
    match until {
        Some(until) => {
            let changed = tokio::time::timeout_at(until, news.changed()).await;
            changed.is_ok_and(|changed| changed.is_ok())
        }
        None => news.changed().await.is_ok(),
    }
}

fn differences(old: &State, new: &State, revision: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, before) in &old.objects {
        if !new.objects.contains_key(key) {
            changes.push(Change {
                revision,
                key: key.clone(),
                before: Some(before.clone()),
                after: None,
            });
        }
    }
    for (key, after) in &new.objects {
        let before = old.objects.get(key);
        let same = before.is_some_and(|before| {
            before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
        });
        if !same {
            changes.push(Change {
                revision,
                key: key.clone(),
                before: before.cloned(),
                after: Some(after.clone()),
            });
        }
    }
    changes
}

/// A change as this watcher sees it: one that leaves his selection is a deletion to him.
fn seen(wanted: &Wanted, change: &Change) -> Option<Value> {
    let chosen = |object: &&Value| wanted.selector.matches(object);
    let before = change.before.as_ref().filter(chosen);
    let after = change.after.as_ref().filter(chosen);
    match (before, after) {
        (None, None) => None,
        (None, Some(object)) => Some(event(wanted, "ADDED", object)),
        (Some(_), Some(object)) => Some(event(wanted, "MODIFIED", object)),
        (Some(object), None) => {
            let mut last = change.after.as_ref().unwrap_or(object).clone();
            last["metadata"]["resourceVersion"] = json!(change.revision.to_string());
            Some(event(wanted, "DELETED", &last))
        }
    }
}

fn event(wanted: &Wanted, how: &str, object: &Value) -> Value {
    if wanted.table {
        let revision = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let table = table::of(wanted.kind, std::slice::from_ref(object), revision);
        return json!({"type": how, "object": table});
    }
    json!({"type": how, "object": object})
}

fn bookmark(kind: &Kind, revision: u64) -> Value {
    json!({"type": "BOOKMARK", "object": {
        "kind": kind.kind,
        "apiVersion": kind.api_version(),
        "metadata": {
            "resourceVersion": revision.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"},
        },
    }})
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version",
        "reason": "Expired",
        "code": 410,
    }})
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}
