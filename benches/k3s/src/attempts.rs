//! What became of requests that were made again and again: the lines of a log, and what a span of it
//! says of the server's absence.
//!
//! Decides: how long nobody was served, by the times at which requests were begun. A request that
//! was answered late was begun while nobody answered; whoever makes them limits how late that may
//! be. Never reads a clock or a file.

use std::{fmt, ops::Range};

use vip_bench::Micros;

/// How a request ended that was answered as wished.
const OK: &str = "ok";

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it was begun.
    pub started: Micros,
    /// When it was over.
    pub ended: Micros,
    /// One word for why it failed; none for one that was answered as wished.
    pub failure: Option<String>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = self.failure.as_deref().unwrap_or(OK);
        write!(f, "{} {} {how}", self.started.0, self.ended.0)
    }
}

/// A line is none of such a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {number} is not of a log of requests: {line}")]
pub struct Strange {
    /// From 1.
    pub number: usize,
    /// The line.
    pub line: String,
}

/// Reads a log, in the order in which requests were begun.
///
/// # Errors
/// A line is none of a log. The last one may be cut: its writer may have been killed.
pub fn read(text: &str) -> Result<Vec<Attempt>, Strange> {
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let mut attempts = Vec::new();
    for (index, line) in whole.lines().enumerate() {
        attempts.push(read_line(line).ok_or_else(|| Strange {
            number: index + 1,
            line: line.to_owned(),
        })?);
    }
    attempts.sort_by_key(|attempt| attempt.started);
    Ok(attempts)
}

fn read_line(line: &str) -> Option<Attempt> {
    let mut words = line.split(' ');
    let mut time = || words.next()?.parse().ok().map(Micros);
    let (started, ended) = (time()?, time()?);
    let how = words.next()?;
    (words.next().is_none() && !how.is_empty()).then(|| Attempt {
        started,
        ended,
        failure: (how != OK).then(|| how.to_owned()),
    })
}

/// What a span says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The longest time between the begin of a request that was answered and the begin of the next
    /// one that was. Where none failed, that is how often requests were made.
    pub outage_us: u64,
    /// From the begin of the last request that was answered before the first that was not, to the
    /// begin of the first one after which all were; 0 where none failed.
    pub steady_after_us: u64,
    /// Requests that were not answered.
    pub failed: usize,
    /// Within the longest time, the longest in which no request was begun at all.
    pub unasked_us: u64,
}

/// A span that cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unjudged {
    /// Nobody knows when an outage began.
    #[error("no request that was begun before it was answered")]
    NotServedBefore,
    /// Nobody knows when an outage ended.
    #[error("no request that was begun after it was answered")]
    NotServedAfter,
}

/// Judges a span of a log as [`read`] gives it.
///
/// # Errors
/// The log does not reach from one answer before the span to one after it.
pub fn judge(attempts: &[Attempt], span: &Range<Micros>) -> Result<Verdict, Unjudged> {
    let served = |attempt: &&Attempt| attempt.failure.is_none();
    let mut before = attempts.iter().rev().filter(served);
    let first = before.find(|attempt| attempt.started < span.start);
    let first = first.ok_or(Unjudged::NotServedBefore)?.started;
    let mut after = attempts.iter().filter(served);
    let last = after.find(|attempt| attempt.started >= span.end);
    let last = last.ok_or(Unjudged::NotServedAfter)?.started;

    let mut verdict = Verdict::default();
    let mut gap = Gap::after(first);
    let mut broken_from = None;
    let inside = |attempt: &&Attempt| attempt.started > first && attempt.started <= last;
    for attempt in attempts.iter().filter(inside) {
        gap.unasked_us = gap.unasked_us.max(attempt.started.since(gap.asked));
        gap.asked = attempt.started;
        if attempt.failure.is_some() {
            gap.failed += 1;
            continue;
        }
        let length = attempt.started.since(gap.served);
        if length > verdict.outage_us {
            verdict.outage_us = length;
            verdict.unasked_us = gap.unasked_us;
        }
        if gap.failed > 0 {
            verdict.failed += gap.failed;
            let from = *broken_from.get_or_insert(gap.served);
            verdict.steady_after_us = attempt.started.since(from);
        }
        gap = Gap::after(attempt.started);
    }
    Ok(verdict)
}

