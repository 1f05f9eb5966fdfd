//! What this node knows to be agreed, from whichever source is furthest.
//!
//! Decides: a view replaces an older one only; a stale revision never acts. So with standings: those
//! of several servers arrive, and one of them may still know an older leader. Sources are this
//! node's own Raft state machine (servers), a server's pushes (agents), and the last view on disk
//! (after a start without any server in reach).
//!
//! Decides also how often those who follow act. A handful of changes reaches them at once, so that
//! no chain of steps from node to node is slowed down; a stream of changes only so often, so that
//! thousands of commands a second don't have everything that depends on some of them done for each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use consensus_core::{Agreed, EVENTS_KEPT, Event, EventKind, LogIndex, NodeId, Recent, wire::v1};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Who follows a stream of changes acts about so often. A revocation amid such a stream may wait
/// so long on each node.
const CHANGES_APART: Duration = Duration::from_millis(50);
/// So many changes are followed at once, one each as above after them: more than any operation has
/// steps.
const CHANGES_AT_ONCE: u32 = 20;

/// The agreed state as of an index.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The last log index that it contains.
    pub(crate) revision: LogIndex,
    /// The agreed state.
    pub(crate) agreed: Arc<Agreed>,
}

impl View {
    /// The bytes that rest on the disk: the revision, big-endian, and the agreed state.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.revision.0.to_be_bytes().to_vec();
        bytes.extend(v1::encode(&*self.agreed));
        bytes
    }

    /// The view in such bytes; none in others.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (revision, agreed) = bytes.split_first_chunk()?;
        Some(Self {
            revision: LogIndex(u64::from_be_bytes(*revision)),
            agreed: Arc::new(v1::decode(agreed).ok()?),
        })
    }
}

/// Who leads and who votes, as far as this node knows. Not agreed state: it may lag.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Standing {
    /// When that was so.
    pub(crate) since: StandingPlace,
    /// The leader.
    pub(crate) leader: Option<NodeId>,
    /// The voters.
    pub(crate) voters: Vec<NodeId>,
}

/// Orders standings: a later era counts more than any term of an earlier one, a later term more than
/// any log, for each has one leader; within a term a longer log knows later voters.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub(crate) struct StandingPlace {
    /// How often the group was recovered.
    pub(crate) era: u32,
    /// Raft's term in that era.
    pub(crate) term: u64,
    /// How far the server had applied the log that says so.
    pub(crate) applied: LogIndex,
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
    log: Arc<Recent<Event>>,
}

impl Events {
    /// The place of the last event.
    pub(crate) fn last(&self) -> Option<EventPlace> {
        self.log.back().map(place)
    }

    /// Events after `from`, oldest first.
    pub(crate) fn after(&self, from: Option<EventPlace>) -> impl Iterator<Item = &Event> {
        after(&self.log, from)
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

/// The part of an event log after a place, oldest first.
pub(crate) fn after(log: &Recent<Event>, from: Option<EventPlace>) -> impl Iterator<Item = &Event> {
    log.after(move |event| Some(place(event)) <= from)
}

/// How fast one who follows changes acts on them.
#[derive(Debug)]
pub(crate) struct Pace {
    apart: Duration,
    /// When the present change would have been due if all came evenly: runs ahead of the clock
    /// while they come faster.
    due: Instant,
}

impl Pace {
    /// A stream of changes is acted on every `apart`, the first handful at once.
    pub(crate) fn new(apart: Duration) -> Self {
        let due = Instant::now();
        Self { apart, due }
    }

    /// Waits until it is time for the next change.
    pub(crate) async fn rest(&self) {
        let ahead = self.apart * CHANGES_AT_ONCE;
        if let Some(from) = self.due.checked_sub(ahead) {
            sleep_until(from).await;
        }
    }

    /// Counts a change.
    pub(crate) fn count(&mut self) {
        self.due = self.due.max(Instant::now()) + self.apart;
    }
}

/// Follows views, in the pace of those who act on them.
#[derive(Debug)]
pub(crate) struct Following {
    view: watch::Receiver<Arc<View>>,
    pace: Pace,
}

impl Following {
    /// The present view, which counts as seen.
    pub(crate) fn borrow_and_update(&mut self) -> watch::Ref<'_, Arc<View>> {
        self.view.borrow_and_update()
    }

    /// Waits until there is a view that was not seen yet and it is time to act on it. Given up
    /// half-way it has seen nothing.
    pub(crate) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.pace.rest().await;
        self.view.changed().await?;
        self.pace.count();
        Ok(())
    }
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

