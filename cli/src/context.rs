//! What a command works with: a daemon to ask and a place to answer.

use comfy_table::Table;
use node_api::{Answer, ApiError, Client, types::Changed};

use crate::{
    cli::Global,
    endpoint,
    failure::{Exit, Failure},
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
            client: Client::new(endpoint),
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
}
