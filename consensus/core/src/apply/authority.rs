//! Intermediates and sealed root keys: who may have which.
//!
//! Invariants: a mesh has one root that issues; every intermediate's root is remembered; a root
//! key is never replaced by one that a present server cannot open.

use std::collections::BTreeSet;

use super::{Change, certificates, done, invalid, too_large};
use crate::{
    Applied, Authority, EventKind, ExpiringCertificate, FoundingAuthority, Holder, Intermediate,
    NewIntermediate, NewRoot, NodeId, Refusal, Root, RootFingerprint, RootState, SealedKey, WallMs,
    limits::{
        CERTIFICATE_BYTES_MAX, INTERMEDIATE_LIFE_MS_MAX, INTERMEDIATES_MAX,
        INTERMEDIATES_PER_SERVER_MAX, RECIPIENT_CHARS_MAX, SEALED_KEY_BYTES_MAX,
    },
};

/// Bech32's alphabet (BIP 173), in which age writes its recipients.
const BECH32: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// Whether a founder's authority is sound. Returns its intermediate as it will be remembered.
pub(super) fn check_founding(
    change: &Change<'_>,
    founder: &NodeId,
    sealing_recipient: &str,
    founding: &FoundingAuthority,
) -> Result<Intermediate, Refusal> {
    check_recipient(&founding.recovery_recipient)?;
    check_root(change, &founding.root)?;
    let both = [sealing_recipient, &founding.recovery_recipient].map(str::to_owned);
    check_sealed(&founding.root_key, &BTreeSet::from(both))?;
    let intermediate = &founding.intermediate;
    if intermediate.root != RootFingerprint::of(&founding.root.certificate) {
        return Err(Refusal::RootUnknown {
            root: intermediate.root.to_string(),
        });
    }
    check_intermediate(change, intermediate, founding.root.not_after)?;
    Ok(row(founder, intermediate))
}

/// Remembers a founder's checked authority.
pub(super) fn found(
    change: &mut Change<'_>,
    founding: &FoundingAuthority,
    intermediate: Intermediate,
) {
    let introduced_at = change.time;
    let root = new_root(&founding.root, RootState::Active, introduced_at);
    let key = (root.fingerprint(), founding.root_key.clone());
    change.agreed_mut().authority = Authority {
        roots: vec![root],
        intermediates: [(founding.intermediate.serial.clone(), intermediate)].into(),
        ..Authority::default()
    };
    change.state.root_keys = [key].into();
    change.state.recovery_recipient = founding.recovery_recipient.clone();
}

pub(super) fn new_root(root: &NewRoot, state: RootState, introduced_at: WallMs) -> Root {
    Root {
        certificate: root.certificate.clone(),
        cross: root.cross.clone(),
        state,
        not_after: root.not_after,
        introduced_at,
    }
}

fn row(node: &NodeId, new: &NewIntermediate) -> Intermediate {
    Intermediate {
        node: node.clone(),
        certificate: new.certificate.clone(),
        root: new.root,
        not_before: new.not_before,
        not_after: new.not_after,
        retired: false,
    }
}

/// Whether a root is of a sane size and not over already.
pub(super) fn check_root(change: &Change<'_>, root: &NewRoot) -> Result<(), Refusal> {
    check_der("a root certificate", &root.certificate)?;
    if let Some(cross) = &root.cross {
        check_der("a cross certificate", cross)?;
    }
    if root.not_after <= change.time {
        let text = format!("until {} ms", root.not_after.0);
        return Err(invalid("validity", &text, "one that is not over yet"));
    }
    Ok(())
}

fn check_der(what: &str, der: &[u8]) -> Result<(), Refusal> {
    if der.is_empty() {
        return Err(invalid("certificate", "", "a certificate in DER"));
    }
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(too_large(what, CERTIFICATE_BYTES_MAX));
    }
    Ok(())
}

/// Whether a text has the shape of an age recipient.
pub(super) fn check_recipient(recipient: &str) -> Result<(), Refusal> {
    if recipient.len() > RECIPIENT_CHARS_MAX {
        return Err(too_large("a sealing recipient", RECIPIENT_CHARS_MAX));
    }
    let data = recipient.strip_prefix("age1").unwrap_or_default();
    if data.is_empty() || !data.chars().all(|c| BECH32.contains(c)) {
        let rule = "an age recipient: age1 and then bech32 characters";
        return Err(invalid("sealing recipient", recipient, rule));
    }
    Ok(())
}

/// Whether a sealed key is of a sane size and can be opened by exactly these.
pub(super) fn check_sealed(key: &SealedKey, wanted: &BTreeSet<String>) -> Result<(), Refusal> {
    if key.age.len() > SEALED_KEY_BYTES_MAX {
        return Err(too_large("a sealed root key", SEALED_KEY_BYTES_MAX));
    }
    if key.age.is_empty() || key.recipients != *wanted {
        return Err(Refusal::SealedToOthers);
    }
    Ok(())
}

