//! Watches what daemons think of each other, and says when one of them changes its mind.
//!
//! Asks each daemon for its nodes on a connection that stays open, every few milliseconds, and writes
//! a line for every node that it holds silent or hears again:
//!
//!     MICROSECONDS-SINCE-1970 OBSERVER silent|heard NODE
//!
//! A daemon that is gone ends its own watch and no other. Decides nothing; `benches/membership.sh`
//! reads the lines.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::UnixStream, task::JoinSet};

/// Watches daemons until it is killed.
#[derive(Parser)]
struct Options {
    /// A daemon: NAME=SOCKET
    #[arg(long = "daemon", value_parser = daemon, required = true)]
    daemons: Vec<Daemon>,
    /// Between two questions, milliseconds
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,
}

#[derive(Debug, Clone)]
struct Daemon {
    name: String,
    socket: PathBuf,
}

fn daemon(text: &str) -> Result<Daemon, String> {
    let (name, socket) = text.split_once('=').ok_or("expected NAME=SOCKET")?;
    Ok(Daemon {
        name: name.to_owned(),
        socket: socket.into(),
    })
}

/// What is read of a node.
#[derive(Deserialize)]
struct Node {
    name: String,
    silent: bool,
}

/// One thread: it must not take the processors from what it watches.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let interval = Duration::from_millis(options.interval_ms);
    let mut watches = JoinSet::new();
    for daemon in options.daemons {
        let requests = connect(&daemon).await?;
        watches.spawn(async move { watch(&daemon.name, requests, interval).await });
    }
    while let Some(ended) = watches.join_next().await {
        let told = match ended {
            Ok(Err(error)) => format!("{error:#}"),
            Ok(Ok(())) => continue,
            Err(error) => error.to_string(),
        };
        writeln!(io::stderr(), "{told}")?;
    }
    Ok(())
}

async fn connect(daemon: &Daemon) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = UnixStream::connect(&daemon.socket).await;
    let stream = stream.with_context(|| format!("nobody listens at {:?}", daemon.socket))?;
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // An error of the connection is an error of the request that waits on it.
    tokio::spawn(connection);
    Ok(requests)
}

async fn watch(
    observer: &str,
    mut requests: SendRequest<Empty<Bytes>>,
    interval: Duration,
) -> anyhow::Result<()> {
    let mut silent = BTreeSet::new();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = silent_nodes(&mut requests).await;
        let now = now.with_context(|| format!("{observer} answers no more"))?;
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let mut out = io::stdout().lock();
        for node in now.difference(&silent) {
            writeln!(out, "{} {observer} silent {node}", at.as_micros())?;
        }
        for node in silent.difference(&now) {
            writeln!(out, "{} {observer} heard {node}", at.as_micros())?;
        }
        out.flush()?;
        silent = now;
    }
}

async fn silent_nodes(
    requests: &mut SendRequest<Empty<Bytes>>,
) -> anyhow::Result<BTreeSet<String>> {
    requests.ready().await?;
    let request = Request::get("/v1/nodes?stale=true")
        .header(header::HOST, "shoald")
        .body(Empty::new())?;
    let response = requests.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "{status}");
    let nodes: Vec<Node> = serde_json::from_slice(&body)?;
    let silent = nodes.into_iter().filter(|node| node.silent);
    Ok(silent.map(|node| node.name).collect())
}
