//! Whether a candidate is fit to hold a virtual IP: what is asked of it, and what the answers
//! come to.
//!
//! Decides: which checks are sensible, how they are written as text, and how many failures make a
//! candidate not ready. Never: asks anything itself, nor moves an address.
//!
//! Invariants: one failure alone changes nothing; one success is enough; a check from the wire is
//! looked at by `apply` before it is agreed on, as one from text is here.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    InvalidId, WallMs,
    limits::{CHECK_WORDS_MAX, TEXT_BYTES_MAX},
};

/// A candidate is asked so often unless told otherwise: a failure is then certain within two
/// seconds, and a check costs nothing worth speaking of.
pub const CHECK_INTERVAL_MS: u32 = 1000;
/// An answer may take so long unless told otherwise. A service that needs a second for a word
/// about itself is overloaded.
pub const CHECK_TIMEOUT_MS: u32 = 1000;
/// Below that a check would be a load of its own; above it nobody would call it a check.
const INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=3_600_000;
/// A round trip on a slow link at least, a minute at most.
const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 50..=60_000;
/// Failures in a row that make a candidate not ready: one may be a lost packet.
pub const FAILURES_IN_A_ROW: u8 = 2;

/// How an operator writes a check.
const TEXT_RULE: &str = "tcp:PORT, http:PORT/PATH, https:PORT/PATH or command:/PROGRAM ARGUMENT…";

/// What is asked of every candidate, at its own overlay address in the virtual IP's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A TCP connection opens.
    Tcp {
        /// Where.
        port: u16,
    },
    /// A `GET` is answered with a status from 200 to 299. Of a certificate nothing is asked: it
    /// names whom it likes, and the node asks itself.
    Http {
        /// Where.
        port: u16,
        /// What, from the first slash on.
        path: String,
        /// Whether inside of TLS.
        tls: bool,
    },
    /// A program on the candidate ends with exit code 0.
    Command {
        /// Its path and its arguments; no shell reads them.
        argv: Vec<String>,
    },
    /// The node's own runtime says whether what is behind the virtual IP works there.
    Runtime,
}

/// A probe and its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessCheck {
    /// What is asked.
    pub probe: Probe,
    /// From one question to the next.
    pub interval_ms: u32,
    /// How long an answer may take.
    pub timeout_ms: u32,
}

impl ReadinessCheck {
    /// The probe at the usual pace.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: CHECK_INTERVAL_MS,
            timeout_ms: CHECK_TIMEOUT_MS,
        }
    }

    /// From one question to the next.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.into())
    }

    /// How long an answer may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// Refuses what cannot be carried out.
    ///
    /// # Errors
    /// Names the part that is wrong and the rule that it breaks.
    pub fn validate(&self) -> Result<(), InvalidId> {
        let out_of_range = |what, ms: u32, rule| InvalidId {
            what,
            text: format!("{ms} ms"),
            rule,
        };
        if !INTERVAL_MS.contains(&self.interval_ms) {
            let rule = "from 100 ms to an hour";
            return Err(out_of_range("check interval", self.interval_ms, rule));
        }
        if !TIMEOUT_MS.contains(&self.timeout_ms) {
            let rule = "from 50 ms to a minute";
            return Err(out_of_range("check timeout", self.timeout_ms, rule));
        }
        let wrong = |rule| InvalidId {
            what: "readiness check",
            text: self.probe.to_string(),
            rule,
        };
        match &self.probe {
            Probe::Tcp { port: 0 } | Probe::Http { port: 0, .. } => {
                Err(wrong("with a port from 1 to 65535"))
            }
            Probe::Http { path, .. } if !is_path(path) => Err(wrong(
                "with a path of at most 256 visible ASCII characters that begins with a slash",
            )),
            Probe::Command { argv } if !is_command(argv) => Err(wrong(
                "with an absolute path and at most 32 words of 1 to 256 characters without spaces and control characters",
            )),
            Probe::Tcp { .. } | Probe::Http { .. } | Probe::Runtime | Probe::Command { .. } => {
                Ok(())
            }
        }
    }
}

fn is_path(path: &str) -> bool {
    let visible = path.bytes().all(|byte| byte.is_ascii_graphic());
    path.starts_with('/') && path.len() <= TEXT_BYTES_MAX && visible
}

/// Words without spaces, so that the text of a check says all of it.
fn is_command(argv: &[String]) -> bool {
    let word = |word: &String| {
        let plain = |c: char| !c.is_control() && !c.is_whitespace();
        (1..=TEXT_BYTES_MAX).contains(&word.len()) && word.chars().all(plain)
    };
    argv.first().is_some_and(|program| program.starts_with('/'))
        && argv.len() <= CHECK_WORDS_MAX
        && argv.iter().all(word)
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port } => write!(f, "tcp:{port}"),
            Self::Http { port, path, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}:{port}{path}")
            }
            Self::Runtime => f.write_str("runtime"),
            Self::Command { argv } => write!(f, "command:{}", argv.join(" ")),
        }
    }
}

impl FromStr for Probe {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = || InvalidId {
            what: "readiness check",
            text: text.to_owned(),
            rule: TEXT_RULE,
        };
        let (kind, rest) = text.split_once(':').ok_or_else(refuse)?;
        let http = |tls| {
            let (port, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            let port = port_of(port)?;
            let path = path.to_owned();
            Some(Self::Http { port, path, tls })
        };
        let probe = match kind {
            "tcp" => port_of(rest).map(|port| Self::Tcp { port }),
            "http" => http(false),
            "https" => http(true),
            "command" => Some(Self::Command {
                argv: rest.split_ascii_whitespace().map(str::to_owned).collect(),
            }),
            _ => None,
        };
        let probe = probe.ok_or_else(refuse)?;
        ReadinessCheck::new(probe.clone()).validate()?;
        Ok(probe)
    }
}