fn check_intermediate(
    change: &Change<'_>,
    new: &NewIntermediate,
    root_ends: WallMs,
) -> Result<(), Refusal> {
    certificates::check_serial(change.agreed(), &new.serial)?;
    check_der("an intermediate", &new.certificate)?;
    let end = change.time.0.saturating_add(INTERMEDIATE_LIFE_MS_MAX);
    let within = new.not_before < new.not_after && new.not_after <= root_ends;
    let lives = change.time < new.not_after && new.not_after.0 <= end;
    if within && lives {
        return Ok(());
    }
    let text = format!("{} to {} ms", new.not_before.0, new.not_after.0);
    let rule = "one that ends within eight days from now, and before that of its root";
    Err(invalid("validity", &text, rule))
}

/// A server has a new intermediate. The older ones stay until they end, because leaves name them.
pub(super) fn record_intermediate(
    change: &mut Change<'_>,
    actor: &NodeId,
    new: &NewIntermediate,
) -> Applied {
    change.require_server(actor)?;
    let agreed = change.agreed();
    let intermediate = row(actor, new);
    if agreed.authority.intermediates.get(&new.serial) == Some(&intermediate) {
        return done();
    }
    let root = agreed.root(&new.root).ok_or_else(|| Refusal::RootUnknown {
        root: new.root.to_string(),
    })?;
    let unusable = |reason: &str| {
        Err(Refusal::IntermediateUnusable {
            serial: super::excerpt(&new.serial),
            reason: reason.into(),
        })
    };
    match root.state {
        RootState::Active => {}
        RootState::Incoming => return unusable("its root does not issue yet"),
        RootState::Outgoing => return unusable("its root issues no more"),
    }
    check_intermediate(change, new, root.not_after)?;
    check_room(change, actor)?;
    certificates::forget_ended(change);
    let rows = &mut change.agreed_mut().authority.intermediates;
    rows.insert(new.serial.clone(), intermediate);
    change.event(
        EventKind::IntermediateIssued,
        Some(actor),
        [("serial", new.serial.clone())],
    );
    done()
}

fn check_room(change: &Change<'_>, server: &NodeId) -> Result<(), Refusal> {
    let rows = change.agreed().authority.intermediates.values();
    let live = rows.filter(|known| certificates::matters(known.not_after, change.time));
    let (mut own, mut all) = (0, 0);
    for row in live {
        all += 1;
        own += usize::from(row.node == *server);
    }
    if own >= INTERMEDIATES_PER_SERVER_MAX {
        let limit = INTERMEDIATES_PER_SERVER_MAX;
        return Err(too_large("the number of a server's intermediates", limit));
    }
    if all >= INTERMEDIATES_MAX {
        return Err(too_large("the number of intermediates", INTERMEDIATES_MAX));
    }
    Ok(())
}

/// Replaces a sealed root key. Sealed to any others than the present servers, it would lock one of
/// them out: the set of servers has changed since it was sealed.
pub(super) fn seal_root_key(
    change: &mut Change<'_>,
    actor: &NodeId,
    root: RootFingerprint,
    key: &SealedKey,
) -> Applied {
    change.require_server(actor)?;
    if !change.state.root_keys.contains_key(&root) {
        return Err(Refusal::RootUnknown {
            root: root.to_string(),
        });
    }
    check_sealed(key, &change.state.sealing_recipients())?;
    change.state.root_keys.insert(root, key.clone());
    done()
}

/// Tells of a certificate's coming end, once.
pub(super) fn record_expiry_warning(
    change: &mut Change<'_>,
    actor: &NodeId,
    about: &ExpiringCertificate,
) -> Applied {
    change.require_server(actor)?;
    let Some((holder, serial, not_after)) = described(change, about) else {
        return Err(Refusal::CertificateUnknown {
            serial: match about {
                ExpiringCertificate::Leaf(serial) | ExpiringCertificate::Intermediate(serial) => {
                    super::excerpt(serial)
                }
                ExpiringCertificate::Root(root) => root.to_string(),
            },
        });
    };
    if !change.agreed_mut().authority.warned.insert(about.clone()) {
        return done();
    }
    let what = match about {
        ExpiringCertificate::Leaf(_) => "leaf",
        ExpiringCertificate::Intermediate(_) => "intermediate",
        ExpiringCertificate::Root(_) => "root",
    };
    let payload = [
        ("certificate", what.to_owned()),
        ("holder", change.holder_name(holder.as_ref())),
        ("serial", serial),
        ("not_after_ms", not_after.0.to_string()),
    ];
    let node = match &holder {
        Some(Holder::Node(id)) => Some(id),
        Some(Holder::Operator(_)) | None => None,
    };
    change.event(EventKind::ExpiryWarning, node, payload);
    done()
}

/// Whose a certificate is, what it is called, and when it ends.
fn described(
    change: &Change<'_>,
    about: &ExpiringCertificate,
) -> Option<(Option<Holder>, String, WallMs)> {
    let agreed = change.agreed();
    Some(match about {
        ExpiringCertificate::Leaf(serial) => {
            let leaf = agreed.certificates.get(serial)?;
            (Some(leaf.holder.clone()), serial.clone(), leaf.not_after)
        }
        ExpiringCertificate::Intermediate(serial) => {
            let row = agreed.authority.intermediates.get(serial)?;
            let holder = Some(Holder::Node(row.node.clone()));
            (holder, serial.clone(), row.not_after)
        }
        ExpiringCertificate::Root(fingerprint) => {
            let root = agreed.root(fingerprint)?;
            (None, fingerprint.to_string(), root.not_after)
        }
    })
}
