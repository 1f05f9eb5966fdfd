//! How long each step of the protocol may take.
//!
//! Decides nothing: values only, read once when a core is made.

use std::time::Duration;

/// Timers of one node. Nodes of a mesh may differ; each accuses by its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Every probe target is probed once in this time (stretched by local health).
    pub period: Duration,
    /// A direct probe is never given up earlier than this.
    pub probe_timeout_min: Duration,
    /// A direct probe is never waited for longer than this; also the wait for indirect answers.
    pub probe_timeout_max: Duration,
    /// How many helpers are asked once a direct probe went unanswered.
    pub indirect_probes: usize,
    /// A suspicion that enough others confirm lasts this long.
    pub suspicion_min: Duration,
    /// A suspicion that nobody confirms lasts this long.
    pub suspicion_max: Duration,
    /// Time between two digests to a neighbour.
    pub digest_period: Duration,
    /// Time between two digests to any member at all.
    pub random_digest_period: Duration,
    /// Connections beyond those of the rings.
    pub random_edges: usize,
    /// Time after which the random edges are drawn anew.
    pub reshuffle_period: Duration,
    /// Time between two greetings to a member held dead, so that a healed cut is noticed.
    pub dead_contact_period: Duration,
    /// Timers this late mean that the process stood still and must not judge others by it.
    pub stall: Duration,
}

impl Settings {
    /// One site: round trips of a few milliseconds.
    pub const fn lan() -> Self {
        Self {
            period: Duration::from_secs(1),
            // Below 200 ms a scheduling hiccup looks like a lost probe; above 500 ms the direct and
            // the indirect stage no longer fit into one period.
            probe_timeout_min: Duration::from_millis(200),
            probe_timeout_max: Duration::from_millis(500),
            indirect_probes: 3,
            // Three seconds outlast a stall of two probe periods; `simulations` measures what it costs.
            suspicion_min: Duration::from_secs(3),
            suspicion_max: Duration::from_secs(30),
            digest_period: Duration::from_secs(10),
            random_digest_period: Duration::from_secs(60),
            random_edges: 2,
            reshuffle_period: Duration::from_secs(60),
            dead_contact_period: Duration::from_secs(5),
            stall: Duration::from_millis(500),
        }
    }

    /// Several sites or relayed links: round trips of hundreds of milliseconds.
    pub const fn wan() -> Self {
        Self {
            period: Duration::from_secs(3),
            probe_timeout_min: Duration::from_secs(1),
            probe_timeout_max: Duration::from_millis(1500),
            suspicion_min: Duration::from_secs(10),
            suspicion_max: Duration::from_secs(60),
            dead_contact_period: Duration::from_secs(10),
            stall: Duration::from_millis(1500),
            ..Self::lan()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::lan()
    }
}
