//! Streams that carry no messages: the hold, and the pulse.
//!
//! Decides when a silent TCP connection is dead. A hold keeps a wanted connection from being
//! closed as idle, on both sides. QUIC notices a dead peer by itself; over TCP, a byte goes to and
//! fro.

use std::{io, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;
use tokio::time::{sleep, timeout};

/// Time between two beats, as QUIC's keep-alive.
const BEAT: Duration = Duration::from_secs(5);
/// Silence that means death, as QUIC's idle timeout.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Keeps a stream open until the other side ends it.
pub(crate) async fn hold(mut stream: Stream) {
    let mut byte = [0; 1];
    while matches!(stream.read(&mut byte).await, Ok(1..)) {}
}

/// The dialer's side: returns when the peer is dead.
pub(crate) async fn beat(mut stream: Stream) -> io::Result<()> {
    stream.ignore_for_keep_alive();
    let mut byte = [0; 1];
    loop {
        timeout(SILENCE_MAX, async {
            stream.write_all(&[1]).await?;
            stream.flush().await?;
            stream.read_exact(&mut byte).await
        })
        .await??;
        sleep(BEAT).await;
    }
}

/// The listener's side: returns when the peer is dead.
pub(crate) async fn echo(mut stream: Stream) -> io::Result<()> {
    stream.ignore_for_keep_alive();
    let mut byte = [0; 1];
    loop {
        // One beat later than the dialer's patience, so that a beat in time is never late here.
        timeout(SILENCE_MAX + BEAT, async {
            stream.read_exact(&mut byte).await?;
            stream.write_all(&byte).await?;
            stream.flush().await
        })
        .await??;
    }
}
