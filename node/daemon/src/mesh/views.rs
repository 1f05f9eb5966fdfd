//! What this node knows to be agreed, from whichever source is furthest.
//!
//! Decides: a view replaces an older one only; a stale revision never acts. Sources are this
//! node's own Raft state machine (servers), a server's pushes (agents), and the last view on disk
//! (after a start without any server in reach).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use consensus_core::{Agreed, EVENTS_KEPT, Event, EventKind, LogIndex, NodeId};
use tokio::sync::watch;

/// The agreed state as of an index.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The last log index that it contains.
    pub(crate) revision: LogIndex,
    /// The agreed state.
    pub(crate) agreed: Arc<Agreed>,
}

/// Who leads and who votes, as far as this node knows. Not agreed state: it may lag.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Standing {
    /// The leader.
    pub(crate) leader: Option<NodeId>,
    /// The voters.
    pub(crate) voters: Vec<NodeId>,
}

/// The place where views, standings and events arrive and are read.
#[derive(Debug, Clone)]
pub(crate) struct Views {
    view: watch::Sender<Arc<View>>,
    standing: watch::Sender<Standing>,
    events: watch::Sender<Events>,
}

/// An event's place: log index, then ordinal.
pub(crate) type EventPlace = (LogIndex, u32);

/// The latest events, oldest first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    log: Arc<VecDeque<Event>>,
}

impl Events {
    /// The place of the last event.
    pub(crate) fn last(&self) -> Option<EventPlace> {
        self.log.back().map(place)
    }

    /// Events after `from`, oldest first.
    pub(crate) fn after(&self, from: Option<EventPlace>) -> impl Iterator<Item = &Event> {
        let start = self.log.partition_point(|event| Some(place(event)) <= from);
        self.log.range(start..)
    }

    /// For every node ever called silent: whether it still is, by the log.
    pub(crate) fn silent_nodes(&self) -> BTreeMap<String, bool> {
        let mut silent = BTreeMap::new();
        for event in self.log.iter() {
            let is = event.kind == EventKind::NodeSilent;
            if let Some(node) = event
                .node
                .as_ref()
                .filter(|_| is || event.kind == EventKind::NodeRecovered)
            {
                silent.insert(node.clone(), is);
            }
        }
        silent
    }
}

fn place(event: &Event) -> EventPlace {
    (event.index, event.ordinal)
}

impl Views {
    /// Starts from what the node knew last.
    pub(crate) fn new(first: View) -> Self {
        Self {
            view: watch::Sender::new(Arc::new(first)),
            standing: watch::Sender::new(Standing::default()),
            events: watch::Sender::new(Events::default()),
        }
    }

    /// Takes a view if it is newer than the present one.
    pub(crate) fn offer(&self, revision: LogIndex, agreed: Arc<Agreed>) {
        self.view.send_if_modified(|view| {
            let newer = revision > view.revision && agreed.mesh.is_some();
            if newer {
                *view = Arc::new(View { revision, agreed });
            }
            newer
        });
    }

    /// Takes a standing.
    pub(crate) fn set_standing(&self, standing: Standing) {
        self.standing.send_if_modified(|present| {
            let differs = *present != standing;
            if differs {
                *present = standing;
            }
            differs
        });
    }

    /// Appends the events that are not there yet.
    pub(crate) fn add_events<'a>(&self, events: impl Iterator<Item = &'a Event>) {
        self.events.send_if_modified(|present| {
            let last = present.last();
            let mut new = events.filter(|event| Some(place(event)) > last).peekable();
            if new.peek().is_none() {
                return false;
            }
            let log = Arc::make_mut(&mut present.log);
            log.extend(new.cloned());
            while log.len() > EVENTS_KEPT {
                log.pop_front();
            }
            true
        });
    }

    /// The present view.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The present standing.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// The present events.
    pub(crate) fn events(&self) -> Events {
        self.events.borrow().clone()
    }

    /// Follows views.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Follows standings.
    pub(crate) fn watch_standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Follows events.
    pub(crate) fn watch_events(&self) -> watch::Receiver<Events> {
        self.events.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus_core::{Mesh, MeshId, WallMs};

    fn agreed() -> Arc<Agreed> {
        let issuer = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm"
            .parse()
            .unwrap();
        let id = MeshId::from_bytes([1; 16]);
        let mesh = Mesh {
            id,
            name: "m".into(),
            root_certificate: vec![],
            issuer,
            created_at: WallMs(0),
        };
        Arc::new(Agreed {
            mesh: Some(mesh),
            ..Agreed::default()
        })
    }

    fn event(index: u64, ordinal: u32) -> Event {
        Event {
            index: LogIndex(index),
            ordinal,
            time: WallMs(0),
            kind: EventKind::NodeJoined,
            node: None,
            payload: BTreeMap::new(),
        }
    }

    #[test]
    fn a_stale_view_never_replaces_a_newer_one() {
        let views = Views::new(View {
            revision: LogIndex(5),
            agreed: agreed(),
        });
        views.offer(LogIndex(4), Arc::new(Agreed::default()));
        assert_eq!(views.view().revision, LogIndex(5));
        views.offer(LogIndex(6), agreed());
        assert_eq!(views.view().revision, LogIndex(6));
    }

    #[test]
    fn events_that_arrive_twice_are_told_once() {
        let views = Views::new(View {
            revision: LogIndex(5),
            agreed: agreed(),
        });
        views.add_events([event(1, 0), event(1, 1)].iter());
        views.add_events([event(1, 0), event(1, 1), event(2, 0)].iter());
        let events = views.events();
        assert_eq!(events.after(None).count(), 3);
        assert_eq!(events.after(Some((LogIndex(1), 0))).count(), 2);
    }
}
