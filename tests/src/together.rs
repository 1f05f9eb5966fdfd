//! Does one thing to several at once, as far as the machine bears it.
//!
//! What is done to a host mostly waits: for its mounts, for its daemon's first answer, for what the mesh
//! agrees. One after another these waits add up. All at once, a dozen daemons that start would take the
//! processors from each other, and from the lab beside.

use std::{
    panic::resume_unwind,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::lab::lock;

/// One more than a CI machine has processors.
const AT_ONCE: usize = 3;

/// Acts on each, and returns what came of it, in their order. Panics as one of them did, once all have
/// ended.
pub(crate) fn together<T: Send, R: Send>(all: Vec<T>, act: impl Fn(T) -> R + Sync) -> Vec<R> {
    let hands = all.len().min(AT_ONCE);
    // Both are locked only to be taken from or added to: whoever is free takes the next.
    let waiting = Mutex::new(all.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = lock(&waiting).next();
            let Some((place, one)) = next else { return };
            let came = act(one);
            lock(&done).push((place, came));
        }
    };
    thread::scope(|scope| {
        let hands: Vec<_> = (0..hands).map(|_| scope.spawn(work)).collect();
        for hand in hands {
            if let Err(reason) = hand.join() {
                resume_unwind(reason);
            }
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, came)| came).collect()
}
