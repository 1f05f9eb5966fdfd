//! What comes back from a daemon: one document, a stream of lines, or raw bytes.
//!
//! Decides: when an answer is complete and whether it is a refusal. Invariants: a document or a
//! line is never longer than its limit; the connection ends when the answer is dropped.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{HeaderMap, Response, StatusCode, body::Incoming};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::{Route, failure};
use crate::{ApiError, FRESHNESS_HEADER};

/// The longest document. A thousand nodes come to about 1 MB; this leaves room for ten thousand
/// with many labels and still bounds what a broken daemon can make us hold.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest line of a stream: an event's payload is far smaller, dockerd splits its log lines
/// at 16 KiB.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// One document.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// What it says.
    pub value: T,
    /// The JSON text as it came, also what `T` does not know of.
    pub body: Bytes,
    /// How fresh it is: `raft, index N` or `gossip, 0.4 s old`.
    pub freshness: Option<String>,
}

/// Ends a connection's task with its owner.
#[derive(Debug)]
pub(super) struct Driver(JoinHandle<hyper::Result<()>>);

impl Driver {
    pub(super) fn new(task: JoinHandle<hyper::Result<()>>) -> Self {
        Self(task)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads a document or a refusal. Holds the connection until then.
pub(super) async fn read_answer<T: DeserializeOwned>(
    route: &Route,
    response: Response<Incoming>,
    driver: Driver,
) -> Result<Answer<T>, ApiError> {
    if !response.status().is_success() {
        return Err(read_refusal(route, response).await);
    }
    let freshness = freshness(response.headers());
    let body = read_all(response).await?;
    drop(driver);
    // Something that was done and has no more to say is `null` to serde.
    let text: &[u8] = if body.is_empty() { b"null" } else { &body };
    match serde_json::from_slice(text) {
        Ok(value) => Ok(Answer {
            value,
            body,
            freshness,
        }),
        Err(error) => {
            let what = format!("the answer to {} is not what this API says", route.as_str());
            Err(failure::unexpected(what).caused_by(&error))
        }
    }
}

/// Reads why a request was refused.
pub(super) async fn read_refusal(route: &Route, response: Response<Incoming>) -> ApiError {
    let status: StatusCode = response.status();
    let body = match read_all(response).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    serde_json::from_slice(&body).unwrap_or_else(|_| {
        failure::unexpected(format!(
            "the daemon answered {status} to {} without saying why",
            route.as_str()
        ))
    })
}

async fn read_all(response: Response<Incoming>) -> Result<Bytes, ApiError> {
    let limited = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(failure::unexpected(format!(
            "the daemon's answer is longer than {DOCUMENT_BYTES_MAX} bytes"
        ))),
        Err(error) => Err(failure::cut(&*error)),
    }
}

fn freshness(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(FRESHNESS_HEADER)?.to_str().ok()?;
    Some(value.to_owned())
}

/// Raw bytes that arrive over time.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    received: BytesMut,
    freshness: Option<String>,
    _driver: Driver,
}

impl Download {
    pub(super) fn new(response: Response<Incoming>, driver: Driver) -> Self {
        Self {
            freshness: freshness(response.headers()),
            body: response.into_body(),
            received: BytesMut::new(),
            _driver: driver,
        }
    }

    /// How fresh the stream's beginning is.
    pub fn freshness(&self) -> Option<&str> {
        self.freshness.as_deref()
    }

    /// The next bytes, in whatever portions they arrive; none at the end. Cancel-safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        if !self.received.is_empty() {
            return Ok(Some(self.received.split().freeze()));
        }
        self.receive().await
    }

    /// The next line, without its end; none at the end. The last one may lack a newline.
    /// Cancel-safe.
    pub async fn line(&mut self) -> Result<Option<Bytes>, ApiError> {
        let mut searched_bytes = 0;
        loop {
            let newline = self.received[searched_bytes..]
                .iter()
                .position(|&byte| byte == b'\n');
            if let Some(found) = newline {
                let mut line = self.received.split_to(searched_bytes + found + 1);
                line.truncate(searched_bytes + found);
                return Ok(Some(line.freeze()));
            }
            searched_bytes = self.received.len();
            if searched_bytes > LINE_BYTES_MAX {
                return Err(failure::unexpected(format!(
                    "the daemon sent a line longer than {LINE_BYTES_MAX} bytes"
                )));
            }
            match self.receive().await? {
                Some(bytes) => self.received.extend_from_slice(&bytes),
                None if self.received.is_empty() => return Ok(None),
                None => return Ok(Some(self.received.split().freeze())),
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(failure::cut(&error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// One line of a stream.
#[derive(Debug, Clone)]
pub struct Line<T> {
    /// What it says.
    pub value: T,
    /// The JSON text as it came.
    pub body: Bytes,
}

/// JSON documents, one per line, that arrive over time. Empty lines keep a connection alive and
/// are passed over.
#[derive(Debug)]
pub struct Lines<T> {
    download: Download,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(super) fn new(download: Download) -> Self {
        Self {
            download,
            of: PhantomData,
        }
    }

    /// The next line; none at the end. A line that holds an [`ApiError`] is returned as one: so a
    /// daemon can say what went wrong after its answer had begun. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Line<T>>, ApiError> {
        while let Some(body) = self.download.line().await? {
            if body.trim_ascii().is_empty() {
                continue;
            }
            // First, because shapes whose keys are all optional would take it for one of theirs.
            if let Ok(refusal) = serde_json::from_slice::<ApiError>(&body) {
                return Err(refusal);
            }
            return match serde_json::from_slice(&body) {
                Ok(value) => Ok(Some(Line { value, body })),
                Err(error) => {
                    let what = "a line of the answer is not what this API says";
                    Err(failure::unexpected(what.into()).caused_by(&error))
                }
            };
        }
        Ok(None)
    }
}
