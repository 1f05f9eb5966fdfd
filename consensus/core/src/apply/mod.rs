//! The state machine: one pure function from a state and a command to the next state.
//!
//! Decides: whether a command is valid now, what it changes, which events it leaves behind.
//! Never: reads a clock (time is a field of the command), draws randomness, fails half-way: every
//! check comes before the first change.
//!
//! Invariants: the same log gives the same bytes on every server; a repeated request id answers
//! as the first time and changes nothing; a refusal changes nothing but the applied index.

mod access_grants;
mod authority;
mod certificates;
mod cluster_lifecycle;
mod cluster_networks;
mod clusters;
mod containers;
mod docker;
mod drains;
mod firewalls;
mod k3s_binaries;
mod k3s_losses;
mod k3s_nodes;
mod leases;
mod modules;
mod networks;
mod nodes;
mod operators;
mod peers;
mod prefixes;
mod recovery;
mod removal;
mod revocation;
mod rollouts;
mod rotation;
mod servers;
#[cfg(test)]
mod tests;
mod tokens;
mod virtual_ips;
mod wireguard_keys;

pub use recovery::{Restorer, go_on_alone, restore};
pub use servers::FOUNDER_RAFT_ID;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::peers::Placement;
use crate::{
    Agreed, Applied, Command, Done, Envelope, Event, EventKind, Holder, LogIndex, NodeId, Refusal,
    Role, State, WallMs,
    event::EVENTS_KEPT,
    limits::{LABELS_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX},
};

/// How many answers are remembered for repeated requests: minutes of a busy mesh, and a client
/// repeats within seconds.
pub(crate) const ANSWERS_KEPT: usize = 1024;

/// Applies one command at its place in the log.
pub fn apply(state: &mut State, index: LogIndex, envelope: &Envelope) -> Applied {
    assert!(
        index > state.applied,
        "log entry {index} applied after {}",
        state.applied
    );
    state.applied = index;
    if let Some(answer) = state.answers.find(&envelope.request) {
        return answer.clone();
    }
    let mut change = Change {
        state,
        index,
        time: envelope.time,
        by: envelope.operator.as_deref(),
        ordinal: 0,
    };
    let answer = dispatch(&mut change, &envelope.actor, &envelope.command);
    state.answers.push_back((envelope.request, answer.clone()));
    while state.answers.len() > ANSWERS_KEPT {
        state.answers.pop_front();
    }
    answer
}

