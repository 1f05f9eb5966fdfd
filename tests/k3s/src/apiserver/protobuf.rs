//! Bodies in Kubernetes' protobuf, which newer `kubectl` sends for kinds that it knows.
//!
//! Only what `kubectl` creates or asks for that way is read; the field numbers are those of
//! `generated.proto` in k8s.io/api and k8s.io/apimachinery. Answers are JSON, which every client
//! takes. Anything else is 415.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::etcd::state::Refusal;

/// What every such body begins with.
const MAGIC: &[u8] = b"k8s\0";
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// One field: its number, and its bytes or its number.
enum Field<'a> {
    Bytes(u64, &'a [u8]),
    Number(u64, u64),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = tag >> 3;
        match tag & 7 {
            0 => found.push(Field::Number(number, varint(&mut bytes)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                found.push(Field::Bytes(number, bytes.get(..length)?));
                bytes = &bytes[length..];
            }
            _ => return None,
        }
    }
    Some(found)
}

/// The bytes of a field that comes once.
fn part(message: &[u8], number: u64) -> Option<&[u8]> {
    let found = fields(message)?.into_iter().rev();
    let mut found = found.filter_map(|field| match field {
        Field::Bytes(own, bytes) if own == number => Some(bytes),
        Field::Bytes(..) | Field::Number(..) => None,
    });
    found.next()
}

fn number(message: &[u8], wanted: u64) -> Option<u64> {
    let mut found = fields(message)?
        .into_iter()
        .filter_map(|field| match field {
            Field::Number(own, value) if own == wanted => Some(value),
            Field::Bytes(..) | Field::Number(..) => None,
        });
    found.next()
}

fn text(message: &[u8], number: u64) -> Option<String> {
    let bytes = part(message, number).filter(|bytes| !bytes.is_empty())?;
    String::from_utf8(bytes.to_vec()).ok()
}

/// A `map<string, …>`.
fn map(message: &[u8], wanted: u64, value: impl Fn(&[u8]) -> Value) -> Option<Value> {
    let mut found = json!({});
    for field in fields(message)? {
        if let Field::Bytes(number, entry) = field
            && number == wanted
        {
            found[text(entry, 1)?] = value(part(entry, 2).unwrap_or_default());
        }
    }
    Some(found)
}

fn plain(bytes: &[u8]) -> Value {
    json!(String::from_utf8_lossy(bytes))
}

fn metadata(message: &[u8]) -> Option<Value> {
    let message = part(message, 1).unwrap_or_default();
    let mut found = json!({});
    for (number, name) in [
        (1, "name"),
        (2, "generateName"),
        (3, "namespace"),
        (5, "uid"),
        (6, "resourceVersion"),
    ] {
        if let Some(text) = text(message, number) {
            found[name] = json!(text);
        }
    }
    for (number, name) in [(11, "labels"), (12, "annotations")] {
        let pairs = map(message, number, plain)?;
        if pairs.as_object().is_some_and(|pairs| !pairs.is_empty()) {
            found[name] = pairs;
        }
    }
    Some(found)
}

fn delete_options(message: &[u8]) -> Value {
    let mut found = json!({});
    if let Some(seconds) = number(message, 1) {
        found["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(uid) = part(message, 2).and_then(|conditions| text(conditions, 1)) {
        found["preconditions"] = json!({"uid": uid});
    }
    found
}

fn object(kind: &str, raw: &[u8]) -> Option<Value> {
    let encoded = |bytes: &[u8]| json!(STANDARD.encode(bytes));
    let mut found = match kind {
        "DeleteOptions" => return Some(delete_options(raw)),
        "Eviction" => {
            let options = part(raw, 2).unwrap_or_default();
            json!({"deleteOptions": delete_options(options)})
        }
        "ConfigMap" => json!({"data": map(raw, 2, plain)?}),
        "Secret" => json!({
            "data": map(raw, 2, encoded)?,
            "type": text(raw, 3).unwrap_or_else(|| "Opaque".to_owned()),
            "stringData": map(raw, 4, plain)?,
        }),
        "Namespace" => json!({}),
        _ => return None,
    };
    found["metadata"] = metadata(raw)?;
    found["kind"] = json!(kind);
    Some(found)
}

/// The body as JSON.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Refusal> {
    let decoded = body.strip_prefix(MAGIC).and_then(|envelope| {
        let kind = text(part(envelope, 1)?, 2)?;
        object(&kind, part(envelope, 2).unwrap_or_default())
    });
    decoded.ok_or_else(|| {
        Refusal::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[number << 3 | 2, length], content].concat()
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, b"v1"), bytes(2, kind.as_bytes())].concat();
        [MAGIC, &bytes(1, &meta), &bytes(2, raw)].concat()
    }

    #[test]
    fn evictions_and_config_maps_are_read() {
        let meta = bytes(1, &[bytes(1, b"web-1"), bytes(3, b"default")].concat());
        let grace = bytes(2, &[1 << 3, 30]);
        let eviction = decode(&body("Eviction", &[meta.clone(), grace].concat())).unwrap();
        assert_eq!(
            eviction["metadata"],
            json!({"name": "web-1", "namespace": "default"})
        );
        assert_eq!(eviction["deleteOptions"]["gracePeriodSeconds"], 30);
        let pair = bytes(2, &[bytes(1, b"a"), bytes(2, b"b")].concat());
        let map = decode(&body("ConfigMap", &[meta, pair].concat())).unwrap();
        assert_eq!(map["data"], json!({"a": "b"}));
    }

    #[test]
    fn other_kinds_and_other_bytes_are_415() {
        for body in [body("Pod", b""), b"{}".to_vec(), b"k8s\0\xff".to_vec()] {
            assert_eq!(decode(&body).unwrap_err().code, 415);
        }
    }
}
