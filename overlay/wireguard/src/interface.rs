//! An interface that is up: observed, changed step by step, taken down.
//!
//! Never: decides on a step, starts a device. When the device is gone, `observe` and `apply` say
//! so and the owner calls [`crate::bring_up`] again.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use overlay_core::peers::{ObservedInterface, ObservedPeer, PeerChange, PeerPlan, PublicKey, Step};

use crate::{
    backend::{Backend, DeviceChange, DevicePeerChange, DeviceState, PeerState},
    key::PrivateKey,
    link::{Link, LinkError, Links},
    process::DeviceProcess,
    written::WrittenEndpoints,
};

/// Why an interface cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The link was deleted, and perhaps another put in its place.
    #[error("the interface {0} is gone")]
    LinkGone(String),
    /// The device does not answer.
    #[error("the device of {interface} does not answer")]
    DeviceGone {
        /// The interface.
        interface: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A request about the link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl ObserveError {
    /// Stable name of the failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LinkGone(_) => "InterfaceGone",
            Self::DeviceGone { .. } => "WireguardDeviceGone",
            Self::Link(error) => error.code(),
        }
    }

    /// Whether the device has not answered yet: it may be stuck, or only slow.
    pub fn is_late(&self) -> bool {
        let late = |source: &io::Error| source.kind() == io::ErrorKind::TimedOut;
        matches!(self, Self::DeviceGone { source, .. } if late(source))
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::LinkGone(_) | Self::DeviceGone { .. } => {
                "shoald brings the interface up again; if this repeats, look who deletes it"
            }
            Self::Link(error) => error.hint(),
        }
    }
}

/// Why a step was not taken. Those before it were; observing and planning again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The link was deleted.
    #[error("the interface {0} is gone")]
    LinkGone(String),
    /// A request about the link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Another program listens on the UDP port.
    #[error("the UDP port {0} is taken")]
    PortTaken(u16),
    /// The device refused or does not answer.
    #[error("the device of {interface} did not take its configuration")]
    Device {
        /// The interface.
        interface: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The record of written endpoints cannot be kept.
    #[error("the record of peers' endpoints cannot be written")]
    Record(#[source] io::Error),
}

impl ApplyError {
    /// Stable name of the failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LinkGone(_) => "InterfaceGone",
            Self::Link(error) => error.code(),
            Self::PortTaken(_) => "ListenPortTaken",
            Self::Device { .. } => "WireguardConfigureError",
            Self::Record(_) => "RunFolderError",
        }
    }

    /// Whether the device has not answered yet: it may be stuck, or only slow.
    pub fn is_late(&self) -> bool {
        let late = |source: &io::Error| source.kind() == io::ErrorKind::TimedOut;
        matches!(self, Self::Device { source, .. } if late(source))
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::LinkGone(_) | Self::Device { .. } => {
                "shoald brings the interface up again; if this repeats, look who deletes it"
            }
            Self::Link(error) => error.hint(),
            Self::PortTaken(_) => {
                "choose another listen port, or stop the program that has it (`ss -ulpn`)"
            }
            Self::Record(_) => "check that shoald's run folder is writable and has space",
        }
    }
}

/// What the device counted for one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStats {
    /// Where the device sends now.
    pub endpoint: Option<SocketAddr>,
    /// Time of the last handshake; `None` when there was none.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from the peer.
    pub rx_bytes: u64,
    /// Bytes sent to the peer.
    pub tx_bytes: u64,
}

/// The overlay's interface on this host. Dropping it leaves everything up.
#[derive(Debug)]
pub struct Interface {
    name: String,
    backend: Backend,
    /// Of the key that the device was given last.
    public_key: PublicKey,
    links: Links,
    process: DeviceProcess,
    written: WrittenEndpoints,
}