#[expect(
    clippy::too_many_lines,
    reason = "one arm for each command, and nothing is decided here"
)]
fn dispatch(change: &mut Change<'_>, actor: &NodeId, command: &Command) -> Applied {
    if !matches!(command, Command::CreateMesh { .. }) && change.agreed().mesh.is_none() {
        return Err(Refusal::NoMesh);
    }
    match command {
        Command::CreateMesh {
            mesh,
            authority,
            first,
            certificate,
            network,
            ipv4,
            wireguard_port,
        } => {
            nodes::create_mesh(change, actor, mesh, authority, first, certificate)?;
            networks::create_default(change, mesh.id, *network, *ipv4, *wireguard_port);
            peers::attach(change, &first.node, *network, &Placement::default())
        }
        Command::CreateToken {
            id,
            secret_hash,
            role,
            expires_at,
            reusable,
        } => tokens::create(change, *id, *secret_hash, *role, *expires_at, *reusable),
        Command::RevokeToken { id } => tokens::revoke(change, *id),
        Command::AdmitNode {
            token,
            secret_hash,
            enrolment,
            certificate,
        } => nodes::admit(change, actor, *token, secret_hash, enrolment, certificate),
        Command::ReportNode { state, addresses } => nodes::report(change, actor, *state, addresses),
        Command::LabelNode {
            node,
            set,
            unset,
            reachable,
            consent,
        } => nodes::label(change, node, set, unset, reachable, *consent),
        Command::SetRole {
            node,
            role,
            reachable,
            force,
        } => servers::set_role(change, node, *role, reachable, *force),
        Command::RemoveNode {
            node,
            reason,
            compromised,
            reachable,
            force,
        } => removal::remove(change, node, reason, *compromised, reachable, *force),
        Command::RecordSilence { node, silent } => nodes::record_silence(change, node, *silent),
        Command::AttachPeer {
            node,
            network,
            hub,
            lan_subnets,
        } => {
            let placement = Placement {
                hub: *hub,
                lan_subnets: lan_subnets.clone(),
            };
            peers::attach_by_name(change, node, network, &placement)
        }
        Command::DetachPeer { node, network } => peers::detach(change, node, network),
        Command::RecordCertificate(certificate) => {
            certificates::record_signed(change, actor, certificate)
        }
        Command::RecordIntermediate(new) => authority::record_intermediate(change, actor, new),
        Command::RevokeCertificates { which, reason } => revocation::revoke(change, which, reason),
        Command::SealRootKey { root, key } => authority::seal_root_key(change, actor, *root, key),
        Command::BeginRotation { root, key, reason } => {
            rotation::begin(change, actor, root, key, reason)
        }
        Command::AdvanceRotation { to } => rotation::advance(change, actor, *to),
        Command::FinishRotation { root, leave_behind } => {
            rotation::finish(change, actor, *root, *leave_behind)
        }
        Command::AbortRotation { reason } => rotation::abort(change, actor, reason),
        Command::RecordExpiryWarning { certificate } => {
            authority::record_expiry_warning(change, actor, certificate)
        }
        Command::CreateOperator { name, role } => operators::create(change, actor, name, *role),
        Command::SetOperatorRole { name, role } => operators::set_role(change, name, *role),
        Command::RemoveOperator { name } => operators::remove(change, name),
        Command::AssignModule(assignment) => modules::assign(change, assignment),
        Command::UnassignModule(assignment) => modules::unassign(change, assignment, NOBODY, true),
        Command::Cluster(command) => clusters::apply(change, actor, command),
        Command::Drain(command) => drains::apply(change, actor, command),
        Command::ReportDrift { module, what } => {
            modules::report_drift(change, actor, *module, what)
        }
        Command::ReportDocker { phase, listen } => docker::report(change, actor, phase, *listen),
        Command::DockerCertSigned { node, certificate } => {
            docker::cert_signed(change, actor, node, certificate)
        }
        Command::DecommissionDocker { node } => docker::decommission(change, node),
        Command::RegisterDocker { name, endpoint } => docker::register(change, name, endpoint),
        Command::UnregisterDocker { name } => docker::unregister(change, name),
        Command::CreateNetwork(new) => networks::create(change, new),
        Command::DeleteNetwork { network } => networks::delete(change, network),
        Command::SetNetwork {
            network,
            change: wanted,
        } => networks::set(change, network, wanted),
        Command::SetPeer {
            node,
            network,
            hub,
            lan_subnets,
        } => peers::set(change, node, network, *hub, lan_subnets.as_ref()),
        Command::CreateVip {
            name,
            network,
            candidates,
            check,
            profile,
        } => virtual_ips::create(change, name, network, candidates, check.as_ref(), *profile),
        Command::DeleteVip { vip } => virtual_ips::delete(change, vip),
        Command::SetVipCandidates { vip, candidates } => {
            virtual_ips::set_candidates(change, vip, candidates)
        }
        Command::SetVipCheck { vip, check } => virtual_ips::set_check(change, vip, check.as_ref()),
        Command::AssignVip {
            vip,
            after,
            to,
            closed_by,
            reason,
        } => {
            let after = *after;
            let closing = leases::Closing { after, closed_by };
            leases::assign(change, actor, *vip, &closing, to.as_ref(), reason)
        }
        Command::ReleaseVip {
            vip,
            epoch,
            to,
            reason,
        } => leases::release(change, actor, *vip, *epoch, to.as_ref(), reason),
        Command::BeginLeaseVoters {
            vip,
            epoch,
            since,
            new,
        } => leases::begin_voters(change, actor, *vip, (*epoch, *since), new),
        Command::FinishLeaseVoters { vip, epoch, since } => {
            leases::finish_voters(change, actor, *vip, (*epoch, *since))
        }
        Command::ReportReadiness { vip, ready, reason } => {
            virtual_ips::report_readiness(change, actor, *vip, *ready, reason)
        }
        Command::RequestFailover { vip, to, reachable } => {
            leases::request_failover(change, vip, to.as_deref(), reachable)
        }
        Command::ReportMove {
            vip,
            epoch,
            outage_us,
        } => leases::report_move(change, actor, *vip, *epoch, *outage_us),
        Command::CreateGrant(new) => access_grants::create(change, new),
        Command::MoveGrant { grant, gateway } => access_grants::move_to(change, grant, gateway),
        Command::SuspendGrant { grant } => access_grants::suspend(change, grant, true),
        Command::ResumeGrant { grant } => access_grants::suspend(change, grant, false),
        Command::RevokeGrant { grant } => access_grants::revoke(change, grant),
        Command::RotateWireguardKey {
            node,
            leave_devices,
        } => wireguard_keys::begin(change, node, *leave_devices),
        Command::AnnounceWireguardKey { key } => wireguard_keys::announce(change, actor, key),
        Command::TakeWireguardKey { key } => wireguard_keys::take(change, actor, key),
        Command::AddFirewallRule(new) => firewalls::add(change, new),
        Command::RemoveFirewallRule { network, rule } => firewalls::remove(change, network, *rule),
    }
}

/// Whom a command was heard by that does not say so.
const NOBODY: &BTreeSet<NodeId> = &BTreeSet::new();

