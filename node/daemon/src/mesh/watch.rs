//! Views pushed from servers to the nodes that have no replica of their own.
//!
//! Decides whom to follow: two servers that are alive, others when they fall silent. Two, because
//! what moves an address when a server dies must not wait until its followers have noticed. A server
//! pushes at every change, the latest view wins; events are pushed in order, each once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use consensus_core::NodeId;
use consensus_raft::{RaftStatus, Role};
use overlay_core::membership::Condition;
use overlay_net::{CallError, Channel, FrameStream, Net, Refused};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    MembersRx,
    peer_wire::{Push, Subscribe, decode, encode},
    proposer::AgreementRx,
    views::{EventPlace, Views},
};

/// A server pushes at least so often, so that a subscriber notices a server that stands still.
const KEEPALIVE: Duration = Duration::from_millis(500);
/// A subscriber leaves a server that was silent for so long.
const SILENCE_MAX: Duration = Duration::from_millis(1600);
/// A replica that has lost its leader has so long to find another before its subscribers are sent
/// elsewhere: several elections, and less than what subscribers wait.
const ELECTION_MAX: Duration = Duration::from_millis(1200);
/// Servers followed at once.
const FOLLOWED: usize = 2;
/// The whole state of a large mesh on a slow link. Who takes longer to read what is pushed is no
/// follower any more, and must not be held on to: by then it has left for another server.
const PUSH_WITHIN: Duration = Duration::from_secs(10);
/// Opening a stream to a server.
const OPEN_DEADLINE: Duration = Duration::from_secs(2);
/// Between two rounds over all servers.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// Subscribers of one server; more than a mesh of this version has nodes.
const SUBSCRIBERS_MAX: usize = 4096;
/// The gate's code for a node that is a member no more.
const REMOVED: &str = "AdmissionRemovedError";
/// Changes closer together than this are pushed as one.
const COALESCE: Duration = Duration::from_millis(2);

/// Serves subscribers until the network stops.
pub(crate) async fn serve(
    mut streams: mpsc::Receiver<(NodeId, FrameStream)>,
    views: Views,
    agreement: AgreementRx,
) {
    let mut subscribers = JoinSet::new();
    while let Some((from, stream)) = streams.recv().await {
        while subscribers.try_join_next().is_some() {}
        if subscribers.len() >= SUBSCRIBERS_MAX {
            tracing::warn!(from = from.short(), "too many subscribers");
            continue;
        }
        let (views, agreement) = (views.clone(), agreement.clone());
        subscribers.spawn(async move {
            if let Err(reason) = push(stream, &views, &agreement).await {
                tracing::debug!(from = from.short(), reason, "a subscriber left");
            }
        });
    }
}

async fn push(
    mut stream: FrameStream,
    views: &Views,
    agreement: &AgreementRx,
) -> Result<(), &'static str> {
    let first = timeout(OPEN_DEADLINE, stream.next())
        .await
        .ok()
        .flatten()
        .ok_or("no subscription")?;
    let Subscribe {
        mut revision,
        mut last_event,
    } = decode(&first).map_err(|_| "not understood")?;
    let (mut view, mut events, mut standing) =
        (views.watch(), views.watch_events(), views.watch_standing());
    loop {
        if !comes_to_keep_up(agreement).await {
            return Err("this node has no replica that keeps up");
        }
        let now = view.borrow_and_update().clone();
        let new_events: Vec<_> = {
            let events = events.borrow_and_update();
            // A subscriber may have been served by a server that was further: nothing goes back.
            events.after(last_event).cloned().collect()
        };
        last_event = new_events
            .last()
            .map(|event| (event.index, event.ordinal))
            .or(last_event);
        let agreed = (now.revision > revision).then(|| now.agreed.clone());
        revision = revision.max(now.revision);
        let push = Push {
            revision,
            agreed,
            events: new_events,
            standing: standing.borrow_and_update().clone(),
        };
        read_by_subscriber(stream.send(encode(&push))).await?;
        // All arms only wait; what they wait for is read anew above.
        tokio::select! {
            changed = view.changed() => changed.map_err(|_| "stopping")?,
            changed = events.changed() => changed.map_err(|_| "stopping")?,
            changed = standing.changed() => changed.map_err(|_| "stopping")?,
            () = sleep(KEEPALIVE) => {}
        }
        sleep(COALESCE).await;
    }
}