impl Interface {
    pub(crate) fn new(
        name: String,
        backend: Backend,
        public_key: PublicKey,
        links: Links,
        process: DeviceProcess,
        written: WrittenEndpoints,
    ) -> Self {
        Self {
            name,
            backend,
            public_key,
            links,
            process,
            written,
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What carries the packets.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The interface as it is now, for [`overlay_core::peers::plan`].
    pub async fn observe(&self) -> Result<ObservedInterface, ObserveError> {
        let link = self.links.find(&self.name).await?;
        let link = link.ok_or_else(|| ObserveError::LinkGone(self.name.clone()))?;
        let device = self.device().await?;
        if device.public_key.is_none() {
            // Somebody deleted the link and made another; it is configured by bringing it up.
            return Err(ObserveError::LinkGone(self.name.clone()));
        }
        let now = SystemTime::now();
        let peers = device.peers.into_iter();
        Ok(ObservedInterface {
            addresses: self.links.addresses(link.index).await?,
            routes: self.links.routes(link.index).await?,
            mtu: link.mtu,
            up: link.up,
            listen_port: device.listen_port,
            peers: peers
                .map(|(key, peer)| (key, observed_peer(peer, self.written.get(&key), now)))
                .collect(),
        })
    }

    /// Gives the device another key, and tells whether it has it only now. Sessions do not outlive
    /// their key: the next packet to each peer begins with a handshake.
    pub async fn take_key(&mut self, key: &PrivateKey) -> Result<bool, ApplyError> {
        let public_key = key.public();
        if public_key == self.public_key {
            return Ok(false);
        }
        let change = DeviceChange {
            private_key: Some(key.clone()),
            ..DeviceChange::default()
        };
        let done = self.backend.set(&self.name, &change).await;
        done.map_err(|source| self.refused(source))?;
        self.public_key = public_key;
        Ok(true)
    }

    /// Takes the steps in their order. Those about peers, which come last, go to the device as one
    /// request. Afterwards the interface's addresses take packets.
    pub async fn apply(&mut self, steps: &[Step]) -> Result<(), ApplyError> {
        let Some(link) = self.links.find(&self.name).await? else {
            return Err(ApplyError::LinkGone(self.name.clone()));
        };
        let mut peers = PeerBatch::default();
        for step in steps {
            if !peers.take(step) {
                self.send(std::mem::take(&mut peers)).await?;
                self.apply_to_link(link, step).await?;
            }
        }
        self.send(peers).await?;
        let addressed = |step: &Step| matches!(step, Step::AddAddress(_) | Step::BringUp);
        if steps.iter().any(addressed) {
            self.links.await_addresses(link.index).await?;
        }
        Ok(())
    }

    /// What the device counted, by peer.
    pub async fn stats(&self) -> Result<BTreeMap<PublicKey, PeerStats>, ObserveError> {
        let stats = |peer: PeerState| PeerStats {
            endpoint: peer.endpoint,
            last_handshake: peer.last_handshake,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        };
        let peers = self.device().await?.peers.into_iter();
        Ok(peers.map(|(key, peer)| (key, stats(peer))).collect())
    }

    /// Takes the interface down: addresses and routes go with it. Every part is attempted; the first
    /// failure is returned.
    pub async fn down(mut self) -> Result<(), ApplyError> {
        let device = self.remove_device().await;
        let record = self.written.end();
        device?;
        record.map_err(ApplyError::Record)
    }

    async fn remove_device(&self) -> Result<(), ApplyError> {
        match self.backend {
            Backend::Kernel => match self.links.find(&self.name).await? {
                Some(link) => Ok(self.links.delete(link.index).await?),
                None => Ok(()),
            },
            Backend::Userspace => {
                let answering = self.process.find().await;
                match answering.or_else(|| self.process.find_mute()) {
                    Some(pid) => self.process.stop(pid).await.map_err(|e| self.refused(e)),
                    None => {
                        self.process.remove_files();
                        Ok(())
                    }
                }
            }
        }
    }

    async fn device(&self) -> Result<DeviceState, ObserveError> {
        let state = self.backend.get(&self.name).await;
        state.map_err(|source| ObserveError::DeviceGone {
            interface: self.name.clone(),
            source,
        })
    }

    async fn apply_to_link(&self, link: Link, step: &Step) -> Result<(), ApplyError> {
        let (links, index) = (&self.links, link.index);
        match step {
            Step::SetListenPort(port) => return self.set_port(*port).await,
            Step::SetMtu(mtu) => links.set_mtu(index, *mtu).await?,
            Step::RemoveRoute(prefix) => links.remove_route(index, *prefix).await?,
            Step::RemoveAddress(address) => links.remove_address(index, *address).await?,
            Step::AddAddress(address) => links.add_address(index, *address).await?,
            Step::BringUp => links.bring_up(index).await?,
            Step::AddRoute(prefix) => links.add_route(index, *prefix).await?,
            Step::RemovePeer(_) | Step::UpdatePeer { .. } | Step::AddPeer { .. } => {
                unreachable!("a batch takes every step about peers")
            }
        }
        Ok(())
    }

    async fn set_port(&self, port: u16) -> Result<(), ApplyError> {
        let change = DeviceChange {
            listen_port: Some(port),
            ..DeviceChange::default()
        };
        let done = self.backend.set(&self.name, &change).await;
        done.map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                return ApplyError::PortTaken(port);
            }
            self.refused(source)
        })
    }

    async fn send(&mut self, batch: PeerBatch) -> Result<(), ApplyError> {
        if batch.changes.is_empty() {
            return Ok(());
        }
        let change = DeviceChange {
            peers: batch.changes,
            ..DeviceChange::default()
        };
        let done = self.backend.set(&self.name, &change).await;
        done.map_err(|source| self.refused(source))?;
        self.written
            .record(batch.endpoints)
            .map_err(ApplyError::Record)
    }

    fn refused(&self, source: io::Error) -> ApplyError {
        ApplyError::Device {
            interface: self.name.clone(),
            source,
        }
    }
}

