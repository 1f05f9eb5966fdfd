//! Who opens what was sealed.

use consensus_authority::{
    RecoveryKey, Root, RootKey, SealError, SealingKey, recipients_are_valid, seal, unseal,
};

use crate::world::{MESH, NOW};

#[test]
fn each_recipient_opens_and_nobody_else_does() {
    let servers: Vec<_> = (0..3).map(|_| SealingKey::generate()).collect();
    let recovery = RecoveryKey::generate();
    let recipients: Vec<_> = servers
        .iter()
        .map(SealingKey::recipient)
        .chain([recovery.recipient()])
        .collect();
    let sealed = seal(b"secret", &recipients).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1\n"));
    for server in &servers {
        assert_eq!(unseal(server, &sealed).unwrap().as_slice(), b"secret");
    }
    assert_eq!(recovery.unseal(&sealed).unwrap().as_slice(), b"secret");
    let stranger = SealingKey::generate();
    assert_eq!(unseal(&stranger, &sealed), Err(SealError::NotRecipient));
}

#[test]
fn a_root_key_survives_sealing_and_signs_again() {
    let root = Root::generate(MESH, NOW).unwrap();
    let recovery = RecoveryKey::generate();
    let sealed = seal(root.key().pkcs8(), [recovery.recipient()]).unwrap();
    // Printed once, typed in years later with a line break too many.
    let typed = RecoveryKey::from_text(&format!(" {}\n", recovery.to_text().as_str())).unwrap();
    let key = RootKey::from_pkcs8(&typed.unseal(&sealed).unwrap()).unwrap();
    let again = Root::open(key, root.certificate().der()).unwrap();
    assert_eq!(again.certificate(), root.certificate());
}

#[test]
fn a_sealing_key_survives_its_file_and_shows_its_recipient_only() {
    let key = SealingKey::generate();
    let text = key.to_text();
    assert!(text.starts_with("AGE-SECRET-KEY-1"));
    let again = SealingKey::from_text(&text).unwrap();
    assert_eq!(again.recipient(), key.recipient());
    let shown = format!("{key:?} {:?}", RecoveryKey::generate());
    assert!(
        shown.contains(&key.recipient()) && !shown.contains("SECRET"),
        "{shown}"
    );
}

#[test]
fn recipients_are_checked_before_anything_is_sealed() {
    let good = SealingKey::generate().recipient();
    let code = |recipients: &[String]| seal(b"x", recipients).unwrap_err().code();
    assert_eq!(code(&[]), "RecipientCountError");
    assert_eq!(code(&vec![good.clone(); 65]), "RecipientCountError");
    let long = format!("age1{}", "q".repeat(10_000));
    let typo = good.replace(
        &good[10..12],
        if &good[10..12] == "qq" { "zz" } else { "qq" },
    );
    for bad in ["", "age1", "ssh-ed25519 AAAA", typo.as_str(), long.as_str()] {
        assert_eq!(
            code(&[good.clone(), bad.to_owned()]),
            "RecipientMalformedError",
            "{bad}"
        );
    }
    recipients_are_valid([good.as_str()]).unwrap();
    assert!(recipients_are_valid(["age1"]).is_err());
}

#[test]
fn a_secret_key_given_as_a_recipient_is_not_repeated() {
    let secret = SealingKey::generate().to_text();
    let error = seal(b"x", [secret.as_str()]).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("SECRET"), "{shown}");
}

#[test]
fn damaged_files_and_keys_are_refused() {
    let key = SealingKey::generate();
    let sealed = seal(b"secret", [key.recipient()]).unwrap();
    for place in 0..sealed.len() {
        let mut broken = sealed.clone();
        broken[place] ^= 1 << (place % 8);
        assert!(
            unseal(&key, &broken).is_err(),
            "byte {place} may be changed"
        );
    }
    for length in 0..sealed.len() {
        assert!(unseal(&key, &sealed[..length]).is_err(), "cut at {length}");
    }
    for text in [
        "",
        "AGE-SECRET-KEY-1",
        "age1",
        &key.recipient(),
        &"A".repeat(1000),
    ] {
        let error = SealingKey::from_text(text).unwrap_err();
        assert_eq!(error.code(), "SealingKeyMalformedError");
    }
}
