//! The values that operators write: times, labels, ports.
//!
//! Decides: which texts are such values, before any daemon is asked. Never: whether the mesh
//! accepts them.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Why a text is no such value. The message is shown by the argument parser, which names the
/// argument itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidValue {
    #[error("a name is not empty")]
    NameEmpty,
    #[error("a time is a number and s, m, h or d, such as 24h")]
    Duration,
    #[error("a time must be longer than nothing")]
    DurationZero,
    #[error("the time is too long")]
    DurationTooLong,
    #[error("a label is KEY=VALUE")]
    Label,
    #[error("a change of labels is KEY=VALUE to set one, or KEY- to remove one")]
    LabelChange,
    #[error("label {0:?} is given twice")]
    LabelTwice(String),
    #[error("a port is HOST:CONTAINER or HOST:CONTAINER/udp, with numbers from 1 to 65535")]
    Port,
    #[error("an environment variable is KEY=VALUE")]
    Variable,
    #[error("a serial number is hexadecimal, as `shoal ca status` shows it")]
    Serial,
    #[error("a WireGuard key is 44 characters of base64, as `wg pubkey` prints it")]
    WireguardKey,
    #[error("an endpoint is HOST:PORT, such as 203.0.113.5:7441, [2001:db8::1]:7441 or a name")]
    Endpoint,
    #[error("a recipient is an age X25519 public key: age1 and 58 more characters")]
    Recipient,
}

/// A name, unchanged. The mesh has the rules; an empty one would change which thing is asked for.
pub(crate) fn name(text: &str) -> Result<String, InvalidValue> {
    match text.is_empty() {
        true => Err(InvalidValue::NameEmpty),
        false => Ok(text.to_owned()),
    }
}

/// `30s`, `15m`, `24h`, `7d`
pub(crate) fn duration(text: &str) -> Result<Duration, InvalidValue> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_s: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(InvalidValue::Duration),
    };
    if number.is_empty() {
        return Err(InvalidValue::Duration);
    }
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit_s));
    match seconds {
        Some(0) => Err(InvalidValue::DurationZero),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(InvalidValue::DurationTooLong),
    }
}

/// `KEY=VALUE`. The value may be empty and may contain `=`.
pub(crate) fn label(text: &str) -> Result<(String, String), InvalidValue> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(InvalidValue::Label),
    }
}

/// Labels by key; each only once, so that none is silently overridden.
pub(crate) fn labels(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, InvalidValue> {
    let mut labels = BTreeMap::new();
    for (key, value) in pairs {
        if labels.insert(key.clone(), value).is_some() {
            return Err(InvalidValue::LabelTwice(key));
        }
    }
    Ok(labels)
}

/// `KEY=VALUE,KEY=VALUE`
pub(crate) fn selector(text: &str) -> Result<BTreeMap<String, String>, InvalidValue> {
    let pairs: Vec<_> = text.split(',').map(label).collect::<Result<_, _>>()?;
    labels(pairs)
}

/// One argument of `node label`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// `KEY=VALUE`
    Set(String, String),
    /// `KEY-`
    Unset(String),
}

/// `KEY=VALUE` or `KEY-`
pub(crate) fn label_change(text: &str) -> Result<LabelChange, InvalidValue> {
    if let Ok((key, value)) = label(text) {
        return Ok(LabelChange::Set(key, value));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() && !key.contains('=') => {
            Ok(LabelChange::Unset(key.to_owned()))
        }
        _ => Err(InvalidValue::LabelChange),
    }
}

/// A WireGuard public key in base64, unchanged.
pub(crate) fn wireguard_key(text: &str) -> Result<String, InvalidValue> {
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() == 32 => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(InvalidValue::WireguardKey),
    }
}

/// Where a device sends to: an address or a name, and a port, unchanged. It goes into a
/// configuration, where a further line could be a command.
pub(crate) fn endpoint(text: &str) -> Result<String, InvalidValue> {
    let is_port = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let is_name = |host: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        (1..=253).contains(&host.len()) && host.bytes().all(good)
    };
    let address = text.parse::<std::net::SocketAddr>();
    let named = || {
        text.rsplit_once(':')
            .is_some_and(|(host, port)| is_name(host) && is_port(port))
    };
    match address.is_ok_and(|address| address.port() > 0) || named() {
        true => Ok(text.to_owned()),
        false => Err(InvalidValue::Endpoint),
    }
}

/// `HOST:CONTAINER`, `HOST:CONTAINER/tcp` or `HOST:CONTAINER/udp`, unchanged.
pub(crate) fn port(text: &str) -> Result<String, InvalidValue> {
    let is_port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits && text.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match ports.split_once(':') {
        Some((host, container))
            if is_port(host) && is_port(container) && matches!(protocol, "tcp" | "udp") =>
        {
            Ok(text.to_owned())
        }
        _ => Err(InvalidValue::Port),
    }
}

/// `KEY=VALUE`, unchanged.
pub(crate) fn variable(text: &str) -> Result<String, InvalidValue> {
    match label(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(InvalidValue::Variable),
    }
}