/// Consecutive steps about peers.
#[derive(Default)]
struct PeerBatch {
    changes: Vec<DevicePeerChange>,
    endpoints: Vec<(PublicKey, Option<SocketAddr>)>,
}

impl PeerBatch {
    /// Whether the step is about a peer and therefore in the batch now.
    fn take(&mut self, step: &Step) -> bool {
        match step {
            Step::RemovePeer(key) => {
                self.changes.push(DevicePeerChange::Remove(*key));
                self.endpoints.push((*key, None));
            }
            Step::UpdatePeer { key, change } => self.update(*key, change),
            Step::AddPeer { key, peer } => self.add(*key, peer),
            Step::SetListenPort(_)
            | Step::SetMtu(_)
            | Step::RemoveRoute(_)
            | Step::RemoveAddress(_)
            | Step::AddAddress(_)
            | Step::BringUp
            | Step::AddRoute(_) => return false,
        }
        true
    }

    fn update(&mut self, key: PublicKey, change: &PeerChange) {
        let prefixes = change.allowed_ips.as_ref();
        self.changes.push(DevicePeerChange::Set {
            key,
            must_exist: true,
            endpoint: change.endpoint,
            allowed_ips: prefixes.map(|prefixes| prefixes.iter().copied().collect()),
            lost_ips: change.lost_ips.iter().copied().collect(),
            keepalive_s: change.keepalive_s,
        });
        if change.endpoint.is_some() {
            self.endpoints.push((key, change.endpoint));
        }
    }

    fn add(&mut self, key: PublicKey, peer: &PeerPlan) {
        self.changes.push(DevicePeerChange::Set {
            key,
            must_exist: false,
            endpoint: peer.endpoint,
            allowed_ips: Some(peer.allowed_ips.iter().copied().collect()),
            lost_ips: Vec::new(),
            keepalive_s: peer.keepalive_s,
        });
        self.endpoints.push((key, peer.endpoint));
    }
}

fn observed_peer(
    peer: PeerState,
    endpoint_written: Option<SocketAddr>,
    now: SystemTime,
) -> ObservedPeer {
    // A handshake in the future means that the wall clock was set back: it is recent.
    let age = |at| now.duration_since(at).unwrap_or(Duration::ZERO);
    ObservedPeer {
        endpoint: peer.endpoint,
        endpoint_written,
        handshake_age: peer.last_handshake.map(age),
        allowed_ips: peer.allowed_ips.into_iter().collect(),
        keepalive_s: peer.keepalive_s,
    }
}
