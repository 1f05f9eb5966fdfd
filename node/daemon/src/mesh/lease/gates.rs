//! This host's kernel gate, and which address and interface an order is about.
//!
//! Decides nothing. Without a gate (no permission) no virtual IP is opened here, and it says so.

use std::{collections::BTreeMap, net::Ipv6Addr, sync::Arc};

use consensus_core::{Agreed, Epoch, LeaseProfile, NodeId, VipId};
use consensus_lease::GateOrder;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use overlay_gate::{Gate, GateConfig, GateEvent, GateKind, Timing};
use tokio::sync::mpsc;

/// Where a virtual IP is put.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    address: Ipv6Addr,
    interface: String,
    profile: LeaseProfile,
}

/// The gate, and what is being shut.
pub(super) struct Gates {
    gate: Option<Arc<Gate>>,
    events: Option<mpsc::Receiver<GateEvent>>,
    places: BTreeMap<VipId, Place>,
    shutting: FuturesUnordered<BoxFuture<'static, Option<(VipId, Epoch)>>>,
}

impl Gates {
    /// The host's gate, or why it cannot be had.
    pub(super) fn start() -> Result<Self, String> {
        match Gate::start(&GateConfig::default()) {
            // Its lifetime alone wants longer leases than any profile has.
            Ok((gate, _)) if gate.kind() == GateKind::AddressLifetime => {
                let reason = "its kernel has no nf_tables, which the gate needs";
                tracing::warn!(reason, "this node can hold no virtual IP");
                Err(reason.to_owned())
            }
            Ok((gate, events)) => Ok(Self {
                gate: Some(Arc::new(gate)),
                events: Some(events),
                ..Self::none()
            }),
            Err(error) => {
                let (code, hint) = (error.code(), error.hint());
                tracing::warn!(%error, code, hint, "this node can hold no virtual IP");
                Err(format!("its kernel has no gate: {error}"))
            }
        }
    }

    /// None: whatever is ordered, nothing opens.
    pub(super) fn none() -> Self {
        Self {
            gate: None,
            events: None,
            places: BTreeMap::new(),
            shutting: FuturesUnordered::new(),
        }
    }

    /// Notes where each virtual IP belongs. Those that are gone are closed and forgotten.
    pub(super) fn learn(&mut self, agreed: &Agreed, me: &NodeId) {
        let gone = self
            .places
            .extract_if(.., |vip, _| !agreed.virtual_ips.contains_key(vip));
        let gone: Vec<Place> = gone.map(|(_, place)| place).collect();
        for place in gone {
            if let Some(gate) = &self.gate
                && let Err(error) = gate.forget(place.address)
            {
                tracing::warn!(vip = place.name, %error, "its gate was not forgotten");
            }
        }
        for (vip, row) in &agreed.virtual_ips {
            let Some(network) = agreed.networks.get(&row.network) else {
                continue;
            };
            if row.is_candidate(me) || row.is_holder(me) {
                let place = Place {
                    name: row.name.clone(),
                    address: row.address,
                    interface: network.interface(),
                    profile: row.profile,
                };
                self.places.insert(*vip, place);
            }
        }
    }

    /// Passes an order on.
    pub(super) fn order(&mut self, order: GateOrder) {
        let (Some(place), Some(gate)) = (self.places.get(&order.vip), &self.gate) else {
            if order.is_shut() {
                // What has no gate is shut.
                let shut = (order.vip, order.epoch);
                self.shutting.push(Box::pin(async move { Some(shut) }));
            }
            return;
        };
        if order.is_shut() {
            let (gate, address, name) = (Arc::clone(gate), place.address, place.name.clone());
            self.shutting.push(Box::pin(async move {
                match gate.close(address, order.epoch.0).await {
                    Ok(_) => Some((order.vip, order.epoch)),
                    Err(error) => {
                        tracing::warn!(vip = name, %error, "its gate is not shut by order");
                        None
                    }
                }
            }));
            return;
        }
        let timing = place.profile.timing();
        let told = gate.order(overlay_gate::GateOrder {
            address: place.address,
            interface: place.interface.clone(),
            epoch: order.epoch.0,
            lease_until_us: order.lease_until_us,
            timing: Timing {
                gate_us: timing.gate_us,
                delta_us: timing.margin_us,
            },
        });
        if let Err(error) = told {
            tracing::warn!(vip = place.name, code = error.code(), %error, "its gate takes no order");
        }
    }

    /// Waits until a gate was shut by order. Given up half-way it has lost nothing.
    pub(super) async fn shut(&mut self) -> (VipId, Epoch) {
        loop {
            // Both arms only take what is there.
            tokio::select! {
                Some(shut) = self.shutting.next() => {
                    if let Some(shut) = shut {
                        return shut;
                    }
                }
                event = next(&mut self.events) => self.note(&event),
            }
        }
    }

    fn note(&self, event: &GateEvent) {
        let name = |address: &Ipv6Addr| {
            let mut places = self.places.values();
            let place = places.find(|place| place.address == *address);
            place.map_or_else(|| address.to_string(), |place| place.name.clone())
        };
        match event {
            GateEvent::Opened { address, epoch, .. } => {
                tracing::info!(vip = name(address), epoch, "held here");
            }
            GateEvent::Closed {
                address,
                epoch,
                why,
                ..
            } => tracing::info!(vip = name(address), epoch, ?why, "not held here any more"),
            GateEvent::Refused {
                address,
                epoch,
                why,
                ..
            } => {
                let code = why.code();
                tracing::warn!(vip = name(address), epoch, code, %why, "cannot be held here");
            }
            GateEvent::RulesRestored { .. } => {
                tracing::warn!(
                    "somebody removed the rules of the virtual IPs' gate; they are back"
                );
            }
            GateEvent::RulesMissing { errno, .. } => {
                tracing::error!(%errno, "somebody removed the rules of the virtual IPs' gate");
            }
        }
    }
}

async fn next(events: &mut Option<mpsc::Receiver<GateEvent>>) -> GateEvent {
    match events {
        Some(open) => match open.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
