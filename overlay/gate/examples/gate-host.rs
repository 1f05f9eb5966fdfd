//! One host's gate, driven by lines on the standard input: for the tests and `benches/vip-gate.sh`, which
//! run it inside network namespaces, and for trying things out by hand. Answers every line with one line, `ok …`
//! or `err MESSAGE`. Times are microseconds of CLOCK_BOOTTIME.
//!
//! ```text
//! now
//! start owned|watched|address|ebpf [BPF_FOLDER]     `ok KIND OWNED REAL_TIME LOCKED`
//! hold ADDRESS INTERFACE EPOCH LEASE_MS GATE_MS DELTA_MS      one order: `ok LEASE_UNTIL_US`
//! renew ADDRESS INTERFACE EPOCH LEASE_MS GATE_MS DELTA_MS     one every tenth of the lease
//! halt                                    no more renewals: `ok LEASE_UNTIL_US`
//! close ADDRESS EPOCH                     `ok ASKED_US CLOSED_US ANSWERED_US`
//! forget ADDRESS
//! events                                  those since the last question, `;` between
//! stop                                    drop the gate
//! uninstall TABLE|BPF_FOLDER
//! raw begin TABLE | raw guard ADDRESS | raw arm|open|refresh ADDRESS EPOCH GATE_MS | raw living
//! observe ADDRESS                         an echo request every millisecond from now on
//! seen                                    `ok ANSWERED FIRST_US LAST_US LAST_ASKED_US`
//! costs nftables|ebpf COUNT [BPF_FOLDER]  refreshes: `ok MEDIAN P99 MAX` in nanoseconds
//! ```

use std::{
    error::Error,
    io::{BufRead as _, Write as _},
    net::Ipv6Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use overlay_gate::{
    Gate, GateConfig, GateEvent, GateKind, GateOrder, Timing,
    measuring::{Transactions, Writes},
    now_us, uninstall,
};
use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
        socket_with,
    },
};
use tokio::sync::mpsc;

type Answer = Result<String, Box<dyn Error>>;

