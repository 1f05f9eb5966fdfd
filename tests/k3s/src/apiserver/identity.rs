//! Who asks, and whether he may.
//!
//! Three ways to say who one is: a certificate of the cluster's client CA (name and groups out of
//! its subject), a password of the join token (supervisor only), a bootstrap token. Nobody is
//! anonymous: K3s starts its API server with `--anonymous-auth=false`. Administrators
//! (`system:masters`) may everything, K3s's own controllers may read; nobody else may anything but
//! nodes, as their authorizer, their role and the admission plugin `NodeRestriction` have it
//! (Kubernetes 1.32, `AuthorizeNodeWithSelectors`): their own pods, evictions of these, and their own
//! node, which they may cordon, but neither taint nor delete.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{HeaderMap, Method, header::AUTHORIZATION};
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{kinds::Target, objects::Query};
use crate::{
    cli::token,
    etcd::state::{Refusal, State},
    wire::{listener::Remote, tls::Verifier},
};

pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const NODES: &str = "system:nodes";
/// Whoever has the servers' password.
pub(crate) const SERVERS: &str = "k3s:server";
/// Whoever has the agents' password.
pub(crate) const AGENTS: &str = "k3s:agent";
/// Whoever has a bootstrap token.
pub(crate) const BOOTSTRAPPERS: &str = "system:bootstrappers:k3s:default-node-token";

/// A user whose word was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    pub(crate) fn is_in(&self, groups: &[&str]) -> bool {
        self.groups
            .iter()
            .any(|group| groups.contains(&group.as_str()))
    }

    /// The node that this user is.
    pub(crate) fn node(&self) -> Option<&str> {
        let node = self.name.strip_prefix("system:node:");
        node.filter(|_| self.is_in(&[NODES]))
    }
}

/// The passwords of the join tokens.
#[derive(Clone)]
pub(crate) struct Passwords {
    pub(crate) server: String,
    pub(crate) node: String,
}

/// Credentials were shown, and they are wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong;

/// Who asks; `None`: he did not say.
pub(crate) fn user(
    headers: &HeaderMap,
    remote: &Remote,
    verifier: &Verifier,
    passwords: &Passwords,
    state: &State,
) -> Result<Option<User>, Wrong> {
    if !remote.certificates.is_empty() {
        if !verifier.trusts(&remote.certificates) {
            return Err(Wrong);
        }
        return subject(&remote.certificates[0]).map(Some).ok_or(Wrong);
    }
    let Some(authorization) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let text = authorization.to_str().map_err(|_| Wrong)?;
    if let Some(encoded) = text.strip_prefix("Basic ") {
        return by_password(encoded, passwords).map(Some).ok_or(Wrong);
    }
    match text.strip_prefix("Bearer ") {
        Some(token) => by_bootstrap_token(token, state).map(Some).ok_or(Wrong),
        None => Err(Wrong),
    }
}

fn subject(certificate: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization();
    let groups = groups
        .filter_map(|group| group.as_str().ok().map(str::to_owned))
        .collect();
    Some(User { name, groups })
}

fn by_password(encoded: &str, passwords: &Passwords) -> Option<User> {
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    let (expected, group) = match user {
        "server" => (&passwords.server, SERVERS),
        "node" => (&passwords.node, AGENTS),
        _ => return None,
    };
    (expected == password).then(|| User {
        name: user.to_owned(),
        groups: vec![group.to_owned()],
    })
}

fn by_bootstrap_token(text: &str, state: &State) -> Option<User> {
    if !token::is_bootstrap(text) {
        return None;
    }
    let (id, secret) = text.split_once('.')?;
    let kept = state
        .objects
        .get(&format!("/secrets/kube-system/bootstrap-token-{id}"))?;
    let field = |name: &str| {
        let encoded = kept["data"][name].as_str()?;
        String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
    };
    let fresh = field("expiration")
        .and_then(|time| crate::clock::parse(&time))
        .is_none_or(|until| until > crate::clock::unix_seconds());
    (fresh && field("token-secret").as_deref() == Some(secret)).then(|| User {
        name: format!("system:bootstrap:{id}"),
        groups: vec![BOOTSTRAPPERS.to_owned()],
    })
}

/// Whether the user may do this to that; a 403 in Kubernetes' words if not.
pub(crate) fn allow(
    user: &User,
    method: &Method,
    target: &Target,
    query: &Query,
    state: &State,
) -> Result<(), Refusal> {
    if user.is_in(&[MASTERS]) {
        return Ok(());
    }
    let reads = *method == Method::GET;
    let allowed = match user.node() {
        Some(node) => node_may(node, method, target, query, state),
        None => reads && user.name.starts_with("system:k"),
    };
    if allowed {
        return Ok(());
    }
    let verb = match (method.as_str(), &target.name) {
        ("GET", Some(_)) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        _ => "delete",
    };
    let place = match &target.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let resource = target.kind.resource();
    let name = target
        .name
        .as_ref()
        .map(|name| format!(" \"{name}\""))
        .unwrap_or_default();
    Err(Refusal::new(
        403,
        "Forbidden",
        format!(
            "{resource}{name} is forbidden: User \"{}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}",
            user.name, target.kind.plural, target.kind.group
        ),
    ))
}

fn node_may(node: &str, method: &Method, target: &Target, query: &Query, state: &State) -> bool {
    let reads = *method == Method::GET;
    let own = target.name.as_deref().is_none_or(|name| name == node);
    match target.kind.kind {
        "Node" => reads || (own && *method != Method::DELETE),
        "Lease" => target.namespace.as_deref() == Some("kube-node-lease"),
        "Event" => true,
        "Pod" => match &target.name {
            Some(name) => {
                let namespace = target.namespace.as_deref().unwrap_or_default();
                let pod = state.objects.get(&target.kind.key(namespace, name));
                pod.is_none_or(|pod| pod["spec"]["nodeName"] == node)
            }
            None if reads => {
                let selector = query.get("fieldSelector").map(String::as_str);
                let wanted = format!("spec.nodeName={node}");
                selector.is_some_and(|text| text.split(',').any(|field| field == wanted))
            }
            // A mirror of a file on the node.
            None => *method == Method::POST,
        },
        "Service" | "Endpoints" | "ConfigMap" | "Namespace" => reads,
        _ => false,
    }
}

/// What a node may change of itself.
pub(crate) fn admit(user: &User, target: &Target, old: &Value, new: &Value) -> Result<(), Refusal> {
    let Some(node) = user.node().filter(|_| target.kind.kind == "Node") else {
        return Ok(());
    };
    if old["spec"]["taints"] == new["spec"]["taints"] {
        return Ok(());
    }
    let words =
        format!("nodes \"{node}\" is forbidden: node \"{node}\" is not allowed to modify taints");
    Err(Refusal::new(403, "Forbidden", words))
}
