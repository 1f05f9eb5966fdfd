//! The pods of a node that is emptied: none come any more, and those that are there go.
//!
//! Decides: when the cluster is asked again. Which pods go, and that their disruption budgets are
//! kept, `runtimes_core::k3s::eviction` says; whose leaving is waited for, `runtimes_core::drain::residents`.
//! Never: lets pods come to a node that somebody else has cordoned: only what is [marked](Mark) is undone.

use std::{sync::Arc, time::Duration};

use consensus_core::{Agreed, Drain, K3sNode, K3sPhase, K3sRole, LogIndex};
use runtimes_core::drain::{Left, PodOrder, residents::Residents};
use runtimes_k3s::{ClusterApi, K3sRuntime, Paths, evict_once};
use tokio::{sync::watch, time::sleep};

use super::mark::{CordonError, Mark};
use crate::mesh::{Host, overlay::with_sources, proposer::Proposer};

/// A pod's budget is asked again, and an API that did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Somebody may let pods come to a node that is empty.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What is to become of the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Not known yet.
    Unknown,
    /// They come and go.
    Free,
    /// As this drain wants it.
    Ordered(LogIndex, PodOrder),
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PodsSeen {
    /// What is done.
    done: Option<(LogIndex, PodOrder)>,
    /// What is waited for, in words.
    waits_for: String,
    /// Who has come after those that had to go, and stays, in words.
    stays: String,
}

impl PodsSeen {
    /// Who is not waited for, though the node has been emptied for this drain.
    pub(super) fn stays(&self, drain: &Drain) -> Option<String> {
        let emptied = self.done == Some((drain.begun, PodOrder::Evict));
        (emptied && !self.stays.is_empty()).then(|| self.stays.clone())
    }

    /// What is left for a drain.
    pub(super) fn left(&self, drain: &Drain) -> Left {
        let done = match (self.done, drain.cordon_only) {
            (Some((of, PodOrder::Evict)), _) | (Some((of, PodOrder::Cordon)), true) => {
                of == drain.begun
            }
            (Some((_, PodOrder::Cordon)), false) | (None, _) => false,
        };
        match (done, self.waits_for.as_str()) {
            (true, _) => Left::Nothing,
            (false, "") => Left::Waits("its pods to go".to_owned()),
            (false, words) => Left::Waits(words.to_owned()),
        }
    }
}

/// Whose leaving is waited for, in which drain. Not kept over a restart of the daemon: the next one takes
/// those for residents that it finds.
#[derive(Debug, Default)]
struct Emptying {
    of: Option<LogIndex>,
    residents: Residents,
}

impl Emptying {
    /// Those of this drain.
    fn of(&mut self, drain: LogIndex) -> &mut Residents {
        if self.of != Some(drain) {
            *self = Self {
                of: Some(drain),
                residents: Residents::default(),
            };
        }
        &mut self.residents
    }

    /// Who has come to this drain's node since it was closed, in words.
    fn who_came(&self, drain: LogIndex) -> String {
        match self.of == Some(drain) {
            true => self.residents.who_came(),
            false => String::new(),
        }
    }
}

/// What the task remembers between two looks.
struct Known {
    mark: Mark,
    emptying: Emptying,
}

/// The task's inputs.
pub(super) struct Pods {
    pub(super) host: Arc<Host>,
    pub(super) proposer: Proposer,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) seen: watch::Sender<PodsSeen>,
}

impl Pods {
    /// Runs until it is aborted, or nobody wants anything any more.
    pub(super) async fn run(mut self) {
        let runtime = K3sRuntime::new(Paths::under(self.host.data.root()));
        let mut known = Known {
            mark: Mark::below(self.host.data.root()),
            emptying: Emptying::default(),
        };
        let mut view = self.proposer.views.watch();
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let agreed = view.borrow_and_update().agreed.clone();
            let outcome = match wanted {
                Wanted::Unknown => Ok(None),
                Wanted::Free => self
                    .set_free(&runtime, &mut known.mark, &agreed)
                    .await
                    .map(|()| None),
                Wanted::Ordered(drain, order) => {
                    self.carry_out(&runtime, &mut known, &agreed, (drain, order))
                        .await
                }
            };
            let waits_for = match outcome {
                Ok(waits_for) => waits_for,
                Err(error) => Some(with_sources(&error)),
            };
            let pause = match waits_for {
                Some(_) => ASK_AGAIN,
                None => LOOK_AGAIN,
            };
            self.publish(seen(wanted, waits_for, &known.emptying));
            // All arms only wait. Of views only those matter in which K3s comes or goes.
            let open = tokio::select! {
                changed = self.wanted.changed() => changed.is_ok(),
                () = came_or_went(&mut view, &agreed, &self.proposer) => true,
                () = sleep(pause) => true,
            };
            if !open {
                return;
            }
        }
    }

    fn publish(&self, seen: PodsSeen) {
        self.seen.send_if_modified(|present| {
            let differs = *present != seen;
            *present = seen;
            differs
        });
    }

    fn row<'a>(&self, agreed: &'a Agreed) -> Option<&'a K3sNode> {
        agreed.k3s_nodes.get(&self.proposer.me)
    }

    /// What is waited for; none once it is done, or where there is nothing to do.
    async fn carry_out(
        &self,
        runtime: &K3sRuntime,
        known: &mut Known,
        agreed: &Agreed,
        (drain, order): (LogIndex, PodOrder),
    ) -> Result<Option<String>, CordonError> {
        let Some(row) = self.row(agreed).filter(|row| row.has_been_ready()) else {
            return Ok(None);
        };
        let emptied = self.seen.borrow().done == Some((drain, PodOrder::Evict));
        if row.phase == K3sPhase::Drained || (emptied && row.role == K3sRole::Server) {
            // A server stops once it is emptied, and answers nobody then.
            return Ok(None);
        }
        let name = agreed.name_of(&self.proposer.me);
        let api = runtime.api(row.role).await?;
        if cordon(&api, &mut known.mark, &name).await? {
            // Who has come before this was no guest.
            known.emptying = Emptying::default();
        }
        match order {
            PodOrder::Cordon => Ok(None),
            PodOrder::Evict => evict(&api, known.emptying.of(drain), &name).await,
        }
    }

    /// Undoes what a drain did.
    async fn set_free(
        &self,
        runtime: &K3sRuntime,
        mark: &mut Mark,
        agreed: &Agreed,
    ) -> Result<(), CordonError> {
        if !mark.is_set() {
            return Ok(());
        }
        let Some(row) = self.row(agreed) else {
            return mark.uncordon(None::<std::future::Ready<_>>).await;
        };
        let name = agreed.name_of(&self.proposer.me);
        let api = runtime.api(row.role).await?;
        mark.uncordon(Some(api.cordon(&name, false))).await
    }
}

