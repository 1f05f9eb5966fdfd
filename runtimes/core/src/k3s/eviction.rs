//! Which pods leave a node that is emptied.
//!
//! Decides: as `kubectl drain --ignore-daemonsets --delete-emptydir-data --force` does: pods of the
//! node itself and of daemon sets stay, all others are evicted, and so go when their disruption
//! budgets let them. Never: deletes one that its budget keeps.

use std::fmt;

/// Whose a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The node's own: it mirrors a file there, and would come back.
    Node,
    /// A daemon set's: one belongs on every node, this one too.
    DaemonSet,
    /// Anybody else's, or nobody's.
    Other,
}

/// A pod as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Tells it from a later one of the same name.
    pub uid: String,
    /// Whose it is.
    pub owner: Owner,
    /// Whether it has ended.
    pub finished: bool,
    /// Whether it is going already.
    pub leaving: bool,
}

impl fmt::Display for PodView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}/{}", self.namespace, self.name)
    }
}

/// What there is to do about a node's pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evictions {
    /// To be asked to go.
    pub ask: Vec<PodView>,
    /// On their way.
    pub leaving: Vec<PodView>,
}

impl Evictions {
    /// What follows from the pods that are on the node.
    pub fn of(pods: Vec<PodView>) -> Self {
        let moves = |pod: &PodView| pod.owner == Owner::Other;
        let (leaving, ask) = pods.into_iter().filter(moves).partition(|pod| pod.leaving);
        Self { ask, leaving }
    }

    /// Whether the node is empty.
    pub fn is_empty(&self) -> bool {
        self.ask.is_empty() && self.leaving.is_empty()
    }

    /// What is waited for, for people: who is kept, and why, before who is on the way.
    pub fn waits_for(&self, kept: &[(PodView, String)]) -> String {
        match (kept.first(), self.leaving.first()) {
            (Some((pod, why)), _) if kept.len() == 1 => format!("{pod}: {why}"),
            (Some((pod, why)), _) => {
                format!("{} pods, {pod} first: {why}", kept.len())
            }
            (None, Some(pod)) => format!("{pod} to end"),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, owner: Owner) -> PodView {
        PodView {
            namespace: "d".into(),
            name: name.into(),
            uid: name.into(),
            owner,
            finished: false,
            leaving: false,
        }
    }

    #[test]
    fn what_belongs_on_the_node_stays_and_the_rest_goes() {
        let going = PodView {
            leaving: true,
            ..pod("going", Owner::Other)
        };
        let ended = PodView {
            finished: true,
            ..pod("ended", Owner::Other)
        };
        let evictions = Evictions::of(vec![
            pod("static", Owner::Node),
            pod("flannel", Owner::DaemonSet),
            pod("web", Owner::Other),
            going.clone(),
            ended.clone(),
        ]);
        assert_eq!(evictions.ask, [pod("web", Owner::Other), ended]);
        assert_eq!(evictions.leaving, [going]);
        let only = vec![pod("static", Owner::Node), pod("flannel", Owner::DaemonSet)];
        assert!(Evictions::of(only).is_empty());
    }

    #[test]
    fn a_stall_says_which_pod_and_why() {
        let web = pod("web", Owner::Other);
        let none = Evictions::default();
        let kept = vec![(web.clone(), "its budget".to_owned())];
        assert_eq!(none.waits_for(&kept), "pod d/web: its budget");
        let two = [kept.clone(), kept].concat();
        assert_eq!(none.waits_for(&two), "2 pods, pod d/web first: its budget");
        let leaving = Evictions {
            leaving: vec![web],
            ..none
        };
        assert_eq!(leaving.waits_for(&[]), "pod d/web to end");
    }
}
