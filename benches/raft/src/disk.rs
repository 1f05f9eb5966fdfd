//! What the disk takes by itself: an entry appended, then `fdatasync`.
//!
//! Three ways. `disk-append` grows a file, so every sync writes the file's new length too.
//! `disk-filled` overwrites a file that was filled before: the floor. `disk-three` is the first,
//! by three writers at once, as three members on one disk do it.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    figures::{Figures, milliseconds, quantile},
    load::VALUE_BYTES,
};

/// What logs write for a value of [`VALUE_BYTES`]: it, its key, and some head.
const RECORD_BYTES: usize = VALUE_BYTES + 64;
/// More than is overwritten in the time of a measurement.
const FILLED_BYTES: usize = 16 * 1024 * 1024;
/// As many as a group has members.
const WRITERS: usize = 3;

/// Measures each way for `span` in files below `dir`, which it removes.
pub(crate) fn measure(
    dir: &Path,
    span: Duration,
    round: u32,
    results: &Path,
) -> anyhow::Result<()> {
    fs::create_dir_all(dir)?;
    let mut taken = append(&dir.join("append"), span, false)?;
    note(&mut taken, round, "disk-append", results)?;
    let mut taken = append(&dir.join("filled"), span, true)?;
    note(&mut taken, round, "disk-filled", results)?;
    let mut taken = three(dir, span)?;
    note(&mut taken, round, "disk-three", results)?;
    Ok(fs::remove_dir_all(dir)?)
}

fn note(taken: &mut [Duration], round: u32, system: &str, results: &Path) -> anyhow::Result<()> {
    let mut figures = Figures::append_to(results, round, system)?;
    figures.note(1, "p50_ms", milliseconds(quantile(taken, 500)))?;
    figures.note(1, "p99_ms", milliseconds(quantile(taken, 990)))
}

fn three(dir: &Path, span: Duration) -> anyhow::Result<Vec<Duration>> {
    let paths: Vec<_> = (0..WRITERS)
        .map(|number| dir.join(format!("three-{number}")))
        .collect();
    let taken = thread::scope(|scope| {
        let writers: Vec<_> = paths
            .iter()
            .map(|path| scope.spawn(|| append(path, span, false)))
            .collect();
        let joined = writers.into_iter().map(|writer| {
            let writer = writer.join();
            writer.unwrap_or_else(|_| Err(anyhow::anyhow!("a writer panicked")))
        });
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok(taken.into_iter().flatten().collect())
}

fn append(path: &Path, span: Duration, fill: bool) -> anyhow::Result<Vec<Duration>> {
    let mut file = File::create_new(path)?;
    if fill {
        file.write_all(&vec![0; FILLED_BYTES])?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
    }
    let record = [7; RECORD_BYTES];
    let mut taken = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < span {
        let begin = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        taken.push(begin.elapsed());
    }
    Ok(taken)
}
