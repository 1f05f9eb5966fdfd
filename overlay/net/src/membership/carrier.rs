//! Carries membership messages: one long-lived stream per peer and direction.
//!
//! Decides what is given up: of what waits for a peer, the oldest; when the peer cannot be
//! reached, everything.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus_core::NodeId;
use overlay_core::membership::{Message, wire};
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

use crate::{channel::Channel, frame::FrameStream, net::Net};

/// Messages waiting for one peer: some seconds of a busy mesh. Older ones are superseded.
const LETTERS_MAX: usize = 64;
/// Received messages waiting for the core, all peers together.
const INBOX_MAX: usize = 1024;
/// A stream without a message for so long is given up; neighbours speak every second.
const IDLE: Duration = Duration::from_secs(30);

/// What waits for one peer. A lock because the driver fills it and the sending task empties it;
/// never held across an await.
#[derive(Default)]
struct Mailbox {
    letters: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Vec<u8>>,
    /// A letter is on its way.
    sending: bool,
    /// The sending task has ended.
    closed: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a letter in, giving up the oldest if need be. False if nobody sends any more.
    fn push(&self, letter: Vec<u8>) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        if waiting.queue.len() == LETTERS_MAX {
            waiting.queue.pop_front();
        }
        waiting.queue.push_back(letter);
        drop(waiting);
        self.filled.notify_one();
        true
    }

    fn take(&self) -> Option<Vec<u8>> {
        let mut waiting = self.lock();
        let letter = waiting.queue.pop_front();
        waiting.sending = letter.is_some();
        letter
    }

    /// Ends the mailbox unless a letter has just come.
    fn close_if_empty(&self) -> bool {
        let mut waiting = self.lock();
        waiting.closed = waiting.queue.is_empty();
        waiting.closed
    }

    fn is_delivered(&self) -> bool {
        let waiting = self.lock();
        waiting.closed || (waiting.queue.is_empty() && !waiting.sending)
    }
}

/// Outgoing messages, by peer.
pub(super) struct Letters {
    net: Net,
    mailboxes: BTreeMap<NodeId, Arc<Mailbox>>,
    /// Dropped with the letters, which ends the tasks.
    senders: JoinSet<()>,
}

impl Letters {
    pub(super) fn new(net: Net) -> Self {
        Self {
            net,
            mailboxes: BTreeMap::new(),
            senders: JoinSet::new(),
        }
    }

    /// Sends a message some time, or gives it up for a later one.
    pub(super) fn post(&mut self, to: NodeId, letter: Vec<u8>) {
        while self.senders.try_join_next().is_some() {}
        if let Some(mailbox) = self.mailboxes.get(&to)
            && mailbox.push(letter.clone())
        {
            return;
        }
        self.mailboxes.retain(|_, mailbox| !mailbox.lock().closed);
        let mailbox = Arc::new(Mailbox::default());
        mailbox.push(letter);
        self.mailboxes.insert(to.clone(), Arc::clone(&mailbox));
        self.senders
            .spawn(send_letters(self.net.clone(), to, mailbox));
    }

    /// Waits until everything has been sent or given up, but no longer than `patience`.
    pub(super) async fn deliver(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let delivered = || {
            self.mailboxes
                .values()
                .all(|mailbox| mailbox.is_delivered())
        };
        while !delivered() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn send_letters(net: Net, to: NodeId, mailbox: Arc<Mailbox>) {
    let mut stream = None;
    loop {
        let Some(letter) = mailbox.take() else {
            if timeout(IDLE, mailbox.filled.notified()).await.is_err() && mailbox.close_if_empty() {
                return;
            }
            continue;
        };
        if stream.is_none() {
            match net.open(&to, Channel::Membership).await {
                Ok(opened) => stream = Some(opened),
                Err(error) => {
                    tracing::debug!(%to, %error, "membership messages given up");
                    mailbox.lock().queue.clear();
                    continue;
                }
            }
        }
        if let Some(open) = &mut stream
            && open.send(letter).await.is_err()
        {
            // The letter is lost; the next one opens a new stream.
            stream = None;
        }
    }
}

/// Incoming messages of all peers.
pub(super) struct Inbox {
    messages: mpsc::Receiver<(NodeId, Message)>,
    door: mpsc::Sender<(NodeId, Message)>,
    readers: JoinSet<NodeId>,
    /// One reader per peer: a peer's newer stream replaces its older one.
    current: BTreeMap<NodeId, AbortHandle>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let (door, messages) = mpsc::channel(INBOX_MAX);
        Self {
            messages,
            door,
            readers: JoinSet::new(),
            current: BTreeMap::new(),
        }
    }

    /// Reads a peer's stream from now on.
    pub(super) fn accept(&mut self, from: NodeId, stream: FrameStream) {
        while self.readers.try_join_next().is_some() {}
        self.current.retain(|_, reader| !reader.is_finished());
        let reader = read_letters(from.clone(), stream, self.door.clone());
        let handle = self.readers.spawn(reader);
        if let Some(former) = self.current.insert(from, handle) {
            former.abort();
        }
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(NodeId, Message)> {
        self.messages.recv().await
    }

    /// The next message that is there already.
    pub(super) fn try_next(&mut self) -> Option<(NodeId, Message)> {
        self.messages.try_recv().ok()
    }
}

async fn read_letters(
    from: NodeId,
    mut stream: FrameStream,
    door: mpsc::Sender<(NodeId, Message)>,
) -> NodeId {
    while let Some(letter) = stream.next().await {
        match wire::v1::decode(&letter) {
            Ok(message) => {
                if door.send((from.clone(), message)).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(%from, code = error.code(), %error, "membership stream closed");
                break;
            }
        }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_letter_gives_way() {
        let mailbox = Mailbox::default();
        for n in 0..=LETTERS_MAX {
            assert!(mailbox.push(vec![u8::try_from(n).unwrap()]));
        }
        assert_eq!(mailbox.take(), Some(vec![1]));
        assert_eq!(mailbox.lock().queue.len(), LETTERS_MAX - 1);
    }

    #[test]
    fn a_closed_mailbox_takes_no_letter_and_a_filled_one_does_not_close() {
        let mailbox = Mailbox::default();
        mailbox.push(vec![1]);
        assert!(!mailbox.close_if_empty());
        mailbox.take();
        assert!(!mailbox.is_delivered(), "still on its way");
        assert_eq!(mailbox.take(), None);
        assert!(mailbox.is_delivered());
        assert!(mailbox.close_if_empty());
        assert!(!mailbox.push(vec![2]));
    }
}
