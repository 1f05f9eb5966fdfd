//! Memory for packets in bulk: a few large buffers, each cut into the packets that came together.
//!
//! Decides: when a buffer is used again (all packets that were cut from it are gone), and what
//! happens when none is free. Then whoever reads waits, and does not take from the kernel what
//! the cipher cannot keep up with; but only a moment, because packets that wait for a handshake
//! hold their buffer for seconds. Those keep it, and another is made in its place.
//!
//! Invariant: never more than the given number of buffers is kept for use again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// After so long without a free one, a buffer is held to be kept by packets that wait. All buffers
/// together are through the cipher in less, even on a slow machine.
const KEPT_AFTER: Duration = Duration::from_millis(5);

/// Who reads learns here that packets have gone: into the socket, into the TUN device. And the
/// device, that one of the two is of no more use.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) outward: Arc<Notify>,
    pub(crate) inward: Arc<Notify>,
    pub(crate) ended: Arc<Notify>,
}

/// Buffers of one size.
pub(crate) struct Buffers {
    bytes: usize,
    number_max: usize,
    /// Empty handles of the buffers, free or not, the one that was used longest ago first.
    handles: VecDeque<BytesMut>,
}

impl Buffers {
    pub(crate) fn new(number_max: usize, bytes: usize) -> Self {
        Self {
            bytes,
            number_max,
            handles: VecDeque::with_capacity(number_max),
        }
    }

    /// A buffer with at least `length` bytes, of which exactly so many are shown. `progress` is told
    /// whenever packets have left for where they go to, and with it their buffers may be free.
    ///
    /// Cancel-safe: nothing is taken before it is returned.
    pub(crate) async fn next(&mut self, length: usize, progress: &Notify) -> BytesMut {
        if let Some(buffer) = self.try_next(length) {
            return buffer;
        }
        let deadline = Instant::now() + KEPT_AFTER;
        while timeout_at(deadline, progress.notified()).await.is_ok() {
            if let Some(buffer) = self.try_next(length) {
                return buffer;
            }
        }
        self.handles.pop_front();
        self.fresh(length)
    }

    /// The same, if it can be had at once.
    pub(crate) fn try_next(&mut self, length: usize) -> Option<BytesMut> {
        for _ in 0..self.handles.len() {
            let mut handle = self.handles.pop_front()?;
            let is_free = handle.try_reclaim(self.bytes.max(length));
            if is_free {
                handle.resize(length, 0);
                let buffer = handle.split();
                self.handles.push_back(handle);
                return Some(buffer);
            }
            self.handles.push_back(handle);
        }
        (self.handles.len() < self.number_max).then(|| self.fresh(length))
    }

    fn fresh(&mut self, length: usize) -> BytesMut {
        let mut handle = BytesMut::with_capacity(self.bytes.max(length));
        handle.resize(length, 0);
        let buffer = handle.split();
        self.handles.push_back(handle);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_every_packet_cut_from_it_is_gone() {
        let mut buffers = Buffers::new(1, 4096);
        let mut whole = buffers.try_next(3000).expect("the first is made");
        let place = whole.as_ptr();
        let packets = [whole.split_to(1000), whole.split_to(1000), whole];
        assert_eq!(packets[2].len(), 1000);
        assert!(buffers.try_next(10).is_none(), "three packets hold it");
        let [first, second, third] = packets;
        drop((first, third));
        assert!(buffers.try_next(10).is_none(), "one packet holds it");
        drop(second);
        let again = buffers.try_next(4096).expect("it is free");
        assert_eq!(again.as_ptr(), place, "no other memory was taken");
        assert_eq!(again.len(), 4096);
    }

    #[test]
    fn no_more_buffers_are_made_than_allowed() {
        let mut buffers = Buffers::new(2, 64);
        let held = (buffers.try_next(64), buffers.try_next(64));
        assert!(held.0.is_some() && held.1.is_some());
        assert!(buffers.try_next(64).is_none());
    }

    #[tokio::test]
    async fn packets_that_never_go_do_not_stop_the_reader() {
        let mut buffers = Buffers::new(1, 64);
        let nothing = Notify::new();
        let held = buffers.next(64, &nothing).await;
        let other = buffers.next(64, &nothing).await;
        assert_ne!(held.as_ptr(), other.as_ptr());
        drop(other);
        assert!(buffers.try_next(64).is_some(), "the newer one is kept");
        drop(held);
        assert_eq!(buffers.handles.len(), 1);
    }

    #[tokio::test]
    async fn a_reader_goes_on_when_a_buffer_becomes_free() {
        let mut buffers = Buffers::new(1, 64);
        let progress = Notify::new();
        let held = buffers.next(64, &progress).await;
        let place = held.as_ptr();
        let free = async {
            tokio::task::yield_now().await;
            drop(held);
            progress.notify_one();
        };
        let (again, ()) = tokio::join!(buffers.next(64, &progress), free);
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn a_longer_buffer_than_usual_can_be_had() {
        let mut buffers = Buffers::new(1, 64);
        assert_eq!(
            buffers.try_next(1000).map(|buffer| buffer.len()),
            Some(1000)
        );
    }
}
