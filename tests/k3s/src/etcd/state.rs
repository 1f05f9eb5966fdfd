//! The shared state: members and objects, and the commands that change them.
//!
//! A command is applied once, by the leader, and refused without any effect. Objects are whole
//! JSON values under keys like `apps/deployments/default/web`; each carries the revision that
//! wrote it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::apiserver::eviction;

/// A server that takes part in the agreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The node's name and eight digits, as K3s names them.
    pub(crate) name: String,
    pub(crate) peer_url: String,
    /// Copies the state but does not vote yet.
    pub(crate) learner: bool,
}

impl Member {
    /// The node's name in the member's.
    pub(crate) fn node(&self) -> &str {
        self.name
            .rsplit_once('-')
            .map_or(&self.name, |(node, _)| node)
    }
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) members: BTreeMap<String, Member>,
    pub(crate) objects: BTreeMap<String, Value>,
    /// The cluster's authorities and passwords, by file below `server/`: a snapshot that is
    /// restored on another machine brings them along.
    pub(crate) bootstrap: BTreeMap<String, String>,
}

/// A change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Fails where something is already.
    Create {
        key: String,
        object: Value,
    },
    /// Fails where nothing is, or not of this revision.
    Replace {
        key: String,
        object: Value,
        revision: Option<u64>,
    },
    /// Fails where nothing is, or something else.
    Remove {
        key: String,
        uid: Option<String>,
        revision: Option<u64>,
    },
    /// Marks a pod as ending, unless a disruption budget forbids it or it is another one.
    Evict {
        key: String,
        deletion: String,
        uid: Option<String>,
    },
    AddMember(Member),
    Promote {
        name: String,
    },
    RemoveMember {
        name: String,
    },
    /// Nothing but another members' list: `--cluster-reset`.
    OnlyMember(Member),
}

/// Why a command had no effect, as the API says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) details: Value,
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: json!({}),
        }
    }

    pub(crate) fn not_found(key: &str) -> Self {
        let (kind, name) = kind_and_name(key);
        let mut refusal = Self::new(404, "NotFound", format!("{kind} \"{name}\" not found"));
        refusal.details = json!({"name": name, "kind": kind});
        refusal
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(500, "InternalError", "etcdserver: request timed out")
    }

    fn already_exists(key: &str) -> Self {
        let (kind, name) = kind_and_name(key);
        let message = format!("{kind} \"{name}\" already exists");
        let mut refusal = Self::new(409, "AlreadyExists", message);
        refusal.details = json!({"name": name, "kind": kind});
        refusal
    }

    fn conflict(key: &str) -> Self {
        let (kind, name) = kind_and_name(key);
        let message = format!(
            "Operation cannot be fulfilled on {kind} \"{name}\": the object has been modified; please apply your changes to the latest version and try again"
        );
        let mut refusal = Self::new(409, "Conflict", message);
        refusal.details = json!({"name": name, "kind": kind});
        refusal
    }
}

/// `deployments.apps` and the object's name, out of a key.
fn kind_and_name(key: &str) -> (String, &str) {
    let mut parts = key.split('/');
    let (group, plural) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let name = key.rsplit('/').next().unwrap_or("");
    if group.is_empty() {
        (plural.to_owned(), name)
    } else {
        (format!("{plural}.{group}"), name)
    }
}

impl State {
    /// How many members vote.
    pub(crate) fn voters(&self) -> usize {
        self.members
            .values()
            .filter(|member| !member.learner)
            .count()
    }

    /// Applies a command as `revision`.
    pub(crate) fn apply(&mut self, revision: u64, command: &Command) -> Result<Value, Refusal> {
        match command {
            Command::Create { key, object } => {
                if self.objects.contains_key(key) {
                    return Err(Refusal::already_exists(key));
                }
                Ok(self.put(revision, key, object.clone()))
            }
            Command::Replace {
                key,
                object,
                revision: expected,
            } => {
                self.expect(key, None, *expected)?;
                Ok(self.put(revision, key, object.clone()))
            }
            Command::Remove {
                key,
                uid,
                revision: expected,
            } => {
                self.expect(key, uid.as_deref(), *expected)?;
                let removed = self.objects.remove(key);
                Ok(removed.unwrap_or(Value::Null))
            }
            Command::Evict { key, deletion, uid } => {
                let mut pod = eviction::allow(self, key)?;
                self.expect(key, uid.as_deref(), None)?;
                if pod["metadata"]["deletionTimestamp"].is_null() {
                    pod["metadata"]["deletionTimestamp"] = json!(deletion);
                }
                Ok(self.put(revision, key, pod))
            }
            Command::AddMember(_)
            | Command::Promote { .. }
            | Command::RemoveMember { .. }
            | Command::OnlyMember(_) => self.change_members(command),
        }
    }

