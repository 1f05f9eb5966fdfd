//! What a joining server gets from one that is there, and how it comes to it.
//!
//! Follows `pkg/cluster/bootstrap.go`: the token's CA hash is checked before the password leaves
//! the machine; then the cluster's authorities and passwords come over; settings that must be the
//! same everywhere are compared.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    Fatal,
    cli::{
        settings::{CriticalSettings, ServerSettings},
        token::{self, Token},
    },
    clock,
    files::{self, Layout},
    logline,
    server::Server,
    wire::{
        client::{Call, Client},
        tls,
    },
};

/// As K3s's client.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// K3s's names of what is handed over, and the files they become.
const FILES: &[(&str, &str)] = &[
    ("ServerCA", "tls/server-ca.crt"),
    ("ServerCAKey", "tls/server-ca.key"),
    ("ClientCA", "tls/client-ca.crt"),
    ("ClientCAKey", "tls/client-ca.key"),
    ("ETCDPeerCA", "tls/etcd/peer-ca.crt"),
    ("ETCDPeerCAKey", "tls/etcd/peer-ca.key"),
    ("PasswdFile", "cred/passwd"),
];

/// The same, for the shared state.
pub(crate) fn collect(
    layout: &Layout,
) -> Result<std::collections::BTreeMap<String, String>, Fatal> {
    let mut found = std::collections::BTreeMap::new();
    for (_, file) in FILES
        .iter()
        .filter(|(_, file)| layout.server(file).exists())
    {
        found.insert((*file).to_owned(), files::read(&layout.server(file))?);
    }
    Ok(found)
}

/// `/v1-k3s/server-bootstrap`.
pub(crate) fn data(server: &Server) -> Result<Value, Fatal> {
    let mut data = json!({});
    for (name, file) in FILES {
        let content = files::read(&server.layout.server(file))?;
        data[name] = json!({
            "Timestamp": clock::now(),
            "Content": STANDARD.encode(content),
        });
    }
    Ok(data)
}

/// `/v1-k3s/config`.
pub(crate) fn config(server: &Server) -> Value {
    json!({
        "CriticalControlArgs": server.settings.critical,
        "SupervisorPort": server.settings.port,
        "HTTPSPort": server.settings.port,
    })
}

/// Somebody who speaks to a supervisor whose CA he has checked.
pub(crate) struct Trusted {
    pub(crate) ca: String,
    pub(crate) client: Client,
    url: String,
}

