//! Identifiers, prefixes and keys in their text forms, as they come from command lines, API
//! requests, certificates and files.
//!
//! Claims: what is read is written as a text that is read as the same, and that is the only text
//! for it but for letter case in hexadecimal: two spellings of one name would be two names to
//! whoever compares texts.

use std::{fmt::Display, str::FromStr};

use consensus_core::{Ipv4Prefix, MeshId, NetworkId, NodeId, RequestId, TokenId};
use overlay_core::peers::{Cidr, PublicKey};

pub(crate) fn identifiers(data: &[u8]) {
    let text = crate::text(data);
    let text = text.as_ref();
    spelt_one_way::<NodeId>(text, str::to_owned);
    spelt_one_way::<MeshId>(text, str::to_lowercase);
    spelt_one_way::<NetworkId>(text, str::to_lowercase);
    spelt_one_way::<RequestId>(text, str::to_lowercase);
    spelt_one_way::<TokenId>(text, str::to_lowercase);
    spelt_one_way::<PublicKey>(text, str::to_owned);
    if let Some(prefix) = read_again::<Ipv4Prefix>(text) {
        assert!((10..=29).contains(&prefix.bits()));
        assert!(prefix.contains(prefix.network()));
        assert!(prefix.hosts().all(|host| prefix.contains(host)) || prefix.bits() < 20);
        assert_eq!(prefix.to_string(), text, "two spellings of one name");
    }
    if let Some(cidr) = read_again::<Cidr>(text) {
        assert!(cidr.contains(cidr.address()));
        assert!(cidr.overlaps(&cidr));
    }
}

fn spelt_one_way<T: FromStr + Display + PartialEq>(text: &str, normal: fn(&str) -> String) {
    if let Some(value) = read_again::<T>(text) {
        assert_eq!(value.to_string(), normal(text), "two spellings of one name");
    }
}

fn read_again<T: FromStr + Display + PartialEq>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let again = value.to_string().parse().ok();
    assert!(again == Some(value), "{text:?} is read as another");
    text.parse().ok()
}