    fn change_members(&mut self, command: &Command) -> Result<Value, Refusal> {
        let refuse = |words: &str| {
            Err(Refusal::new(
                409,
                "Conflict",
                format!("etcdserver: {words}"),
            ))
        };
        match command {
            Command::AddMember(member) => {
                if self
                    .members
                    .values()
                    .any(|other| other.peer_url == member.peer_url)
                {
                    return refuse("Peer URLs already exists");
                }
                if self.members.values().any(|other| other.learner) {
                    return refuse("too many learner members in cluster");
                }
                self.members.insert(member.name.clone(), member.clone());
            }
            Command::Promote { name } => match self.members.get_mut(name) {
                Some(member) => member.learner = false,
                None => return refuse("member not found"),
            },
            Command::RemoveMember { name } => {
                if self.members.remove(name).is_none() {
                    return refuse("member not found");
                }
            }
            Command::OnlyMember(member) => {
                self.members = BTreeMap::from([(member.name.clone(), member.clone())]);
            }
            Command::Create { .. }
            | Command::Replace { .. }
            | Command::Remove { .. }
            | Command::Evict { .. } => {}
        }
        Ok(Value::Null)
    }

    fn put(&mut self, revision: u64, key: &str, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        self.objects.insert(key.to_owned(), object.clone());
        object
    }

    fn expect(&self, key: &str, uid: Option<&str>, revision: Option<u64>) -> Result<(), Refusal> {
        let Some(object) = self.objects.get(key) else {
            return Err(Refusal::not_found(key));
        };
        let other_uid = uid.is_some_and(|uid| object["metadata"]["uid"] != uid);
        let other_revision = revision.is_some_and(|revision| self::revision(object) != revision);
        if other_uid || other_revision {
            return Err(Refusal::conflict(key));
        }
        Ok(())
    }
}

/// The revision that wrote an object.
pub(crate) fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(key: &str) -> Command {
        Command::Create {
            key: key.to_owned(),
            object: json!({"metadata": {"name": "a", "uid": "u"}}),
        }
    }

    #[test]
    fn a_replacement_of_an_old_revision_is_refused() {
        let mut state = State::default();
        let first = state.apply(7, &create("/nodes//a")).unwrap();
        assert_eq!(revision(&first), 7);
        let replace = |revision| Command::Replace {
            key: "/nodes//a".to_owned(),
            object: first.clone(),
            revision: Some(revision),
        };
        state.apply(8, &replace(7)).unwrap();
        let refused = state.apply(9, &replace(7)).unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
        assert_eq!(
            state.apply(9, &create("/nodes//a")).unwrap_err().reason,
            "AlreadyExists"
        );
    }

    #[test]
    fn a_pod_is_evicted_as_the_one_that_is_meant() {
        let mut state = State::default();
        let pod = "/pods/default/a";
        state.apply(7, &create(pod)).unwrap();
        let evict = |uid: Option<&str>| Command::Evict {
            key: pod.to_owned(),
            deletion: "2025-01-01T00:00:00Z".to_owned(),
            uid: uid.map(str::to_owned),
        };
        let refused = state.apply(8, &evict(Some("v"))).unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
        let present = |state: &State| state.objects[pod]["metadata"].clone();
        assert!(present(&state)["deletionTimestamp"].is_null());
        for uid in [Some("u"), None] {
            state.apply(8, &evict(uid)).unwrap();
            assert!(present(&state)["deletionTimestamp"].is_string());
        }
    }

    #[test]
    fn members_join_one_at_a_time() {
        let member = |name: &str, learner| Member {
            name: name.to_owned(),
            peer_url: format!("https://{name}:2380"),
            learner,
        };
        let mut state = State::default();
        state
            .apply(1, &Command::AddMember(member("a-1", false)))
            .unwrap();
        state
            .apply(2, &Command::AddMember(member("b-1", true)))
            .unwrap();
        let second = state
            .apply(3, &Command::AddMember(member("c-1", true)))
            .unwrap_err();
        assert_eq!(
            second.message,
            "etcdserver: too many learner members in cluster"
        );
        assert_eq!(state.voters(), 1);
        state
            .apply(
                3,
                &Command::Promote {
                    name: "b-1".to_owned(),
                },
            )
            .unwrap();
        assert_eq!(state.voters(), 2);
        assert_eq!(state.members["b-1"].node(), "b");
    }
}
