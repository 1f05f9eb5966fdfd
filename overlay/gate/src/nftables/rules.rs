//! The table's sets, chains and rules as messages.
//!
//! Decides: what is matched and dropped. Numbers are those of `linux/netfilter/nf_tables.h`.

use super::{ARMED, DELETE_RULE, GUARDED, INET, NEW_CHAIN, NEW_RULE, NEW_SET, OPEN, kind};
use crate::netlink::{APPEND, CREATE, Messages};

/// Before conntrack, DNAT and the raw table.
const BEFORE_ALL: i32 = -310;
/// After SNAT.
const AFTER_ALL: i32 = 310;
/// What the overlay's interfaces are called begins so.
const OVERLAY_PREFIX: &[u8] = b"shoal";
/// One rule in each chain.
pub(super) const RULES: usize = 2;

const ARRIVING: &str = "arriving";
const LEAVING: &str = "leaving";

/// nft's own number for the type `ipv6_addr`; only `nft list` reads it.
const TYPE_ADDRESS: u32 = 8;
/// `ipv6_addr . mark . mark`, six bits a type.
const TYPE_ARM: u32 = (8 << 12) | (19 << 6) | 19;
/// Sixteen bytes of address and eight of epoch.
const ARM_BYTES: u32 = 24;
/// `NFT_SET_TIMEOUT`.
const WITH_TIMEOUT: u32 = 0x10;

/// Writes sets and chains where there are none, and every rule anew; elements stay.
pub(super) fn write(row: &mut Messages, table: &str) {
    set(row, table, GUARDED, TYPE_ADDRESS, 16, 0);
    set(row, table, OPEN, TYPE_ADDRESS, 16, WITH_TIMEOUT);
    set(row, table, ARMED, TYPE_ARM, ARM_BYTES, WITH_TIMEOUT);
    for (chain, hook, priority) in [(ARRIVING, 0, BEFORE_ALL), (LEAVING, 4, AFTER_ALL)] {
        base_chain(row, table, chain, hook, priority);
        row.begin(kind(DELETE_RULE), 0, &INET)
            .put_text(1, table)
            .put_text(2, chain);
        row.begin(kind(NEW_RULE), CREATE | APPEND, &INET)
            .put_text(1, table)
            .put_text(2, chain)
            .nest(4, if chain == ARRIVING { arriving } else { leaving });
    }
}

fn set(row: &mut Messages, table: &str, name: &str, key: u32, key_bytes: u32, flags: u32) {
    row.begin(kind(NEW_SET), CREATE, &INET)
        .put_text(1, table)
        .put_text(2, name)
        .put_be32(3, flags)
        .put_be32(4, key)
        .put_be32(5, key_bytes)
        // Wanted by the kernel for what refers to a set within its own transaction.
        .put_be32(10, 1);
}

fn base_chain(row: &mut Messages, table: &str, name: &str, hook: u32, priority: i32) {
    row.begin(kind(NEW_CHAIN), CREATE, &INET)
        .put_text(1, table)
        .put_text(3, name)
        .nest(4, |row| {
            row.put_be32(1, hook).put_be32(2, priority.cast_unsigned());
        })
        .put_be32(5, ACCEPT)
        .put_text(7, "filter");
}

/// `NF_DROP`.
const DROP: u32 = 0;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFT_REG_1`; sixteen bytes, enough for an address or an interface's name.
const REGISTER: u32 = 1;
/// Where `struct ipv6hdr` has its source.
const SOURCE_OFFSET: u32 = 8;
/// Where `struct ipv6hdr` has its destination.
const DESTINATION_OFFSET: u32 = 24;
/// `NFT_META_IIFNAME`.
const META_IIFNAME: u32 = 6;
/// `NFT_META_NFPROTO`.
const META_FAMILY: u32 = 15;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
/// `NFT_CMP_EQ`.
const EQUAL: u32 = 0;
/// `NFT_CMP_NEQ`.
const UNEQUAL: u32 = 1;
/// `RTN_LOCAL`, which the kernel's fib expression writes in its own byte order.
const LOCAL: u32 = 2;

fn arriving(row: &mut Messages) {
    closed(row, DESTINATION_OFFSET);
    expression(row, "fib", |row| {
        // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
        row.put_be32(1, REGISTER).put_be32(2, 3).put_be32(3, 2);
    });
    compare(row, EQUAL, &LOCAL.to_ne_bytes());
    count_and_drop(row);
}

fn leaving(row: &mut Messages) {
    closed(row, SOURCE_OFFSET);
    expression(row, "meta", |row| {
        row.put_be32(1, REGISTER).put_be32(2, META_IIFNAME);
    });
    compare(row, UNEQUAL, OVERLAY_PREFIX);
    count_and_drop(row);
}

/// Matches packets whose address at `offset` is guarded and not open.
fn closed(row: &mut Messages, offset: u32) {
    expression(row, "meta", |row| {
        row.put_be32(1, REGISTER).put_be32(2, META_FAMILY);
    });
    compare(row, EQUAL, &[IPV6]);
    expression(row, "payload", |row| {
        // NFT_PAYLOAD_NETWORK_HEADER.
        row.put_be32(1, REGISTER)
            .put_be32(2, 1)
            .put_be32(3, offset)
            .put_be32(4, 16);
    });
    for (set, flags) in [(GUARDED, 0), (OPEN, 1)] {
        expression(row, "lookup", |row| {
            // NFT_LOOKUP_F_INV.
            row.put_text(1, set)
                .put_be32(2, REGISTER)
                .put_be32(5, flags);
        });
    }
}

fn count_and_drop(row: &mut Messages) {
    expression(row, "counter", |_| {});
    expression(row, "immediate", |row| {
        row.put_be32(1, 0).nest(2, |row| {
            row.nest(2, |row| {
                row.put_be32(1, DROP);
            });
        });
    });
}

fn compare(row: &mut Messages, operation: u32, value: &[u8]) {
    expression(row, "cmp", |row| {
        row.put_be32(1, REGISTER)
            .put_be32(2, operation)
            .nest(3, |row| {
                row.put(1, value);
            });
    });
}

fn expression(row: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    row.nest(1, |row| {
        row.put_text(1, name).nest(2, data);
    });
}
