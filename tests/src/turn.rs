//! How many labs of this process are up at the same time.
//!
//! One, unless `SHOAL_LABS` says otherwise: two at once on two cores take time from each other. A
//! test that waits for conditions bears that and mostly leaves the cores idle; one that watches
//! what happens in a millisecond does not. So whoever runs the tests says which of them may.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Overrides how many labs may be up.
const LABS: &str = "SHOAL_LABS";

/// Labs that are up.
static UP: Mutex<usize> = Mutex::new(0);
/// Tells that one of them is gone.
static GONE: Condvar = Condvar::new();

/// The right to have a lab up, given back when it is dropped.
pub(crate) struct Turn(());

impl Turn {
    /// Waits until another lab may be up.
    pub(crate) fn wait() -> Self {
        let most = most();
        let mut up = GONE
            .wait_while(count(), |up| *up >= most)
            .unwrap_or_else(PoisonError::into_inner);
        *up += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *count() -= 1;
        GONE.notify_one();
    }
}

fn count() -> MutexGuard<'static, usize> {
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
