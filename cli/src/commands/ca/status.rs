//! `shoal ca status`: every certificate and when it ends.

use node_api::{
    Route,
    types::{CaStatus, CertificateView, IntermediateView, RootView, RotationView},
};

use crate::{
    commands::status::now_ms,
    context::Context,
    failure::{Exit, Failure},
    table::{countdown, names, span, table},
};

/// Hexadecimal digits of a fingerprint that tell one root from another beside it. What is compared
/// with another machine are the words.
const FINGERPRINT_DIGITS_SHOWN: usize = 16;
/// Names of those waited for that fit on a line.
const NAMES_MOST: usize = 8;

pub(super) async fn run(context: &Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get::<CaStatus>(&Route::to(&["ca"])).await?;
    let warnings = answer.value.warnings.clone();
    let done = context.show(Ok(answer), |status| words(status, now_ms()))?;
    if !context.terminal.json() {
        context.terminal.warnings(&warnings)?;
    }
    Ok(done)
}

fn words(status: &CaStatus, now_ms: u64) -> String {
    let mut parts = vec![
        roots(&status.roots, now_ms),
        intermediates(&status.intermediates, now_ms),
        certificates(&status.certificates, now_ms),
    ];
    let rotation = status.rotation.as_ref();
    parts.push(format!(
        "Rotation: {}\nRecovery key: of recipient {}",
        rotation.map_or_else(|| "none under way".into(), |it| progress(it, now_ms)),
        status.recovery_recipient
    ));
    parts.join("\n\n")
}

fn shortened(fingerprint: &str) -> String {
    fingerprint.chars().take(FINGERPRINT_DIGITS_SHOWN).collect()
}

fn roots(roots: &[RootView], now_ms: u64) -> String {
    let rows = roots.iter().map(|root| {
        vec![
            shortened(&root.fingerprint),
            root.state.clone(),
            countdown(root.not_after_ms, now_ms),
            root.words.clone(),
            root.sealed_to.join(","),
        ]
    });
    table(&["ROOT", "STATE", "EXPIRES", "WORDS", "SEALED TO"], rows).trim_fmt()
}

fn intermediates(intermediates: &[IntermediateView], now_ms: u64) -> String {
    let rows = intermediates.iter().map(|one| {
        vec![
            one.node.clone(),
            one.state.clone(),
            countdown(one.not_after_ms, now_ms),
            shortened(&one.root),
            one.serial.clone(),
        ]
    });
    table(&["SERVER", "STATE", "EXPIRES", "ROOT", "SERIAL"], rows).trim_fmt()
}

/// What ends first stands first.
fn certificates(certificates: &[CertificateView], now_ms: u64) -> String {
    let mut certificates: Vec<&CertificateView> = certificates.iter().collect();
    certificates.sort_by_key(|one| (one.not_after_ms, &one.holder, &one.profile, &one.serial));
    let rows = certificates.into_iter().map(|one| {
        vec![
            one.holder.clone(),
            one.profile.clone(),
            countdown(one.not_after_ms, now_ms),
            one.issuer.clone(),
            one.serial.clone(),
        ]
    });
    table(&["HOLDER", "PROFILE", "EXPIRES", "ISSUER", "SERIAL"], rows).trim_fmt()
}

fn progress(rotation: &RotationView, now_ms: u64) -> String {
    let began = span(now_ms.saturating_sub(rotation.began_ms));
    let mut text = format!("{}, begun {began} ago", rotation.step);
    if !rotation.reason.is_empty() {
        text += &format!(" ({})", rotation.reason);
    }
    if !rotation.waiting_for.is_empty() {
        let whom = names(&rotation.waiting_for, NAMES_MOST);
        text += &format!(", waiting for {whom}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const NOW_MS: u64 = 10_000 * HOUR_MS;

    fn root(state: &str) -> RootView {
        RootView {
            fingerprint: "0123456789abcdef0123456789abcdef".into(),
            words: "one two three".into(),
            state: state.into(),
            not_after_ms: NOW_MS + 87_600 * HOUR_MS,
            sealed_to: vec!["n1".into(), "recovery".into()],
        }
    }

    fn certificate(holder: &str, profile: &str, not_after_ms: u64) -> CertificateView {
        CertificateView {
            serial: "0a1b".into(),
            profile: profile.into(),
            holder: holder.into(),
            issuer: "n1".into(),
            not_after_ms,
        }
    }

    fn status() -> CaStatus {
        CaStatus {
            roots: vec![root("active")],
            intermediates: vec![IntermediateView {
                serial: "77".into(),
                node: "n1".into(),
                state: "current".into(),
                root: "0123456789abcdef0123456789abcdef".into(),
                not_after_ms: NOW_MS + 100 * HOUR_MS,
            }],
            certificates: vec![
                certificate("alice", "operator", NOW_MS + 2_000 * HOUR_MS),
                certificate("n1", "node", NOW_MS + 14 * HOUR_MS + 180_000),
                certificate("n2", "node", NOW_MS - 49 * HOUR_MS),
            ],
            rotation: None,
            recovery_recipient: "age1example".into(),
            warnings: vec![],
        }
    }

    #[test]
    fn every_expiry_is_listed_with_its_countdown_the_next_one_first() {
        insta::assert_snapshot!(words(&status(), NOW_MS), @r"
        ROOT              STATE   EXPIRES      WORDS          SEALED TO
        0123456789abcdef  active  in 3650d 0h  one two three  n1,recovery

        SERVER  STATE    EXPIRES   ROOT              SERIAL
        n1      current  in 4d 4h  0123456789abcdef  77

        HOLDER  PROFILE   EXPIRES       ISSUER  SERIAL
        n2      node      ended 2d ago  n1      0a1b
        n1      node      in 14h 3m     n1      0a1b
        alice   operator  in 83d 8h     n1      0a1b

        Rotation: none under way
        Recovery key: of recipient age1example
        ");
    }

    #[test]
    fn a_rotation_says_how_far_it_is_and_whom_it_waits_for() {
        let rotating = CaStatus {
            roots: vec![root("active"), root("incoming")],
            rotation: Some(RotationView {
                step: "trusting".into(),
                reason: "a laptop was stolen".into(),
                began_ms: NOW_MS - 90_000,
                waiting_for: vec!["n2".into(), "n3".into()],
            }),
            ..status()
        };
        let shown = words(&rotating, NOW_MS);
        assert!(
            shown.contains(
                "\nRotation: trusting, begun 90 s ago (a laptop was stolen), waiting for n2, n3\n"
            ),
            "{shown}"
        );
        assert_eq!(shown.matches("one two three").count(), 2, "{shown}");
    }
}
