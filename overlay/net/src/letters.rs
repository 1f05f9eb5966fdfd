//! Messages that may be lost: one long-lived stream per peer and direction.
//!
//! Decides what is given up: of what waits for a peer, the oldest; when the peer cannot be
//! reached, everything.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus_core::NodeId;
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

/// Outgoing messages of one channel, by peer.
pub struct Letters {
    net: Net,
    channel: Channel,
    mailboxes: BTreeMap<NodeId, Arc<Mailbox>>,
    /// Dropped with the letters, which ends the tasks.
    senders: JoinSet<()>,
}

impl Letters {
    /// None yet.
    pub fn new(net: Net, channel: Channel) -> Self {
        Self {
            net,
            channel,
            mailboxes: BTreeMap::new(),
            senders: JoinSet::new(),
        }
    }

    /// Sends a message some time, or gives it up for a later one.
    pub fn post(&mut self, to: NodeId, letter: Vec<u8>) {
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
            .spawn(send_letters(self.net.clone(), self.channel, to, mailbox));
    }

    /// Waits until everything has been sent or given up, but no longer than `patience`.
    pub async fn deliver(&self, patience: Duration) {
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

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters")
            .field("channel", &self.channel)
            .field("peers", &self.mailboxes.len())
            .finish_non_exhaustive()
    }
}

async fn send_letters(net: Net, channel: Channel, to: NodeId, mailbox: Arc<Mailbox>) {
    let mut stream = None;
    loop {
        let Some(letter) = mailbox.take() else {
            if timeout(IDLE, mailbox.filled.notified()).await.is_err() && mailbox.close_if_empty() {
                return;
            }
            continue;
        };
        if stream.is_none() {
            match net.open(&to, channel).await {
                Ok(opened) => stream = Some(opened),
                Err(error) => {
                    tracing::debug!(%to, ?channel, %error, "messages given up");
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

/// Reads a message, or says with its code why it is none.
pub type Decode<M> = fn(&[u8]) -> Result<M, String>;

/// Incoming messages of all peers.
#[derive(Debug)]
pub struct Inbox<M> {
    decode: Decode<M>,
    messages: mpsc::Receiver<(NodeId, M)>,
    door: mpsc::Sender<(NodeId, M)>,
    readers: JoinSet<NodeId>,
    /// One reader per peer: a peer's newer stream replaces its older one.
    current: BTreeMap<NodeId, AbortHandle>,
}

impl<M: Send + 'static> Inbox<M> {
    /// An empty one.
    pub fn new(decode: Decode<M>) -> Self {
        let (door, messages) = mpsc::channel(INBOX_MAX);
        Self {
            decode,
            messages,
            door,
            readers: JoinSet::new(),
            current: BTreeMap::new(),
        }
    }

    /// Reads a peer's stream from now on.
    pub fn accept(&mut self, from: NodeId, stream: FrameStream) {
        while self.readers.try_join_next().is_some() {}
        self.current.retain(|_, reader| !reader.is_finished());
        let reader = read_letters(from.clone(), stream, self.decode, self.door.clone());
        let handle = self.readers.spawn(reader);
        if let Some(former) = self.current.insert(from, handle) {
            former.abort();
        }
    }

    /// The next message. Cancel-safe.
    pub async fn next(&mut self) -> Option<(NodeId, M)> {
        self.messages.recv().await
    }

    /// The next message that is there already.
    pub fn try_next(&mut self) -> Option<(NodeId, M)> {
        self.messages.try_recv().ok()
    }
}

async fn read_letters<M>(
    from: NodeId,
    mut stream: FrameStream,
    decode: Decode<M>,
    door: mpsc::Sender<(NodeId, M)>,
) -> NodeId {
    while let Some(letter) = stream.next().await {
        match decode(&letter) {
            Ok(message) => {
                if door.send((from.clone(), message)).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(%from, %error, "stream of messages closed");
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