fn port_of(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// What a candidate last said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether it may hold the virtual IP.
    pub ready: bool,
    /// Why not; empty when it is.
    pub reason: String,
    /// Since when it is so.
    pub since: WallMs,
}

/// Counts the outcomes of one candidate's check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadinessCount {
    failures: u8,
    verdict: Option<Result<(), String>>,
}

impl ReadinessCount {
    /// Nothing was asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one outcome, with the reason if it is a failure.
    pub fn note(&mut self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                *self = Self {
                    failures: 0,
                    verdict: Some(Ok(())),
                }
            }
            Err(reason) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= FAILURES_IN_A_ROW {
                    self.verdict = Some(Err(reason));
                }
            }
        }
    }

    /// What it comes to so far; none before the first success or the second failure.
    pub fn verdict(&self) -> Option<Result<(), &str>> {
        let verdict = self.verdict.as_ref()?;
        Some(verdict.as_ref().copied().map_err(String::as_str))
    }

    /// The verdict, if the mesh believes something else. Another reason for the same answer is no
    /// news.
    pub fn news(&self, agreed: Option<&Readiness>) -> Option<Result<(), &str>> {
        let verdict = self.verdict()?;
        let known = agreed.map(|agreed| agreed.ready);
        (known != Some(verdict.is_ok())).then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(text: &str) -> Result<Probe, InvalidId> {
        text.parse()
    }

    #[test]
    fn a_check_is_written_as_it_is_read() {
        for text in [
            "tcp:1",
            "tcp:65535",
            "http:80/",
            "http:8080/health?deep=1",
            "https:6443/readyz",
            "command:/usr/bin/check --fast 3",
        ] {
            assert_eq!(probe(text).unwrap().to_string(), text);
        }
        assert_eq!(probe("http:80").unwrap().to_string(), "http:80/");
    }

    #[test]
    fn a_text_that_is_no_check_is_refused() {
        for bad in [
            "",
            "tcp",
            "tcp:",
            "tcp:0",
            "tcp:65536",
            "tcp:+1",
            "tcp:80/x",
            "udp:53",
            "http:",
            "http:/health",
            "http:80 /",
            "http:80/a b",
            "http:80/ü",
            "https://h/",
            "command:",
            "command: ",
            "command:check",
            "TCP:80",
        ] {
            assert!(probe(bad).is_err(), "{bad}");
        }
        let long = format!("http:80/{}", "a".repeat(TEXT_BYTES_MAX));
        assert!(probe(&long).is_err());
        let words = format!("command:/x{}", " y".repeat(CHECK_WORDS_MAX));
        assert!(probe(&words).is_err());
    }

    #[test]
    fn times_out_of_range_are_refused() {
        let good = ReadinessCheck::new(Probe::Tcp { port: 80 });
        good.validate().unwrap();
        for (interval_ms, timeout_ms) in [(99, 1000), (3_600_001, 1000), (1000, 49), (1000, 60_001)]
        {
            let bad = ReadinessCheck {
                interval_ms,
                timeout_ms,
                ..good.clone()
            };
            assert!(bad.validate().is_err(), "{interval_ms} {timeout_ms}");
        }
    }

    #[test]
    fn a_command_whose_words_have_spaces_is_refused() {
        for argv in [vec!["/bin/a b"], vec!["/bin/a", "b\tc"], vec!["/bin/a", ""]] {
            let argv = argv.into_iter().map(str::to_owned).collect();
            let check = ReadinessCheck::new(Probe::Command { argv });
            assert!(check.validate().is_err(), "{check:?}");
        }
    }

    fn failure() -> Result<(), String> {
        Err("refused".into())
    }

    #[test]
    fn one_failure_changes_nothing_and_two_in_a_row_do() {
        let mut count = ReadinessCount::new();
        count.note(failure());
        assert_eq!(count.verdict(), None);
        count.note(Ok(()));
        count.note(failure());
        assert_eq!(count.verdict(), Some(Ok(())));
        count.note(failure());
        assert_eq!(count.verdict(), Some(Err("refused")));
        count.note(Ok(()));
        assert_eq!(count.verdict(), Some(Ok(())));
    }

    #[test]
    fn failures_that_alternate_with_successes_never_count() {
        let mut count = ReadinessCount::new();
        for _ in 0..600 {
            count.note(Ok(()));
            count.note(failure());
            assert_eq!(count.verdict(), Some(Ok(())));
        }
        for _ in 0..600 {
            count.note(failure());
        }
        assert_eq!(count.verdict(), Some(Err("refused")));
    }

    #[test]
    fn only_what_the_mesh_does_not_know_is_news() {
        let known = |ready| Readiness {
            ready,
            reason: if ready { "" } else { "timed out" }.into(),
            since: WallMs(1),
        };
        let mut count = ReadinessCount::new();
        assert_eq!(count.news(None), None);
        count.note(Ok(()));
        assert_eq!(count.news(None), Some(Ok(())));
        assert_eq!(count.news(Some(&known(true))), None);
        assert_eq!(count.news(Some(&known(false))), Some(Ok(())));
        count.note(failure());
        count.note(failure());
        assert_eq!(count.news(Some(&known(false))), None);
        assert_eq!(count.news(Some(&known(true))), Some(Err("refused")));
    }
}
