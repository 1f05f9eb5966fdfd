//! Leaves: which are remembered, which are no longer accepted, which no longer matter.
//!
//! Invariants: no serial number is both remembered and revoked, and none ever changes its record;
//! every remembered leaf was signed by an intermediate that is remembered too; a retired
//! intermediate that no leaf names is revoked.

use std::collections::BTreeSet;

use super::{Change, done, invalid, too_large};
use crate::{
    Agreed, Applied, CertificateProfile, CertificateRecord, EventKind, ExpiringCertificate, Holder,
    Intermediate, NewCertificate, NodeId, Refusal, Revoked, WallMs,
    limits::{
        CERTIFICATES_MAX, CERTIFICATES_PER_HOLDER_MAX, DAY_MS, OPERATOR_LEAF_LIFE_MS_MAX,
        SERIAL_CHARS_MAX,
    },
};

/// How long after its end a certificate is remembered, revoked or not: a verifier whose clock is
/// a day slow still takes it for valid, and so may a server be whose command tells the time here.
const KEPT_AFTER_END_MS: u64 = DAY_MS;

/// Whether a certificate that ends then may still be taken for valid by somebody.
pub(super) fn matters(not_after: WallMs, now: WallMs) -> bool {
    not_after.0.saturating_add(KEPT_AFTER_END_MS) >= now.0
}

/// Whether `actor` may have signed this leaf, and it may be remembered. Changes nothing.
pub(super) fn check(
    change: &Change<'_>,
    actor: &NodeId,
    certificate: &NewCertificate,
) -> Result<(), Refusal> {
    change.require_server(actor)?;
    let serial = &certificate.record.issuer;
    let unusable = |reason: &str| Refusal::IntermediateUnusable {
        serial: super::excerpt(serial),
        reason: reason.into(),
    };
    let agreed = change.agreed();
    match agreed.authority.intermediates.get(serial) {
        None if agreed.revoked.contains_key(serial) => Err(unusable("it is revoked")),
        None => Err(unusable("it is not remembered")),
        Some(by) if by.node != *actor => Err(unusable("it is another server's")),
        Some(by) if by.retired => Err(unusable("it is retired")),
        Some(by) => check_under(change, certificate, by),
    }
}

/// Whether a leaf may be remembered as one that this intermediate signed. Changes nothing.
pub(super) fn check_under(
    change: &Change<'_>,
    certificate: &NewCertificate,
    issuer: &Intermediate,
) -> Result<(), Refusal> {
    let NewCertificate { serial, record } = certificate;
    let agreed = change.agreed();
    let known = agreed.certificates.get(serial);
    if known.is_none_or(|known| known != record) {
        check_serial(agreed, serial)?;
    }
    // One that ended so long ago is forgotten by the very command that would record its leaf.
    if !matters(issuer.not_after, change.time) {
        return Err(Refusal::IntermediateUnusable {
            serial: super::excerpt(&record.issuer),
            reason: "it has ended".into(),
        });
    }
    check_holder(certificate)?;
    check_window(record, issuer)?;
    check_room(change, record)
}

/// Whether a serial number is one, and no certificate has it yet.
pub(super) fn check_serial(agreed: &Agreed, serial: &str) -> Result<(), Refusal> {
    let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let well_formed =
        (1..=SERIAL_CHARS_MAX).contains(&serial.len()) && serial.chars().all(hexadecimal);
    if !well_formed {
        let rule = "1 to 40 hexadecimal digits in lower case";
        return Err(invalid("serial number", serial, rule));
    }
    let used = agreed.revoked.contains_key(serial)
        || agreed.certificates.contains_key(serial)
        || agreed.authority.intermediates.contains_key(serial);
    if used {
        let rule = "one that no other certificate has";
        return Err(invalid("serial number", serial, rule));
    }
    Ok(())
}

