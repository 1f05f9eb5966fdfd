//! The ports and the ways between members: port 2380, joining, the member's own name.
//!
//! Follows `pkg/etcd/etcd.go`: a member is named after its node and eight digits that are kept;
//! a second member of the same node's name is refused; a member that was removed leaves a
//! tombstone and joins anew at its next start, if it knows whom to join.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use serde_json::Value;

use super::{
    driver::{self, Etcd},
    state::Member,
};
use crate::{
    Fatal, clock, files,
    files::Layout,
    logline,
    pki::{self, Pair, Subject},
    wire::{
        client::Client,
        listener::{self, answer},
        tls,
    },
};

/// etcd's port for peers.
pub(crate) const PORT: u16 = 2380;
/// Longer than any state here.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A newcomer that has to wait asks again this often; K3s waits 5 s.
const JOIN_EVERY: Duration = Duration::from_millis(500);

/// `https://<address>:2380`.
pub(crate) fn url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, PORT))
}

/// Where the state lies.
pub(crate) fn disk(layout: &Layout) -> PathBuf {
    layout.etcd().join("member/state.json")
}

/// The member's name: made once, then kept.
pub(crate) fn name(layout: &Layout, node: &str) -> Result<String, Fatal> {
    let file = layout.etcd().join("name");
    if file.exists() {
        return files::read(&file);
    }
    let name = format!("{node}-{:08x}", rand::random::<u32>());
    files::write_private(&file, name.as_bytes())?;
    Ok(name)
}

/// After a removal: puts the old data aside, so that this server can join anew.
pub(crate) fn clear_tombstone(layout: &Layout, joins: bool) -> Result<(), Fatal> {
    let dir = layout.etcd();
    if !dir.join("tombstone").exists() {
        return Ok(());
    }
    if !joins {
        return Err(Fatal::new(
            "tombstone file has been detected but --server is empty: backup and delete ${datadir}/server/db to create a new cluster, or set --server to rejoin",
        ));
    }
    logline::info("tombstone file has been detected, removing data dir to rejoin the cluster");
    let aside = layout.server(&format!("db/etcd-old-{}", clock::unix_seconds()));
    fs::rename(&dir, &aside)
        .map_err(|error| Fatal::new(format!("rename {}: {error}", dir.display())))
}

/// Says that this server was removed, to its next start and in its log.
pub(crate) fn write_tombstone(layout: &Layout) {
    let _ = files::write_private(&layout.etcd().join("tombstone"), b"");
    logline::fatal(
        "This node has been removed from the cluster - please restart k3s to rejoin the cluster",
    );
}

/// What peers present to each other.
pub(crate) fn pair(layout: &Layout, sans: &[String]) -> Result<Pair, Fatal> {
    let ca = pki::load_or_make(&layout.tls("etcd/peer-ca"), "etcd-peer")?;
    let subject = Subject {
        name: "etcd-peer",
        organization: None,
        sans,
        client: true,
        server: true,
    };
    let pair = pki::issue(&ca, &subject)?;
    pki::store(&layout.tls("etcd/peer-server-client"), &pair)?;
    Ok(pair)
}

/// Speaks to peers.
pub(crate) fn client(layout: &Layout, pair: &Pair, deadline: Duration) -> Result<Client, Fatal> {
    let ca = files::read(&layout.tls("etcd/peer-ca.crt"))?;
    Ok(Client::new(tls::client(&ca, Some(pair))?, None, deadline))
}

