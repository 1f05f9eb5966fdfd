//! A member that lies.
//!
//! Decides: what it says. It has a certificate and a key of its own, so everybody listens to it;
//! what it cannot do is sign for others.

use std::sync::Arc;

use overlay_core::membership::{
    Accusation, Message, Pace, Record, SIGNATURE_BYTES, Signature, SignedRecord, SimulatedKeys,
    Update, Verdict,
};
use rand::Rng;

use crate::world::World;

/// What stands where a signature belongs (0xFF is in no signature that the simulated keys make by
/// chance).
const NO_SIGNATURE: Signature = Signature([0xFF; SIGNATURE_BYTES]);
/// Where a forged record says that its subject lives (RFC 5737, for documentation alone).
const ELSEWHERE: [u8; 4] = [203, 0, 113, 66];

impl World {
    /// Has a member tell its peers lies of the victims; gives how many messages it sent.
    pub(crate) fn forge(&mut self, liar: usize, victims: &[usize]) -> u64 {
        if !self.nodes[liar].is_awake() {
            return 0;
        }
        let mut sent = 0;
        for victim in victims.iter().filter(|victim| **victim != liar) {
            let updates = self.lies(liar, *victim);
            let peers: Vec<_> = self.nodes[liar]
                .connections
                .iter()
                .map(|one| one.peer())
                .collect();
            for peer in peers {
                let updates = updates.clone();
                self.send(liar, peer, Message::Gossip { updates });
                sent += 1;
            }
        }
        sent
    }

    fn lies(&mut self, liar: usize, victim: usize) -> Vec<Update> {
        let record = self.nodes[victim].core.record().clone();
        let incarnation = record.incarnation();
        let other = self.rng.random_range(0..self.len());
        let forged = Arc::new(Accusation {
            subject: record.node.clone(),
            incarnation,
            accuser: self.nodes[other].id.clone(),
            pace: Pace::Lan,
            signature: NO_SIGNATURE,
        });
        let id = self.nodes[liar].id.clone();
        let keys = SimulatedKeys(id.clone());
        let node = record.node.clone();
        let own = Accusation::sign(Verdict::Suspect, node, incarnation, (id, &keys), Pace::Lan);
        let elsewhere = SignedRecord {
            record: Record {
                version: record.version + 1,
                addresses: vec![(ELSEWHERE, 4001).into()],
                ..record
            },
            signature: NO_SIGNATURE,
        };
        // First what it has signed: after a forgery that was seen through nobody listens.
        vec![
            Update::Suspect(own),
            Update::Suspect(Arc::clone(&forged)),
            Update::Dead(forged),
            Update::Alive(Arc::new(elsewhere)),
        ]
    }
}
