//! Which certificates want a successor now, and whose coming end is to be told.
//!
//! Decides from the agreed state and a time alone. A leaf's ordinary renewal at two thirds of its
//! life, with jitter, is its holder's; here are the reasons that do not wait for it: its issuer is
//! gone, or the root above it.

use std::collections::BTreeMap;

use crate::{
    Agreed, CertificateProfile, CertificateRecord, ExpiringCertificate, Holder, Intermediate,
    NodeId, Role, RootState, WallMs, limits::DAY_MS, rotation::root_state,
};

/// A root's end is told a year before: time for the rotation of a mesh that nobody looks at often.
const ROOT_WARNING_MS: u64 = 365 * DAY_MS;

/// Why a leaf is to be renewed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RenewalReason {
    /// It is not remembered: it ended, or its root was dropped.
    Missing,
    /// No verifier accepts it any more.
    Revoked,
    /// The server that signed it is none any more.
    IssuerRetired,
    /// Its root is on its way out.
    RootOutgoing,
}

impl RenewalReason {
    /// The words for a log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "no certificate in force is remembered",
            Self::Revoked => "it is revoked",
            Self::IssuerRetired => "the server that signed it is none any more",
            Self::RootOutgoing => "its root is being replaced",
        }
    }
}

/// Why the leaf with this serial number is to be renewed at once, if it is.
pub fn renewal_reason(agreed: &Agreed, serial: &str, now: WallMs) -> Option<RenewalReason> {
    match agreed.certificates.get(serial) {
        Some(record) => reason_of(agreed, record, now),
        None if agreed.revoked.contains_key(serial) => Some(RenewalReason::Revoked),
        None => Some(RenewalReason::Missing),
    }
}

fn reason_of(agreed: &Agreed, record: &CertificateRecord, now: WallMs) -> Option<RenewalReason> {
    if record.not_after <= now {
        return Some(RenewalReason::Missing);
    }
    match agreed.authority.intermediates.get(&record.issuer) {
        None => Some(RenewalReason::Revoked),
        Some(issuer) if issuer.retired => Some(RenewalReason::IssuerRetired),
        Some(_) => (root_state(agreed, record) == Some(RootState::Outgoing))
            .then_some(RenewalReason::RootOutgoing),
    }
}

/// The node's leaves that are to be renewed at once, by what they are for: its identity, and
/// whatever else it has had. Of several for one purpose the newest counts.
pub fn certificates_due(
    agreed: &Agreed,
    node: &NodeId,
    now: WallMs,
) -> BTreeMap<CertificateProfile, RenewalReason> {
    if !agreed.nodes.contains_key(node) {
        return BTreeMap::new();
    }
    let holder = Holder::Node(node.clone());
    let mut newest: BTreeMap<CertificateProfile, (&String, &CertificateRecord)> = BTreeMap::new();
    for (serial, record) in &agreed.certificates {
        // A docker client's certificate is handed out; its next is asked for by who uses it.
        if record.holder != holder || record.profile == CertificateProfile::DockerClient {
            continue;
        }
        let age = |(serial, record): (&String, &CertificateRecord)| {
            (record.not_before, record.not_after, serial.clone())
        };
        let known = newest.entry(record.profile).or_insert((serial, record));
        if age((serial, record)) > age(*known) {
            *known = (serial, record);
        }
    }
    let mut due: BTreeMap<_, _> = newest
        .iter()
        .filter_map(|(profile, (_, record))| Some((*profile, reason_of(agreed, record, now)?)))
        .collect();
    if !newest.contains_key(&CertificateProfile::Node) {
        let revoked = agreed
            .revoked
            .values()
            .any(|row| row.holder == holder && row.profile == Some(CertificateProfile::Node));
        let reason = if revoked {
            RenewalReason::Revoked
        } else {
            RenewalReason::Missing
        };
        due.insert(CertificateProfile::Node, reason);
    }
    due
}

/// Why a server is to make itself a new intermediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IntermediateReason {
    /// It has none in force under the root that issues.
    Missing,
    /// Two thirds of its life are over.
    Aged,
}