impl Trusted {
    /// Fetches the CA, compares it with the token's hash, checks the server's certificate by it.
    pub(crate) async fn connect(url: &str, token: &Token, user: &str) -> Result<Self, Fatal> {
        let url = url.trim_end_matches('/').to_owned();
        if !url.starts_with("https://") {
            return Err(Fatal::new(format!(
                "only https:// URLs are supported, invalid scheme: {url}"
            )));
        }
        let address = format!("{url}/cacerts");
        let anybody = Client::new(tls::insecure_client()?, None, DEADLINE);
        let failed = |what: &str, why: String| Fatal::new(format!("{what}: {why}"));
        let found = anybody.call(Call::get(&address)).await;
        let found = found.map_err(|error| failed("failed to get CA certs", error.to_string()))?;
        if !found.ok() {
            let why = format!("{address}: {}", found.status);
            return Err(failed("failed to get CA certs", why));
        }
        let ca = found.text();
        token.check_ca(&ca)?;
        if token.ca_hash.is_empty() {
            logline::warn(
                "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA hash. Use the full token from the server's node-token file to enable Cluster CA validation.",
            );
        }
        let authorization = Some(token.authorization(user));
        let client = Client::new(tls::client(&ca, None)?, authorization, DEADLINE);
        let checked = client.call(Call::get(&address)).await;
        checked.map_err(|error| failed("CA cert validation failed", error.to_string()))?;
        Ok(Self { ca, client, url })
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<String, Fatal> {
        let url = format!("{}{path}", self.url);
        let mut call = Call::get(&url);
        call.headers = headers;
        let answer = self.client.call(call).await;
        let answer = answer.map_err(|error| Fatal::new(error.to_string()))?;
        if answer.ok() {
            return Ok(answer.text());
        }
        let status = hyper::StatusCode::from_u16(answer.status).unwrap_or_default();
        Err(Fatal::refused(answer.status, format!("{url}: {status}")))
    }
}

/// Takes over the cluster's keys; returns its members.
pub(crate) async fn fetch(
    settings: &ServerSettings,
    layout: &Layout,
    url: &str,
) -> Result<Value, Fatal> {
    let preparing =
        |fatal: Fatal| Fatal::new(format!("starting kubernetes: preparing server: {fatal}"));
    let text = settings
        .node
        .token
        .as_deref()
        .ok_or_else(|| preparing(Fatal::new("K3S_TOKEN is required to join a cluster")))?;
    let token = Token::parse(text).map_err(preparing)?;
    let trusted = Trusted::connect(url, &token, "server").await;
    let trusted = trusted
        .map_err(|fatal| preparing(Fatal::new(format!("failed to validate token: {fatal}"))))?;
    let text = trusted
        .get("/v1-k3s/server-bootstrap", &[])
        .await
        .map_err(preparing)?;
    let data: Value =
        serde_json::from_str(&text).map_err(|error| preparing(Fatal::new(error.to_string())))?;
    for (name, file) in FILES {
        let content = data[name]["Content"].as_str().unwrap_or_default();
        let content = STANDARD.decode(content).unwrap_or_default();
        files::write_private(&layout.server(file), &content)?;
    }
    compare(settings, layout, url, &trusted.ca)
        .await
        .map_err(preparing)?;
    let members = trusted.get("/db/info", &[]).await.map_err(preparing)?;
    serde_json::from_str(&members).map_err(|error| preparing(Fatal::new(error.to_string())))
}

async fn compare(
    settings: &ServerSettings,
    layout: &Layout,
    url: &str,
    ca: &str,
) -> Result<(), Fatal> {
    let passwords = passwords(layout)?.ok_or_else(|| Fatal::new("no passwords came over"))?;
    let token = Token::parse(&token::full(ca, "node", &passwords.node))?;
    let trusted = Trusted::connect(url, &token, "node").await?;
    let text = trusted.get("/v1-k3s/config", &[]).await?;
    let theirs: Value = serde_json::from_str(&text).unwrap_or_default();
    let theirs: Option<CriticalSettings> =
        serde_json::from_value(theirs["CriticalControlArgs"].clone()).ok();
    if theirs.as_ref() == Some(&settings.critical) {
        return Ok(());
    }
    Err(Fatal::new(format!(
        "failed to validate server configuration: critical configuration value mismatch between servers (local {:?}, cluster {theirs:?})",
        settings.critical
    )))
}

/// The join passwords in `cred/passwd`, which has K3s's form: password, user, user, group.
pub(crate) fn passwords(
    layout: &Layout,
) -> Result<Option<crate::apiserver::identity::Passwords>, Fatal> {
    let file = layout.server("cred/passwd");
    if !file.exists() {
        return Ok(None);
    }
    let content = files::read(&file)?;
    let of = |user: &str| {
        content.lines().find_map(|line| {
            let mut fields = line.rsplitn(4, ',');
            let (_group, _id, name) = (fields.next()?, fields.next()?, fields.next()?);
            (name == user).then(|| fields.next().map(str::to_owned))?
        })
    };
    let (Some(server), Some(node)) = (of("server"), of("node")) else {
        return Err(Fatal::new(format!("{} lacks a user", file.display())));
    };
    Ok(Some(crate::apiserver::identity::Passwords { server, node }))
}

/// Writes `cred/passwd`.
pub(crate) fn store_passwords(
    layout: &Layout,
    passwords: &crate::apiserver::identity::Passwords,
) -> Result<(), Fatal> {
    let content = format!(
        "{},node,node,k3s:agent\n{},server,server,k3s:server\n",
        passwords.node, passwords.server
    );
    files::write_private(&layout.server("cred/passwd"), content.as_bytes())
}
