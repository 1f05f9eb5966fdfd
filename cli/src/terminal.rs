//! The only writer to standard output and standard error.
//!
//! Decides: what goes where, and colours. Invariants: text from the mesh cannot steer the
//! terminal (control characters are shown, not sent); output that nobody reads ends the command
//! without a complaint.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use node_api::ApiError;
use serde::Serialize;

use crate::failure::{self, Failure};

/// SGR 1;31: bold red. SGR 1;33: bold yellow. SGR 0: plain again (ECMA-48).
const ERROR_STYLE: &str = "\x1b[1;31m";
const WARNING_STYLE: &str = "\x1b[1;33m";
const PLAIN: &str = "\x1b[0m";
/// Back to the line's start, and erase it (ECMA-48 EL).
const REWRITE_LINE: &str = "\r\x1b[2K";
/// The longest line that is read from a terminal: as much as the kernel's line editing holds.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Standard output and standard error, and what they are.
#[derive(Debug)]
pub(crate) struct Terminal {
    json: bool,
    output_is_terminal: bool,
    error_is_terminal: bool,
    colour: bool,
}

impl Terminal {
    /// The process's own.
    pub(crate) fn new(json: bool) -> Self {
        let error_is_terminal = io::stderr().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            output_is_terminal: io::stdout().is_terminal(),
            error_is_terminal,
            colour: error_is_terminal && !dumb && !set("NO_COLOR"),
        }
    }

    /// Whether answers are JSON documents.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether progress may be drawn in place.
    pub(crate) fn draws_progress(&self) -> bool {
        self.error_is_terminal && self.output_is_terminal && !self.json
    }

    /// An answer in words, one or more lines. Nothing if empty.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let text = text.trim_end();
        if text.is_empty() {
            return Ok(());
        }
        write(io::stdout(), lines(text).as_bytes())
    }

    /// A JSON document of the daemon's, as it came.
    pub(crate) fn document(&self, body: &[u8]) -> Result<(), Failure> {
        let mut line = body.trim_ascii().to_vec();
        line.push(b'\n');
        write(io::stdout(), &line)
    }

    /// A JSON document of our own.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.document(&to_json(value))
    }

    /// Bytes that are not ours to change.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        write(io::stdout(), bytes)
    }

    /// How fresh the answer above is; for people only.
    pub(crate) fn freshness(&self, freshness: Option<&str>) -> Result<(), Failure> {
        match freshness {
            Some(freshness) if self.output_is_terminal => self.text(&format!("({freshness})")),
            _ => Ok(()),
        }
    }

    /// What the operator should know besides the answer.
    pub(crate) fn warnings(&self, warnings: &[String]) -> Result<(), Failure> {
        warnings.iter().try_for_each(|warning| {
            let label = self.styled(WARNING_STYLE, "Warning:");
            self.beside(&format!("{label} {}\n", visible(warning)))
        })
    }

    /// Instructions that go with an answer but are not part of it.
    pub(crate) fn note(&self, text: &str) -> Result<(), Failure> {
        self.beside(&lines(text))
    }

    /// Replaces the last line on standard error. Ends with [`Terminal::progress_over`].
    pub(crate) fn progress(&self, text: &str) -> Result<(), Failure> {
        self.beside(&format!("{REWRITE_LINE}{}", visible(text)))
    }

    /// Takes the line of progress away.
    pub(crate) fn progress_over(&self) -> Result<(), Failure> {
        self.beside(REWRITE_LINE)
    }

    /// Asks for consent; none if there is nobody to ask.
    pub(crate) fn consent(&self, question: &str) -> Result<Option<bool>, Failure> {
        let answer = self.ask(&format!("{question} [y/N]"))?;
        Ok(answer.map(|answer| matches!(answer.as_str(), "y" | "Y" | "yes")))
    }

    /// Asks for a line, and returns it without the space around it; none if there is nobody to
    /// ask.
    pub(crate) fn ask(&self, question: &str) -> Result<Option<String>, Failure> {
        if self.json || !self.error_is_terminal || !io::stdin().is_terminal() {
            return Ok(None);
        }
        self.beside(&format!("{} ", visible(question)))?;
        let mut answer = String::new();
        io::stdin()
            .lock()
            .take(ANSWER_BYTES_MAX)
            .read_line(&mut answer)
            .map_err(|error| failure::output(&error))?;
        Ok(Some(answer.trim().to_owned()))
    }

    /// Says why a command failed. What cannot be written is lost: there is nobody to tell.
    pub(crate) fn failure(&self, error: &ApiError) {
        let written = if self.json {
            self.value(error)
        } else {
            self.beside(&self.explain(error))
        };
        drop(written);
    }

    fn explain(&self, error: &ApiError) -> String {
        let label = self.styled(ERROR_STYLE, "Error:");
        let mut text = format!("{label} {}\n", visible(&error.message));
        for cause in &error.caused_by {
            text += &format!("Caused by: {}\n", visible(cause));
        }
        if !error.hint.is_empty() {
            text += &format!("Hint: {}\n", visible(&error.hint));
        }
        text
    }

    fn styled(&self, style: &str, label: &str) -> String {
        match self.colour {
            true => format!("{style}{label}{PLAIN}"),
            false => label.to_owned(),
        }
    }

    fn beside(&self, text: &str) -> Result<(), Failure> {
        write(io::stderr(), text.as_bytes())
    }
}

fn write(mut to: impl Write, bytes: &[u8]) -> Result<(), Failure> {
    to.write_all(bytes)
        .and_then(|()| to.flush())
        .map_err(|error| failure::output(&error))
}

fn lines(text: &str) -> String {
    text.split('\n').map(|line| visible(line) + "\n").collect()
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value)
        .expect("answers are structs of text and numbers, which JSON can always hold")
}

/// The text with control characters made visible.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        // Besides C0, DEL and C1, what turns the direction of text around (Unicode UAX #9).
        let steers = character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN_TERMINAL: Terminal = Terminal {
        json: false,
        output_is_terminal: false,
        error_is_terminal: false,
        colour: false,
    };

    #[test]
    fn text_from_the_mesh_cannot_steer_the_terminal() {
        assert_eq!(visible("a\x1b[2Jb\u{202e}ü"), "a\\u{1b}[2Jb\\u{202e}ü");
    }

    #[test]
    fn an_error_has_three_parts() {
        let behind = io::Error::other("connection reset\x07");
        let error = ApiError::new("XError", "it failed", "do this").caused_by(&behind);
        assert_eq!(
            PLAIN_TERMINAL.explain(&error),
            "Error: it failed\nCaused by: connection reset\\u{7}\nHint: do this\n"
        );
    }

    #[test]
    fn colour_is_only_on_the_label() {
        let terminal = Terminal {
            colour: true,
            ..PLAIN_TERMINAL
        };
        let error = ApiError::new("XError", "it failed", "");
        assert_eq!(
            terminal.explain(&error),
            "\x1b[1;31mError:\x1b[0m it failed\n"
        );
    }
}