/// How far it is, after a look that waits for this.
fn seen(wanted: Wanted, waits_for: Option<String>, emptying: &Emptying) -> PodsSeen {
    let done = match (wanted, &waits_for) {
        (Wanted::Ordered(drain, order), None) => Some((drain, order)),
        (Wanted::Ordered(..), Some(_)) | (Wanted::Unknown | Wanted::Free, _) => None,
    };
    PodsSeen {
        done,
        waits_for: waits_for.unwrap_or_default(),
        stays: done.map_or_else(String::new, |(drain, _)| emptying.who_came(drain)),
    }
}

/// Keeps new pods away. Whether that was not so before.
async fn cordon(api: &ClusterApi, mark: &mut Mark, name: &str) -> Result<bool, CordonError> {
    let node = api.node(name).await?;
    if node.is_none_or(|node| node.cordoned) {
        return Ok(false);
    }
    mark.cordon(api.cordon(name, true)).await?;
    Ok(true)
}

/// Asks once for what has to go. What is waited for; none once nobody is left who was there before.
async fn evict(
    api: &ClusterApi,
    residents: &mut Residents,
    name: &str,
) -> Result<Option<String>, CordonError> {
    let came_before = residents.who_came();
    let waits_for = evict_once(api, name, residents).await?;
    let came = residents.who_came();
    if !came.is_empty() && came != came_before {
        tracing::warn!(reason = came, "a pod stays on this node, which is emptied");
    }
    Ok(waits_for)
}

/// Waits until this node's K3s is in another phase.
async fn came_or_went(
    view: &mut crate::mesh::views::Following,
    before: &Agreed,
    proposer: &Proposer,
) {
    let phase = |agreed: &Agreed| {
        let row = agreed.k3s_nodes.get(&proposer.me);
        row.map(|row| row.phase.clone())
    };
    let before = phase(before);
    loop {
        if view.changed().await.is_err() {
            return std::future::pending().await;
        }
        if phase(&view.borrow_and_update().agreed) != before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::{DrainState, WallMs};
    use runtimes_core::k3s::eviction::{Owner, PodView};

    use super::*;

    fn pod(uid: &str) -> PodView {
        PodView {
            namespace: "d".into(),
            name: "web".into(),
            uid: uid.into(),
            owner: Owner::Other,
            finished: false,
            leaving: false,
        }
    }

    #[test]
    fn who_came_and_is_not_waited_for_is_told_once_the_node_counts_as_empty() {
        let drain = |begun: u64| Drain {
            begun: LogIndex(begun),
            at: WallMs(0),
            timeout_ms: 60_000,
            cordon_only: false,
            state: DrainState::Draining {
                waits_for: String::new(),
            },
            forced: false,
        };
        let mut emptying = Emptying::default();
        for uid in ["a", "b", "c"] {
            emptying.of(LogIndex(7)).handle_listing(vec![pod(uid)]);
        }
        let ordered = |begun| Wanted::Ordered(LogIndex(begun), PodOrder::Evict);
        let waits = seen(ordered(7), Some("pods to end".into()), &emptying);
        assert_eq!(waits.stays(&drain(7)), None);
        let done = seen(ordered(7), None, &emptying);
        let words = "pod d/web came after the cordon, and stays";
        assert_eq!(done.stays(&drain(7)).as_deref(), Some(words));
        assert_eq!(done.left(&drain(7)), Left::Nothing);
        // Of another drain that says nothing.
        assert_eq!(done.stays(&drain(9)), None);
        assert_eq!(seen(ordered(9), None, &emptying).stays(&drain(9)), None);
        let cordoned = Wanted::Ordered(LogIndex(7), PodOrder::Cordon);
        assert_eq!(seen(cordoned, None, &emptying).stays(&drain(7)), None);
    }

    #[test]
    fn another_drain_is_about_those_that_it_finds() {
        let mut emptying = Emptying::default();
        for uid in ["a", "b"] {
            let evictions = emptying.of(LogIndex(7)).handle_listing(vec![pod(uid)]);
            assert_eq!(evictions.ask, [pod(uid)]);
        }
        let evictions = emptying.of(LogIndex(7)).handle_listing(vec![pod("c")]);
        assert!(evictions.is_empty());
        let evictions = emptying.of(LogIndex(9)).handle_listing(vec![pod("c")]);
        assert_eq!(evictions.ask, [pod("c")]);
    }
}
