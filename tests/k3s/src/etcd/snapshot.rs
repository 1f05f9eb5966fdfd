//! Snapshots of the state, and starting again from one as the only member.
//!
//! Follows `pkg/etcd/snapshot.go` and `docs/cli/etcd-snapshot.md` of K3s: names are
//! `<name>-<node>-<unix time>`, files lie in `server/db/snapshots`, and a reset leaves a flag that
//! forbids a second one until the server has run.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    driver, peer,
    register::{Ballot, Durable},
    state::{Member, State},
};
use crate::{Fatal, clock, files, files::Layout, logline};

/// Writes a snapshot of `durable`; returns its name.
pub(crate) fn save(dir: &Path, base: &str, node: &str, durable: &Durable) -> Result<String, Fatal> {
    let name = format!("{base}-{node}-{}", clock::unix_seconds());
    driver::store(&dir.join(&name), durable)?;
    Ok(name)
}

/// All snapshots in a directory, as `etcd-snapshot ls -o json` has them.
pub(crate) fn list(dir: &Path, node: &str) -> Vec<Value> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<Value> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = entry.metadata().ok()?.len();
            let created = name.rsplit_once('-')?.1.parse().ok()?;
            Some(json!({
                "name": name,
                "location": format!("file://{}", entry.path().display()),
                "nodeName": node,
                "createdAt": clock::rfc3339(created),
                "size": size,
                "status": "successful",
            }))
        })
        .collect();
    found.sort_by_key(|snapshot| snapshot["name"].to_string());
    found
}

/// Makes this server the only member, with its own state or that of a snapshot.
pub(crate) fn reset(layout: &Layout, restore: Option<&Path>, me: &Member) -> Result<(), Fatal> {
    let flag = layout.server("db/reset-flag");
    if flag.exists() {
        return Err(Fatal::new(format!(
            "starting kubernetes: preparing server: start cluster and https: cluster-reset was successfully performed, please remove the cluster-reset flag and start k3s normally, if you need to perform another cluster reset, you must first manually delete the {} file",
            flag.display()
        )));
    }
    let disk = peer::disk(layout);
    let from = restore.unwrap_or(&disk);
    let old = driver::load(from).map_err(|fatal| {
        Fatal::new(format!(
            "starting kubernetes: preparing server: start managed database: {fatal}"
        ))
    })?;
    if let Some(snapshot) = restore {
        logline::info(format!(
            "Starting etcd for restore from {}",
            snapshot.display()
        ));
        let aside = layout.server(&format!("db/etcd-old-{}", clock::unix_seconds()));
        let _ = fs::rename(layout.etcd(), aside);
        files::write_private(&layout.etcd().join("name"), me.name.as_bytes())?;
    }
    let mut state: State = old.state;
    for (file, content) in &state.bootstrap {
        files::write_private(&layout.server(file), content.as_bytes())?;
    }
    state.members = [(me.name.clone(), me.clone())].into();
    let term = old.term + 1;
    let durable = Durable {
        term,
        voted_for: None,
        ballot: Ballot {
            term,
            revision: old.ballot.revision + 1,
        },
        state,
    };
    driver::store(&disk, &durable)?;
    files::write_private(&flag, b"")?;
    logline::info(
        "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes",
    );
    Ok(())
}