    /// Takes a standing, unless there is a later one.
    pub(crate) fn set_standing(&self, standing: Standing) {
        self.standing.send_if_modified(|present| {
            if standing.since < present.since {
                return false;
            }
            let differs = present.leader != standing.leader || present.voters != standing.voters;
            *present = standing;
            // That the same is so for longer is no news.
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
            new.for_each(|event| log.push_back(event.clone()));
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

    /// The place of the last event that there is.
    pub(crate) fn last_event(&self) -> Option<EventPlace> {
        self.events.borrow().last()
    }

    /// The present events.
    pub(crate) fn events(&self) -> Events {
        self.events.borrow().clone()
    }

    /// Follows views, to act on them.
    pub(crate) fn watch(&self) -> Following {
        Following {
            view: self.view.subscribe(),
            pace: Pace::new(CHANGES_APART),
        }
    }

    /// Follows views as they come, for those to whom a moment matters.
    pub(crate) fn watch_at_once(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Waits until the view contains the log up to `index`, and not a moment longer. False when
    /// there will be no more views.
    pub(crate) async fn contains(&self, index: LogIndex) -> bool {
        if self.view.borrow().revision >= index {
            return true;
        }
        let mut view = self.view.subscribe();
        view.wait_for(|view| view.revision >= index).await.is_ok()
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
        let id = MeshId::from_bytes([1; 16]);
        let mesh = Mesh {
            id,
            name: "m".into(),
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
    fn a_server_that_knows_an_older_leader_does_not_override_a_newer_ones_word() {
        let views = views();
        let mut told = views.watch_standing();
        let node = |letter: char| -> NodeId {
            let rest: String = std::iter::repeat_n(letter, 44).collect();
            format!("12D3KooW{rest}").parse().unwrap()
        };
        let standing = |(era, term, applied), leader, voters: &[char]| Standing {
            since: StandingPlace {
                era,
                term,
                applied: LogIndex(applied),
            },
            leader: Some(node(leader)),
            voters: voters.iter().copied().map(node).collect(),
        };
        let mut offer = |place, leader, voters: &[char]| {
            views.set_standing(standing(place, leader, voters));
            let news = told.has_changed().unwrap();
            told.mark_unchanged();
            (views.standing().leader == Some(node(leader)), news)
        };
        assert_eq!(offer((0, 5, 10), 'a', &['a', 'b']), (true, true));
        assert_eq!(
            offer((0, 4, 99), 'b', &['a', 'b']),
            (false, false),
            "an older term"
        );
        assert_eq!(
            offer((0, 5, 11), 'a', &['a', 'b']),
            (true, false),
            "nothing new"
        );
        assert_eq!(offer((0, 5, 12), 'a', &['a', 'c']), (true, true));
        offer((0, 5, 11), 'a', &['a', 'b']);
        assert_eq!(
            views.standing().voters,
            [node('a'), node('c')],
            "an older log"
        );
        assert_eq!(
            offer((0, 6, 11), 'b', &['b', 'c']),
            (true, true),
            "a newer term"
        );
        assert_eq!(
            offer((1, 1, 1), 'c', &['c']),
            (true, true),
            "a recovered group"
        );
        assert_eq!(
            offer((0, 7, 20), 'b', &['b', 'c']),
            (false, false),
            "the lost one"
        );
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

    fn views() -> Views {
        Views::new(View {
            revision: LogIndex(0),
            agreed: agreed(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_of_steps_is_followed_at_once_and_a_stream_of_changes_in_pace() {
        let views = views();
        let mut following = views.watch();
        let begun = Instant::now();
        for step in 1..=u64::from(CHANGES_AT_ONCE) {
            views.offer(LogIndex(step), agreed());
            following.changed().await.unwrap();
            assert_eq!(following.borrow_and_update().revision, LogIndex(step));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let from = u64::from(CHANGES_AT_ONCE) + 1;
        for step in from..from + 100 {
            views.offer(LogIndex(step), agreed());
            following.changed().await.unwrap();
        }
        let paced = CHANGES_APART * 99..=CHANGES_APART * 101;
        assert!(paced.contains(&begun.elapsed()), "{:?}", begun.elapsed());
        // Who was slowed down sees the last of them, and is fast again after a quiet time.
        views.offer(LogIndex(1000), agreed());
        views.offer(LogIndex(1001), agreed());
        following.changed().await.unwrap();
        assert_eq!(following.borrow_and_update().revision, LogIndex(1001));
        tokio::time::advance(CHANGES_APART * CHANGES_AT_ONCE).await;
        let quiet = Instant::now();
        views.offer(LogIndex(1002), agreed());
        following.changed().await.unwrap();
        assert_eq!(quiet.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn giving_up_half_way_loses_no_change() {
        let views = views();
        let mut following = views.watch();
        for step in 1..=u64::from(CHANGES_AT_ONCE) + 1 {
            views.offer(LogIndex(step), agreed());
            following.changed().await.unwrap();
        }
        views.offer(LogIndex(100), agreed());
        let soon = tokio::time::timeout(Duration::from_millis(1), following.changed());
        assert!(soon.await.is_err(), "it is slowed down");
        following.changed().await.unwrap();
        assert_eq!(following.borrow_and_update().revision, LogIndex(100));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_index_is_never_slowed_down() {
        let views = views();
        let begun = Instant::now();
        for step in 1..=1000 {
            let wait = views.contains(LogIndex(step));
            views.offer(LogIndex(step), agreed());
            assert!(wait.await);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
