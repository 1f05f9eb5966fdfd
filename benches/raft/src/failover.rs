//! How long a group that loses its leader goes without a commit.
//!
//! `kill -9` of the leader, and from that moment a write to each survivor every few milliseconds,
//! none of which waits for another: what a member does with a write while nobody leads is its own
//! affair, and must not hide that the next one would have been accepted.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    figures::{Figures, milliseconds},
    group::{Group, MEMBERS},
    load::value,
};

/// Between two writes to the same survivor; the figures are no finer than this.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Nothing elects for so long.
const COMMIT_WAIT: Duration = Duration::from_secs(60);
/// After a restart, so that the next round meets a group that has calmed down.
const CALM: Duration = Duration::from_millis(500);

/// Kills the leader `repetitions` times.
pub(crate) async fn measure(
    group: &mut Group,
    repetitions: u32,
    figures: &mut Figures,
) -> anyhow::Result<Vec<Duration>> {
    let mut all = Vec::new();
    for repetition in 0..repetitions {
        let leader = group.settle().await?;
        sleep(CALM + phase(repetition)).await;
        for client in &mut group.clients(leader, 1)? {
            client.write(value(0, u64::from(repetition))).await?;
        }
        let begin = Instant::now();
        group.kill(leader)?;
        let answered = timeout(COMMIT_WAIT, next_commit(group, leader)).await;
        let taken = answered.context("no commit after the leader's death")?? - begin;
        figures.note(0, "failover_ms", milliseconds(taken))?;
        all.push(taken);
        group.restart(leader)?;
    }
    Ok(all)
}

/// So that deaths fall anywhere between two heartbeats.
fn phase(repetition: u32) -> Duration {
    Duration::from_millis(u64::from(repetition * 37 % 100))
}

/// Writes to the survivors until one acknowledges; gives the moment.
async fn next_commit(group: &Group, dead: usize) -> anyhow::Result<Instant> {
    let (acknowledged, mut first) = mpsc::channel(1);
    let mut writes = JoinSet::new();
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The connections are there already: a write must not wait for one.
    let survivors = (0..MEMBERS).filter(|number| *number != dead);
    let ways: Vec<_> = survivors.map(|number| group.way(number)).collect();
    for number in 0.. {
        // Both arms only wait; a tick that is dropped comes again.
        tokio::select! {
            answered = first.recv() => return answered.context("nobody writes"),
            _ = ticks.tick() => {}
        }
        for (client, way) in ways.iter().enumerate() {
            let mut writer = way.client(client);
            let acknowledged = acknowledged.clone();
            writes.spawn(async move {
                if writer.write(value(client, number)).await.is_ok() {
                    // Full when another was first.
                    let _ = acknowledged.try_send(Instant::now());
                }
            });
        }
        while writes.try_join_next().is_some() {}
    }
    unreachable!("the loop has no end")
}
