//! How virtual IPs are shown.

use comfy_table::Table;
use node_api::types::{VipCandidate, VipDetails, VipMoveView, VipView};

use crate::table::{NOTHING, facts, or_nothing, table, utc};

pub(super) fn list(vips: &[VipView]) -> Table {
    let headings = [
        "NAME",
        "NETWORK",
        "ADDRESS",
        "HOLDER",
        "EPOCH",
        "STATE",
        "CANDIDATES",
    ];
    let rows = vips.iter().map(|vip| {
        vec![
            vip.name.clone(),
            vip.network.clone(),
            vip.address.to_string(),
            or_nothing(vip.holder.as_ref()),
            vip.epoch.to_string(),
            vip.state.clone(),
            vip.candidates.join(","),
        ]
    });
    table(&headings, rows)
}

pub(super) fn show(details: &VipDetails) -> String {
    let vip = &details.vip;
    let mut known = facts(&[
        ("Name", vip.name.clone()),
        ("Id", details.id.clone()),
        ("Network", vip.network.clone()),
        ("Address", vip.address.to_string()),
        ("State", state(details)),
        ("Holder", or_nothing(vip.holder.as_ref())),
        ("Epoch", vip.epoch.to_string()),
        ("Lease left", lease_left(details)),
        ("Lease voters", voters(details)),
        ("Profile", details.profile.clone()),
        ("Check", check(details)),
    ]);
    known += &format!("\n{}", candidates(&details.readiness).trim_fmt());
    if !details.moves.is_empty() {
        known += &format!("\n\n{}", moves(&details.moves).trim_fmt());
    }
    known
}

fn state(details: &VipDetails) -> String {
    let state = &details.vip.state;
    match details.wanted_on.as_deref() {
        None => state.clone(),
        Some("*") => format!("{state}, to the next candidate that is ready"),
        Some(node) => format!("{state}, to {node}"),
    }
}

fn lease_left(details: &VipDetails) -> String {
    let by = match details.held_by.as_deref() {
        Some("lifetime") => ", held by the address's lifetime alone",
        Some(_) | None => "",
    };
    match (&details.vip.holder, details.lease_left_ms, details.open) {
        (_, Some(ms), Some(false)) => format!("{ms} ms, and not open yet"),
        (_, Some(ms), _) => format!("{ms} ms{by}"),
        (Some(holder), None, _) => format!("unknown: {holder} does not tell"),
        (None, None, _) => NOTHING.into(),
    }
}

fn voters(details: &VipDetails) -> String {
    let now = details.lease_voters.join(", ");
    match &details.lease_voters_next {
        Some(next) => format!("{now}; soon {}", next.join(", ")),
        None => now,
    }
}

fn check(details: &VipDetails) -> String {
    match (&details.check, details.check_interval_ms) {
        (Some(check), Some(ms)) => format!("{check}, every {ms} ms"),
        (check, _) => or_nothing(check.as_ref()),
    }
}

fn candidates(candidates: &[VipCandidate]) -> Table {
    let rows = candidates.iter().map(|candidate| {
        let fit = if candidate.fit { "yes" } else { "no" };
        vec![
            candidate.node.clone(),
            fit.into(),
            or_nothing(candidate.reason.as_ref()),
            or_nothing(candidate.since_ms.map(utc).as_ref()),
        ]
    });
    table(&["CANDIDATE", "FIT", "REASON", "SAID"], rows)
}

fn moves(moves: &[VipMoveView]) -> Table {
    let rows = moves.iter().map(|done| {
        vec![
            utc(done.at_ms),
            or_nothing(done.from.as_ref()),
            or_nothing(done.to.as_ref()),
            done.epoch.to_string(),
            or_nothing(done.outage_us.map(milliseconds).as_ref()),
            done.reason.clone(),
        ]
    });
    table(&["MOVED", "FROM", "TO", "EPOCH", "OUTAGE", "REASON"], rows)
}

