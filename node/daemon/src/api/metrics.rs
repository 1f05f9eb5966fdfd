//! Metrics in Prometheus' text format (exposition format 0.0.4).
//!
//! Decides names and units. Every value is this node's own knowledge at the time of the question.

use std::fmt::Write as _;

use axum::{http::header::CONTENT_TYPE, response::IntoResponse};

use super::{Member, ca::holder_name};
use crate::mesh::{Mesh, issuer::now};

pub(super) async fn list(Member(mesh): Member) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text(&mesh))
}

fn text(mesh: &Mesh) -> String {
    let view = mesh.proposer.views.view();
    let agreed = &view.agreed;
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, rows: Vec<(String, i128)>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let now_ms = i128::from(now().0);
    let left = |end: consensus_core::WallMs| (i128::from(end.0) - now_ms).div_euclid(1000);
    let row = |kind: &str, holder: &str, serial: &str| {
        format!(
            "{{kind=\"{}\",holder=\"{}\",serial=\"{}\"}}",
            escaped(kind),
            escaped(holder),
            escaped(serial)
        )
    };
    let roots = agreed.authority.roots.iter().map(|root| {
        let name = root.fingerprint().to_string();
        (
            row("root", root.state.as_str(), &name),
            left(root.not_after),
        )
    });
    let intermediates = agreed.authority.intermediates.iter().map(|(serial, own)| {
        let name = agreed.name_of(&own.node);
        (row("intermediate", &name, serial), left(own.not_after))
    });
    let leaves = agreed.certificates.iter().map(|(serial, record)| {
        let name = holder_name(agreed, &record.holder);
        (
            row(record.profile.as_str(), &name, serial),
            left(record.not_after),
        )
    });
    metric(
        "shoal_certificate_expiry_seconds",
        "Seconds until a certificate ends; negative after its end.",
        roots.chain(intermediates).chain(leaves).collect(),
    );
    metric(
        "shoal_raft_index",
        "The last log index that this node's view contains.",
        vec![(String::new(), i128::from(view.revision.0))],
    );
    metric(
        "shoal_enforced_index",
        "The log index up to which this node has put into force what was agreed.",
        vec![(String::new(), i128::from(mesh.enforced.index().0))],
    );
    metric(
        "shoal_servers",
        "Servers by agreement.",
        vec![(String::new(), agreed.servers().count() as i128)],
    );
    metric(
        "shoal_servers_reachable",
        "Servers that this node hears, itself included.",
        vec![(String::new(), mesh.proposer.reachable().len() as i128)],
    );
    metric(
        "shoal_nodes",
        "Members by agreement.",
        vec![(String::new(), agreed.nodes.len() as i128)],
    );
    text
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