fn main() {
    let mut host = Host::default();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let words: Vec<_> = line.split_whitespace().collect();
        let said = match host.answer(&words) {
            Ok(said) => format!("ok {said}"),
            Err(error) => format!("err {error}"),
        };
        if writeln!(std::io::stdout(), "{said}").is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Host {
    gate: Option<(Arc<Gate>, mpsc::Receiver<GateEvent>)>,
    raw: Option<Transactions>,
    renewing: Option<Renewing>,
    seen: Arc<Mutex<Seen>>,
}

/// How to stop it, and the thread, which gives the end of the last lease.
type Renewing = (Arc<AtomicBool>, JoinHandle<u64>);

#[derive(Default, Clone, Copy)]
struct Seen {
    answered: u64,
    first_us: u64,
    last_us: u64,
    last_asked_us: u64,
}

impl Host {
    fn answer(&mut self, words: &[&str]) -> Answer {
        match words {
            ["now"] => Ok(now_us().to_string()),
            ["start", how, rest @ ..] => self.start(how, rest.first().copied()),
            ["hold", rest @ ..] => {
                let order = order(rest)?;
                let until = order.lease_until_us;
                self.gate()?.order(order)?;
                Ok(until.to_string())
            }
            ["renew", rest @ ..] => self.renew(rest),
            ["halt"] => {
                let (stop, thread) = self.renewing.take().ok_or("nothing is renewed")?;
                stop.store(true, Ordering::SeqCst);
                let until = thread.join().map_err(|_| "the renewals panicked")?;
                Ok(until.to_string())
            }
            ["close", address, epoch] => {
                let asked = now_us();
                let closed = self
                    .gate()?
                    .close_blocking(address.parse()?, epoch.parse()?)?;
                Ok(format!("{asked} {closed} {}", now_us()))
            }
            ["forget", address] => {
                self.gate()?.forget(address.parse()?)?;
                Ok(String::new())
            }
            ["events"] => self.events(),
            ["stop"] => {
                if let Some((stop, _)) = self.renewing.take() {
                    stop.store(true, Ordering::SeqCst);
                }
                self.gate = None;
                Ok(String::new())
            }
            ["uninstall", table] => {
                let mut config = no_other_ones();
                match table.contains('/') {
                    true => config.bpf_folder = table.into(),
                    false => config.table = (*table).to_owned(),
                }
                uninstall(&config)?;
                Ok(String::new())
            }
            ["raw", rest @ ..] => self.raw(rest),
            ["observe", address] => self.observe(address.parse()?),
            ["seen"] => {
                let seen = *self.seen.lock().map_err(|_| "poisoned")?;
                Ok(format!(
                    "{} {} {} {}",
                    seen.answered, seen.first_us, seen.last_us, seen.last_asked_us
                ))
            }
            ["costs", "nftables", count] => costs_of_transactions(count.parse()?),
            ["costs", "ebpf", count, folder @ ..] => {
                let folder = folder.first().map(PathBuf::from);
                let folder = folder.unwrap_or_else(|| no_other_ones().bpf_folder);
                costs_of_writes(count.parse()?, folder)
            }
            _ => Err(format!("what is {words:?}?").into()),
        }
    }

    fn gate(&self) -> Result<Arc<Gate>, Box<dyn Error>> {
        let (gate, _) = self.gate.as_ref().ok_or("there is no gate")?;
        Ok(Arc::clone(gate))
    }

    fn start(&mut self, how: &str, folder: Option<&str>) -> Answer {
        let mut config = GateConfig {
            own_table: matches!(how, "owned" | "address"),
            kinds: match how {
                "address" => vec![],
                "ebpf" => vec![GateKind::Ebpf],
                _ => vec![GateKind::Nftables],
            },
            ..no_other_ones()
        };
        if let Some(folder) = folder {
            config.bpf_folder = folder.into();
        }
        let (gate, events) = Gate::start(&config)?;
        let said = format!(
            "{:?} {} {} {}",
            gate.kind(),
            gate.owns_its_table(),
            gate.priority().real_time.is_ok(),
            gate.priority().locked.is_ok()
        );
        self.gate = Some((Arc::new(gate), events));
        Ok(said)
    }

    fn renew(&mut self, words: &[&str]) -> Answer {
        let gate = self.gate()?;
        let first = order(words)?;
        let lease_us = words[3].parse::<u64>()? * 1_000;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut until = 0;
            while !stopped.load(Ordering::SeqCst) {
                let mut order = first.clone();
                until = now_us() + lease_us;
                order.lease_until_us = until;
                if gate.order(order).is_err() {
                    break;
                }
                thread::sleep(Duration::from_micros(lease_us / 10));
            }
            until
        });
        self.renewing = Some((stop, thread));
        Ok(String::new())
    }

    fn events(&mut self) -> Answer {
        let (_, events) = self.gate.as_mut().ok_or("there is no gate")?;
        let mut said = Vec::new();
        while let Ok(event) = events.try_recv() {
            said.push(format!("{event:?}"));
        }
        Ok(said.join(";"))
    }

    fn raw(&mut self, words: &[&str]) -> Answer {
        if let ["begin", table] = words {
            self.raw = Some(Transactions::begin(table)?);
            return Ok(String::new());
        }
        let raw = self.raw.as_mut().ok_or("nothing was begun")?;
        match words {
            ["guard", address] => raw.guard(address.parse()?)?,
            ["living"] => return Ok(format!("{:?}", raw.living()?)),
            [step, address, epoch, gate_ms] => {
                let address = address.parse()?;
                let (epoch, gate_us) = (epoch.parse()?, gate_ms.parse::<u64>()? * 1_000);
                match *step {
                    "arm" => raw.arm(address, epoch, gate_us)?,
                    "open" => raw.open(address, epoch, gate_us)?,
                    "refresh" => raw.refresh(address, epoch, gate_us)?,
                    _ => return Err("no such step".into()),
                }
            }
            _ => return Err("no such step".into()),
        }
        Ok(String::new())
    }

    fn observe(&mut self, address: Ipv6Addr) -> Answer {
        let seen = Arc::new(Mutex::new(Seen::default()));
        self.seen = Arc::clone(&seen);
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::RAW;
        let socket = socket_with(AddressFamily::INET6, kind, flags, Some(ipproto::ICMPV6))?;
        connect(&socket, &std::net::SocketAddrV6::new(address, 0, 0, 0))?;
        let socket = Arc::new(socket);
        let (asking, counted) = (Arc::clone(&socket), Arc::clone(&seen));
        thread::spawn(move || ask(&asking, &counted));
        thread::spawn(move || count(&socket, &seen));
        Ok(String::new())
    }
}

