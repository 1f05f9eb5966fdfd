//! The state machine: one pure function from a state and a command to the next state.
//!
//! Decides: whether a command is valid now, what it changes, which events it leaves behind.
//! Never: reads a clock (time is a field of the command), draws randomness, fails half-way: every
//! check comes before the first change.
//!
//! Invariants: the same log gives the same bytes on every server; a repeated request id answers
//! as the first time and changes nothing; a refusal changes nothing but the applied index.

mod certificates;
mod docker;
mod modules;
mod networks;
mod nodes;
#[cfg(test)]
mod tests;
mod tokens;

pub use nodes::FOUNDER_RAFT_ID;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Agreed, Applied, Command, Done, Envelope, Event, EventKind, LogIndex, NodeId, Refusal, State,
    WallMs, event::EVENTS_KEPT,
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
    if let Some((_, answer)) = state
        .answers
        .iter()
        .find(|(request, _)| *request == envelope.request)
    {
        return answer.clone();
    }
    let mut change = Change {
        state,
        index,
        time: envelope.time,
        ordinal: 0,
    };
    let answer = dispatch(&mut change, &envelope.actor, &envelope.command);
    state.answers.push_back((envelope.request, answer.clone()));
    while state.answers.len() > ANSWERS_KEPT {
        state.answers.pop_front();
    }
    answer
}

fn dispatch(change: &mut Change<'_>, actor: &NodeId, command: &Command) -> Applied {
    if !matches!(command, Command::CreateMesh { .. }) && change.agreed().mesh.is_none() {
        return Err(Refusal::NoMesh);
    }
    match command {
        Command::CreateMesh {
            mesh,
            first,
            certificate,
            network,
            ipv4,
            wireguard_port,
        } => {
            nodes::create_mesh(change, actor, mesh, first, certificate)?;
            networks::create_default(change, mesh.id, *network, *ipv4, *wireguard_port);
            networks::attach(change, &first.node, *network)
        }
        Command::CreateToken {
            id,
            secret_hash,
            role,
            expires_at,
            reusable,
        } => tokens::create(change, *id, *secret_hash, *role, *expires_at, *reusable),
        Command::AdmitNode {
            token,
            secret_hash,
            enrolment,
            certificate,
        } => nodes::admit(change, actor, *token, secret_hash, enrolment, certificate),
        Command::ReportNode { state, addresses } => nodes::report(change, actor, *state, addresses),
        Command::LabelNode { node, set, unset } => nodes::label(change, node, set, unset),
        Command::SetRole { node, role } => nodes::set_role(change, node, *role),
        Command::RemoveNode { node, reason } => nodes::remove(change, node, reason),
        Command::RecordSilence { node, silent } => nodes::record_silence(change, node, *silent),
        Command::RecordCertificate(certificate) => {
            nodes::record_certificate(change, actor, certificate)
        }
        Command::AttachPeer { node, network } => networks::attach_by_name(change, node, network),
        Command::DetachPeer { node, network } => networks::detach(change, node, network),
        Command::AssignModule(assignment) => modules::assign(change, assignment),
        Command::UnassignModule(assignment) => modules::unassign(change, assignment),
        Command::ReportDocker { phase, listen } => docker::report(change, actor, phase, *listen),
        Command::DockerCertSigned { node, certificate } => {
            docker::cert_signed(change, actor, node, certificate)
        }
        Command::DecommissionDocker { node } => docker::decommission(change, node),
        Command::RegisterDocker { name, endpoint } => docker::register(change, name, endpoint),
        Command::UnregisterDocker { name } => docker::unregister(change, name),
    }
}

/// A command being applied: the state, and what its events need.
struct Change<'a> {
    state: &'a mut State,
    index: LogIndex,
    time: WallMs,
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
        let payload: BTreeMap<_, _> = payload
            .into_iter()
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

    fn require_issuer(&self, actor: &NodeId) -> Result<(), Refusal> {
        match &self.agreed().mesh {
            Some(mesh) if mesh.issuer == *actor => Ok(()),
            _ => Err(Refusal::NotIssuer {
                actor: actor.clone(),
            }),
        }
    }
}

/// An event tells what happened; the whole of a long reason stays in the row it concerns.
const EVENT_VALUE_CHARS_MAX: usize = 512;
/// A text that was refused is shown so far: refusals are remembered, and must stay small.
const EXCERPT_CHARS_MAX: usize = 80;
/// The longest value of a label, a module's name and such; a key is half of it.
const TEXT_BYTES_MAX: usize = 256;
/// More labels than anyone sorts machines by.
const LABELS_MAX: usize = 64;

/// The beginning of a text that somebody sent.
fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS_MAX).collect()
}

/// Names of nodes, networks and meshes are DNS labels (RFC 1123), for mesh DNS and certificates.
fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ok = (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if ok {
        return Ok(());
    }
    Err(Refusal::Invalid {
        what: what.to_owned(),
        text: excerpt(name),
        rule: "1 to 63 of a-z, 0-9 and -, not starting or ending with -".to_owned(),
    })
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > LABELS_MAX {
        return Err(Refusal::TooLarge {
            what: "the number of labels".into(),
            limit: LABELS_MAX as u64,
        });
    }
    for (key, value) in labels {
        let good_key = !key.is_empty()
            && key.len() <= TEXT_BYTES_MAX / 2
            && key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if !good_key {
            return Err(Refusal::Invalid {
                what: "label key".into(),
                text: excerpt(key),
                rule: "1 to 128 of a-z, A-Z, 0-9, - _ . /".into(),
            });
        }
        let good_value = value.len() <= TEXT_BYTES_MAX
            && value.chars().all(|c| !c.is_control() && !",=".contains(c));
        if !good_value {
            return Err(Refusal::Invalid {
                what: "label value".into(),
                text: excerpt(value),
                rule: "at most 256 bytes without control characters, comma and =".into(),
            });
        }
    }
    Ok(())
}

const fn done() -> Applied {
    Ok(Done::Done)
}
