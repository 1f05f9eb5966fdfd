//! What one observer saw, as lines of a file that is written while it watches.
//!
//! Decides: the format. First `observer NAME MICROS`; then, in any order, `answer SENT ANSWERED
//! EPOCH RESPONDER` for each answer, `blind FROM UNTIL` when the observer itself had not run and
//! nothing follows from its silence, and `watching MICROS` now and then: of an observer that died,
//! nothing follows after its last line either. A last line that is cut off is not read.

use std::{fmt, ops::Range};

use crate::Micros;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When the probe was sent. Whoever answered held the address after that,
    pub sent: Micros,
    /// and before this.
    pub answered: Micros,
    /// 0 where there are no epochs.
    pub epoch: u64,
    /// Who answered.
    pub responder: String,
}

/// What one observer saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its name.
    pub observer: String,
    /// When it began to watch.
    pub from: Micros,
    /// Until when, as far as the log says.
    pub until: Micros,
    /// By the time of the answer.
    pub answers: Vec<Answer>,
    /// When it sent nothing although it should have.
    pub blind: Vec<(Micros, Micros)>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The first one.
    Observer(String, Micros),
    /// Somebody answered.
    Answer(Answer),
    /// The observer was not running between these times.
    Blind(Micros, Micros),
    /// It was at this time.
    Watching(Micros),
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LogError {
    /// It does not begin as a log.
    #[error("the first line does not name the observer")]
    Nameless,
    /// A line in its middle makes no sense.
    #[error("line {0} makes no sense")]
    Unreadable(usize),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Observer(name, at) => write!(f, "observer {name} {}", at.0),
            Self::Answer(it) => write!(
                f,
                "answer {} {} {} {}",
                it.sent.0, it.answered.0, it.epoch, it.responder
            ),
            Self::Blind(from, until) => write!(f, "blind {} {}", from.0, until.0),
            Self::Watching(at) => write!(f, "watching {}", at.0),
        }
    }
}

impl Line {
    fn read(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let micros = |word: &str| word.parse().ok().map(Micros);
        match words[..] {
            ["observer", name, at] => Some(Self::Observer(name.to_owned(), micros(at)?)),
            ["blind", from, until] => Some(Self::Blind(micros(from)?, micros(until)?)),
            ["watching", at] => Some(Self::Watching(micros(at)?)),
            ["answer", sent, answered, epoch, responder] => Some(Self::Answer(Answer {
                sent: micros(sent)?,
                answered: micros(answered)?,
                epoch: epoch.parse().ok()?,
                responder: responder.to_owned(),
            })),
            _ => None,
        }
    }
}

impl Log {
    /// Reads a whole file. Only what ends with a line feed was written to its end.
    pub fn read(text: &str) -> Result<Self, LogError> {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines().enumerate();
        let first = lines.next().and_then(|(_, line)| Line::read(line));
        let Some(Line::Observer(observer, from)) = first else {
            return Err(LogError::Nameless);
        };
        let mut log = Self {
            observer,
            from,
            until: from,
            answers: Vec::new(),
            blind: Vec::new(),
        };
        for (number, line) in lines {
            match Line::read(line).ok_or(LogError::Unreadable(number + 1))? {
                Line::Answer(answer) => {
                    log.until = log.until.max(answer.answered);
                    log.answers.push(answer);
                }
                Line::Blind(from, until) => {
                    log.until = log.until.max(until);
                    log.blind.push((from, until));
                }
                Line::Watching(at) => log.until = log.until.max(at),
                Line::Observer(..) => return Err(LogError::Unreadable(number + 1)),
            }
        }
        log.answers.sort_by_key(|answer| answer.answered);
        Ok(log)
    }

    /// Whether the observer watched all of `span`: did not begin within it, nor die.
    pub fn covers(&self, span: &Range<Micros>) -> bool {
        self.from <= span.start && span.end <= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_it_was_written_up_to_where_it_was_cut() {
        let answer = Answer {
            sent: Micros(20),
            answered: Micros(25),
            epoch: 3,
            responder: "s1".to_owned(),
        };
        let lines = [
            Line::Observer("a1".to_owned(), Micros(10)),
            Line::Answer(answer.clone()),
            Line::Blind(Micros(30), Micros(90)),
            Line::Watching(Micros(95)),
        ];
        let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        text.push_str("answer 31 4");
        let log = Log::read(&text).expect("it is whole up to the last line");
        assert_eq!((log.observer.as_str(), log.from), ("a1", Micros(10)));
        assert_eq!(log.answers, [answer]);
        assert_eq!(log.blind, [(Micros(30), Micros(90))]);
        assert_eq!(log.until, Micros(95));
    }

    #[test]
    fn a_span_is_covered_by_who_watched_from_its_begin_to_its_end() {
        let text = "observer a1 10\nanswer 20 25 0 s1\nwatching 90\n";
        let log = Log::read(text).expect("it is whole");
        let covers = |from, until| log.covers(&(Micros(from)..Micros(until)));
        assert!(covers(10, 90), "nobody answered after 25, and it watched");
        assert!(!covers(9, 90), "it had not begun");
        assert!(!covers(10, 91), "it may have died");
    }

    #[test]
    fn a_file_that_is_no_log_is_refused_with_the_line() {
        assert_eq!(Log::read(""), Err(LogError::Nameless));
        assert_eq!(Log::read("observer a1 5"), Err(LogError::Nameless));
        let damaged = "observer a1 5\nanswer 1 2 3 s1\nanswer x 2 3 s1\n";
        assert_eq!(Log::read(damaged), Err(LogError::Unreadable(3)));
    }
}
