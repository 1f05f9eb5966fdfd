//! Certificates that somebody asks to be accepted no more.

use super::{Change, certificates, too_large};
use crate::{Applied, Done, EventKind, Holder, Refusal, Revocation, limits::TEXT_BYTES_MAX};

pub(super) fn revoke(change: &mut Change<'_>, which: &Revocation, reason: &str) -> Applied {
    if reason.len() > TEXT_BYTES_MAX {
        return Err(too_large("a reason", TEXT_BYTES_MAX));
    }
    let (holder, count) = match which {
        Revocation::Serial(serial) => by_serial(change, serial)?,
        Revocation::Node(node) => {
            let holder = Holder::Node(change.find_node(node)?);
            let count = certificates::revoke(change, |_, record| record.holder == holder);
            (holder, count)
        }
        Revocation::Operator(name) => {
            if !change.agreed().operators.contains_key(name) {
                return Err(Refusal::OperatorUnknown {
                    name: super::excerpt(name),
                });
            }
            let holder = Holder::Operator(name.clone());
            let count = certificates::revoke(change, |_, record| record.holder == holder);
            (holder, count)
        }
    };
    if count > 0 {
        let serial = match which {
            Revocation::Serial(serial) => serial.clone(),
            Revocation::Node(_) | Revocation::Operator(_) => String::new(),
        };
        event(change, &holder, count, &serial, reason);
    }
    Ok(Done::Revoked { count })
}

fn by_serial(change: &mut Change<'_>, serial: &str) -> Result<(Holder, u64), Refusal> {
    let agreed = change.agreed();
    if let Some(record) = agreed.certificates.get(serial) {
        let holder = record.holder.clone();
        let count = certificates::revoke(change, |known, _| known == serial);
        return Ok((holder, count));
    }
    if let Some(intermediate) = agreed.authority.intermediates.get(serial) {
        let holder = Holder::Node(intermediate.node.clone());
        return Ok((holder, certificates::revoke_intermediate(change, serial)));
    }
    match agreed.revoked.get(serial) {
        Some(row) => Ok((row.holder.clone(), 0)),
        None => Err(Refusal::CertificateUnknown {
            serial: super::excerpt(serial),
        }),
    }
}

/// Tells how many certificates are accepted no more, whose and why.
pub(super) fn event(
    change: &mut Change<'_>,
    holder: &Holder,
    count: u64,
    serial: &str,
    reason: &str,
) {
    let node = match holder {
        Holder::Node(id) => Some(id),
        Holder::Operator(_) => None,
    };
    let payload = [
        ("holder", change.holder_name(Some(holder))),
        ("count", count.to_string()),
        ("serial", serial.to_owned()),
        ("reason", reason.to_owned()),
    ];
    change.event(EventKind::CertificatesRevoked, node, payload);
}
