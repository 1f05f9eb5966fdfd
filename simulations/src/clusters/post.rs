//! The way of a word to the log and back, and of what is agreed to the nodes.
//!
//! Decides: when a command arrives, how often, and whether its answer does. A node repeats what was not
//! answered, with the same request id and, when it has given up on it, with another.

use std::time::Duration;

use consensus_core::{ClusterCommand, Command, Envelope, K3sPhase, RequestId};

use super::{
    invariants::{one_bootstrap, turns},
    mesh::{View, envelope},
    world::{Event, Flight, Talk, World},
};
use crate::{node::node_id, random::Span, timeline::Happening};

/// From a node to the log, and back.
const ON_THE_WAY: Span = Span::micros(1_000, 25_000);
/// A second time, or late: more than a node takes to leave a cluster and to come again.
const LATE: Span = Span::micros(200_000, 60_000_000);
/// From the log to a node's view.
const SEEN_AFTER: Span = Span::micros(2_000, 400_000);
/// A proposer that hears nothing asks again.
const ASKS_AGAIN: Duration = Duration::from_secs(3);
/// Tries with the same request id.
const TRIES_MAX: u32 = 3;

impl World {
    pub(super) fn request(&mut self) -> RequestId {
        RequestId::from_bytes(u128::from(self.fresh()).to_be_bytes())
    }

    /// Has a node say something, as soon as what it said before was answered.
    pub(super) fn propose(&mut self, node: usize, talk: Talk, command: Command) {
        let flight = Flight {
            envelope: envelope(self.request(), &node_id(node), command),
            tries: 0,
        };
        *self.flight(node, talk) = Some(flight);
        self.send(node, talk);
    }

    fn flight(&mut self, node: usize, talk: Talk) -> &mut Option<Flight> {
        match talk {
            Talk::Reports => &mut self.nodes[node].report,
            Talk::Hosting => &mut self.nodes[node].hosting,
        }
    }

    fn send(&mut self, node: usize, talk: Talk) {
        let boot = self.nodes[node].boot;
        let Some(flight) = self.flight(node, talk) else {
            return;
        };
        flight.tries += 1;
        let sent = flight.envelope.clone();
        let request = sent.request;
        self.mail(sent, Some((node, boot, talk)));
        let again = Event::Resend {
            node,
            boot,
            talk,
            request,
        };
        self.after(ASKS_AGAIN, again);
    }

    /// Puts a command on its way.
    pub(super) fn mail(&mut self, envelope: Envelope, answer_to: Option<(usize, u64, Talk)>) {
        let post = self.post();
        let arrives = |envelope: Envelope| Event::Arrive {
            envelope: Box::new(envelope),
            answer_to,
        };
        if self.chance(post.doubled) {
            let again = arrives(envelope.clone());
            self.after_some(LATE, again);
        }
        if self.chance(post.lost) {
            return;
        }
        let way = if self.chance(post.late) {
            LATE
        } else {
            ON_THE_WAY
        };
        self.after_some(way, arrives(envelope));
    }

    fn post(&self) -> super::scenario::Post {
        match self.is_calm {
            true => super::scenario::Post::default(),
            false => self.scenario.post,
        }
    }

    pub(super) fn resend(&mut self, node: usize, talk: Talk, request: RequestId) {
        let Some(flight) = self.flight(node, talk) else {
            return;
        };
        if flight.envelope.request != request {
            return;
        }
        if flight.tries >= TRIES_MAX {
            let command = flight.envelope.command.clone();
            self.propose(node, talk, command);
        } else {
            self.send(node, talk);
        }
    }

    pub(super) fn answered(&mut self, node: usize, talk: Talk, request: RequestId) {
        let flight = self.flight(node, talk);
        if flight.as_ref().map(|one| one.envelope.request) != Some(request) {
            return;
        }
        *flight = None;
        match talk {
            Talk::Reports => {
                if let Some(next) = self.nodes[node].reports.pop_front() {
                    self.propose(node, Talk::Reports, next);
                }
            }
            Talk::Hosting => self.host_others(node),
        }
    }