/// With the first decimal.
pub(super) fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> VipDetails {
        VipDetails {
            vip: VipView {
                name: "web".into(),
                network: "default".into(),
                address: "fd00::a".parse().unwrap(),
                holder: Some("n2".into()),
                epoch: 3,
                state: "held".into(),
                candidates: vec!["n1".into(), "n2".into()],
            },
            id: "00112233445566778899aabbccddeeff".into(),
            profile: "lan".into(),
            check: Some("https:6443/readyz".into()),
            check_interval_ms: Some(1000),
            check_timeout_ms: Some(1000),
            lease_left_ms: Some(371),
            open: Some(true),
            held_by: Some("nftables".into()),
            lease_voters: vec!["n1".into(), "n2".into(), "n3".into()],
            lease_voters_next: None,
            wanted_on: None,
            readiness: vec![
                VipCandidate {
                    node: "n1".into(),
                    fit: false,
                    reason: Some("not ready: connection refused".into()),
                    since_ms: Some(1_700_000_000_000),
                },
                VipCandidate {
                    node: "n2".into(),
                    fit: true,
                    reason: None,
                    since_ms: None,
                },
            ],
            moves: vec![VipMoveView {
                from: Some("n1".into()),
                to: Some("n2".into()),
                epoch: 3,
                reason: "its check failed: connection refused".into(),
                at_ms: 1_700_000_000_000,
                outage_us: Some(31_480),
            }],
        }
    }

    fn nobodys() -> VipDetails {
        let mut vip = web();
        vip.vip.holder = None;
        vip.vip.state = "unheld".into();
        vip.check = None;
        vip.check_interval_ms = None;
        vip.lease_left_ms = None;
        vip.open = None;
        vip.held_by = None;
        vip.lease_voters_next = Some(vec!["n4".into()]);
        vip.wanted_on = Some("n1".into());
        vip.moves.clear();
        vip
    }

    #[test]
    fn a_virtual_ip_is_shown_with_its_candidates_and_moves() {
        insta::assert_snapshot!(show(&web()), @r"
        Name:         web
        Id:           00112233445566778899aabbccddeeff
        Network:      default
        Address:      fd00::a
        State:        held
        Holder:       n2
        Epoch:        3
        Lease left:   371 ms
        Lease voters: n1, n2, n3
        Profile:      lan
        Check:        https:6443/readyz, every 1000 ms

        CANDIDATE  FIT  REASON                         SAID
        n1         no   not ready: connection refused  2023-11-14 22:13 UTC
        n2         yes  -                              -

        MOVED                 FROM  TO  EPOCH  OUTAGE   REASON
        2023-11-14 22:13 UTC  n1    n2  3      31.4 ms  its check failed: connection refused
        ");
        insta::assert_snapshot!(show(&nobodys()), @r"
        Name:         web
        Id:           00112233445566778899aabbccddeeff
        Network:      default
        Address:      fd00::a
        State:        unheld, to n1
        Holder:       -
        Epoch:        3
        Lease left:   -
        Lease voters: n1, n2, n3; soon n4
        Profile:      lan
        Check:        -

        CANDIDATE  FIT  REASON                         SAID
        n1         no   not ready: connection refused  2023-11-14 22:13 UTC
        n2         yes  -                              -
        ");
    }

    #[test]
    fn what_the_holder_says_of_its_lease_is_told_and_its_silence_too() {
        assert_eq!(lease_left(&web()), "371 ms");
        let mut opening = web();
        opening.open = Some(false);
        assert_eq!(lease_left(&opening), "371 ms, and not open yet");
        let mut alone = web();
        alone.held_by = Some("lifetime".into());
        assert_eq!(
            lease_left(&alone),
            "371 ms, held by the address's lifetime alone"
        );
        let mut silent = web();
        (silent.lease_left_ms, silent.open, silent.held_by) = (None, None, None);
        assert_eq!(lease_left(&silent), "unknown: n2 does not tell");
    }

    #[test]
    fn the_list_has_one_line_for_each() {
        let vips = [web().vip, nobodys().vip];
        insta::assert_snapshot!(list(&vips).trim_fmt(), @r"
        NAME  NETWORK  ADDRESS  HOLDER  EPOCH  STATE   CANDIDATES
        web   default  fd00::a  n2      3      held    n1,n2
        web   default  fd00::a  -       3      unheld  n1,n2
        ");
    }
}
