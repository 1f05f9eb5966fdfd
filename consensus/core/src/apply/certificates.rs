//! Certificates: which are remembered, which are no longer accepted, which no longer matter.
//!
//! Invariant: no serial number is both remembered and revoked, and none ever changes its record.

use super::Change;
use crate::{CertificateRecord, NewCertificate, NodeId, Refusal};

/// RFC 5280, 4.1.2.2: serial numbers have at most 20 octets.
const SERIAL_CHARS_MAX: usize = 40;
/// How long after its end a certificate is remembered, revoked or not: a verifier whose clock is
/// a day slow still takes it for valid.
const KEPT_AFTER_END_MS: u64 = 24 * 3600 * 1000;

/// Whether the certificate may be remembered as one of `node`. Changes nothing.
pub(super) fn check(
    change: &Change<'_>,
    node: &NodeId,
    certificate: &NewCertificate,
) -> Result<(), Refusal> {
    let NewCertificate { serial, record } = certificate;
    let agreed = change.agreed();
    let well_formed = (1..=SERIAL_CHARS_MAX).contains(&serial.len())
        && serial.chars().all(|c| c.is_ascii_hexdigit());
    let known = agreed.certificates.get(serial);
    let is_new = !agreed.revoked.contains_key(serial) && known.is_none_or(|known| known == record);
    let rule = if !well_formed {
        "1 to 40 hexadecimal digits"
    } else if !is_new {
        "one that no other certificate has"
    } else if record.node != *node {
        "of a certificate of the node it is recorded for"
    } else {
        return Ok(());
    };
    Err(Refusal::Invalid {
        what: "serial number".into(),
        text: super::excerpt(serial),
        rule: rule.into(),
    })
}

/// Remembers a checked certificate. Called in the issuer's commands only, so that it is one clock
/// that says which others have ended.
pub(super) fn record(change: &mut Change<'_>, certificate: &NewCertificate) {
    let now = change.time;
    let agreed = change.agreed_mut();
    let matters =
        |known: &CertificateRecord| known.not_after.0.saturating_add(KEPT_AFTER_END_MS) >= now.0;
    agreed.certificates.retain(|_, known| matters(known));
    agreed.revoked.retain(|_, known| matters(known));
    let NewCertificate { serial, record } = certificate.clone();
    agreed.certificates.insert(serial, record);
}

/// Revokes all that `of` picks.
pub(super) fn revoke(change: &mut Change<'_>, of: impl Fn(&CertificateRecord) -> bool) {
    let agreed = change.agreed_mut();
    let revoked = &mut agreed.revoked;
    agreed.certificates.retain(|serial, record| {
        let goes = of(record);
        if goes {
            revoked.insert(serial.clone(), record.clone());
        }
        !goes
    });
}
