//! Whether a K3s cluster can do without the server on a node that is emptied.
//!
//! Decides: in which words it is said what the others lack to be a majority of its etcd. What etcd is, and
//! that who is silent does not serve, [`Agreed::etcd`] says. Whether anybody insisted is not asked here.

use std::collections::BTreeSet;

use consensus_core::{Agreed, K3sRole, NodeId};

/// Whether its cluster has no other server that works. One that is silent may be heard again in a moment,
/// and is waited for unless somebody insisted.
pub(super) fn is_only_server(agreed: &Agreed, me: &NodeId, heard: &BTreeSet<NodeId>) -> bool {
    let Some(row) = agreed.k3s_nodes.get(me) else {
        return false;
    };
    let insisted = agreed.drains.get(me).is_some_and(|drain| drain.forced);
    let etcd = agreed.etcd(row.cluster).stopped(me);
    match insisted {
        true => etcd.heard(heard).serving.is_empty(),
        false => etcd.serving.is_empty(),
    }
}

/// What is waited for before this node's server may stop; none if the others go on without it, or if it
/// is none that etcd counts.
pub(super) fn others_lack(
    agreed: &Agreed,
    me: &NodeId,
    heard: &BTreeSet<NodeId>,
) -> Option<String> {
    let own = agreed.k3s_nodes.get(me)?;
    if own.role == K3sRole::Agent {
        return None;
    }
    let etcd = agreed.etcd(own.cluster).heard(heard).stopped(me);
    if !etcd.members.contains(me) || etcd.has_majority() {
        return None;
    }
    let missing = etcd.missing().filter(|id| *id != me);
    let missing: Vec<String> = missing.map(|id| lack(agreed, id, heard)).collect();
    let missing = match missing.is_empty() {
        true => "there are too few".to_owned(),
        false => missing.join(", "),
    };
    let cluster = agreed.clusters.get(&own.cluster);
    let cluster = cluster.map_or("its cluster", |cluster| cluster.name.as_str());
    let members = etcd.counted();
    Some(format!(
        "the other servers of {cluster} to be a majority of {members} without it: {missing}"
    ))
}

/// Why a server does not serve.
fn lack(agreed: &Agreed, id: &NodeId, heard: &BTreeSet<NodeId>) -> String {
    let what = match (heard.contains(id), agreed.is_emptied(id)) {
        (false, _) => "is not heard of",
        (true, true) => "is emptied",
        (true, false) => "is not ready",
    };
    format!("{} {what}", agreed.name_of(id))
}

#[cfg(test)]
mod tests {
    use consensus_core::K3sPhase;

    use super::*;
    use crate::mesh::k3s::testing::{emptied, node, of};

    fn lack(agreed: &Agreed, heard: &[usize]) -> Option<String> {
        let heard = heard.iter().map(|n| node(*n)).collect();
        others_lack(agreed, &node(1), &heard)
    }

    #[test]
    fn a_server_may_stop_while_those_that_are_heard_are_a_majority_without_it() {
        for (servers, heard, may) in [
            (1, &[1][..], false),
            (2, &[1, 2], false),
            (3, &[1, 2, 3], true),
            (3, &[1, 2], false),
            (5, &[1, 2, 3, 4], true),
            (5, &[1, 2, 3], false),
        ] {
            let lack = lack(&of(servers), heard);
            assert_eq!(lack.is_none(), may, "{servers}, {heard:?}: {lack:?}");
        }
    }

    #[test]
    fn a_silent_server_is_another_one_unless_somebody_insisted() {
        let (mut agreed, all) = (of(2), BTreeSet::from([node(1), node(2)]));
        let alone = BTreeSet::from([node(1)]);
        emptied(&mut agreed, 1, false);
        assert!(!is_only_server(&agreed, &node(1), &all));
        assert!(!is_only_server(&agreed, &node(1), &alone));
        agreed.drains.get_mut(&node(1)).unwrap().forced = true;
        assert!(!is_only_server(&agreed, &node(1), &all));
        assert!(is_only_server(&agreed, &node(1), &alone));
        // One that only nothing new comes to works; one that is emptied does not.
        emptied(&mut agreed, 2, true);
        assert!(!is_only_server(&agreed, &node(1), &all));
        emptied(&mut agreed, 2, false);
        assert!(is_only_server(&agreed, &node(1), &all));
        assert!(!is_only_server(&agreed, &node(5), &all));
    }

    #[test]
    fn it_is_said_which_server_lacks_what() {
        let mut agreed = of(5);
        let row = agreed.k3s_nodes.get_mut(&node(2)).unwrap();
        row.phase = K3sPhase::Starting;
        emptied(&mut agreed, 3, false);
        emptied(&mut agreed, 4, true);
        let lack = lack(&agreed, &[1, 2, 3, 4]).unwrap();
        for words in [
            "a majority of 5",
            "is not ready",
            "is emptied",
            "is not heard of",
        ] {
            assert!(lack.contains(words), "{lack}");
        }
        assert_eq!(lack.matches(", ").count(), 2, "{lack}");
    }

    #[test]
    fn who_joins_or_leaves_is_not_counted_and_an_agent_is_not_waited_for() {
        let mut agreed = of(4);
        let row = agreed.k3s_nodes.get_mut(&node(4)).unwrap();
        (row.phase, row.version) = (K3sPhase::JoinRequest, None);
        assert_eq!(lack(&agreed, &[1, 2, 3]), None);
        let row = agreed.k3s_nodes.get_mut(&node(4)).unwrap();
        (row.phase, row.version) = (K3sPhase::Leaving, Some("v1.31.2+k3s1".into()));
        assert_eq!(lack(&agreed, &[1, 2, 3, 4]), None);
        let own = agreed.k3s_nodes.get_mut(&node(1)).unwrap();
        own.role = K3sRole::Agent;
        assert_eq!(lack(&agreed, &[]), None);
    }
}
