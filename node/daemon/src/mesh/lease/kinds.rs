//! By what means this host holds virtual IPs, and which of them that will do for.
//!
//! Decides: under which profiles' leases a kind of gate stays open, and what is said of the others;
//! how long a profile's leases are waited for. Never: looks at a kernel.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::{LeaseProfile, RENEWALS_LOST};
use overlay_gate::{GateKind, Timing};

use crate::config::VipGate;

/// An address without anybody to renew it lives three seconds at most.
pub(super) const RUN_OUT: Duration = Duration::from_secs(4);
/// Whatever else was opened under a lease has run out so much later than that, for certain.
const RUN_OUT_AFTER: Duration = Duration::from_millis(500);
/// Orders of one lease are as far apart at most, or as several times R.
pub(super) const SAME_LEASE: Duration = Duration::from_secs(1);
/// How often that is: renewals may be lost.
const SAME_LEASE_RENEWALS: u64 = RENEWALS_LOST + 2;

/// How long a gate that is gone may leave something open under such leases.
pub(super) fn run_out(profile: LeaseProfile) -> Duration {
    let lease = Duration::from_micros(profile.timing().lease_us);
    RUN_OUT.max(lease + RUN_OUT_AFTER)
}

/// Orders that are further apart are of another lease.
pub(super) fn same_lease(profile: LeaseProfile) -> Duration {
    let renewals_us = SAME_LEASE_RENEWALS * profile.timing().renew_every_us;
    SAME_LEASE.max(Duration::from_micros(renewals_us))
}

/// What the gate has to know of a profile's leases.
pub(super) const fn timing(profile: LeaseProfile) -> Timing {
    let timing = profile.timing();
    Timing {
        gate_us: timing.gate_us,
        delta_us: timing.margin_us,
    }
}

/// Whether such a gate stays open under leases of that profile though as many renewals in a row are
/// lost as may be.
fn will_do(kind: GateKind, profile: LeaseProfile) -> bool {
    let lost = RENEWALS_LOST * profile.timing().renew_every_us;
    profile.timing().lease_us >= kind.lease_left_us(&timing(profile)) + lost
}

/// Why this host can hold no virtual IP of these profiles.
pub(super) fn too_short(kind: GateKind, wanted: VipGate) -> BTreeMap<LeaseProfile, String> {
    let (longer, shorter): (Vec<_>, Vec<_>) = LeaseProfile::ALL
        .into_iter()
        .partition(|profile| will_do(kind, *profile));
    let why = match wanted {
        VipGate::Auto | VipGate::Ebpf => "its kernel has no nf_tables and takes no eBPF gate",
        VipGate::Nftables => "its kernel has no nf_tables, and vip_gate allows no eBPF gate",
        VipGate::Lifetime => "its setting vip_gate is \"lifetime\"",
    };
    let names: Vec<&str> = longer.into_iter().map(LeaseProfile::as_str).collect();
    let names = names.join(" and ");
    let reason = format!("{why}: it can hold virtual IPs of profile {names} only");
    let told = |profile| (profile, reason.clone());
    shorter.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_addresss_lifetime_alone_will_do_for_slow_leases_and_a_better_gate_for_all() {
        for profile in LeaseProfile::ALL {
            for kind in [GateKind::Nftables, GateKind::Ebpf] {
                assert!(will_do(kind, profile), "{kind:?} {profile}");
            }
            let slow = profile == LeaseProfile::Slow;
            assert_eq!(will_do(GateKind::AddressLifetime, profile), slow);
        }
        // So its leases keep the rule for an address as they do for an element.
        let life_us = GateKind::AddressLifetime.life_us(&timing(LeaseProfile::Slow));
        assert_eq!(life_us, LeaseProfile::Slow.timing().gate_us);
    }

    #[test]
    fn who_has_nothing_but_lifetimes_says_which_virtual_ips_it_can_hold() {
        assert!(too_short(GateKind::Nftables, VipGate::Auto).is_empty());
        let told = too_short(GateKind::AddressLifetime, VipGate::Auto);
        let profiles: Vec<LeaseProfile> = told.keys().copied().collect();
        assert_eq!(
            profiles,
            [LeaseProfile::Lan, LeaseProfile::Safe, LeaseProfile::Wan]
        );
        for reason in told.values() {
            assert_eq!(
                reason,
                "its kernel has no nf_tables and takes no eBPF gate: it can hold virtual IPs of profile slow only"
            );
        }
        let wanted = too_short(GateKind::AddressLifetime, VipGate::Lifetime);
        let reason = &wanted[&LeaseProfile::Lan];
        assert!(reason.starts_with("its setting vip_gate is"), "{reason}");
    }
}
