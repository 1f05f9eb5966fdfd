//! What a command works with: a daemon to ask and a place to answer.

use comfy_table::Table;
use node_api::{
    Answer, ApiError, Client, Endpoint,
    types::{Changed, Revoked},
};

use crate::{
    cli::Global,
    endpoint, enforcement,
    failure::{Exit, Explained, Failure},
    terminal::Terminal,
};

/// A daemon and a terminal.
pub(crate) struct Context<'a> {
    pub(crate) client: Client,
    pub(crate) terminal: &'a Terminal,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: &Global, terminal: &'a Terminal) -> Result<Self, Failure> {
        // A path that is no Unicode is refused by name later, not taken for an unset variable.
        let socket = std::env::var_os("SHOAL_SOCKET");
        let socket = socket.as_ref().map(|socket| socket.to_string_lossy());
        let endpoint = endpoint::choose(
            global.connect.as_deref(),
            socket.as_deref(),
            &global.tls_dir,
        )?;
        Ok(Self {
            client: Client::new(endpoint).stale(global.stale),
            terminal,
        })
    }

    /// Shows a list: the document as it came, or a table and how fresh it is.
    pub(crate) fn list<T>(
        &self,
        answer: Result<Answer<Vec<T>>, ApiError>,
        table: impl Fn(&[T]) -> Table,
    ) -> Result<Exit, Failure> {
        self.show(answer, |rows| table(rows).trim_fmt())
    }

    /// Shows a document: as it came, or in words and how fresh it is.
    pub(crate) fn show<T>(
        &self,
        answer: Result<Answer<T>, ApiError>,
        words: impl Fn(&T) -> String,
    ) -> Result<Exit, Failure> {
        let answer = answer?;
        if self.terminal.json() {
            self.terminal.document(&answer.body)?;
        } else {
            self.terminal.text(&words(&answer.value))?;
            self.terminal.freshness(answer.freshness.as_deref())?;
        }
        Ok(Exit::Done)
    }

    /// Shows that a change was made.
    pub(crate) fn changed(
        &self,
        answer: Result<Answer<Changed>, ApiError>,
        said: &str,
    ) -> Result<Exit, Failure> {
        let answer = answer?;
        if self.terminal.json() {
            self.terminal.document(&answer.body)?;
        } else {
            self.terminal.text(said)?;
            self.terminal.warnings(&answer.value.warnings)?;
        }
        Ok(Exit::Done)
    }

    /// Shows that certificates were taken back, and how far that has been carried out.
    pub(crate) fn revoked(&self, answer: &Answer<Revoked>, said: &str) -> Result<Exit, Failure> {
        if self.terminal.json() {
            self.terminal.document(&answer.body)?;
        } else {
            let reach = enforcement::words(&answer.value);
            self.terminal.text(&format!("{said}\n{reach}"))?;
            self.terminal.warnings(&answer.value.warnings)?;
        }
        Ok(Exit::Done)
    }

    /// Refuses to ask for `what` over the network: it is about the machine that the daemon runs
    /// on, or carries secrets.
    pub(crate) fn require_socket(&self, what: &'static str) -> Result<(), NotOnSocketError> {
        match self.client.endpoint() {
            Endpoint::Unix(_) => Ok(()),
            Endpoint::Https { .. } => Err(NotOnSocketError { what }),
        }
    }
}

/// A command was to be given over the network that must not be.
#[derive(Debug, thiserror::Error)]
#[error("{what} is only done on the machine itself, through its daemon's socket")]
pub(crate) struct NotOnSocketError {
    what: &'static str,
}

impl Explained for NotOnSocketError {
    fn code(&self) -> &'static str {
        "SocketRequiredError"
    }

    fn hint(&self) -> String {
        "log in there, and give the command without --connect https://".into()
    }
}
