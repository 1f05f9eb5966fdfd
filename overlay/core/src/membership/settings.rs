//! How long each step of the protocol may take.
//!
//! Decides nothing: values only, read once when a core is made.

use std::time::Duration;

/// By which of the two sets of timers an edge is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pace {
    /// A direct link of short round trips.
    #[default]
    Lan,
    /// A relayed link, or one of long round trips.
    Wan,
}

/// The timers of one edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// The target is probed once in this time (stretched by local health).
    pub period: Duration,
    /// A direct probe is never given up earlier than this.
    pub probe_timeout_min: Duration,
    /// A direct probe is never waited for longer than this; also the wait for indirect answers.
    pub probe_timeout_max: Duration,
    /// A suspicion that enough others confirm lasts this long.
    pub suspicion_min: Duration,
    /// A suspicion that nobody confirms lasts this long.
    pub suspicion_max: Duration,
}

impl Timers {
    /// One site: round trips of a few milliseconds.
    pub const fn lan() -> Self {
        Self {
            period: Duration::from_secs(1),
            // Below 200 ms a scheduling hiccup looks like a lost probe; above 500 ms the direct and
            // the indirect stage no longer fit into one period.
            probe_timeout_min: Duration::from_millis(200),
            probe_timeout_max: Duration::from_millis(500),
            // Three seconds outlast a stall of two probe periods; `simulations` measures what it
            // costs.
            suspicion_min: Duration::from_secs(3),
            suspicion_max: Duration::from_secs(30),
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
        }
    }
}

/// Timers of one node. Nodes of a mesh may differ; each accuses by its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Of [`Pace::Lan`]: see [`Timers::period`].
    pub period: Duration,
    /// Of [`Pace::Lan`]: see [`Timers::probe_timeout_min`].
    pub probe_timeout_min: Duration,
    /// Of [`Pace::Lan`]: see [`Timers::probe_timeout_max`].
    pub probe_timeout_max: Duration,
    /// Of [`Pace::Lan`]: see [`Timers::suspicion_min`].
    pub suspicion_min: Duration,
    /// Of [`Pace::Lan`]: see [`Timers::suspicion_max`].
    pub suspicion_max: Duration,
    /// The timers of edges that are relayed or slow.
    pub wan: Timers,
    /// A direct edge whose smoothed round trip is longer than this has the timers of `wan`.
    pub wan_from: Duration,
    /// How many helpers are asked once a direct probe went unanswered.
    pub indirect_probes: usize,
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
    /// Above so many members facts are pushed along a tree, and only named to other neighbours.
    pub lazy_above: usize,
    /// When more than a quarter of the members turn suspect within this time, pruning freezes.
    pub freeze_window: Duration,
}

impl Settings {
    /// One site: round trips of a few milliseconds. Relayed and slow edges have WAN timers.
    pub const fn lan() -> Self {
        let Timers {
            period,
            probe_timeout_min,
            probe_timeout_max,
            suspicion_min,
            suspicion_max,
        } = Timers::lan();
        Self {
            period,
            probe_timeout_min,
            probe_timeout_max,
            suspicion_min,
            suspicion_max,
            wan: Timers::wan(),
            // Half of what a LAN edge waits at most: beyond it one late answer is a lost one.
            wan_from: Duration::from_millis(250),
            indirect_probes: 3,
            digest_period: Duration::from_secs(10),
            random_digest_period: Duration::from_secs(60),
            random_edges: 2,
            reshuffle_period: Duration::from_secs(60),
            dead_contact_period: Duration::from_secs(5),
            stall: Duration::from_millis(500),
            // Below, twenty copies of a rare fact cost less than a tree's upkeep.
            lazy_above: 2000,
            freeze_window: Duration::from_secs(30),
        }
    }

    /// Several sites: every edge has WAN timers.
    pub const fn wan() -> Self {
        let Timers {
            period,
            probe_timeout_min,
            probe_timeout_max,
            suspicion_min,
            suspicion_max,
        } = Timers::wan();
        Self {
            period,
            probe_timeout_min,
            probe_timeout_max,
            suspicion_min,
            suspicion_max,
            dead_contact_period: Duration::from_secs(10),
            stall: Duration::from_millis(1500),
            ..Self::lan()
        }
    }

    /// The timers of an edge.
    pub const fn timers(&self, pace: Pace) -> Timers {
        match pace {
            Pace::Lan => Timers {
                period: self.period,
                probe_timeout_min: self.probe_timeout_min,
                probe_timeout_max: self.probe_timeout_max,
                suspicion_min: self.suspicion_min,
                suspicion_max: self.suspicion_max,
            },
            Pace::Wan => self.wan,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::lan()
    }
}
