//! What goes wrong on a host: a link that is cut one way, a disk that is full, a processor that is
//! taken by others, a program that rewrites the firewall all the time.
//!
//! [`Host::power_off`] and [`Host::cut`] are with the host itself.

use crate::{
    host::{DATA_DIR, Host},
    process::Process,
};

/// Of the firewall that cuts a host's link one way.
const CUT_TABLE: &str = "inet lab_cut";
/// What a full disk is full of.
const FILLER: &str = "filler";
/// Enough that a program beside them gets a tenth of a processor.
const SPINNERS: usize = 9;
/// The processor that a [`Host::starve`] takes away; the other hosts keep the rest.
const STARVED_PROCESSOR: &str = "0";

/// As a firewall's daemon or Docker does it: all rules of both families, again and again.
const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:STORM - [0:0]
-A INPUT -j STORM
-A STORM -p udp --dport 9 -j DROP
-A STORM -p tcp --dport 9 -j DROP
COMMIT
";

impl Host {
    /// What is sent to the host is lost from here on; what it sends arrives.
    #[track_caller]
    pub fn cut_incoming(&self) {
        self.cut_hook("input", "iifname");
    }

    /// What the host sends is lost from here on; what is sent to it arrives.
    #[track_caller]
    pub fn cut_outgoing(&self) {
        self.cut_hook("output", "oifname");
    }

    #[track_caller]
    fn cut_hook(&self, hook: &str, interface: &str) {
        self.sh(&format!(
            "nft 'add table {CUT_TABLE}; \
             add chain {CUT_TABLE} cut {{ type filter hook {hook} priority -500; }}; \
             add rule {CUT_TABLE} cut {interface} eth0 drop'"
        ))
        .ok();
    }

    /// Undoes [`Self::cut_incoming`] and [`Self::cut_outgoing`].
    #[track_caller]
    pub fn heal_one_way(&self) {
        self.sh(&format!("nft delete table {CUT_TABLE}")).ok();
    }

    /// Gives the daemon, before its first start, a disk of its own of that size.
    #[track_caller]
    pub fn limit_disk(&self, mebibytes: u32) {
        self.sh(&format!(
            "mkdir -p {DATA_DIR} && mount -t tmpfs -o mode=700,size={mebibytes}m tmpfs {DATA_DIR}"
        ))
        .ok();
    }

    /// Fills the disk that [`Self::limit_disk`] gave, to the last byte.
    #[track_caller]
    pub fn fill_disk(&self) {
        let file = format!("{DATA_DIR}/{FILLER}");
        // The last page may be taken by the daemon in between: then nothing is left all the same.
        let filled = self.sh(&format!("head -c 1G /dev/zero > {file}"));
        assert!(!filled.success(), "the disk takes a gibibyte: {filled}");
    }

    /// Undoes [`Self::fill_disk`].
    #[track_caller]
    pub fn free_disk(&self) {
        self.sh(&format!("rm {DATA_DIR}/{FILLER}")).ok();
    }

    /// Leaves those programs of the host one processor, together with others that are never idle,
    /// until [`Self::feed`].
    #[track_caller]
    pub fn starve(&self, programs: &[&str]) -> Vec<Process> {
        self.pin(programs, STARVED_PROCESSOR);
        let spin = "while :; do :; done";
        let spinner = [
            "taskset",
            "-c",
            STARVED_PROCESSOR,
            "nice",
            "-n",
            "-10",
            "bash",
            "-c",
            spin,
        ];
        (0..SPINNERS).map(|_| self.spawn(&spinner)).collect()
    }

    /// Undoes [`Self::starve`].
    #[track_caller]
    pub fn feed(&self, programs: &[&str], spinners: Vec<Process>) {
        for spinner in spinners {
            spinner.kill9();
        }
        self.pin(programs, "0-1023");
    }

    #[track_caller]
    fn pin(&self, programs: &[&str], processors: &str) {
        for program in programs {
            for pid in self.pids_of(program) {
                self.sh(&format!("taskset -a -p -c {processors} {pid}"))
                    .ok();
            }
        }
    }

    /// Has both families' firewall rules replaced without a pause, until the process is killed.
    #[track_caller]
    pub fn rewrite_firewall(&self) -> Process {
        std::fs::write(self.disk("/tmp/storm.rules"), RULES).expect("the host's disk is writable");
        self.spawn(&[
            "bash",
            "-c",
            "while :; do iptables-restore /tmp/storm.rules; ip6tables-restore /tmp/storm.rules; done",
        ])
    }

    /// `kill -9` of every program of the host whose command line contains `words`.
    #[track_caller]
    pub fn kill_program(&self, words: &str) {
        for pid in self.pids_of(words) {
            // It may have ended by itself.
            self.sh(&format!("kill -9 {pid}"));
        }
    }

    /// Sends a signal, by its name, to every program of the host whose command line contains `words`.
    #[track_caller]
    pub fn signal_program(&self, words: &str, signal: &str) {
        let pids = self.pids_of(words);
        assert!(!pids.is_empty(), "{} runs no {words}", self.name());
        for pid in pids {
            self.sh(&format!("kill -{signal} {pid}")).ok();
        }
    }

    /// As the host numbers them.
    #[track_caller]
    fn pids_of(&self, words: &str) -> Vec<String> {
        // The shell's own command line has the words between quotes only.
        let script = "for d in /proc/[0-9]*; do \
             tr '\\0' ' ' < $d/cmdline 2>/dev/null | grep -qF -- \"$WORDS\" && echo ${d#/proc/}; \
             done; true";
        let found = self.run_with(&["bash", "-c", script], &[("WORDS", words)]);
        found.ok().text().lines().map(str::to_owned).collect()
    }
}
