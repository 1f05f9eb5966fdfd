//! How many labs of this process are up at the same time, and how large they are together.
//!
//! One, unless `SHOAL_LABS` says otherwise: two at once on two cores take time from each other. A
//! test that waits for conditions bears that and mostly leaves the cores idle; one that watches
//! what happens in a millisecond does not. So whoever runs the tests says which of them may.
//!
//! What a lab costs goes by its hosts, so a large one takes the place of several. Its turn comes once
//! the hosts that it says it will have fit in beside the others; those that it has beyond that count
//! too, but are not waited for: two labs that wait for each other's end in the middle would never end.
//! Labs have their turns in the order in which they came, or a large one would wait for all others.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// Overrides how many labs may be up.
const LABS: &str = "SHOAL_LABS";
/// Hosts of a lab that says nothing of them; most have four. As many times the labs that may be up
/// are the hosts that may.
pub(crate) const HOSTS: usize = 5;

/// What is up, and who is next.
static UP: Mutex<Up> = Mutex::new(Up {
    labs: 0,
    hosts: 0,
    came: 0,
    begun: 0,
});
/// Tells that something of it has changed.
static CHANGED: Condvar = Condvar::new();

struct Up {
    labs: usize,
    hosts: usize,
    /// Labs that have asked so far.
    came: u64,
    /// Labs of those that have begun.
    begun: u64,
}

impl Up {
    /// Whether the lab that came as that one has its turn. One too large for any is alone.
    fn lets_in(&self, number: u64, hosts: usize, labs_max: usize) -> bool {
        let fits = self.labs < labs_max && self.hosts + hosts <= labs_max * HOSTS;
        number == self.begun && (self.labs == 0 || fits)
    }
}

/// The right to have a lab up, given back when it is dropped.
pub(crate) struct Turn {
    hosts: AtomicUsize,
}

impl Turn {
    /// Waits until another lab of so many hosts may be up.
    pub(crate) fn wait(hosts: usize) -> Self {
        let most = most();
        let mut up = up();
        let number = up.came;
        up.came += 1;
        let mut up = CHANGED
            .wait_while(up, |up| !up.lets_in(number, hosts, most))
            .unwrap_or_else(PoisonError::into_inner);
        up.begun += 1;
        up.labs += 1;
        up.hosts += hosts;
        drop(up);
        CHANGED.notify_all();
        let hosts = AtomicUsize::new(hosts);
        Self { hosts }
    }

    /// The lab has so many hosts now.
    pub(crate) fn has(&self, hosts: usize) {
        let before = self.hosts.fetch_max(hosts, Ordering::Relaxed);
        up().hosts += hosts.saturating_sub(before);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut up = up();
        up.labs -= 1;
        up.hosts -= self.hosts.load(Ordering::Relaxed);
        drop(up);
        CHANGED.notify_all();
    }
}

fn up() -> MutexGuard<'static, Up> {
    UP.lock().unwrap_or_else(PoisonError::into_inner)
}

fn most() -> usize {
    let Ok(wanted) = std::env::var(LABS) else {
        return 1;
    };
    let wanted: usize = (wanted.parse()).unwrap_or_else(|_| panic!("{LABS} is a number"));
    assert!(wanted > 0, "{LABS} is at least 1");
    wanted
}