/// Nodes hold nodes' certificates and operators their own; a docker CLI may be either's.
fn check_holder(certificate: &NewCertificate) -> Result<(), Refusal> {
    let record = &certificate.record;
    let fits = match record.profile {
        CertificateProfile::Node
        | CertificateProfile::DockerServer
        | CertificateProfile::Browser => matches!(record.holder, Holder::Node(_)),
        CertificateProfile::Operator => matches!(record.holder, Holder::Operator(_)),
        CertificateProfile::DockerClient => true,
    };
    if fits {
        return Ok(());
    }
    let rule = "a profile that its holder can have";
    Err(invalid("profile", record.profile.as_str(), rule))
}

/// A leaf lives within its intermediate. An operator's outlives it by weeks: it begins within it,
/// ends by itself, and every use of it is looked up here anyway (RFC 5280 has one time of judgement
/// for the whole chain; this is the chain model of ISIS-MTT, part 5).
fn check_window(record: &CertificateRecord, issuer: &Intermediate) -> Result<(), Refusal> {
    let end = match record.profile {
        CertificateProfile::Operator => WallMs(
            record
                .not_before
                .0
                .saturating_add(OPERATOR_LEAF_LIFE_MS_MAX),
        ),
        CertificateProfile::Node
        | CertificateProfile::DockerServer
        | CertificateProfile::DockerClient
        | CertificateProfile::Browser => issuer.not_after,
    };
    let within = issuer.not_before <= record.not_before
        && record.not_before < record.not_after
        && record.not_before < issuer.not_after
        && record.not_after <= end;
    if within {
        return Ok(());
    }
    let text = format!("{} to {} ms", record.not_before.0, record.not_after.0);
    Err(invalid(
        "validity",
        &text,
        "within that of its intermediate",
    ))
}

fn check_room(change: &Change<'_>, record: &CertificateRecord) -> Result<(), Refusal> {
    let (agreed, now) = (change.agreed(), change.time);
    let kept = || {
        let kept = agreed.certificates.values();
        kept.filter(|known| matters(known.not_after, now))
    };
    let revoked = agreed.revoked.values();
    let revoked = revoked.filter(|known| matters(known.not_after, now));
    if kept().count() + revoked.count() >= CERTIFICATES_MAX {
        return Err(too_large("the number of certificates", CERTIFICATES_MAX));
    }
    let same = kept().filter(|known| known.holder == record.holder);
    if same.count() >= CERTIFICATES_PER_HOLDER_MAX {
        let limit = CERTIFICATES_PER_HOLDER_MAX;
        return Err(too_large("the number of certificates of one holder", limit));
    }
    Ok(())
}

/// Remembers a checked leaf. Called in a server's commands only, so that it is a server's clock
/// that says which others have ended.
pub(super) fn record(change: &mut Change<'_>, certificate: &NewCertificate) {
    forget_ended(change);
    let NewCertificate { serial, record } = certificate.clone();
    change.agreed_mut().certificates.insert(serial, record);
}

/// Forgets what ended more than a day ago.
pub(super) fn forget_ended(change: &mut Change<'_>) {
    let now = change.time;
    let certificates = &mut change.agreed_mut().certificates;
    certificates.retain(|_, known| matters(known.not_after, now));
    settle_retired(change);
    let Agreed {
        certificates,
        revoked,
        authority,
        ..
    } = change.agreed_mut();
    revoked.retain(|_, known| matters(known.not_after, now));
    // An operator's leaf may outlive its intermediate, whose certificate its chain needs.
    let named: BTreeSet<&String> = certificates.values().map(|leaf| &leaf.issuer).collect();
    authority
        .intermediates
        .retain(|serial, known| matters(known.not_after, now) || named.contains(serial));
    forget_warnings(change.agreed_mut());
}

/// A warning is remembered as long as the certificate that it was about.
pub(super) fn forget_warnings(agreed: &mut Agreed) {
    if agreed.authority.warned.is_empty() {
        return;
    }
    let mut warned = std::mem::take(&mut agreed.authority.warned);
    warned.retain(|about| match about {
        ExpiringCertificate::Leaf(serial) => agreed.certificates.contains_key(serial),
        ExpiringCertificate::Intermediate(serial) => {
            agreed.authority.intermediates.contains_key(serial)
        }
        ExpiringCertificate::Root(root) => agreed.root(root).is_some(),
    });
    agreed.authority.warned = warned;
}

