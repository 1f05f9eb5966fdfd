//! A node's way to the API: through whichever server answers.
//!
//! Follows K3s's client load balancer: first the servers that the cluster names, last the one that
//! the node was given. A server that fails goes to the end of the row.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use crate::wire::client::{Call, Client, RequestError};

/// A server that takes longer is tried no further.
const DEADLINE: Duration = Duration::from_secs(5);

/// Speaks to the API as one user.
pub(crate) struct Api {
    client: Client,
    default: String,
    servers: Mutex<Vec<String>>,
}

/// A change of one object.
pub(crate) struct Change<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a Value,
}

impl Api {
    pub(crate) fn new(tls: std::sync::Arc<rustls::ClientConfig>, default: &str) -> Self {
        Self {
            client: Client::new(tls, None, DEADLINE),
            default: default.trim_end_matches('/').to_owned(),
            servers: Mutex::default(),
        }
    }

    /// Takes the cluster's list of servers, `address:port`.
    pub(crate) fn learn(&self, addresses: &[String]) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<String> = addresses
            .iter()
            .map(|address| format!("https://{address}"))
            .collect();
        servers.retain(|server| new.contains(server));
        for server in new {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }

    /// Servers in the order in which they are tried.
    pub(crate) fn candidates(&self) -> Vec<String> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = servers.clone();
        if !all.contains(&self.default) {
            all.push(self.default.clone());
        }
        all
    }

    /// Puts a server that failed behind the others.
    pub(crate) fn demote(&self, server: &str) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = servers.iter().position(|other| other == server) {
            let last = servers.remove(place);
            servers.push(last);
        }
    }

    /// Makes a change; the answer's code and body.
    pub(crate) async fn change(&self, change: Change<'_>) -> Result<(u16, Value), RequestError> {
        let body = if change.body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(change.body.to_string())
        };
        let mut failure = RequestError::Url(self.default.clone());
        for server in self.candidates() {
            let url = format!("{server}{}", change.path);
            let headers = [("content-type", change.content_type)];
            let call = Call {
                method: change.method.clone(),
                url: &url,
                headers: if change.content_type.is_empty() {
                    &[]
                } else {
                    &headers
                },
                body: body.clone(),
            };
            match self.client.call(call).await {
                Ok(answer) => {
                    let said = serde_json::from_slice(&answer.body).unwrap_or_default();
                    return Ok((answer.status, said));
                }
                Err(error) => {
                    self.demote(&server);
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// Reads an object or a list; `None` where there is none.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Value>, RequestError> {
        let change = Change {
            method: Method::GET,
            path,
            content_type: "",
            body: &Value::Null,
        };
        let (status, found) = self.change(change).await?;
        Ok((status == 200).then_some(found))
    }

    /// Creates an object; the answer's code.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Result<u16, RequestError> {
        let change = Change {
            method: Method::POST,
            path,
            content_type: "application/json",
            body,
        };
        Ok(self.change(change).await?.0)
    }

    /// Patches an object; the answer's code.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<u16, RequestError> {
        let change = Change {
            method: Method::PATCH,
            path,
            content_type: "application/strategic-merge-patch+json",
            body,
        };
        Ok(self.change(change).await?.0)
    }
}
