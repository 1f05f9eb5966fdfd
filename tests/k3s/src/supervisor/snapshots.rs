//! `k3s etcd-snapshot`: asks the server on this machine.
//!
//! Follows `pkg/cli/etcdsnapshot` and `docs/cli/etcd-snapshot.md` of K3s.

use std::{io::Write, path::PathBuf};

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use super::bootstrap::Trusted;
use crate::{
    Fatal,
    cli::{flags::Flags, settings, token::Token},
    etcd::{register::Durable, snapshot},
    files::{self, Layout},
    logline,
    server::Server,
    wire::client::Call,
};

/// K3s's name for snapshots that somebody asked for.
const ON_DEMAND: &str = "on-demand";

/// The server's part: `/db/snapshot`.
pub(crate) fn serve(server: &Server, request: &Value) -> Result<Value, Fatal> {
    let dir = request["dir"].as_str().map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| server.settings.snapshot_dir.clone());
    let node = &server.settings.node.name;
    match request["operation"].as_str().unwrap_or_default() {
        "save" => {
            let newest = server.etcd.local();
            let durable = Durable {
                term: newest.ballot.term,
                voted_for: None,
                ballot: newest.ballot,
                state: newest.state.as_ref().clone(),
            };
            let base = request["name"].as_str().unwrap_or(ON_DEMAND);
            let name = snapshot::save(&dir, base, node, &durable)?;
            Ok(json!({"created": [name]}))
        }
        "delete" => {
            let mut deleted = Vec::new();
            for name in request["names"].as_array().into_iter().flatten() {
                let name = name.as_str().unwrap_or_default();
                if !name.contains('/') && std::fs::remove_file(dir.join(name)).is_ok() {
                    deleted.push(name.to_owned());
                }
            }
            Ok(json!({"deleted": deleted}))
        }
        "list" => Ok(json!({"files": snapshot::list(&dir, node)})),
        other => Err(Fatal::new(format!("unknown operation {other}"))),
    }
}

/// The command's part.
pub(crate) async fn run(command: &str, flags: &Flags) -> Result<(), Fatal> {
    settings::refuse_what_is_not_here(flags)?;
    let layout = Layout::new(&settings::data_dir(flags));
    if !layout.etcd().join("name").exists() {
        let dir = layout.server("");
        let dir = dir.display().to_string();
        return Err(Fatal::new(format!(
            "etcd database not found in {}",
            dir.trim_end_matches('/')
        )));
    }
    let mut request = json!({"operation": command});
    if let Some(dir) = flags.text("etcd-snapshot-dir") {
        request["dir"] = json!(dir);
    }
    match command {
        "save" if !flags.arguments.is_empty() => {
            return Err(Fatal::new("this command does not take any arguments"));
        }
        "save" => request["name"] = json!(flags.text("name").unwrap_or(ON_DEMAND)),
        "delete" if flags.arguments.is_empty() => {
            return Err(Fatal::new("no snapshots given for removal"));
        }
        "delete" => request["names"] = json!(flags.arguments),
        _ => request["operation"] = json!("list"),
    }
    let done = ask(&layout, flags, &request).await?;
    for name in done["created"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        logline::info(format!("Snapshot {name} saved."));
    }
    for name in done["deleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        logline::info(format!("Snapshot {name} deleted."));
    }
    if let Some(found) = done["files"].as_array() {
        show(found, flags.text("output"))?;
    }
    Ok(())
}

async fn ask(layout: &Layout, flags: &Flags, request: &Value) -> Result<Value, Fatal> {
    let token = files::read(&layout.server("token"))?;
    let token = Token::parse(token.trim())?;
    let url = flags
        .text("etcd-server")
        .unwrap_or("https://127.0.0.1:6443");
    let trusted = Trusted::connect(url, &token, "server").await?;
    let url = format!("{}/db/snapshot", url.trim_end_matches('/'));
    let call = Call {
        method: Method::POST,
        url: &url,
        headers: &[],
        body: Bytes::from(request.to_string()),
    };
    let answer = trusted.client.call(call).await;
    let answer = answer.map_err(|error| Fatal::new(error.to_string()))?;
    if !answer.ok() {
        return Err(Fatal::new(format!(
            "{url}: {} {}",
            answer.status,
            answer.text()
        )));
    }
    serde_json::from_slice(&answer.body).map_err(|error| Fatal::new(error.to_string()))
}

fn show(found: &[Value], format: Option<&str>) -> Result<(), Fatal> {
    let mut text = String::new();
    match format {
        Some("json") => {
            text = format!(
                "{}\n",
                json!({"kind": "ETCDSnapshotFileList", "apiVersion": "k3s.cattle.io/v1", "items": found})
            )
        }
        Some(other) if other != "standard" => {
            return Err(Fatal::new(format!("invalid output format: {other}")));
        }
        Some(_) | None => {
            text.push_str("Name Location Size Created\n");
            for snapshot in found {
                let part = |name: &str| snapshot[name].as_str().unwrap_or_default().to_owned();
                text.push_str(&format!(
                    "{} {} {} {}\n",
                    part("name"),
                    part("location"),
                    snapshot["size"],
                    part("createdAt")
                ));
            }
        }
    }
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}
