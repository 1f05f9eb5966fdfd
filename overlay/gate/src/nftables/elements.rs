//! The table's elements as messages, and read from them.
//!
//! Decides: what is written beside an address: its epoch, as a comment that `nft list` shows.

use std::net::Ipv6Addr;

use super::{ARMED, DELETE_ELEMENT, GUARDED, INET, NEW_ELEMENT, OPEN, kind};
use crate::netlink::{CREATE, Messages, attribute, text};

/// What the table says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guarded {
    pub(crate) address: Ipv6Addr,
    /// The highest epoch that was opened on this host since it started; 0 for none.
    pub(crate) epoch: u64,
    /// Whether that epoch was given up for good.
    pub(crate) released: bool,
}

/// An element that lets packets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Living {
    pub(crate) address: Ipv6Addr,
    pub(crate) epoch: u64,
    /// How long it still lives.
    pub(crate) left_us: u64,
}

pub(super) fn add_guarded(row: &mut Messages, table: &str, guarded: &Guarded) {
    let key = guarded.address.octets();
    let said = said(guarded.epoch, guarded.released);
    add(row, table, GUARDED, &key, None, Some(&said));
}

pub(super) fn add_open(
    row: &mut Messages,
    table: &str,
    address: Ipv6Addr,
    epoch: u64,
    gate_us: u64,
) {
    let said = said(epoch, false);
    add(
        row,
        table,
        OPEN,
        &address.octets(),
        Some(gate_us),
        Some(&said),
    );
}

fn add(
    row: &mut Messages,
    table: &str,
    set: &str,
    key: &[u8],
    timeout_us: Option<u64>,
    comment: Option<&str>,
) {
    element(row, NEW_ELEMENT, CREATE, (table, set), |row| {
        put_key(row, key);
        if let Some(timeout_us) = timeout_us {
            row.put_be64(4, timeout_us / 1_000);
        }
        if let Some(comment) = comment {
            row.put(6, &user_data(comment));
        }
    });
}

pub(super) fn add_armed(
    row: &mut Messages,
    table: &str,
    address: Ipv6Addr,
    epoch: u64,
    gate_us: u64,
) {
    let key = arm_key(address, epoch);
    add(row, table, ARMED, &key, Some(gate_us), None);
}

pub(super) fn delete_armed(row: &mut Messages, table: &str, address: Ipv6Addr, epoch: u64) {
    delete(row, table, ARMED, &arm_key(address, epoch));
}

pub(super) fn read_guarded(element: &[u8]) -> Option<Guarded> {
    let comment = comment(element);
    Some(Guarded {
        address: key_address(element)?,
        epoch: epoch_in(comment),
        released: comment.ends_with(RELEASED),
    })
}

pub(super) fn read_living(element: &[u8]) -> Option<Living> {
    let left = attribute(element, 5).and_then(|value| value.try_into().ok());
    Some(Living {
        address: key_address(element)?,
        epoch: epoch_in(comment(element)),
        left_us: left.map_or(0, u64::from_be_bytes).saturating_mul(1_000),
    })
}

pub(super) fn delete(row: &mut Messages, table: &str, set: &str, key: &[u8]) {
    element(row, DELETE_ELEMENT, 0, (table, set), |row| {
        put_key(row, key)
    });
}

fn element(
    row: &mut Messages,
    message: u16,
    flags: u16,
    (table, set): (&str, &str),
    inner: impl FnOnce(&mut Messages),
) {
    row.begin(kind(message), flags, &INET)
        .put_text(1, table)
        .put_text(2, set)
        .nest(3, |row| {
            row.nest(1, inner);
        });
}

fn put_key(row: &mut Messages, key: &[u8]) {
    row.nest(1, |row| {
        row.put(1, key);
    });
}

fn arm_key(address: Ipv6Addr, epoch: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&address.octets());
    key[16..].copy_from_slice(&epoch.to_be_bytes());
    key
}

/// What the comment of an epoch that was given up ends with.
const RELEASED: &str = "released";

fn said(epoch: u64, released: bool) -> String {
    if released {
        format!("epoch {epoch} {RELEASED}")
    } else {
        format!("epoch {epoch}")
    }
}

fn epoch_in(comment: &str) -> u64 {
    let number = comment.split(' ').nth(1);
    number
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// nft's own form of a comment: type 0, length, text with a zero byte.
fn user_data(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).expect("a comment has less than 40 bytes");
    let mut bytes = vec![0, length];
    bytes.extend(comment.as_bytes());
    bytes.push(0);
    bytes
}

fn comment(element: &[u8]) -> &str {
    let data = attribute(element, 6).unwrap_or_default();
    data.get(2..).map_or("", text)
}

fn key_address(element: &[u8]) -> Option<Ipv6Addr> {
    let value = attribute(attribute(element, 1)?, 1)?;
    let octets: [u8; 16] = value.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_an_epoch_is_read_again() {
        for (epoch, released) in [(0, false), (7, true), (u64::MAX, true)] {
            let said = said(epoch, released);
            assert_eq!(epoch_in(&said), epoch);
            assert_eq!(said.ends_with(RELEASED), released);
            assert_eq!(user_data(&said).len(), said.len() + 3);
        }
    }

    #[test]
    fn a_comment_of_somebody_elses_names_no_epoch() {
        for comment in ["", "epoch", "epoch x", "hands off"] {
            assert_eq!(epoch_in(comment), 0);
        }
    }
}
