//! The one owner of the MTU (SPEC 3.9): what fits into the overlay, and into what runs on it.
//!
//! Decides: every MTU that shoal sets, out of one number. What comes out of a container fits the
//! overlay without being cut, and what comes out of the overlay fits the underlay. flannel's host-gw
//! adds no header and takes the MTU of the overlay's interface by itself.
//! Never: asks the machine. One value for IPv4 and IPv6 underlays, so that a peer may roam between
//! them.

/// What Ethernet carries, and every path of the Internet that is worth the name.
const UNDERLAY_MTU: u16 = 1500;
/// The larger of the two IP headers: IPv6's (RFC 8200, section 3).
const IP_HEADER: u16 = 40;
/// RFC 768.
const UDP_HEADER: u16 = 8;
/// Type, receiver, counter and tag of a data message (WireGuard whitepaper, section 5.4.6).
const WIREGUARD_OVERHEAD: u16 = 32;

/// Of bridges that containers are on: what they send goes into the overlay as it is.
pub const BRIDGE_MTU: u16 = UNDERLAY_MTU - IP_HEADER - UDP_HEADER - WIREGUARD_OVERHEAD;

/// Of WireGuard's interfaces.
pub const OVERLAY_MTU: u32 = BRIDGE_MTU as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_a_container_fits_the_overlay_and_with_its_headers_the_underlay() {
        assert_eq!(OVERLAY_MTU, 1420);
        assert!(u32::from(BRIDGE_MTU) <= OVERLAY_MTU);
        let outer = OVERLAY_MTU + u32::from(IP_HEADER + UDP_HEADER + WIREGUARD_OVERHEAD);
        assert_eq!(outer, u32::from(UNDERLAY_MTU));
    }
}