/// Remembers a leaf that a server signed outside an enrolment.
pub(super) fn record_signed(
    change: &mut Change<'_>,
    actor: &NodeId,
    certificate: &NewCertificate,
) -> Applied {
    change.require_server(actor)?;
    let NewCertificate { serial, record } = certificate;
    let agreed = change.agreed();
    match &record.holder {
        Holder::Node(id) if !agreed.nodes.contains_key(id) => {
            let stranger = || Refusal::NodeUnknown {
                node: id.to_string(),
            };
            return Err(agreed.removal(id).unwrap_or_else(stranger));
        }
        Holder::Operator(name) if !agreed.operators.contains_key(name) => {
            return Err(Refusal::OperatorUnknown {
                name: super::excerpt(name),
            });
        }
        Holder::Node(_) | Holder::Operator(_) => {}
    }
    check(change, actor, certificate)?;
    let returned = is_return(change, record).then_some(&record.holder);
    self::record(change, certificate);
    if let Some(Holder::Node(id)) = returned {
        change.event(
            EventKind::NodeReturned,
            Some(id),
            [("serial", serial.clone())],
        );
    }
    done()
}

/// Whether this is a member's first identity after a time without any that is accepted.
fn is_return(change: &Change<'_>, new: &CertificateRecord) -> bool {
    let mut known = change.agreed().certificates.values();
    new.profile == CertificateProfile::Node
        && !known.any(|known| {
            known.profile == CertificateProfile::Node
                && known.holder == new.holder
                && known.not_after > change.time
        })
}

/// Revokes every leaf that `of` picks, and says how many.
pub(super) fn revoke(
    change: &mut Change<'_>,
    of: impl Fn(&String, &CertificateRecord) -> bool,
) -> u64 {
    let at = change.time;
    let Agreed {
        certificates,
        revoked,
        ..
    } = change.agreed_mut();
    let before = certificates.len();
    certificates.retain(|serial, record| {
        let goes = of(serial, record);
        if goes {
            let row = Revoked {
                holder: record.holder.clone(),
                profile: Some(record.profile),
                not_after: record.not_after,
                at,
            };
            revoked.insert(serial.clone(), row);
        }
        !goes
    });
    let count = (before - certificates.len()) as u64;
    settle_retired(change);
    count
}

/// Revokes an intermediate with every leaf that it signed, and says how many certificates that is.
pub(super) fn revoke_intermediate(change: &mut Change<'_>, serial: &str) -> u64 {
    let at = change.time;
    let agreed = change.agreed_mut();
    let Some(intermediate) = agreed.authority.intermediates.remove(serial) else {
        return 0;
    };
    agreed
        .revoked
        .insert(serial.to_owned(), revoked_row(&intermediate, at));
    1 + revoke(change, |_, record| record.issuer == serial)
}

/// Retires a former server's intermediates: nothing new that they sign is accepted.
pub(super) fn retire(change: &mut Change<'_>, server: &NodeId) {
    let intermediates = &mut change.agreed_mut().authority.intermediates;
    let own = intermediates.values_mut().filter(|own| own.node == *server);
    own.for_each(|own| own.retired = true);
    settle_retired(change);
}

/// A retired intermediate that no leaf names serves nobody any more: it is revoked. Called after
/// whatever takes leaves away or retires.
fn settle_retired(change: &mut Change<'_>) {
    let (agreed, at) = (change.agreed(), change.time);
    let retired = agreed.retired();
    let unused = retired.iter().filter(|(_, leaves)| leaves.is_empty());
    let unused: Vec<String> = unused.map(|(serial, _)| serial.clone()).collect();
    for serial in unused {
        let agreed = change.agreed_mut();
        if let Some(intermediate) = agreed.authority.intermediates.remove(&serial) {
            agreed
                .revoked
                .insert(serial, revoked_row(&intermediate, at));
        }
    }
    forget_warnings(change.agreed_mut());
}

fn revoked_row(intermediate: &Intermediate, at: WallMs) -> Revoked {
    Revoked {
        holder: Holder::Node(intermediate.node.clone()),
        profile: None,
        not_after: intermediate.not_after,
        at,
    }
}