/// A certificate's serial number in lower case without colons, as `shoal ca status` shows it; the
/// other ways are those of openssl and of browsers.
pub(crate) fn serial(text: &str) -> Result<String, InvalidValue> {
    /// Twenty bytes (RFC 5280, section 4.1.2.2).
    const DIGITS_MAX: usize = 40;
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match hexadecimal && (1..=DIGITS_MAX).contains(&digits.len()) {
        true => Ok(digits.to_ascii_lowercase()),
        false => Err(InvalidValue::Serial),
    }
}

/// A recipient of age's own kind, unchanged.
pub(crate) fn recipient(text: &str) -> Result<String, InvalidValue> {
    match text.parse::<age::x25519::Recipient>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(InvalidValue::Recipient),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_number_and_one_unit() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "", "h", "24", "24 h", "-1h", "1.5h", "1h30m", "24H", "1w", "ä",
        ] {
            assert_eq!(duration(bad), Err(InvalidValue::Duration), "{bad}");
        }
        assert_eq!(duration("0s"), Err(InvalidValue::DurationZero));
        assert_eq!(
            duration("99999999999999999999s"),
            Err(InvalidValue::DurationTooLong)
        );
        assert_eq!(
            duration("9999999999999999999d"),
            Err(InvalidValue::DurationTooLong)
        );
    }

    #[test]
    fn a_label_has_a_key_and_a_value() {
        assert_eq!(label("zone=a"), Ok(("zone".into(), "a".into())));
        assert_eq!(label("zone="), Ok(("zone".into(), String::new())));
        for bad in ["", "zone", "=a"] {
            assert_eq!(label(bad), Err(InvalidValue::Label), "{bad}");
        }
    }

    #[test]
    fn a_label_change_sets_or_removes() {
        let set = LabelChange::Set("a".into(), "b-".into());
        assert_eq!(label_change("a=b-"), Ok(set));
        assert_eq!(label_change("a-b-"), Ok(LabelChange::Unset("a-b".into())));
        for bad in ["", "-", "a", "=b", "=-"] {
            assert_eq!(label_change(bad), Err(InvalidValue::LabelChange), "{bad}");
        }
    }

    #[test]
    fn a_selector_names_each_label_once() {
        let both = [("a".into(), "1".into()), ("b".into(), "2".into())];
        assert_eq!(selector("a=1,b=2"), Ok(both.into()));
        assert_eq!(
            selector("a=1,a=2"),
            Err(InvalidValue::LabelTwice("a".into()))
        );
        for bad in ["", "a=1,", ",a=1", "a"] {
            assert_eq!(selector(bad), Err(InvalidValue::Label), "{bad}");
        }
    }

    #[test]
    fn a_wireguard_key_has_32_bytes() {
        let key = "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=";
        assert_eq!(wireguard_key(key).as_deref(), Ok(key));
        for bad in ["", "AAAA", &key[..43], "not a key"] {
            assert_eq!(wireguard_key(bad), Err(InvalidValue::WireguardKey), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_one_place_and_no_further_line() {
        for good in [
            "203.0.113.5:7441",
            "[2001:db8::1]:7441",
            "vpn.example.org:1",
        ] {
            assert_eq!(endpoint(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            ":7441",
            "host",
            "host:0",
            "203.0.113.5:0",
            "host:65536",
            "2001:db8::1",
            "a b:1",
            "host:1\nPostUp = reboot",
            "x\nPostUp = reboot:1",
        ] {
            assert_eq!(endpoint(bad), Err(InvalidValue::Endpoint), "{bad}");
        }
    }

    #[test]
    fn a_published_port_has_two_sides() {
        for good in ["80:8080", "53:53/udp", "1:65535/tcp"] {
            assert_eq!(port(good).as_deref(), Ok(good));
        }
        for bad in [
            "80", "80:", ":80", "0:80", "80:65536", "80:80/x", "a:b", "1:2:3", "+1:80",
        ] {
            assert_eq!(port(bad), Err(InvalidValue::Port), "{bad}");
        }
    }

    #[test]
    fn serial_numbers_are_read_as_other_programs_write_them() {
        assert_eq!(serial("0a1B"), Ok("0a1b".into()));
        assert_eq!(serial("0A:1B:ff"), Ok("0a1bff".into()));
        let longest = "f".repeat(40);
        assert_eq!(serial(&longest), Ok(longest.clone()));
        for wrong in ["", ":", "0x1", "g", "0a 1b", &format!("{longest}f")] {
            assert_eq!(serial(wrong), Err(InvalidValue::Serial), "{wrong}");
        }
    }

    #[test]
    fn a_recipient_is_a_public_key_with_a_right_checksum() {
        let right = age::x25519::Identity::generate().to_public().to_string();
        assert_eq!(recipient(&right), Ok(right.clone()));
        for wrong in ["", "age1x", &right[..61], "ssh-ed25519 AAAA"] {
            assert_eq!(recipient(wrong), Err(InvalidValue::Recipient), "{wrong}");
        }
    }
}
