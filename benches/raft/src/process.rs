//! Processes: started, watched through `/proc`, killed. Only those that were started here are
//! ever killed.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

/// Linux counts time in `/proc` in hundredths of a second on every architecture of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// What processes have used.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Time on a core, all processes together.
    pub(crate) cpu: Duration,
    /// Resident memory, process by process.
    pub(crate) rss_bytes: Vec<f64>,
}

/// Reads what the processes have used so far.
pub(crate) fn usage(pids: &[u32]) -> anyhow::Result<Usage> {
    let mut usage = Usage::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("the process {pid} is gone"))?;
        usage.cpu += cpu_of(&stat).with_context(|| format!("{stat:?} is not a process's line"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = rss.and_then(|rss| rss.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        usage.rss_bytes.push(kib.context("no VmRSS")? * 1024.0);
    }
    Ok(usage)
}

/// Time in user and kernel mode, the 14th and 15th field. The second, the program's name, may
/// contain anything and ends at the last parenthesis.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let kernel: f64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + kernel) / TICKS_PER_SECOND))
}

/// A process of ours; killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program; what it says goes to the end of `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{:?} can't be started", command.get_program()))?;
        Ok(Self(child))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// `kill -9`. Returns before the process is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.0.kill()?)
    }

    /// Waits until it is gone.
    pub(crate) fn wait(&mut self) -> anyhow::Result<()> {
        self.0.wait()?;
        Ok(())
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().map_or(true, |ended| ended.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_behind_a_name_with_anything_in_it() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 9 0 0";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn this_process_has_memory() {
        let usage = usage(&[std::process::id()]).unwrap();
        assert!(usage.rss_bytes[0] > 0.0);
    }
}
