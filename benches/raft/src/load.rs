//! The load: clients that each write, wait for the acknowledgement, and write again.
//!
//! Decides which writes count: those acknowledged after the warm-up and before the end. One
//! thread drives all clients of every system, so that none is favoured by its generator.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use crate::{
    figures::{Figures, milliseconds, quantile},
    process::usage,
};

/// Length of every value.
pub(crate) const VALUE_BYTES: usize = 128;
/// After an error, so that a system that refuses at once is not flooded.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// One client with its way to the system.
pub(crate) trait Client: Send + 'static {
    /// Writes a value and returns when it is acknowledged.
    fn write(&mut self, value: String) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// A value that no other write has.
pub(crate) fn value(client: usize, number: u64) -> String {
    let mut value = format!("{client:06}-{number:010}-");
    let filling = VALUE_BYTES - value.len();
    value.extend(std::iter::repeat_n('v', filling));
    value
}

/// How long, and which processes are watched meanwhile.
pub(crate) struct Plan<'a> {
    pub(crate) warm_up: Duration,
    pub(crate) span: Duration,
    /// Whose memory and time are noted.
    pub(crate) members: &'a [u32],
    /// Whose time counts with theirs: what members have others do for them.
    pub(crate) beside: &'a [u32],
}

#[derive(Default)]
struct Written {
    latencies: Vec<Duration>,
    errors: u64,
    error: Option<anyhow::Error>,
}

/// Has all clients write for a while, and notes what came of it.
pub(crate) async fn run(
    clients: Vec<Box<dyn Client>>,
    plan: &Plan<'_>,
    figures: &mut Figures,
) -> anyhow::Result<String> {
    let count = clients.len();
    let begin = Instant::now() + plan.warm_up;
    let end = begin + plan.span;
    let own = [std::process::id()];
    let running: Vec<_> = (0..)
        .zip(clients)
        .map(|(number, client)| tokio::spawn(keep_writing(number, client, begin, end)))
        .collect();
    sleep_until(begin).await;
    let before = [usage(plan.members)?, usage(plan.beside)?, usage(&own)?];
    sleep_until(end).await;
    let after = [usage(plan.members)?, usage(plan.beside)?, usage(&own)?];
    let mut all = Written::default();
    for client in running {
        let written = client.await.context("a client panicked")?;
        all.latencies.extend(written.latencies);
        all.errors += written.errors;
        all.error = all.error.or(written.error);
    }
    let writes = all.latencies.len();
    if writes == 0 {
        let error = all.error.context("nothing was written")?;
        return Err(error.context("nothing was written"));
    }
    let rate = writes as f64 / plan.span.as_secs_f64();
    let median = milliseconds(quantile(&mut all.latencies, 500));
    let slow = milliseconds(quantile(&mut all.latencies, 990));
    let cpu = |whose: usize| {
        milliseconds(after[whose].cpu.saturating_sub(before[whose].cpu)) / writes as f64
    };
    figures.note(count, "writes_per_s", rate)?;
    figures.note(count, "p50_ms", median)?;
    figures.note(count, "p99_ms", slow)?;
    let of_members = cpu(0) + cpu(1);
    figures.note(count, "cpu_ms_per_write", of_members)?;
    let of_load = cpu(2);
    figures.note(count, "load_cpu_ms_per_write", of_load)?;
    for rss in &after[0].rss_bytes {
        figures.note(count, "rss_bytes", *rss)?;
    }
    figures.note(count, "errors", all.errors as f64)?;
    let mut told = format!(
        "{count} clients: {rate:.0} writes/s, p50 {median:.2} ms, p99 {slow:.2} ms, \
         CPU {of_members:.3} ms per write (load {of_load:.3})"
    );
    if let Some(error) = all.error {
        told = format!("{told}, {} errors, the first: {error:#}", all.errors);
    }
    Ok(told)
}

async fn keep_writing(
    number: usize,
    mut client: Box<dyn Client>,
    begin: Instant,
    end: Instant,
) -> Written {
    let mut written = Written::default();
    for count in 0.. {
        let asked = Instant::now();
        if asked >= end {
            break;
        }
        let result = client.write(value(number, count)).await;
        let answered = Instant::now();
        match result {
            Ok(()) if answered >= begin && answered < end => {
                written.latencies.push(answered - asked);
            }
            Ok(()) => {}
            Err(error) => {
                if answered >= begin {
                    written.errors += 1;
                }
                written.error.get_or_insert(error);
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_as_long_and_like_no_other() {
        let values = [value(0, 0), value(0, 1), value(1, 0), value(255, 1 << 33)];
        for (place, value) in values.iter().enumerate() {
            assert_eq!(value.len(), VALUE_BYTES);
            assert!(!values[..place].contains(value));
        }
    }
}
