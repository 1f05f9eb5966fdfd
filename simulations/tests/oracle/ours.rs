//! The membership core as a detector.

use std::sync::Arc;

use consensus_core::Time;
use overlay_core::membership::{
    Condition, Membership, Message, Output, Record, Rings, Seat, Settings, SimulatedKeys,
};
use simulations::node_id;

use crate::{
    network::mix,
    world::{Deed, Deeds, Detector, Place},
};

pub(crate) struct Ours {
    core: Membership,
    /// Which node has which seat, both ways.
    nodes: Vec<usize>,
    seats: Vec<Seat>,
    dead: Vec<bool>,
    armed_us: Option<u64>,
}

impl Ours {
    fn carry_out(&mut self, now_us: u64) -> Deeds<Self> {
        let now = Time::from_micros(now_us);
        let mut deeds = Vec::new();
        while let Some(output) = self.core.poll_seated() {
            match output {
                Output::Send { to, message } => {
                    deeds.push(Deed::Send(self.nodes[to.index()], message));
                }
                Output::Neighbours(seats) => {
                    for seat in seats {
                        let peer = self.core.rings().node(seat).clone();
                        self.core.handle_connected(&peer, now);
                    }
                }
                Output::Changed { node, condition } => {
                    let dead = condition == Condition::Dead;
                    let subject = self.nodes[node.index()];
                    if std::mem::replace(&mut self.dead[subject], dead) != dead {
                        deeds.push(Deed::Believe(subject, dead));
                    }
                }
            }
        }
        if let Some(due) = self.core.poll_timeout() {
            let due_us = due.as_micros().max(now_us);
            if self.armed_us.is_none_or(|at| due_us < at || at <= now_us) {
                self.armed_us = Some(due_us);
                deeds.push(Deed::Wake(due_us - now_us, ()));
            }
        }
        deeds
    }
}

impl Detector for Ours {
    type Letter = Message;
    type Alarm = ();

    fn start(place: Place, now_us: u64) -> (Self, Deeds<Self>) {
        let id = node_id(place.index);
        let record = Record {
            node: id.clone(),
            generation: place.life.into(),
            version: 0,
            addresses: Vec::new(),
            wireguard: Vec::new(),
            relays: Vec::new(),
            unreachable: Vec::new(),
            forwards: false,
        };
        let now = Time::from_micros(now_us);
        let seed = mix(place.seed ^ (place.index as u64) << 16 ^ u64::from(place.life));
        let keys = Arc::new(SimulatedKeys(id));
        let mut core = Membership::new(record, keys, Settings::lan(), seed, now);
        let members = (0..place.nodes).map(node_id).collect();
        let rings = Arc::new(Rings::new(&members, place.seed));
        let seats: Vec<_> = (0..place.nodes)
            .map(|node| rings.seat(&node_id(node)).expect("all are members"))
            .collect();
        let mut nodes = vec![0; place.nodes];
        for (node, seat) in seats.iter().enumerate() {
            nodes[seat.index()] = node;
        }
        core.handle_rings(rings, now);
        let mut one = Self {
            core,
            nodes,
            seats,
            dead: vec![false; place.nodes],
            armed_us: None,
        };
        let deeds = one.carry_out(now_us);
        (one, deeds)
    }

    fn hear(&mut self, from: usize, letter: Message, now_us: u64) -> Deeds<Self> {
        let now = Time::from_micros(now_us);
        self.core.handle_seated(self.seats[from], letter, now);
        self.carry_out(now_us)
    }

    fn wake(&mut self, (): (), now_us: u64) -> Deeds<Self> {
        if self.armed_us.is_some_and(|at| at <= now_us) {
            self.armed_us = None;
        }
        if self
            .core
            .poll_timeout()
            .is_some_and(|due| due.as_micros() <= now_us)
        {
            self.core.handle_timeout(Time::from_micros(now_us));
        }
        self.carry_out(now_us)
    }

    fn counts_in(&self, node: usize) -> bool {
        let condition = self.core.condition(self.seats[node]);
        matches!(condition, Condition::Alive | Condition::Suspect)
    }
}
