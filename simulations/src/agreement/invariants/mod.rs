//! What must hold whatever strikes a group of servers. One invariant per file, each with its source.
//!
//! | invariant | looked at | source |
//! |---|---|---|
//! | [`same_entries`] | at every applied entry, restart and snapshot | Ongaro and Ousterhout 2014, figure 3: state machine safety |
//! | [`one_leader`] | at every message | the same: election safety |
//! | [`votes_kept`] | at every answer | the same, section 5.2: one vote a term, kept over restarts |
//! | [`nothing_lost`] | at every answer and applied entry, and at the end | the same: leader completeness |
//! | [`linearizable`] | at every answer | Herlihy and Wing 1990, real-time order |
//! | [`store_opens`] | at every start | the log's own promise, `consensus_log` |
//! | [`keeps_running`] | at the end | Raft goes on until it is told to stop |
//! | [`progress`] | at the end | Ongaro and Ousterhout 2014, section 5.6: timing and availability |
//! | [`timely_failover`] | at the end | the scenario's own bound |
//! | [`one_gate`] | whenever a gate is opened | Gray and Cheriton 1989, and `consensus_lease`'s header |
//! | [`one_holder`] | at every applied entry, and whenever a gate is opened | `consensus_core`'s virtual IPs: one holder an epoch |
//! | [`held_again`] | at the end | the scenario's own bounds |
//! | [`faults_hit`] | at the end | the laboratory's own: a fault that hit nothing proves nothing |
//!
//! The first six are safety: they hold while faults strike. Progress is liveness: it is asked for
//! once the last fault is over, within the scenario's time to settle.

pub mod faults_hit;
pub mod held_again;
pub mod keeps_running;
pub mod linearizable;
pub mod nothing_lost;
pub mod one_gate;
pub mod one_holder;
pub mod one_leader;
pub mod progress;
pub mod same_entries;
pub mod store_opens;
pub mod timely_failover;
pub mod votes_kept;