    /// A command reaches the log, which carries it out.
    pub(super) fn arrive(&mut self, sent: &Envelope, answer_to: Option<(usize, u64, Talk)>) {
        let before = self.log.view();
        let answer = self.log.apply(sent);
        let after = self.log.view();
        self.note(b'A', 0, after.index.0 << 1 | u64::from(answer.is_ok()));
        self.counts.commands += 1;
        if before.agreed == after.agreed {
            self.counts.idle += 1;
        } else {
            self.changed(sent, &before, &after);
        }
        if let Some((node, boot, talk)) = answer_to {
            let post = self.post();
            if !self.chance(post.unanswered) {
                let request = sent.request;
                let answered = Event::Answered {
                    node,
                    boot,
                    talk,
                    request,
                };
                self.after_some(ON_THE_WAY, answered);
            }
        }
    }

    fn changed(&mut self, sent: &Envelope, before: &View, after: &View) {
        for (id, cluster) in &after.agreed.clusters {
            if let Some(vip) = after.agreed.virtual_ips.get(&cluster.vip) {
                self.addresses.insert(vip.address, *id);
            }
        }
        let held = one_bootstrap::founder_stays(&before.agreed, &after.agreed);
        self.judge("one_bootstrap", held);
        self.witness.foundings.agreed(&after.agreed);
        let held = self.witness.tokens.agreed(sent, before, after);
        self.judge("right_token", held);
        let held = self.witness.stays.agreed(&before.agreed, &after.agreed);
        self.judge("leaves_first", held);
        let held = turns::finished(&before.agreed, &after.agreed);
        self.judge("turns", held);
        self.count(sent, before, after);
        for node in 0..self.nodes.len() {
            self.show(node);
        }
    }

    /// Lets a node see what is agreed now, a little later.
    pub(super) fn show(&mut self, node: usize) {
        if !self.nodes[node].runs {
            return;
        }
        let (boot, view) = (self.nodes[node].boot, self.log.view());
        self.after_some(SEEN_AFTER, Event::Seen { node, boot, view });
    }

    fn count(&mut self, sent: &Envelope, before: &View, after: &View) {
        let name = before.agreed.name_of(&sent.actor);
        let index = after.index.0;
        self.tell_story(
            Happening::Trust,
            format!("{index}: {name} says {}", shown(&sent.command)),
        );
        for (id, was) in &before.agreed.clusters {
            let Some(now) = after.agreed.clusters.get(id) else {
                continue;
            };
            let failed = was.status.as_str() != "error" && now.status.as_str() == "error";
            self.counts.failed += u64::from(failed);
            self.counts.rollouts += u64::from(was.rollout.is_some() && now.rollout.is_none());
            let prefix_came = was.pod_prefix.is_none() && now.pod_prefix.is_some();
            self.counts.pod_prefixes += u64::from(prefix_came);
        }
        for (node, now) in after.agreed.k3s_nodes.iter() {
            let was = before.agreed.k3s_nodes.get(node);
            let same = was.filter(|was| was.attempt == now.attempt);
            let ready = same.is_some_and(|was| !was.has_been_ready() && now.has_been_ready());
            self.counts.ready += u64::from(ready);
            self.counts.tokens += u64::from(same.is_some_and(|was| was.token != now.token));
            let lost = was.is_some_and(|was| was.attempt != now.attempt && !was.is_leaving());
            self.counts.lost += u64::from(lost);
        }
        for (node, was) in before.agreed.k3s_nodes.iter() {
            let stays = after.agreed.k3s_nodes.get(node);
            let left = was.is_leaving() && stays.is_none_or(|now| now.attempt != was.attempt);
            self.counts.left += u64::from(left);
        }
    }
}

/// A command in a few words.
fn shown(command: &Command) -> String {
    let Command::Cluster(about) = command else {
        return command.name().to_owned();
    };
    match about {
        ClusterCommand::Report { attempt, phase, .. } => {
            let reason = if let K3sPhase::Failed { reason, .. } = phase {
                format!(": {reason}")
            } else {
                String::new()
            };
            format!("{} in stay {attempt}{reason}", phase.as_str())
        }
        ClusterCommand::IssueToken { node, attempt, .. } => {
            format!("a token for {} in stay {attempt}", node.short())
        }
        ClusterCommand::Assign {
            assignment,
            cluster,
            ..
        } => format!(
            "{} {:?} to {:?}",
            assignment.module.as_str(),
            cluster,
            assignment.target
        ),
        ClusterCommand::ForgetNodes { .. }
        | ClusterCommand::Decommission { .. }
        | ClusterCommand::Upgrade { .. }
        | ClusterCommand::Unassign { .. } => about.name().to_owned(),
    }
}