/// Opens port 2380 on the node's address and on the loopback, and answers peers there.
pub(crate) async fn listen(
    layout: &Layout,
    pair: &Pair,
    address: IpAddr,
    etcd: Arc<Etcd>,
) -> Result<(), Fatal> {
    let ca = files::read(&layout.tls("etcd/peer-ca.crt"))?;
    let config = tls::server(pair, &tls::Verifier::new(&ca)?, true)?;
    let loopback: IpAddr = if address.is_ipv4() {
        [127, 0, 0, 1].into()
    } else {
        IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
    };
    let mut addresses = vec![address, loopback];
    addresses.dedup();
    for address in addresses {
        let listener = listener::bind(SocketAddr::new(address, PORT)).await?;
        let etcd = etcd.clone();
        tokio::spawn(listener::serve(
            listener,
            config.clone(),
            move |request, _remote| {
                let etcd = etcd.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = Limited::new(request.into_body(), MESSAGE_BYTES_MAX)
                        .collect()
                        .await;
                    let said = match body {
                        Ok(body) => etcd.handle(&path, &body.to_bytes()).await,
                        Err(_) => None,
                    };
                    match said {
                        Some(said) => answer(StatusCode::OK, "application/json", said),
                        None => answer(
                            StatusCode::BAD_REQUEST,
                            "text/plain",
                            "no message of a peer",
                        ),
                    }
                }
            },
        ));
    }
    Ok(())
}

/// Adds this member to the cluster whose members `list` names, unless it is one already.
pub(crate) async fn join(
    client: &Client,
    list: &Value,
    me: &Member,
    layout: &Layout,
) -> Result<(), Fatal> {
    let members = list["members"].as_array().cloned().unwrap_or_default();
    let failed = |words: &str| Fatal::new(format!("etcd cluster join failed: {words}"));
    let mut urls = Vec::new();
    for member in &members {
        let name = member["name"].as_str().unwrap_or_default();
        let url = member["peerURLs"][0].as_str().unwrap_or_default();
        if name == me.name && url == me.peer_url {
            return Ok(());
        }
        let known = Member {
            name: name.to_owned(),
            peer_url: url.to_owned(),
            learner: false,
        };
        if name != me.name && known.node() == me.node() {
            let _ = fs::remove_file(layout.etcd().join("name"));
            return Err(failed(
                "duplicate node name found, please use a unique name for this node",
            ));
        }
        urls.push(url.to_owned());
    }
    logline::info(format!(
        "Adding member {}={} to etcd cluster {urls:?}",
        me.name, me.peer_url
    ));
    loop {
        for url in &urls {
            match driver::ask_to_join(client, url, me).await {
                Some(Ok(_)) => return Ok(()),
                Some(Err(refusal)) if refusal.message.contains("too many learner") => {
                    logline::info(format!(
                        "Waiting for other members to finish joining etcd cluster: {}",
                        refusal.message
                    ));
                    break;
                }
                // A timeout may have had its effect.
                Some(Err(refusal)) if refusal.message.contains("Peer URLs already exists") => {
                    return Ok(());
                }
                Some(Err(refusal)) if refusal.code == 409 => return Err(failed(&refusal.message)),
                Some(Err(_)) | None => {}
            }
        }
        tokio::time::sleep(JOIN_EVERY).await;
    }
}

/// The members as K3s's `/db/info` lists them.
pub(crate) fn list(members: impl Iterator<Item = Member>) -> Value {
    let members: Vec<Value> = members
        .map(|member| {
            serde_json::json!({
                "name": member.name,
                "peerURLs": [member.peer_url],
                "clientURLs": [member.peer_url.replace(":2380", ":2379")],
                "isLearner": member.learner,
            })
        })
        .collect();
    serde_json::json!({ "members": members })
}

/// Where SQLite's data would become etcd's: the state of a server that had no cluster.
pub(crate) fn migrate(layout: &Layout, disk: &Path, me: &Member) -> Result<(), Fatal> {
    let old = layout.sqlite();
    if !old.exists() || disk.exists() {
        return Ok(());
    }
    logline::info("Migrating content from sqlite to etcd");
    let mut durable = driver::load(&old)?;
    durable.state.members = [(me.name.clone(), me.clone())].into();
    driver::store(disk, &durable)?;
    let migrated = layout.server("db/state.db.migrated");
    fs::rename(&old, &migrated)
        .map_err(|error| Fatal::new(format!("rename {}: {error}", old.display())))
}
