//! This host's kernel gate, and which address and interface an order is about.
//!
//! Decides: that an order to shut is repeated until the kernel has followed it; that what a gate
//! that is gone had opened is shut when all of it has run out; and when this node has to say that it
//! cannot hold an address: it has no gate, or a lease runs and the gate does not open. Never: who
//! holds an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    sync::Arc,
    time::Duration,
};

use consensus_core::{Agreed, Epoch, LeaseProfile, NodeId, VipId};
use consensus_lease::GateOrder;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use overlay_gate::{Gate, GateError, GateEvent, GateKind, GateStatus};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{kinds, obstacles::Obstacles};
use crate::config::VipGate;

/// After an order to shut that the kernel refused.
const SHUT_AGAIN: Duration = Duration::from_millis(100);
/// A gate opens within milliseconds, and within a second when the kernel is busy.
const OPENS_WITHIN: Duration = Duration::from_secs(2);
/// How long a node that could not open an address says so of itself: it may be asked to hold it
/// again after that, and the address was seldom away for longer until somebody looked.
const REFUSAL_KEPT: Duration = Duration::from_secs(30);
/// For operators.
const ENDED: &str = "its gate has ended: shoald has to be restarted";

/// What is asked of the kernel's gate.
trait Kernel: Send + Sync {
    fn order(&self, order: overlay_gate::GateOrder) -> Result<(), GateError>;
    fn close(
        self: Arc<Self>,
        address: Ipv6Addr,
        epoch: u64,
    ) -> BoxFuture<'static, Result<(), GateError>>;
    fn forget(&self, address: Ipv6Addr) -> Result<(), GateError>;
}

impl Kernel for Gate {
    fn order(&self, order: overlay_gate::GateOrder) -> Result<(), GateError> {
        Self::order(self, order)
    }

    fn close(
        self: Arc<Self>,
        address: Ipv6Addr,
        epoch: u64,
    ) -> BoxFuture<'static, Result<(), GateError>> {
        async move { Self::close(&self, address, epoch).await.map(drop) }.boxed()
    }

    fn forget(&self, address: Ipv6Addr) -> Result<(), GateError> {
        Self::forget(self, address)
    }
}

/// Where a virtual IP is put.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    address: Ipv6Addr,
    interface: String,
    profile: LeaseProfile,
}

/// An order to shut that was carried out, or not.
struct Shutting {
    vip: VipId,
    epoch: Epoch,
    attempt: u32,
    outcome: Result<(), GateError>,
}

/// An address that is to be open and is not.
struct Opening {
    since: Instant,
    ordered: Instant,
}

/// What is new of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateNews {
    /// It is shut for good for this epoch.
    Shut(VipId, Epoch),
    /// Something opened or closed.
    Changed,
    /// There is no gate any more: nothing can be held here.
    Gone,
}

/// The gate, and what is being shut.
pub(super) struct Gates {
    kernel: Option<Arc<dyn Kernel>>,
    /// By what it holds.
    kind: Option<GateKind>,
    /// Since when there is none.
    gone: Option<Instant>,
    events: Option<mpsc::Receiver<GateEvent>>,
    status: Option<watch::Receiver<BTreeMap<Ipv6Addr, GateStatus>>>,
    places: BTreeMap<VipId, Place>,
    shutting: FuturesUnordered<BoxFuture<'static, Shutting>>,
    /// What is in `shutting`, so that nothing is in it twice.
    to_shut: BTreeSet<(VipId, Epoch)>,
    opening: BTreeMap<VipId, Opening>,
    /// The gate's last word on an address that it does not open.
    refusals: BTreeMap<VipId, String>,
    /// Until when the obstacle of a virtual IP is told, unless it lasts.
    kept_until: BTreeMap<VipId, Instant>,
    obstacles: watch::Sender<Obstacles>,
}

impl Gates {
    /// The host's gate, or none with the reason told as an obstacle.
    pub(super) fn start(wanted: VipGate, obstacles: watch::Sender<Obstacles>) -> Self {
        let reason = match Gate::start(&wanted.config()) {
            Ok((gate, events)) => {
                let (kind, status) = (gate.kind(), gate.status());
                let profiles = kinds::too_short(kind, wanted);
                if let Some(reason) = profiles.values().next() {
                    tracing::warn!(reason, "this node cannot hold every virtual IP");
                }
                obstacles.send_modify(|obstacles| obstacles.profiles = profiles);
                return Self::with(Arc::new(gate), kind, events, status, obstacles);
            }
            Err(error) => {
                let (code, hint) = (error.code(), error.hint());
                tracing::warn!(%error, code, hint, "this node can hold no virtual IP");
                format!("its kernel has no gate: {error}")
            }
        };
        obstacles.send_modify(|obstacles| obstacles.gate = Some(reason));
        Self::none(obstacles)
    }