/// Sends an echo request, whose payload is the time, every millisecond.
fn ask(socket: &OwnedFd, seen: &Mutex<Seen>) {
    loop {
        let now = now_us();
        let mut request = [0; 16];
        request[0] = 128;
        request[8..].copy_from_slice(&now.to_be_bytes());
        // An address that is not reachable now may be later.
        let _ = send(socket, &request, SendFlags::empty());
        if let Ok(mut seen) = seen.lock() {
            seen.last_asked_us = now;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Counts the answers; their times are those of the requests.
fn count(socket: &OwnedFd, seen: &Mutex<Seen>) {
    let mut answer = [0; 64];
    loop {
        let Ok((_, length)) = recv(socket, &mut answer[..], RecvFlags::empty()) else {
            continue;
        };
        if length < 16 || answer[0] != 129 {
            continue;
        }
        let mut asked = [0; 8];
        asked.copy_from_slice(&answer[8..16]);
        let asked = u64::from_be_bytes(asked);
        if let Ok(mut seen) = seen.lock() {
            seen.answered += 1;
            if seen.first_us == 0 {
                seen.first_us = asked;
            }
            seen.last_us = asked;
        }
    }
}

fn order(words: &[&str]) -> Result<GateOrder, Box<dyn Error>> {
    let [address, interface, epoch, lease_ms, gate_ms, delta_ms] = words else {
        return Err("six words make an order".into());
    };
    Ok(GateOrder {
        address: address.parse()?,
        interface: (*interface).to_owned(),
        epoch: epoch.parse()?,
        lease_until_us: now_us() + lease_ms.parse::<u64>()? * 1_000,
        timing: Timing {
            gate_us: gate_ms.parse::<u64>()? * 1_000,
            delta_us: delta_ms.parse::<u64>()? * 1_000,
        },
    })
}

/// A gate that leaves alone what a daemon of this machine has in the bpf file system, which network
/// namespaces do not keep apart.
fn no_other_ones() -> GateConfig {
    GateConfig {
        bpf_folder: PathBuf::from("/mnt/gate"),
        ..GateConfig::default()
    }
}

/// Where costs are measured; no interface has it.
const COSTLY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xf, 1);

fn costs_of_transactions(count: usize) -> Answer {
    let mut raw = Transactions::begin("shoal_gate_costs")?;
    raw.guard(COSTLY)?;
    raw.arm(COSTLY, 1, 10_000_000)?;
    raw.open(COSTLY, 1, 10_000_000)?;
    let costs = costs(count, || raw.refresh(COSTLY, 1, 10_000_000));
    raw.end()?;
    costs
}

fn costs_of_writes(count: usize, folder: PathBuf) -> Answer {
    // The addresses of a gate that works there would lose their guard in the end.
    if folder.exists() {
        return Err(format!("{} is there already", folder.display()).into());
    }
    let mut writes = Writes::begin(&folder)?;
    let costs = costs(count, || writes.open(COSTLY, 1, now_us() + 10_000_000));
    writes.end(&folder)?;
    costs
}

fn costs(count: usize, mut refresh: impl FnMut() -> std::io::Result<()>) -> Answer {
    let mut costs = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        refresh()?;
        costs.push(began.elapsed().as_nanos());
    }
    costs.sort_unstable();
    let last = count.checked_sub(1).ok_or("nothing was counted")?;
    let rank = |per_mille: usize| costs.get((count * per_mille / 1_000).min(last));
    let said = [500, 990, 1_000].map(|per_mille| rank(per_mille).copied().unwrap_or_default());
    Ok(said.map(|cost| cost.to_string()).join(" "))
}