/// Whether the server is to make itself a new intermediate now, and why; none for an agent.
pub fn intermediate_due(agreed: &Agreed, node: &NodeId, now: WallMs) -> Option<IntermediateReason> {
    let is_server = |node: &crate::Node| node.role == Role::Server;
    agreed.nodes.get(node).filter(|node| is_server(node))?;
    let Some((_, own)) = agreed.signing_intermediate(node, now) else {
        return Some(IntermediateReason::Missing);
    };
    is_past(own.not_before, own.not_after, (2, 3), now).then_some(IntermediateReason::Aged)
}

/// Whether so great a part of a certificate's life is over.
fn is_past(from: WallMs, to: WallMs, (part, of): (u64, u64), now: WallMs) -> bool {
    let life = u128::from(to.0.saturating_sub(from.0));
    let lived = u128::from(now.0.saturating_sub(from.0));
    lived * u128::from(of) >= life * u128::from(part)
}

/// A certificate that nears its end without a successor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpiryWarning {
    /// Which.
    pub certificate: ExpiringCertificate,
    /// Whose; none for a root.
    pub holder: Option<Holder>,
    /// When it ends.
    pub not_after: WallMs,
}

/// The certificates that near their end without a successor and of which that was not told yet.
///
/// Renewal comes at two thirds of a life; at five sixths as much time has passed again in vain as
/// is left. A root is replaced by an operator, who is told a year before.
pub fn expiry_warnings(agreed: &Agreed, now: WallMs) -> Vec<ExpiryWarning> {
    let told = &agreed.authority.warned;
    let mut warnings: Vec<_> = leaves_ending(agreed, now)
        .chain(intermediates_ending(agreed, now))
        .chain(roots_ending(agreed, now))
        .collect();
    warnings.retain(|warning| warning.not_after > now && !told.contains(&warning.certificate));
    warnings
}

fn leaves_ending(agreed: &Agreed, now: WallMs) -> impl Iterator<Item = ExpiryWarning> {
    let mut last: BTreeMap<_, WallMs> = BTreeMap::new();
    for record in agreed.certificates.values() {
        let end = last.entry((&record.holder, record.profile)).or_default();
        *end = record.not_after.max(*end);
    }
    let leaves = agreed.certificates.iter();
    leaves
        // Whoever uses a docker client fetches the next when he needs one.
        .filter(|(_, record)| record.profile != CertificateProfile::DockerClient)
        .filter(move |(_, record)| {
            is_past(record.not_before, record.not_after, (5, 6), now)
                && last[&(&record.holder, record.profile)] == record.not_after
        })
        .map(|(serial, record)| ExpiryWarning {
            certificate: ExpiringCertificate::Leaf(serial.clone()),
            holder: Some(record.holder.clone()),
            not_after: record.not_after,
        })
}

/// A retired one needs no successor.
fn intermediates_ending(agreed: &Agreed, now: WallMs) -> impl Iterator<Item = ExpiryWarning> {
    let rows = &agreed.authority.intermediates;
    let is_last = |row: &Intermediate| {
        let same = rows.values().filter(|other| other.node == row.node);
        same.map(|other| other.not_after).max() == Some(row.not_after)
    };
    rows.iter()
        .filter(move |(_, row)| {
            !row.retired && is_past(row.not_before, row.not_after, (5, 6), now) && is_last(row)
        })
        .map(|(serial, row)| ExpiryWarning {
            certificate: ExpiringCertificate::Intermediate(serial.clone()),
            holder: Some(Holder::Node(row.node.clone())),
            not_after: row.not_after,
        })
}

/// One that is on its way out needs none either.
fn roots_ending(agreed: &Agreed, now: WallMs) -> impl Iterator<Item = ExpiryWarning> {
    let ends_soon = move |end: WallMs| end.0 <= now.0.saturating_add(ROOT_WARNING_MS);
    let roots = agreed.authority.roots.iter();
    roots
        .filter(move |root| root.state == RootState::Active && ends_soon(root.not_after))
        .map(|root| ExpiryWarning {
            certificate: ExpiringCertificate::Root(root.fingerprint()),
            holder: None,
            not_after: root.not_after,
        })
}