    /// None: whatever is ordered, nothing opens. An earlier daemon's gate may have left something
    /// open for a while.
    pub(super) fn none(obstacles: watch::Sender<Obstacles>) -> Self {
        Self {
            kernel: None,
            kind: None,
            gone: Some(Instant::now()),
            events: None,
            status: None,
            places: BTreeMap::new(),
            shutting: FuturesUnordered::new(),
            to_shut: BTreeSet::new(),
            opening: BTreeMap::new(),
            refusals: BTreeMap::new(),
            kept_until: BTreeMap::new(),
            obstacles,
        }
    }

    fn with(
        kernel: Arc<dyn Kernel>,
        kind: GateKind,
        events: mpsc::Receiver<GateEvent>,
        status: watch::Receiver<BTreeMap<Ipv6Addr, GateStatus>>,
        obstacles: watch::Sender<Obstacles>,
    ) -> Self {
        Self {
            kernel: Some(kernel),
            kind: Some(kind),
            gone: None,
            events: Some(events),
            status: Some(status),
            ..Self::none(obstacles)
        }
    }

    /// Whether nothing can be held here.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// By what addresses are held here.
    pub(super) fn kind(&self) -> Option<GateKind> {
        self.kind
    }

    /// Whether the kernel lets packets through, for this epoch.
    pub(super) fn is_open(&self, vip: VipId, epoch: Epoch) -> bool {
        let (Some(place), Some(status)) = (self.places.get(&vip), &self.status) else {
            return false;
        };
        let status = status.borrow();
        let present = status.get(&place.address);
        self.gone.is_none() && present.is_some_and(|it| it.open && it.epoch == epoch.0)
    }

