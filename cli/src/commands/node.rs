//! `shoal node`: the machines of the mesh.

mod drain;
mod ping;
mod remove;
mod role;
mod rotate_key;

use comfy_table::Table;
use node_api::{
    Route,
    types::{LabelRequest, NodeView},
};

use super::k3s::consent;
use crate::{
    consent::Yes,
    context::Context,
    failure::{self, Exit, Failure},
    table::{facts, or_nothing, pairs, span, table},
    values::{self, LabelChange},
};

/// The machines of the mesh
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Node {
    /// List all nodes
    Ls,
    /// Show everything about one node
    Show(One),
    /// Have a node probe another one now
    Ping(ping::Ping),
    Label(Label),
    /// Make an agent a server
    Promote(role::Change),
    /// Make a server an agent
    Demote(role::Change),
    RotateKey(rotate_key::RotateKey),
    Drain(drain::DrainNode),
    /// Let a drained node work again
    Uncordon(One),
    Remove(remove::Remove),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
}

/// Set or remove labels of a node
///
/// A selector of k3s-server or k3s-agent gives every node with certain labels a place in a cluster.
/// A node that loses it loses all that K3s has there, and is asked about before.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Label {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// KEY=VALUE to set a label, KEY- to remove it
    #[arg(required = true, value_name = "CHANGE", value_parser = values::label_change)]
    changes: Vec<LabelChange>,
    #[command(flatten)]
    yes: Yes,
}

impl Node {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Ls => context.list(context.client.get(&Route::to(&["nodes"])).await, list),
            Self::Show(one) => {
                let route = Route::to(&["nodes", &one.node]);
                context.show(context.client.get(&route).await, show)
            }
            Self::Ping(ping) => ping.run(context).await,
            Self::Label(label) => label.run(context).await,
            Self::Promote(change) => change.run(context, "server").await,
            Self::Demote(change) => change.run(context, "agent").await,
            Self::RotateKey(rotate) => rotate.run(context).await,
            Self::Drain(drain) => drain.run(context).await,
            Self::Uncordon(one) => drain::uncordon(context, &one.node).await,
            Self::Remove(remove) => remove.run(context).await,
        }
    }
}

impl Label {
    async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let request = label_request(self.changes)
            .map_err(|error| failure::usage(error.to_string(), "give each label once"))?;
        let route = Route::to(&["nodes", &self.node, "labels"]);
        let answer = consent::post(context, &self.yes, &route, |consent| LabelRequest {
            consent,
            ..request.clone()
        });
        let said = format!("labels of {} changed", self.node);
        context.changed(Ok(answer.await?), &said)
    }
}

fn label_request(changes: Vec<LabelChange>) -> Result<LabelRequest, values::InvalidValue> {
    let mut set = Vec::new();
    let mut unset = Vec::new();
    for change in changes {
        match change {
            LabelChange::Set(key, value) => set.push((key, value)),
            LabelChange::Unset(key) => unset.push(key),
        }
    }
    let set = values::labels(set)?;
    match unset.iter().find(|key| set.contains_key(*key)) {
        Some(key) => Err(values::InvalidValue::LabelTwice(key.clone())),
        None => Ok(LabelRequest {
            set,
            unset,
            consent: false,
        }),
    }
}

/// The node's state, and whether it is heard of.
fn state(node: &NodeView) -> String {
    match node.silent {
        true => format!("{}, silent", node.state),
        false => node.state.clone(),
    }
}

fn seen(node: &NodeView) -> String {
    match node.last_seen_ms {
        None => "never".into(),
        Some(0) => "now".into(),
        Some(ms) => format!("{} ago", span(ms)),
    }
}

/// Milliseconds with the first decimal, out of microseconds.
pub(super) fn round_trip(rtt_us: u64) -> String {
    format!("{}.{} ms", rtt_us / 1000, rtt_us % 1000 / 100)
}

fn list(nodes: &[NodeView]) -> Table {
    let headings = [
        "NAME",
        "ROLE",
        "STATE",
        "SEEN",
        "PATH",
        "RTT",
        "OVERLAY IPV6",
        "OVERLAY IPV4",
        "LABELS",
    ];
    let rows = nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.role.clone(),
            state(node),
            seen(node),
            or_nothing(node.path.as_ref()),
            or_nothing(node.rtt_us.map(round_trip).as_ref()),
            or_nothing(node.overlay_ipv6.as_ref()),
            or_nothing(node.overlay_ipv4.as_ref()),
            pairs(&node.labels),
        ]
    });
    table(&headings, rows)
}