/// Waits until a push is taken, and not for ever.
async fn read_by_subscriber<E>(
    sending: impl Future<Output = Result<(), E>>,
) -> Result<(), &'static str> {
    match timeout(PUSH_WITHIN, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("gone"),
        Err(_) => Err("does not read"),
    }
}

/// Waits while the servers elect a leader. False when this node's replica is left behind.
async fn comes_to_keep_up(agreement: &AgreementRx) -> bool {
    let Some(replica) = agreement.borrow().clone() else {
        return false;
    };
    let mut status = replica.status();
    let elected = async {
        while !keeps_up(agreement) {
            if status.changed().await.is_err() {
                return false;
            }
        }
        true
    };
    timeout(ELECTION_MAX, elected).await.unwrap_or(false)
}

/// Whether this node's replica hears from a leader. A server cut off from the others must not
/// keep subscribers on an old view.
fn keeps_up(agreement: &AgreementRx) -> bool {
    agreement.borrow().as_ref().is_some_and(|agreement| {
        // A group that another era has left behind is not the mesh any more.
        let fenced = agreement.fenced().borrow().is_some();
        let status = agreement.status();
        !fenced && is_led(&status.borrow())
    })
}

/// Whether a leader and this server hear each other, or it leads and hears a majority.
fn is_led(status: &RaftStatus) -> bool {
    let serves = matches!(status.role, Role::Leader | Role::Follower);
    serves && status.leader.is_some() && !status.deaf
}

/// Follows servers as long as this node's own replica does not keep up.
pub(crate) struct Follower {
    pub(crate) me: NodeId,
    pub(crate) net: Net,
    pub(crate) views: Views,
    pub(crate) members: MembersRx,
    pub(crate) agreement: AgreementRx,
    /// Why the others do not let this node in any more, for `status`.
    pub(crate) shut_out: watch::Sender<Option<String>>,
    /// Whether that is because it was removed.
    pub(crate) removed: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
}

/// The servers that are followed now, or about to be. A lock because the follows run beside each
/// other; never held across an await.
#[derive(Default)]
struct Followed(Mutex<BTreeSet<NodeId>>);

impl Followed {
    /// True when nobody else follows it.
    fn begin(&self, server: &NodeId) -> bool {
        let mut followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        followed.insert(server.clone())
    }

    fn end(&self, server: &NodeId) {
        let mut followed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        followed.remove(server);
    }
}