/// The time since somebody was last served.
struct Gap {
    served: Micros,
    asked: Micros,
    unasked_us: u64,
    failed: usize,
}

impl Gap {
    const fn after(served: Micros) -> Self {
        Self {
            served,
            asked: served,
            unasked_us: 0,
            failed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One request each 10: served but for those that begin from the first of a pair on, until the
    /// second.
    fn log(until: u64, away: &[(u64, u64)]) -> Vec<Attempt> {
        let starts = (0..until).step_by(10);
        starts
            .map(|at| Attempt {
                started: Micros(at),
                ended: Micros(at + 3),
                failure: away
                    .iter()
                    .any(|(from, until)| (*from..*until).contains(&at))
                    .then(|| "timeout".to_owned()),
            })
            .collect()
    }

    fn span(range: Range<u64>) -> Range<Micros> {
        Micros(range.start)..Micros(range.end)
    }

    #[test]
    fn what_is_written_is_read_in_the_order_of_its_begin_and_a_cut_line_is_left_out() {
        let mut attempts = log(50, &[(20, 40)]);
        let mut text = String::new();
        for attempt in attempts.iter().rev() {
            text.push_str(&format!("{attempt}\n"));
        }
        text.push_str("60 6");
        assert_eq!(read(&text), Ok(attempts.clone()));
        attempts.clear();
        assert_eq!(read(""), Ok(attempts));
    }

    #[test]
    fn a_line_of_something_else_is_refused() {
        for line in ["", "1 2", "1 2 ", "a 2 ok", "1 2 ok more", "-1 2 ok"] {
            let strange = read(&format!("1 2 ok\n{line}\n"));
            let strange = strange.expect_err(line);
            assert_eq!((strange.number, strange.line.as_str()), (2, line));
        }
    }

    #[test]
    fn an_outage_is_from_the_last_answered_begin_to_the_next() {
        let verdict = judge(&log(1000, &[(400, 600)]), &span(395..800)).unwrap();
        assert_eq!(verdict.outage_us, 210);
        assert_eq!(verdict.steady_after_us, 210);
        assert_eq!(verdict.failed, 20);
        assert_eq!(verdict.unasked_us, 10);
    }

    #[test]
    fn of_several_outages_the_longest_counts_and_the_end_of_the_last() {
        let away = [(400, 500), (510, 520), (600, 800)];
        let verdict = judge(&log(1000, &away), &span(395..900)).unwrap();
        assert_eq!(verdict.outage_us, 210);
        assert_eq!(verdict.steady_after_us, 800 - 390);
    }

    #[test]
    fn where_nothing_failed_the_outage_is_how_often_was_asked() {
        let verdict = judge(&log(1000, &[]), &span(400..900)).unwrap();
        assert_eq!(verdict.outage_us, 10);
        assert_eq!((verdict.steady_after_us, verdict.failed), (0, 0));
    }

    #[test]
    fn an_outage_that_begins_before_the_span_or_ends_after_it_counts_whole() {
        let verdict = judge(&log(1000, &[(300, 700)]), &span(400..500)).unwrap();
        assert_eq!(verdict.outage_us, 410);
    }

    #[test]
    fn an_outage_outside_of_the_span_is_not_of_it() {
        let verdict = judge(&log(1000, &[(100, 200), (800, 900)]), &span(300..700)).unwrap();
        assert_eq!((verdict.outage_us, verdict.failed), (10, 0));
    }

    #[test]
    fn a_time_in_which_nobody_asked_is_told_apart() {
        let mut attempts = log(1000, &[]);
        attempts.retain(|attempt| !(401..=799).contains(&attempt.started.0));
        let verdict = judge(&attempts, &span(395..900)).unwrap();
        assert_eq!((verdict.outage_us, verdict.unasked_us), (400, 400));
    }

    #[test]
    fn a_log_that_does_not_reach_beyond_the_span_is_not_judged() {
        let attempts = log(1000, &[(0, 300), (700, 1000)]);
        let not_before = judge(&attempts, &span(200..500));
        assert_eq!(not_before, Err(Unjudged::NotServedBefore));
        let not_after = judge(&attempts, &span(400..800));
        assert_eq!(not_after, Err(Unjudged::NotServedAfter));
    }
}
