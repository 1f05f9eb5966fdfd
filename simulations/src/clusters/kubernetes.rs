//! K3s itself, as far as it matters to who drives it.
//!
//! Decides: whether a K3s that was started comes up, and in which cluster. A server that is told to
//! initialise and has no data makes a datastore; any other one joins that of its cluster, if a server of
//! it is up, the token is right, and its name is not known with another password
//! (`pkg/nodepassword/validate.go` of K3s). Data that are there are used.

use std::collections::BTreeMap;

use consensus_core::ClusterId;

use super::host::{Data, Host};

/// A datastore.
#[derive(Debug, Clone)]
struct Store {
    cluster: ClusterId,
    secret: u64,
    /// Nodes by name, and what they prove it with.
    names: BTreeMap<String, u64>,
}

/// All datastores that there ever were.
#[derive(Debug, Clone, Default)]
pub(super) struct Kubernetes {
    stores: Vec<Store>,
}

/// Who starts, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) me: usize,
    pub(super) name: &'a str,
    pub(super) cluster: ClusterId,
    pub(super) founds: bool,
    pub(super) serves: bool,
    /// Numbers what is made.
    pub(super) fresh: u64,
}

/// How it came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rise {
    /// It made the datastore.
    Founded,
    /// It is a new node of the cluster.
    Joined,
    /// It goes on with its data.
    Again,
    /// It goes on with data of another cluster.
    Astray,
}

impl Kubernetes {
    /// Lets a K3s come up, unless something is in the way.
    pub(super) fn rise(
        &mut self,
        hosts: &mut [Host],
        start: &Start<'_>,
    ) -> Result<Rise, &'static str> {
        match hosts[start.me].data {
            Some(data) => self.go_on(hosts, start, data),
            None if start.founds => {
                let secret = hosts[start.me].secret.ok_or("there is no token")?;
                self.stores.push(Store {
                    cluster: start.cluster,
                    secret,
                    names: BTreeMap::from([(start.name.to_owned(), start.fresh)]),
                });
                hosts[start.me].data = Some(Data {
                    store: self.stores.len() - 1,
                    serves: true,
                    password: start.fresh,
                });
                Ok(Rise::Founded)
            }
            None => {
                let store = self.answering(hosts, start.cluster);
                let store = store.ok_or("no server of the cluster answers")?;
                self.enter(hosts, start, store, start.fresh)?;
                hosts[start.me].data = Some(Data {
                    store,
                    serves: start.serves,
                    password: start.fresh,
                });
                Ok(Rise::Joined)
            }
        }
    }

    fn go_on(
        &mut self,
        hosts: &[Host],
        start: &Start<'_>,
        data: Data,
    ) -> Result<Rise, &'static str> {
        if self.stores[data.store].cluster != start.cluster || data.serves != start.serves {
            return Ok(Rise::Astray);
        }
        if !data.serves && !self.is_served(hosts, data.store) {
            return Err("no server of the cluster answers");
        }
        self.enter(hosts, start, data.store, data.password)?;
        Ok(Rise::Again)
    }

    fn enter(
        &mut self,
        hosts: &[Host],
        start: &Start<'_>,
        store: usize,
        password: u64,
    ) -> Result<(), &'static str> {
        let store = &mut self.stores[store];
        if hosts[start.me].secret != Some(store.secret) {
            return Err("the token is not this cluster's");
        }
        let known = store.names.entry(start.name.to_owned());
        match *known.or_insert(password) == password {
            true => Ok(()),
            false => Err("Node password rejected, duplicate hostname"),
        }
    }

    /// The datastore of a server of the cluster that is up.
    fn answering(&self, hosts: &[Host], cluster: ClusterId) -> Option<usize> {
        let mut up = hosts.iter().filter_map(serving);
        up.find(|store| self.stores[*store].cluster == cluster)
    }

    fn is_served(&self, hosts: &[Host], store: usize) -> bool {
        hosts.iter().filter_map(serving).any(|one| one == store)
    }

    /// Whether the K3s of a host is ready, as its adapter finds out.
    pub(super) fn is_ready(&self, hosts: &[Host], me: usize) -> bool {
        let host = &hosts[me];
        let up = host.process.as_ref().is_some_and(|process| process.up);
        let data = host.data.filter(|_| up);
        data.is_some_and(|data| data.serves || self.is_served(hosts, data.store))
    }

    /// The cluster that a host's data are of, and the secret that lets others in.
    pub(super) fn of(&self, host: &Host) -> Option<(ClusterId, u64)> {
        let store = &self.stores[host.data?.store];
        Some((store.cluster, store.secret))
    }

    /// The hosts that hold a datastore of a cluster.
    pub(super) fn holders(&self, hosts: &[Host], cluster: ClusterId) -> Vec<usize> {
        let held = |host: &Host| host.data.filter(|data| data.serves).map(|data| data.store);
        let all = hosts.iter().enumerate();
        all.filter(|(_, host)| held(host).is_some_and(|it| self.stores[it].cluster == cluster))
            .map(|(index, _)| index)
            .collect()
    }

    /// Has a datastore forget a name. Who was known by it, if that node is up with what it was known by.
    pub(super) fn forget(
        &mut self,
        hosts: &[Host],
        store: usize,
        name: &str,
        index: usize,
    ) -> Option<usize> {
        let password = self.stores[store].names.remove(name)?;
        let host = hosts.get(index)?;
        let lives = host.process.as_ref().is_some_and(|process| process.up)
            && host
                .data
                .is_some_and(|data| (data.store, data.password) == (store, password));
        lives.then_some(index)
    }
}

/// The datastore that a host serves, if its K3s is up.
fn serving(host: &Host) -> Option<usize> {
    let up = host.process.as_ref().is_some_and(|process| process.up);
    let data = host.data.filter(|data| up && data.serves);
    data.map(|data| data.store)
}