fn show(node: &NodeView) -> String {
    let mut known = facts(&[
        ("Name", node.name.clone()),
        ("Id", node.id.clone()),
        ("Role", node.role.clone()),
        ("State", state(node)),
        ("Last seen", seen(node)),
        ("Path", or_nothing(node.path.as_ref())),
        (
            "Round trip",
            or_nothing(node.rtt_us.map(round_trip).as_ref()),
        ),
        ("Overlay IPv6", or_nothing(node.overlay_ipv6.as_ref())),
        ("Overlay IPv4", or_nothing(node.overlay_ipv4.as_ref())),
        ("Labels", pairs(&node.labels)),
        ("Modules", node.modules.join(", ")),
        ("Addresses", node.addresses.join(", ")),
        ("Lifecycle class", node.lifecycle_class.clone()),
        ("Network profile", node.network_profile.clone()),
        (
            "Data in memory",
            if node.tmpfs_store { "yes" } else { "no" }.into(),
        ),
    ]);
    if let Some(step) = &node.key_rotation {
        known += &facts(&[("Next WireGuard key", step.clone())]);
    }
    if !node.metadata.is_empty() {
        known += "Metadata:\n";
        for (key, value) in &node.metadata {
            known += &format!("  {key}={value}\n");
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeView {
        NodeView {
            id: "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm".into(),
            name: name.into(),
            role: "server".into(),
            state: "running".into(),
            silent: false,
            labels: [("disk".into(), "ssd".into()), ("zone".into(), "a".into())].into(),
            overlay_ipv6: Some("fd00::1".parse().unwrap()),
            overlay_ipv4: Some("100.96.0.1".parse().unwrap()),
            last_seen_ms: Some(0),
            rtt_us: None,
            path: None,
            lifecycle_class: "persistent".into(),
            network_profile: "heavyweight".into(),
            tmpfs_store: false,
            metadata: [("arch".into(), "x86_64".into())].into(),
            addresses: vec!["192.0.2.1:7440".into()],
            modules: vec!["docker-engine".into()],
            key_rotation: None,
        }
    }

    fn silent() -> NodeView {
        NodeView {
            silent: true,
            labels: [].into(),
            overlay_ipv4: None,
            last_seen_ms: Some(12_340),
            rtt_us: Some(480),
            path: Some("relayed via n3".into()),
            ..node("n2")
        }
    }

    #[test]
    fn the_list_tells_silence_from_state() {
        insta::assert_snapshot!(list(&[node("n1"), silent()]).trim_fmt(), @r"
        NAME  ROLE    STATE            SEEN      PATH            RTT     OVERLAY IPV6  OVERLAY IPV4  LABELS
        n1    server  running          now       -               -       fd00::1       100.96.0.1    disk=ssd,zone=a
        n2    server  running, silent  12 s ago  relayed via n3  0.4 ms  fd00::1       -             -
        ");
    }

    #[test]
    fn a_node_is_shown_with_all_that_is_known() {
        insta::assert_snapshot!(show(&node("n1")), @r"
        Name:            n1
        Id:              12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm
        Role:            server
        State:           running
        Last seen:       now
        Path:            -
        Round trip:      -
        Overlay IPv6:    fd00::1
        Overlay IPv4:    100.96.0.1
        Labels:          disk=ssd,zone=a
        Modules:         docker-engine
        Addresses:       192.0.2.1:7440
        Lifecycle class: persistent
        Network profile: heavyweight
        Data in memory:  no
        Metadata:
          arch=x86_64
        ");
    }

    #[test]
    fn a_label_is_not_set_and_removed_at_once() {
        let parse = |changes: &[&str]| {
            label_request(
                changes
                    .iter()
                    .map(|c| values::label_change(c).unwrap())
                    .collect(),
            )
        };
        let request = parse(&["a=1", "b-"]).unwrap();
        assert_eq!(request.set, [("a".into(), "1".into())].into());
        assert_eq!(request.unset, ["b"]);
        assert!(parse(&["a=1", "a-"]).is_err());
        assert!(parse(&["a=1", "a=2"]).is_err());
    }
}