/// A command being applied: the state, and what its events need.
struct Change<'a> {
    state: &'a mut State,
    index: LogIndex,
    time: WallMs,
    /// The operator who asked for it.
    by: Option<&'a str>,
    ordinal: u32,
}

impl Change<'_> {
    fn agreed(&self) -> &Agreed {
        &self.state.agreed
    }

    /// Copies only while a reader still holds the published one.
    fn agreed_mut(&mut self) -> &mut Agreed {
        Arc::make_mut(&mut self.state.agreed)
    }

    fn event<const N: usize>(
        &mut self,
        kind: EventKind,
        node: Option<&NodeId>,
        payload: [(&str, String); N],
    ) {
        let node = node.map(|id| self.agreed().name_of(id));
        let by = self.by.map(|by| ("by", by.to_owned()));
        let payload: BTreeMap<_, _> = payload
            .into_iter()
            .chain(by)
            .map(|(k, v)| {
                (
                    k.to_owned(),
                    v.chars().take(EVENT_VALUE_CHARS_MAX).collect(),
                )
            })
            .collect();
        let event = Event {
            index: self.index,
            ordinal: self.ordinal,
            time: self.time,
            kind,
            node,
            payload,
        };
        self.ordinal += 1;
        self.state.events.push_back(event);
        while self.state.events.len() > EVENTS_KEPT {
            self.state.events.pop_front();
        }
    }

    fn find_node(&self, name_or_id: &str) -> Result<NodeId, Refusal> {
        match self.agreed().find_node(name_or_id) {
            Some((id, _)) => Ok(id.clone()),
            None => Err(Refusal::NodeUnknown {
                node: excerpt(name_or_id),
            }),
        }
    }

    /// Servers alone sign, seal and decide for the mesh.
    fn require_server(&self, actor: &NodeId) -> Result<(), Refusal> {
        match self.agreed().nodes.get(actor) {
            Some(node) if node.role == Role::Server => Ok(()),
            Some(_) | None => Err(Refusal::NotServer {
                actor: actor.clone(),
            }),
        }
    }

    /// What people call a certificate's holder; the mesh itself holds its roots.
    fn holder_name(&self, holder: Option<&Holder>) -> String {
        match holder {
            Some(Holder::Node(id)) => self.agreed().name_of(id),
            Some(Holder::Operator(name)) => name.clone(),
            None => "mesh".to_owned(),
        }
    }
}

/// An event tells what happened; the whole of a long reason stays in the row it concerns.
const EVENT_VALUE_CHARS_MAX: usize = 512;
/// A text that was refused is shown so far: refusals are remembered, and must stay small.
const EXCERPT_CHARS_MAX: usize = 80;

/// The beginning of a text that somebody sent.
fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS_MAX).collect()
}

fn invalid(what: &str, text: &str, rule: &str) -> Refusal {
    Refusal::Invalid {
        what: what.to_owned(),
        text: excerpt(text),
        rule: rule.to_owned(),
    }
}

fn too_large(what: &str, limit: usize) -> Refusal {
    Refusal::TooLarge {
        what: what.to_owned(),
        limit: limit as u64,
    }
}

/// Names of nodes, networks, operators and meshes are DNS labels (RFC 1123), for mesh DNS and certificates.
fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ok = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if ok {
        return Ok(());
    }
    let rule = "1 to 63 of a-z, 0-9 and -, not starting or ending with -";
    Err(invalid(what, name, rule))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    check_label_count(labels.len())?;
    let mut labels = labels.iter();
    labels.try_for_each(|(key, value)| check_label(key, value))
}

fn check_label_count(count: usize) -> Result<(), Refusal> {
    if count > LABELS_MAX {
        return Err(too_large("the number of labels", LABELS_MAX));
    }
    Ok(())
}

fn check_label(key: &str, value: &str) -> Result<(), Refusal> {
    let in_key = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let good_key = !key.is_empty() && key.len() <= TEXT_BYTES_MAX / 2 && key.bytes().all(in_key);
    if !good_key {
        let rule = "1 to 128 of a-z, A-Z, 0-9, - _ . /";
        return Err(invalid("label key", key, rule));
    }
    let good_value = value.len() <= TEXT_BYTES_MAX && is_label_value(value);
    if !good_value {
        let rule = "at most 256 bytes without control characters, comma and =";
        return Err(invalid("label value", value, rule));
    }
    Ok(())
}

/// Nearly all are plain ASCII.
fn is_label_value(text: &str) -> bool {
    if text.is_ascii() {
        let good = |b: u8| !b.is_ascii_control() && !matches!(b, b',' | b'=');
        return text.bytes().all(good);
    }
    let good = |c: char| !c.is_control() && !matches!(c, ',' | '=');
    text.chars().all(good)
}

const fn done() -> Applied {
    Ok(Done::Done)
}