    /// Notes where each virtual IP belongs. Those that are gone are closed and forgotten.
    pub(super) fn learn(&mut self, agreed: &Agreed, me: &NodeId) {
        let gone = self
            .places
            .extract_if(.., |vip, _| !agreed.virtual_ips.contains_key(vip));
        let gone: Vec<(VipId, Place)> = gone.collect();
        for (vip, place) in gone {
            self.opening.remove(&vip);
            self.refusals.remove(&vip);
            self.overcome(vip);
            if let Some(kernel) = &self.kernel
                && let Err(error) = kernel.forget(place.address)
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
        let GateOrder { vip, epoch, .. } = order;
        if order.is_shut() {
            self.opening.remove(&vip);
            if self.to_shut.insert((vip, epoch)) {
                self.shut(vip, epoch, 0);
            }
            return;
        }
        let (Some(place), Some(kernel)) = (self.places.get(&vip), &self.kernel) else {
            return;
        };
        let told = kernel.order(overlay_gate::GateOrder {
            address: place.address,
            interface: place.interface.clone(),
            epoch: epoch.0,
            lease_until_us: order.lease_until_us,
            timing: kinds::timing(place.profile),
        });
        if let Err(error) = told {
            let (vip, code) = (&place.name, error.code());
            tracing::debug!(vip, code, %error, "its gate takes no order");
            self.refusals.insert(order.vip, error.to_string());
        }
        self.expect_open(vip, epoch);
    }

    /// A lease runs. The gate may take a moment to open, and no longer.
    fn expect_open(&mut self, vip: VipId, epoch: Epoch) {
        if self.is_open(vip, epoch) {
            self.opening.remove(&vip);
            self.refusals.remove(&vip);
            self.overcome(vip);
            return;
        }
        let now = Instant::now();
        let opening = self.opening.entry(vip).or_insert(Opening {
            since: now,
            ordered: now,
        });
        let profile = self.places.get(&vip).map(|place| place.profile);
        if now - opening.ordered > kinds::same_lease(profile.unwrap_or_default()) {
            opening.since = now;
        }
        opening.ordered = now;
        if now - opening.since < OPENS_WITHIN {
            return;
        }
        let word = self.refusals.get(&vip);
        let reason = match word {
            Some(word) => format!("its gate does not open: {word}"),
            None => "its gate does not open".to_owned(),
        };
        self.kept_until.insert(vip, now + REFUSAL_KEPT);
        let name = self.places.get(&vip).map(|place| place.name.clone());
        self.obstacles.send_if_modified(|obstacles| {
            let new = obstacles.vips.insert(vip, reason.clone()).is_none();
            if new {
                tracing::error!(vip = name, reason, "this node cannot hold it");
            }
            new
        });
    }

    /// What kept this node from holding it is over.
    fn overcome(&mut self, vip: VipId) {
        self.kept_until.remove(&vip);
        self.obstacles
            .send_if_modified(|obstacles| obstacles.vips.remove(&vip).is_some());
    }

    /// Has it shut, after a pause if that was in vain before. What belongs nowhere here was shut when
    /// it was forgotten.
    fn shut(&mut self, vip: VipId, epoch: Epoch, attempt: u32) {
        let place = self.places.get(&vip);
        let place = place.map(|place| (place.address, kinds::run_out(place.profile)));
        let (kernel, gone) = (self.kernel.clone(), self.gone);
        self.shutting.push(Box::pin(async move {
            if attempt > 0 {
                sleep(SHUT_AGAIN).await;
            }
            let outcome = match (kernel, place) {
                (_, None) => Ok(()),
                (Some(kernel), Some((address, _))) => kernel.close(address, epoch.0).await,
                (None, Some((_, run_out))) => {
                    if let Some(since) = gone {
                        sleep_until(since + run_out).await;
                    }
                    Ok(())
                }
            };
            Shutting {
                vip,
                epoch,
                attempt,
                outcome,
            }
        }));
    }

    /// Waits for something new. Given up half-way it has lost nothing.
    pub(super) async fn news(&mut self) -> GateNews {
        loop {
            let told_until = self.kept_until.values().min().copied();
            // All arms only take what is there.
            tokio::select! {
                Some(done) = self.shutting.next() => {
                    if let Some(news) = self.after_shutting(done) {
                        return news;
                    }
                }
                event = next(&mut self.events) => self.note(&event),
                open = changed(&mut self.status) => {
                    if open {
                        return GateNews::Changed;
                    }
                    self.lose();
                    return GateNews::Gone;
                }
                () = until(told_until) => self.forget_refusals(),
            }
        }
    }

    fn after_shutting(&mut self, done: Shutting) -> Option<GateNews> {
        let Shutting {
            vip,
            epoch,
            attempt,
            outcome,
        } = done;
        let Err(error) = outcome else {
            self.to_shut.remove(&(vip, epoch));
            return Some(GateNews::Shut(vip, epoch));
        };
        if attempt == 0 {
            let name = self.places.get(&vip).map(|place| place.name.as_str());
            let code = error.code();
            tracing::warn!(vip = name, code, %error, "its gate is not shut yet");
        }
        let lost = matches!(error, GateError::Ended) && self.gone.is_none();
        if lost {
            self.lose();
        }
        self.shut(vip, epoch, attempt.saturating_add(1));
        lost.then_some(GateNews::Gone)
    }

    /// The gate's thread is no more. What it opened runs out.
    fn lose(&mut self) {
        tracing::error!("the virtual IPs' gate has ended; restart shoald");
        (self.kernel, self.kind) = (None, None);
        self.events = None;
        self.status = None;
        self.gone = Some(Instant::now());
        self.obstacles
            .send_modify(|obstacles| obstacles.gate = Some(ENDED.to_owned()));
    }

    fn forget_refusals(&mut self) {
        let now = Instant::now();
        let over = self.kept_until.iter().filter(|(_, until)| **until <= now);
        let over: Vec<VipId> = over.map(|(vip, _)| *vip).collect();
        for vip in over {
            self.refusals.remove(&vip);
            self.overcome(vip);
        }
    }

    fn note(&mut self, event: &GateEvent) {
        match event {
            GateEvent::Opened { address, epoch, .. } => {
                tracing::info!(vip = self.name(address), epoch, "held here");
            }
            GateEvent::Closed {
                address,
                epoch,
                why,
                ..
            } => {
                tracing::info!(
                    vip = self.name(address),
                    epoch,
                    ?why,
                    "not held here any more"
                );
            }
            GateEvent::Refused {
                address,
                epoch,
                why,
                ..
            } => {
                let (vip, code) = (self.name(address), why.code());
                tracing::warn!(vip, epoch, code, %why, "cannot be held here");
                let place = |(_, place): &(&VipId, &Place)| place.address == *address;
                if let Some((vip, _)) = self.places.iter().find(place) {
                    self.refusals.insert(*vip, why.to_string());
                }
            }
            GateEvent::RulesRestored { .. } => {
                tracing::warn!(
                    "somebody removed the rules of the virtual IPs' gate; they are back"
                );
                self.obstacles
                    .send_if_modified(|obstacles| obstacles.gate.take().is_some());
            }
            GateEvent::RulesMissing { errno, .. } => {
                tracing::error!(%errno, "somebody removed the rules of the virtual IPs' gate");
                let reason = format!("the kernel does not take its gate's rules back: {errno}");
                self.obstacles
                    .send_modify(|obstacles| obstacles.gate = Some(reason));
            }
        }
    }

    fn name(&self, address: &Ipv6Addr) -> String {
        let mut places = self.places.values();
        let place = places.find(|place| place.address == *address);
        place.map_or_else(|| address.to_string(), |place| place.name.clone())
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

/// Whether it goes on; for ever, if there is nothing to follow.
async fn changed(status: &mut Option<watch::Receiver<BTreeMap<Ipv6Addr, GateStatus>>>) -> bool {
    match status {
        Some(status) => status.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
