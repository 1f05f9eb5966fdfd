//! How far a revocation has been carried out, in words.

use node_api::types::{Enforcement, Revoked};

/// `0.21 s`
fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

/// `revoked 3 certificates; enforced on 11 of 11 nodes, the last after 0.21 s`, and who has not
/// and why.
pub(crate) fn words(revoked: &Revoked) -> String {
    let count = match revoked.serials.len() {
        0 => "no certificate".into(),
        1 => "1 certificate".into(),
        many => format!("{many} certificates"),
    };
    let mut text = format!("revoked {count}; {}\n", reach(&revoked.enforcement));
    let waiting = revoked.enforcement.each.iter();
    for node in waiting.filter(|node| node.after_ms.is_none()) {
        let reason = node.reason.as_deref().unwrap_or("it has not said so yet");
        text += &format!("  not on {}: {reason}\n", node.node);
    }
    text
}

fn reach(enforcement: &Enforcement) -> String {
    let Enforcement {
        nodes,
        enforced,
        last_ms,
        ..
    } = enforcement;
    let noun = if *nodes == 1 { "node" } else { "nodes" };
    match (nodes, last_ms) {
        (0, _) => "there is no node left to enforce it".into(),
        (_, Some(last_ms)) => {
            let last = seconds(*last_ms);
            format!("enforced on {enforced} of {nodes} {noun}, the last after {last}")
        }
        (_, None) => format!("enforced on {enforced} of {nodes} {noun}"),
    }
}

#[cfg(test)]
mod tests {
    use node_api::types::EnforcedBy;

    use super::*;

    fn by(node: &str, after_ms: Option<u64>, reason: Option<&str>) -> EnforcedBy {
        EnforcedBy {
            node: node.into(),
            after_ms,
            reason: reason.map(Into::into),
        }
    }

    fn revoked(serials: usize, each: Vec<EnforcedBy>) -> Revoked {
        let enforced = each.iter().filter(|by| by.after_ms.is_some());
        Revoked {
            serials: vec!["0a".into(); serials],
            enforcement: Enforcement {
                nodes: each.len() as u64,
                enforced: enforced.count() as u64,
                last_ms: each.iter().filter_map(|by| by.after_ms).max(),
                each,
            },
            ..Revoked::default()
        }
    }

    #[test]
    fn a_revocation_that_is_everywhere_is_one_line() {
        let each = (0..11)
            .map(|at| by("n", Some(at * 20 + 10), None))
            .collect();
        assert_eq!(
            words(&revoked(3, each)),
            "revoked 3 certificates; enforced on 11 of 11 nodes, the last after 0.21 s\n"
        );
    }

    #[test]
    fn who_has_not_enforced_it_is_named_with_why() {
        let each = vec![
            by("n1", Some(1_205), None),
            by("n2", None, Some("not heard of for 3 min")),
            by("n3", None, None),
        ];
        insta::assert_snapshot!(words(&revoked(1, each)), @r"
        revoked 1 certificate; enforced on 1 of 3 nodes, the last after 1.20 s
          not on n2: not heard of for 3 min
          not on n3: it has not said so yet
        ");
    }

    #[test]
    fn nothing_to_revoke_and_nobody_to_enforce_it_are_said() {
        assert_eq!(
            words(&revoked(0, vec![])),
            "revoked no certificate; there is no node left to enforce it\n"
        );
        let nobody_yet = words(&revoked(1, vec![by("n1", None, None)]));
        assert!(
            nobody_yet.starts_with("revoked 1 certificate; enforced on 0 of 1 node\n"),
            "{nobody_yet}"
        );
    }
}
