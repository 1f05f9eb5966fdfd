//! What acts on objects: in the controller manager's, the scheduler's and K3s's controllers' place.
//!
//! Runs on the server whose register leads; the [`lease`] may be another one's, and says only who ends without
//! a majority. Each look is a plan of commands made from one committed state; a command that meets somebody
//! else's change fails and is planned anew at the next look.

pub(crate) mod lease;
pub(crate) mod nodes;
pub(crate) mod packaged;
pub(crate) mod workloads;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::{
    apiserver::objects,
    clock,
    etcd::state::{self, Command, State},
    server::Server,
};

/// A look is taken at every change, and this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between looks, so that a storm of changes is one look.
const REST: Duration = Duration::from_millis(20);

/// Runs for as long as the process runs.
pub(crate) async fn run(server: Arc<Server>) {
    let mut published = server.etcd.follow();
    let mut health = nodes::Health::default();
    let mut leases = nodes::Health::default();
    loop {
        if server.etcd.leads() {
            let state = server.etcd.local().state;
            let mut plan = packaged::plan(&state, &server.settings);
            plan.extend(nodes::plan(
                &state,
                &server.settings,
                &mut health,
                &mut leases,
            ));
            plan.extend(workloads::plan(&state));
            for command in plan {
                // A refusal: somebody else was quicker. The next look sees what he did.
                let _ = server.etcd.submit(command).await;
            }
        } else {
            health = nodes::Health::default();
            leases = nodes::Health::default();
        }
        tokio::time::sleep(REST).await;
        let _ = tokio::time::timeout(LOOK_EVERY, published.changed()).await;
    }
}

/// Replaces an object that is still what it was.
pub(crate) fn replace(key: &str, object: Value) -> Command {
    Command::Replace {
        key: key.to_owned(),
        revision: Some(state::revision(&object)),
        object,
    }
}

/// Removes an object, whatever it is by now.
pub(crate) fn remove(key: &str) -> Command {
    Command::Remove {
        key: key.to_owned(),
        uid: None,
        revision: None,
    }
}

/// Makes an object.
pub(crate) fn create(key: &str, mut object: Value) -> Command {
    object["metadata"]["uid"] = json!(objects::uid());
    object["metadata"]["creationTimestamp"] = json!(clock::now());
    Command::Create {
        key: key.to_owned(),
        object,
    }
}

/// All objects whose keys begin so.
pub(crate) fn all<'a>(
    state: &'a State,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let range = state.objects.range(prefix.to_owned()..);
    range.take_while(move |(key, _)| key.starts_with(prefix))
}

/// A text of an object.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    let found = path.iter().fold(object, |at, part| &at[*part]);
    found.as_str().unwrap_or_default()
}
