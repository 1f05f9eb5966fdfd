//! Objects: made, read, replaced, patched, deleted.
//!
//! Follows what Kubernetes does to the metadata, to status (written by itself only), and to
//! deletions: a pod on a node ends when its kubelet says so, an object with finalizers when the
//! last of them is gone, anything else at once.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    identity::{self, User},
    kinds::Target,
    patch,
    selector::Selector,
    table,
};
use crate::{
    clock,
    etcd::{
        driver::Etcd,
        state::{self, Command, Refusal},
    },
};

/// A patch meets somebody else's change; how often it is tried anew.
const PATCH_TRIES: usize = 16;
/// Kubernetes' default for pods that say nothing.
const GRACE_SECONDS: u64 = 30;

/// What stands behind the question mark.
pub(crate) type Query = BTreeMap<String, String>;

/// One target of one request.
pub(crate) struct Objects<'a> {
    pub(crate) etcd: &'a Etcd,
    pub(crate) target: &'a Target,
    pub(crate) by: &'a User,
    pub(crate) query: &'a Query,
}

impl Objects<'_> {
    fn key(&self, name: &str) -> String {
        let namespace = self.target.namespace.as_deref().unwrap_or_default();
        self.target.kind.key(namespace, name)
    }

    fn own_key(&self) -> String {
        self.key(self.target.name.as_deref().unwrap_or_default())
    }

    fn dry(&self) -> bool {
        self.query.get("dryRun").is_some_and(|how| how == "All")
    }

    pub(crate) fn selector(&self) -> Selector {
        let text = |name: &str| self.query.get(name).map(String::as_str).unwrap_or_default();
        Selector::parse(text("labelSelector"), text("fieldSelector"))
    }

    async fn current(&self) -> Result<Value, Refusal> {
        let key = self.own_key();
        let newest = self.etcd.read().await?;
        newest
            .state
            .objects
            .get(&key)
            .cloned()
            .ok_or_else(|| Refusal::not_found(&key))
    }

    /// One object, or a table of one.
    pub(crate) async fn get(&self, accept: &str) -> Result<Value, Refusal> {
        let object = self.current().await?;
        if table::wanted(accept) {
            let revision = state::revision(&object).to_string();
            return Ok(table::of(self.target.kind, &[object], &revision));
        }
        Ok(object)
    }

    /// All objects that the selectors choose. A client that is content with revision 0 is content
    /// with what this server knows.
    pub(crate) async fn list(&self, accept: &str) -> Result<Value, Refusal> {
        let any = self
            .query
            .get("resourceVersion")
            .is_some_and(|revision| revision == "0");
        let newest = if any {
            self.etcd.local()
        } else {
            self.etcd.read().await?
        };
        let selector = self.selector();
        let prefix = self.target.kind.prefix(self.target.namespace.as_deref());
        let items: Vec<Value> = (newest.state.objects.range(prefix.clone()..))
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(_, object)| object)
            .filter(|object| selector.matches(object))
            .cloned()
            .collect();
        let revision = newest.ballot.revision.to_string();
        if table::wanted(accept) {
            return Ok(table::of(self.target.kind, &items, &revision));
        }
        Ok(json!({
            "kind": format!("{}List", self.target.kind.kind),
            "apiVersion": self.target.kind.api_version(),
            "metadata": {"resourceVersion": revision},
            "items": items,
        }))
    }

    pub(crate) async fn create(&self, mut object: Value) -> Result<Value, Refusal> {
        let kind = self.target.kind;
        let given = object["kind"].as_str().unwrap_or(kind.kind);
        if given != kind.kind {
            let words = format!(
                "{given} in version \"v1\" cannot be handled as a {}",
                kind.kind
            );
            return Err(Refusal::new(400, "BadRequest", words));
        }
        let name = match object["metadata"]["name"].as_str() {
            Some(name) if !name.is_empty() => name.to_owned(),
            Some(_) | None => match object["metadata"]["generateName"].as_str() {
                Some(prefix) => format!("{prefix}{:05x}", rand::random_range(0..0x10_0000_u32)),
                None => {
                    let words = "name or generateName is required";
                    return Err(Refusal::new(422, "Invalid", words));
                }
            },
        };
        check_name(&name)?;
        if let Some(namespace) = &self.target.namespace {
            let key = format!("/namespaces//{namespace}");
            if !self.etcd.local().state.objects.contains_key(&key) {
                return Err(Refusal::not_found(&key));
            }
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["kind"] = json!(kind.kind);
        object["apiVersion"] = json!(kind.api_version());
        object["metadata"]["name"] = json!(name);
        object["metadata"]["uid"] = json!(uid());
        object["metadata"]["creationTimestamp"] = json!(clock::now());
        if object["status"].is_null() && kind.kind == "Pod" {
            object["status"] = json!({"phase": "Pending"});
        }
        encode_secret(kind.kind, &mut object);
        if self.dry() {
            return Ok(object);
        }
        let key = self.key(&name);
        self.etcd.submit(Command::Create { key, object }).await
    }

    /// Takes the new object; of its status nothing, or nothing else.
    pub(crate) async fn replace(&self, new: Value) -> Result<Value, Refusal> {
        let old = self.current().await?;
        let revision = new["metadata"]["resourceVersion"].as_str();
        let revision = revision.and_then(|text| text.parse().ok());
        self.put(&old, new, revision).await
    }

    pub(crate) async fn patch(&self, content_type: &str, change: &Value) -> Result<Value, Refusal> {
        let mut last = Refusal::timed_out();
        for _ in 0..PATCH_TRIES {
            let old = match self.current().await {
                Err(refusal) if refusal.code == 404 && content_type.contains("apply-patch") => {
                    return self.create(change.clone()).await;
                }
                current => current?,
            };
            let mut new = old.clone();
            patch::apply(content_type, change, &mut new)?;
            let given = !change["metadata"]["resourceVersion"].is_null();
            match self.put(&old, new, Some(state::revision(&old))).await {
                Err(refusal) if refusal.reason == "Conflict" && !given => last = refusal,
                done => return done,
            }
        }
        Err(last)
    }

    async fn put(
        &self,
        old: &Value,
        mut new: Value,
        revision: Option<u64>,
    ) -> Result<Value, Refusal> {
        let kind = self.target.kind;
        let mut result = if self.target.subresource.as_deref() == Some("status") {
            let mut result = old.clone();
            result["status"] = new["status"].take();
            result["metadata"]["annotations"] = new["metadata"]["annotations"].take();
            result["metadata"]["labels"] = new["metadata"]["labels"].take();
            result
        } else {
            if !old["status"].is_null() {
                new["status"] = old["status"].clone();
            }
            new
        };
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
        ] {
            result["metadata"][field] = old["metadata"][field].clone();
        }
        let metadata = result["metadata"].as_object_mut();
        metadata
            .into_iter()
            .for_each(|metadata| metadata.retain(|_, value| !value.is_null()));
        result["kind"] = json!(kind.kind);
        result["apiVersion"] = json!(kind.api_version());
        result["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        encode_secret(kind.kind, &mut result);
        identity::admit(self.by, self.target, old, &result)?;
        if result == *old || self.dry() {
            return Ok(result);
        }
        let key = self.own_key();
        if is_released(kind.kind, &result) {
            return self
                .etcd
                .submit(Command::Remove {
                    key,
                    uid: None,
                    revision,
                })
                .await;
        }
        let object = result;
        self.etcd
            .submit(Command::Replace {
                key,
                object,
                revision,
            })
            .await
    }

    /// Deletes, or begins to.
    pub(crate) async fn delete(&self, options: &Value) -> Result<Value, Refusal> {
        let mut object = self.current().await?;
        let key = self.own_key();
        let uid = options["preconditions"]["uid"].as_str().map(str::to_owned);
        if uid
            .as_ref()
            .is_some_and(|uid| object["metadata"]["uid"] != uid.as_str())
        {
            let words = "the UID in the precondition does not match the UID in record";
            return Err(Refusal::new(409, "Conflict", words));
        }
        if self.dry() {
            return Ok(object);
        }
        let grace = self
            .query
            .get("gracePeriodSeconds")
            .and_then(|text| text.parse().ok());
        let grace = options["gracePeriodSeconds"].as_u64().or(grace);
        let own = object["spec"]["terminationGracePeriodSeconds"].as_u64();
        let grace = grace.or(own).unwrap_or(GRACE_SECONDS);
        let waits = if self.target.kind.kind == "Pod" {
            grace > 0 && !object["spec"]["nodeName"].is_null()
        } else {
            object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
        };
        if !waits {
            let removed = self
                .etcd
                .submit(Command::Remove {
                    key,
                    uid,
                    revision: None,
                })
                .await?;
            return Ok(self.deleted(&removed));
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            let at = clock::unix_seconds() + grace;
            object["metadata"]["deletionTimestamp"] = json!(clock::rfc3339(at));
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            let revision = Some(state::revision(&object));
            return self
                .etcd
                .submit(Command::Replace {
                    key,
                    object,
                    revision,
                })
                .await;
        }
        Ok(object)
    }

    fn deleted(&self, removed: &Value) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {
                "name": self.target.name,
                "group": self.target.kind.group,
                "kind": self.target.kind.plural,
                "uid": removed["metadata"]["uid"],
            },
        })
    }

    /// `POST …/eviction`.
    pub(crate) async fn evict(&self, eviction: &Value) -> Result<Value, Refusal> {
        let key = self.own_key();
        let name = eviction["metadata"]["name"].as_str();
        if name.is_some_and(|name| Some(name) != self.target.name.as_deref()) {
            let words = "name in URL does not match name in Eviction object";
            return Err(Refusal::new(400, "BadRequest", words));
        }
        let grace = eviction["deleteOptions"]["gracePeriodSeconds"].as_u64();
        let at = clock::unix_seconds() + grace.unwrap_or(GRACE_SECONDS);
        let deletion = clock::rfc3339(at);
        let uid = eviction["deleteOptions"]["preconditions"]["uid"].as_str();
        let command = Command::Evict {
            key,
            deletion,
            uid: uid.map(str::to_owned),
        };
        self.etcd.submit(command).await?;
        Ok(
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        )
    }
}

/// Whether nothing holds a deleted object back any more.
fn is_released(kind: &str, object: &Value) -> bool {
    let held = object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    kind != "Pod" && !held && !object["metadata"]["deletionTimestamp"].is_null()
}

/// `stringData` is for writing only.
fn encode_secret(kind: &str, object: &mut Value) {
    if kind != "Secret" {
        return;
    }
    let plain = object["stringData"].take();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("stringData");
    }
    for (name, value) in plain.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        object["data"][name] = json!(STANDARD.encode(value));
    }
}

/// RFC 1123 subdomains, and what RBAC allows beyond them.
fn check_name(name: &str) -> Result<(), Refusal> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let sound = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'-' | b'.' | b':'))
        && name.bytes().next().is_some_and(plain);
    if sound {
        return Ok(());
    }
    Err(Refusal::new(
        422,
        "Invalid",
        format!(
            "metadata.name: Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
        ),
    ))
}

/// A random UUID.
pub(crate) fn uid() -> String {
    let random: u128 = rand::random();
    let digits = format!("{random:032x}");
    format!(
        "{}-{}-4{}-a{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[17..20],
        &digits[20..]
    )
}
