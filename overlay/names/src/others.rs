//! What other hosts say of a container.
//!
//! Decides: they are asked once at a time for the same name, and what they said is believed for a
//! moment. Whoever asks meanwhile gets the same answer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use overlay_core::names::{Names, OtherHost};
use tokio::{sync::watch, time::Instant};

use crate::{
    ask::ask,
    recent::{Key, Recent, Said},
};

/// An answer on its way.
type Coming = watch::Receiver<Option<Said>>;

/// What other hosts said, and what they are being asked. Locks are never held across a wait.
#[derive(Debug, Default)]
pub(crate) struct Others {
    recent: Mutex<Recent>,
    /// As many as there are questions that may wait for other hosts.
    under_way: Mutex<BTreeMap<Key, Coming>>,
}

impl Others {
    /// What they said a moment ago.
    pub(crate) fn known(&self, key: &Key) -> Option<Said> {
        lock(&self.recent).get(key, Instant::now())
    }

    /// What they say.
    pub(crate) async fn say(&self, key: &Key, names: &Names, hosts: &[OtherHost]) -> Said {
        match self.begin(key) {
            Ok(asking) => {
                let (_, container, _) = key;
                let said = ask(names, hosts, container).await;
                asking.end(said)
            }
            Err(mut coming) => {
                let said = coming.wait_for(Option::is_some).await;
                // Whoever asked was stopped, as everybody is then.
                let said = said.ok().and_then(|said| said.clone());
                said.unwrap_or_else(Said::silence)
            }
        }
    }

    /// The task of asking; the answer that is on its way, if somebody else has it.
    fn begin<'a>(&'a self, key: &'a Key) -> Result<Asking<'a>, Coming> {
        let mut under_way = lock(&self.under_way);
        if let Some(coming) = under_way.get(key) {
            return Err(coming.clone());
        }
        let (answer, coming) = watch::channel(None);
        under_way.insert(key.clone(), coming);
        Ok(Asking {
            others: self,
            key,
            answer,
        })
    }
}

/// Other hosts are being asked.
struct Asking<'a> {
    others: &'a Others,
    key: &'a Key,
    answer: watch::Sender<Option<Said>>,
}

impl Asking<'_> {
    fn end(self, said: Said) -> Said {
        lock(&self.others.recent).keep(self.key.clone(), said.clone(), Instant::now());
        self.answer.send_replace(Some(said.clone()));
        said
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.others.under_way).remove(self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use consensus_core::NetworkId;

    use super::*;

    fn key(container: &str) -> Key {
        let network = NetworkId::from_bytes([1; 16]);
        (network, container.to_owned(), Vec::new())
    }

    fn said(address: &str) -> Said {
        Said {
            addresses: [address.parse().unwrap()].into(),
            some_are_silent: false,
        }
    }

    #[tokio::test]
    async fn hosts_are_asked_once_for_all_who_ask_for_the_same_name_at_a_time() {
        let others = Others::default();
        let (web, db) = (key("web"), key("db"));
        let asking = others.begin(&web).ok().unwrap();
        let waiting: Vec<Coming> = (0..2).filter_map(|_| others.begin(&web).err()).collect();
        assert_eq!(waiting.len(), 2, "somebody asks once more");
        assert!(others.begin(&db).is_ok(), "another name waits for it");
        asking.end(said("10.43.2.2"));
        for coming in waiting {
            assert_eq!(*coming.borrow(), Some(said("10.43.2.2")));
        }
        assert_eq!(others.known(&web), Some(said("10.43.2.2")));
        assert!(lock(&others.under_way).is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_somebody_who_was_stopped_waits_no_more() {
        let others = Others::default();
        let web = key("web");
        let asking = others.begin(&web).ok().unwrap();
        let mut coming = others.begin(&web).err().unwrap();
        drop(asking);
        assert!(coming.wait_for(Option::is_some).await.is_err());
        assert!(others.begin(&web).is_ok(), "the name is asked for no more");
    }
}
