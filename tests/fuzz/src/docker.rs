//! What engines, host programs and files of the Docker runtime say.
//!
//! Claims: reasons and versions are parts of what was said, and short; a port or a size that makes
//! no sense is none; records survive being written again; an override never names a key that
//! belongs to shoal, in whatever letters a reader that ignores their case would take for it.

use runtimes_core::{
    daemon_json::{self, Base, HostLayout, Layer, Override, PROTECTED_KEYS},
    version::{EngineVersion, OLDEST, VersionRefused},
};
use runtimes_docker::fuzzing;
use serde_json::Value;

/// Longest reason of an end in an error.
const REASON_BYTES_MAX: usize = 500;
/// Longest piece of an unreadable version in an error, in characters.
const UNREADABLE_CHARS_MAX: usize = 120;

pub(crate) fn engine_version(data: &[u8]) {
    let text = crate::text(data);
    match EngineVersion::from_dockerd_output(&text) {
        Ok(version) => {
            assert!((version.major, version.minor) >= OLDEST);
            let again = format!("Docker version {version}, build 0");
            assert_eq!(EngineVersion::from_dockerd_output(&again), Ok(version));
        }
        Err(VersionRefused::TooOld { version }) => {
            assert!((version.major, version.minor) < OLDEST);
        }
        Err(VersionRefused::Unreadable { text }) => {
            assert!(text.chars().count() <= UNREADABLE_CHARS_MAX);
        }
    }
}

/// The input is an override, and the configuration of a running dockerd.
pub(crate) fn daemon_json(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let layout = HostLayout {
        socket: "/run/s".into(),
        pidfile: "/run/p".into(),
        data_root: "/d".into(),
        exec_root: "/e".into(),
        tls_ca: "/ca".into(),
        tls_cert: "/cert".into(),
        tls_key: "/key".into(),
    };
    let base = Base {
        layout: &layout,
        listen: std::net::Ipv6Addr::LOCALHOST,
        mtu: None,
        dns: &[],
    };
    let plain = daemon_json::merged(&base, &[]).expect("the base alone");
    let wish = Override {
        name: "fuzz".into(),
        layer: Layer::Node,
        category_position: 1,
        priority: 1,
        document: document.clone(),
    };
    match daemon_json::merged(&base, &[wish]) {
        Ok(merged) => {
            for key in PROTECTED_KEYS {
                assert_eq!(merged.get(key), plain.get(key), "{key} was moved");
            }
            let keys = merged.as_object().into_iter().flat_map(|map| map.keys());
            let taken = keys
                .filter(|key| PROTECTED_KEYS.contains(&folded(key).as_str()))
                .count();
            assert_eq!(taken, PROTECTED_KEYS.len(), "a second spelling");
            let text = daemon_json::render(&merged);
            assert_eq!(
                serde_json::from_str::<Value>(&text).ok(),
                Some(merged.clone())
            );
            let none = daemon_json::change_between(&merged, &merged);
            assert_eq!(none, daemon_json::Change::None);
        }
        Err(error) => assert!(!error.hint().is_empty()),
    }
    let _ = daemon_json::change_between(&document, &plain);
}

/// Letters as Go's JSON decoder folds them (encoding/json, `foldRune`): the long s and the Kelvin
/// sign are an s and a k.
fn folded(key: &str) -> String {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).collect()
}

/// The first byte chooses the question, the rest is the engine's answer.
pub(crate) fn answers(data: &[u8]) {
    let Some((question, json)) = data.split_first() else {
        return;
    };
    match question % 4 {
        0 => {
            for container in fuzzing::containers(json).unwrap_or_default() {
                assert!(!container.name.contains('/'));
            }
        }
        1 => {
            for image in fuzzing::images(json).unwrap_or_default() {
                let named = |name: &String| !name.starts_with("<none>");
                assert!(image.tags.iter().all(named));
            }
        }
        2 => drop(fuzzing::pull_progress(json)),
        _ => {
            if let Ok((info, spoken)) = fuzzing::engine(json) {
                let newest = fuzzing::engine(br#"{"Version":"","ApiVersion":"9999.0"}"#);
                let (_, newest) = newest.expect("an engine of some day to come");
                assert!(spoken <= newest, "{} is spoken to", info.api_version);
            }
        }
    }
}

pub(crate) fn words(data: &[u8]) {
    let text = crate::text(data);
    let (reason, code) = fuzzing::end_reason(&text);
    assert!(reason.len() <= REASON_BYTES_MAX);
    assert!(text.contains(&reason) || reason == "its log is empty");
    assert!(code.ends_with("Error"));
    assert!(!fuzzing::complains(&text) || !text.trim().is_empty());
    assert!(!fuzzing::refused_configuration(&text).is_empty());
    if let Some(cursor) = fuzzing::journal_cursor(&text) {
        assert!(text.contains(&cursor));
    }
    assert_ne!(fuzzing::main_pid(&text), Some(0));
    let cut = usize::from(data.first().copied().unwrap_or(0));
    let end = fuzzing::last_bytes(&text, cut);
    assert!(end.len() <= cut && text.ends_with(end));
    let (whole, repository, tag) = fuzzing::image_reference(&text);
    assert!(whole.starts_with(&*text));
    assert!(whole == format!("{repository}:{tag}") || !whole.contains(':'));
    assert_eq!(fuzzing::image_reference(&whole).0, whole, "tagged twice");
}

pub(crate) fn host_files(data: &[u8]) {
    let text = crate::text(data);
    for again in [fuzzing::process_record, fuzzing::manifest] {
        if let Ok(written) = again(&text) {
            assert_eq!(again(&written).ok(), Some(written));
        }
    }
}