impl Follower {
    pub(crate) async fn run(self) {
        let followed = Followed::default();
        let both = std::array::from_fn::<_, FOLLOWED, _>(|_| self.keep_following(&followed));
        // Dropping a follow leaves nothing half done: a view is taken whole or not.
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = futures::future::join_all(both) => {}
        }
    }

    async fn keep_following(&self, followed: &Followed) {
        let mut last: Option<NodeId> = None;
        loop {
            if !self.keeps_up() {
                for server in self.servers(last.take()) {
                    if !followed.begin(&server) {
                        continue;
                    }
                    let pushed = self.follow(&server).await;
                    followed.end(&server);
                    if pushed {
                        last = Some(server);
                        break;
                    }
                }
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    /// Servers to try: alive ones first, the one that just failed last.
    fn servers(&self, failed: Option<NodeId>) -> Vec<NodeId> {
        let view = self.views.view();
        let members = self.members.borrow().clone();
        let alive = |id: &NodeId| {
            members
                .get(id)
                .is_some_and(|member| member.condition == Condition::Alive)
        };
        let mut servers: Vec<NodeId> = view
            .agreed
            .servers()
            .map(|(id, _)| id.clone())
            .filter(|id| *id != self.me)
            .collect();
        if !servers.iter().any(alive) {
            // The mesh may go on with servers that this node has not heard of: after a recovery or
            // a restored backup. They find it, and whoever is connected is a member.
            let connected = self.net.connections().borrow().clone();
            let strangers = connected.into_keys().filter(|id| !servers.contains(id));
            let strangers: Vec<NodeId> = strangers.collect();
            servers.extend(strangers);
        }
        // Spread over the servers by this node's own id, so that not all follow the same one.
        let spread = |id: &NodeId| blake3::hash(format!("{}{id}", self.me).as_bytes());
        servers.sort_by_key(|id| {
            (
                Some(id) == failed.as_ref(),
                !alive(id),
                *spread(id).as_bytes(),
            )
        });
        servers
    }

    /// A node that was removed while it was away hears of it here.
    fn note_shut_out(&self, server: &NodeId, refused: &Refused) {
        if refused.code == REMOVED {
            self.removed.send_replace(true);
        }
        let name = self.views.view().agreed.name_of(server);
        let text = format!(
            "{name} does not let this node in: {} ({})",
            refused.message, refused.code
        );
        self.shut_out.send_if_modified(|known| {
            // When and why it was removed is told at the gate, and says more.
            let told = refused.code == REMOVED && known.is_some();
            let differs = known.as_ref() != Some(&text) && !told;
            if differs {
                tracing::warn!(server = name, code = refused.code, "{}", refused.message);
                *known = Some(text);
            }
            differs
        });
    }

    /// Follows one server until it ends. True when it pushed at least once.
    async fn follow(&self, server: &NodeId) -> bool {
        let opened = timeout(OPEN_DEADLINE, self.net.open(server, Channel::Watch)).await;
        let mut stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(CallError::NotAdmitted(refused))) => {
                self.note_shut_out(server, &refused);
                return false;
            }
            Ok(Err(_)) | Err(_) => return false,
        };
        let last_event: Option<EventPlace> = self.views.events().last();
        let subscribe = Subscribe {
            revision: self.views.view().revision,
            last_event,
        };
        if stream.send(encode(&subscribe)).await.is_err() {
            return false;
        }
        let mut pushed = false;
        while let Ok(Some(bytes)) = timeout(SILENCE_MAX, stream.next()).await {
            let push: Push = match decode(&bytes) {
                Ok(push) => push,
                Err(error) => {
                    tracing::warn!(from = server.short(), %error, "a push was not understood");
                    return pushed;
                }
            };
            if !pushed {
                tracing::debug!(server = server.short(), "following");
                // Not as soon as there is a connection: one that a server opens ends when that server has
                // seen this node's certificate.
                self.shut_out.send_replace(None);
                self.removed.send_replace(false);
            }
            pushed = true;
            if let Some(agreed) = push.agreed {
                self.views.offer(push.revision, agreed);
            }
            self.views.add_events(push.events.iter());
            self.views.set_standing(push.standing);
            if self.keeps_up() {
                break;
            }
        }
        pushed
    }

    /// Whether this node can do with its own replica. One that serves no more is not told when the
    /// group has let it go.
    fn keeps_up(&self) -> bool {
        let view = self.views.view();
        let node = view.agreed.nodes.get(&self.me);
        node.is_some_and(|node| node.raft_id.is_some()) && keeps_up(&self.agreement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_a_leader_and_a_leader_without_a_majority_keep_nobody() {
        let leader: NodeId = format!("12D3KooW{}", "a".repeat(44)).parse().unwrap();
        let led = |role, leader: Option<&NodeId>, deaf| RaftStatus {
            role,
            leader: leader.cloned(),
            deaf,
            ..RaftStatus::default()
        };
        for role in [Role::Leader, Role::Follower] {
            assert!(is_led(&led(role, Some(&leader), false)), "{role:?}");
            assert!(!is_led(&led(role, None, false)), "{role:?}");
        }
        assert!(!is_led(&led(Role::Leader, Some(&leader), true)));
        for role in [Role::Learner, Role::Candidate, Role::Stopped] {
            assert!(!is_led(&led(role, Some(&leader), false)), "{role:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_does_not_read_holds_a_push_for_a_while_only() {
        let begun = tokio::time::Instant::now();
        let never = std::future::pending::<Result<(), ()>>();
        assert_eq!(read_by_subscriber(never).await, Err("does not read"));
        assert_eq!(begun.elapsed(), PUSH_WITHIN);
        assert_eq!(read_by_subscriber(async { Err(()) }).await, Err("gone"));
        assert_eq!(read_by_subscriber(async { Ok::<_, ()>(()) }).await, Ok(()));
    }
}
