//! Lines of log in the form of logrus's text formatter, which K3s writes to standard error, and in that of
//! klog, in which the parts of Kubernetes inside of it write to the same place.
//!
//! Never decides what is worth saying. Tests and operators look for K3s's own sentences, so that
//! the callers keep to them word for word.

use std::{io::Write, ops::Range};

use crate::clock;

/// How grave a line is, as logrus spells it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Info,
    Warning,
    Error,
    Fatal,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

/// Writes one line. A closed standard error is nobody's problem here.
pub(crate) fn write(level: Level, message: &str) {
    let line = format!(
        "time=\"{}\" level={} msg={}\n",
        clock::rfc3339(clock::unix_seconds()),
        level.word(),
        quoted(message)
    );
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

pub(crate) fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

pub(crate) fn warn(message: impl AsRef<str>) {
    write(Level::Warning, message.as_ref());
}

pub(crate) fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

/// Writes an error of a part of Kubernetes. `place` is a file of its source and a line.
pub(crate) fn klog_error(place: &str, message: &str) {
    let line = klog_line(&clock::now_micro(), std::process::id(), place, message);
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// `Emmdd hh:mm:ss.uuuuuu process place] "message"`, at a time as leases carry it.
fn klog_line(now: &str, process: u32, place: &str, message: &str) -> String {
    let part = |range: Range<usize>| now.get(range).unwrap_or_default();
    format!(
        "E{}{} {} {process:>7} {place}] {}\n",
        part(5..7),
        part(8..10),
        part(11..26),
        quoted(message)
    )
}

/// Says what ended the program; the caller ends it.
pub(crate) fn fatal(message: impl AsRef<str>) {
    write(Level::Fatal, message.as_ref());
}

/// Go's `%q`, as far as log lines need it.
fn quoted(message: &str) -> String {
    let mut text = String::from("\"");
    for character in message.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_quoted_as_go_does_it() {
        assert_eq!(quoted("a \"b\"\n"), "\"a \\\"b\\\"\\n\"");
    }

    #[test]
    fn errors_of_kubernetes_have_klogs_header() {
        let line = klog_line("2024-02-29T12:34:56.000789Z", 42, "a.go:7", "lost");
        assert_eq!(line, "E0229 12:34:56.000789      42 a.go:7] \"lost\"\n");
    }
}
