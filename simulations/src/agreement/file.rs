//! Files of scenarios of agreement: TOML with `kind = "agreement"`.
//!
//! Decides: which keys there are, their units and limits. Unknown keys are refused. Never: whether
//! a fault can happen in a group of that size; that is `scenario`.

use consensus_core::LeaseProfile;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::{
    fault::{Disk, Fault, Moment, Target, What},
    scenario::{Leases, Load, Profile, Scenario},
};
use crate::{
    random::Span,
    scenario::{
        ScenarioError,
        file::{
            ClocksFile, LinkFile, Number, Source, clocks,
            keys::{Keys, there},
            link_of, name_of,
        },
    },
};

/// How a set of servers may be written.
const TARGETS_RULE: &str = "a count, a list of indices, \"leader\", \"leader_and:COUNT\", \"followers:COUNT\", \"holder\", \"holder_and:COUNT\", \"holder_and_leader\", \"holder_and_next\", \"idle:COUNT\", \"all\", and in `to` also \"others\"";
/// How a fault's length may be written.
const FOR_RULE: &str = "a number of seconds, or the least and the most";
/// Operations that one run has room for in a second.
const RATE_MAX: i64 = 10_000;
/// Virtual IPs that one run has room for.
const VIRTUAL_IPS_MAX: i64 = 16;
/// How often a fault may come.
const TIMES_MAX: i64 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    name: Spanned<String>,
    #[serde(rename = "kind")]
    _kind: KindFile,
    #[serde(default)]
    about: String,
    servers: Spanned<i64>,
    #[serde(default)]
    profile: ProfileFile,
    calm_s: Option<Number>,
    settle_s: Option<Number>,
    network: Option<LinkFile>,
    clocks: Option<ClocksFile>,
    disks: Option<DisksFile>,
    load: Option<LoadFile>,
    bounds: Option<BoundsFile>,
    leases: Option<LeasesFile>,
    #[serde(default)]
    fault: Vec<FaultFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindFile {
    Agreement,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ProfileFile {
    #[default]
    Safe,
    Lan,
    Wan,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DisksFile {
    lie: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadFile {
    writes_per_s: Option<Spanned<i64>>,
    reads_per_s: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundsFile {
    failover_ms: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LeasesFile {
    virtual_ips: Option<Spanned<i64>>,
    profile: Option<Spanned<String>>,
    outage_ms: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultFile {
    kind: Spanned<Kind>,
    at_s: Option<Number>,
    for_s: Option<Spanned<Value>>,
    on: Option<OnFile>,
    times: Option<Spanned<i64>>,
    every_s: Option<[Number; 2]>,
    targets: Option<Spanned<Value>>,
    from: Option<Spanned<Value>>,
    to: Option<Spanned<Value>>,
    disk: Option<DiskFile>,
    percent: Option<Number>,
    by_ms: Option<[Number; 2]>,
    sync_ms: Option<[Number; 2]>,
    down_s: Option<[Number; 2]>,
    by_s: Option<[Number; 2]>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Crash,
    Kill,
    Stall,
    SlowDisk,
    CutOneWay,
    Cut,
    Loss,
    Delay,
    ClockStep,
    Retire,
    RollingRestart,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum OnFile {
    Close,
    Joint,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum DiskFile {
    Kept,
    Lost,
}

pub(super) fn read(text: &str) -> Result<Scenario, ScenarioError> {
    let source = Source(text);
    let file: ScenarioFile = source.parse()?;
    let name = name_of(&file.name, source)?;
    let defaults = Scenario::calm(name, 1);
    let faults = file.fault.iter().map(|fault| fault.read(source));
    let failover = file
        .bounds
        .as_ref()
        .and_then(|all| all.failover_ms.as_ref());
    Ok(Scenario {
        servers: source.whole(&file.servers, "servers", 1..=7, "from 1 to 7")?,
        profile: match file.profile {
            ProfileFile::Safe => Profile::Safe,
            ProfileFile::Lan => Profile::Lan,
            ProfileFile::Wan => Profile::Wan,
        },
        link: file.network.as_ref().map_or(Ok(defaults.link), |network| {
            link_of(network, defaults.link, source)
        })?,
        clocks: clocks(file.clocks.as_ref(), source)?,
        disks_lie: file.disks.is_some_and(|disks| disks.lie),
        load: load(file.load.as_ref(), defaults.load, source)?,
        calm: source.seconds_or(file.calm_s.as_ref(), "calm_s", defaults.calm)?,
        settle: source.seconds_or(file.settle_s.as_ref(), "settle_s", defaults.settle)?,
        faults: faults.collect::<Result<_, _>>()?,
        failover_max: failover
            .map(|bound| source.millis(bound, "failover_ms"))
            .transpose()?,
        leases: file
            .leases
            .as_ref()
            .map(|file| leases(file, source))
            .transpose()?,
        about: file.about,
        ..defaults
    })
}

fn leases(file: &LeasesFile, source: Source<'_>) -> Result<Leases, ScenarioError> {
    let count = file.virtual_ips.as_ref().map_or(Ok(1), |count| {
        source.whole(count, "virtual_ips", 1..=VIRTUAL_IPS_MAX, "from 1 to 16")
    })?;
    let profile = file
        .profile
        .as_ref()
        .map_or(Ok(LeaseProfile::Lan), |name| {
            let found = LeaseProfile::from_name(name.get_ref());
            let rule = "\"lan\", \"safe\", \"wan\" or \"slow\"";
            found.ok_or_else(|| source.wrong(name, "profile", rule))
        })?;
    let bound = file.outage_ms.as_ref();
    Ok(Leases {
        virtual_ips: count,
        profile,
        outage_max: bound
            .map(|bound| source.millis(bound, "outage_ms"))
            .transpose()?,
    })
}

/// A time, or the least and the most of one.
fn lasting(value: &Spanned<Value>, source: Source<'_>) -> Result<Span, ScenarioError> {
    let wrong = || source.wrong(value, "for_s", FOR_RULE);
    let number = |one: &Value| {
        let whole = one
            .as_integer()
            .and_then(|number| i32::try_from(number).ok());
        let number = whole.map(f64::from).or_else(|| one.as_float());
        Ok(Number::new(value.span(), number.ok_or_else(wrong)?))
    };
    let both = match value.get_ref().as_array().map(Vec::as_slice) {
        Some([min, max]) => [number(min)?, number(max)?],
        Some(_) => return Err(wrong()),
        None => [number(value.get_ref())?, number(value.get_ref())?],
    };
    source.span(&both, "for_s", 1.0)
}

fn load(
    file: Option<&LoadFile>,
    defaults: Load,
    source: Source<'_>,
) -> Result<Load, ScenarioError> {
    let rate = |value: Option<&Spanned<i64>>, key, default: u32| {
        value.map_or(Ok(default), |value| {
            let rate = source.whole(value, key, 0..=RATE_MAX, "from 0 to 10000")?;
            Ok(u32::try_from(rate).unwrap_or(default))
        })
    };
    let Some(file) = file else {
        return Ok(defaults);
    };
    let (writes, reads) = (file.writes_per_s.as_ref(), file.reads_per_s.as_ref());
    Ok(Load {
        writes_per_second: rate(writes, "writes_per_s", defaults.writes_per_second)?,
        reads_per_second: rate(reads, "reads_per_s", defaults.reads_per_second)?,
    })
}

impl FaultFile {
    fn read(&self, source: Source<'_>) -> Result<Fault, ScenarioError> {
        let mut reader = Reader {
            file: self,
            keys: Keys::new(
                source,
                self.kind.span().start,
                self.kind.get_ref().name(),
                &[],
            ),
        };
        let what = reader.what()?;
        reader.keys.refuse_surplus(&self.present())?;
        let lasts = self.for_s.as_ref();
        let lasts = lasts.map(|lasts| lasting(lasts, source)).transpose()?;
        let times = self.times.as_ref().map_or(Ok(1), |times| {
            source.whole(times, "times", 1..=TIMES_MAX, "from 1 to 10000")
        })?;
        let is_rolling = matches!(what, What::RollingRestart { .. });
        let is_moment = matches!(what, What::ClockStep { .. });
        let every = match &self.every_s {
            Some(every) if !is_rolling => source.span(every, "every_s", 1.0)?,
            Some(_) | None => Span::micros(0, 0),
        };
        // For good only what nobody has to end, and only once.
        let may_last = matches!(what, What::Crash { .. } | What::Kill { .. }) && times == 1;
        if lasts.is_none() && !may_last && !is_rolling && !is_moment {
            return Err(reader.keys.missing("for_s"));
        }
        Ok(Fault {
            at: source.seconds_or(self.at_s.as_ref(), "at_s", std::time::Duration::ZERO)?,
            lasts,
            on: self.on.map(|on| match on {
                OnFile::Close => Moment::Close,
                OnFile::Joint => Moment::Joint,
            }),
            times: u32::try_from(times).unwrap_or(1),
            every,
            what,
        })
    }

    /// The keys that stand there and that not every kind knows.
    fn present(&self) -> Vec<&'static str> {
        let keys = [
            ("targets", self.targets.is_some()),
            ("from", self.from.is_some()),
            ("to", self.to.is_some()),
            ("disk", self.disk.is_some()),
            ("percent", self.percent.is_some()),
            ("by_ms", self.by_ms.is_some()),
            ("sync_ms", self.sync_ms.is_some()),
            ("down_s", self.down_s.is_some()),
            ("by_s", self.by_s.is_some()),
        ];
        there(&keys)
    }
}

impl Kind {
    /// Its name.
    const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Kill => "kill",
            Self::Stall => "stall",
            Self::SlowDisk => "slow_disk",
            Self::CutOneWay => "cut_one_way",
            Self::Cut => "cut",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::ClockStep => "clock_step",
            Self::Retire => "retire",
            Self::RollingRestart => "rolling_restart",
        }
    }
}

/// Reads one fault and remembers which keys were of use.
struct Reader<'a> {
    file: &'a FaultFile,
    keys: Keys<'a>,
}

impl Reader<'_> {
    fn what(&mut self) -> Result<What, ScenarioError> {
        Ok(match self.file.kind.get_ref() {
            Kind::Crash => What::Crash {
                targets: self.targets()?,
                disk: self.disk(),
            },
            Kind::Kill => What::Kill {
                targets: self.targets()?,
                disk: self.disk(),
            },
            Kind::Stall => What::Stall {
                targets: self.targets()?,
            },
            Kind::SlowDisk => What::SlowDisk {
                targets: self.targets()?,
                sync: self.span("sync_ms", self.file.sync_ms.as_ref(), 1000.0)?,
            },
            Kind::CutOneWay => {
                let (from, to) = self.sides()?;
                What::CutOneWay { from, to }
            }
            Kind::Cut => {
                let (from, to) = self.sides()?;
                What::Cut { from, to }
            }
            Kind::Loss => {
                let (from, to) = self.sides()?;
                let ppm = self.keys.percent(self.file.percent.as_ref())?;
                What::Loss { from, to, ppm }
            }
            Kind::Delay => {
                let (from, to) = self.sides()?;
                let by = self.span("by_ms", self.file.by_ms.as_ref(), 1000.0)?;
                What::Delay { from, to, by }
            }
            Kind::ClockStep => What::ClockStep {
                targets: self.targets()?,
                by: self.span("by_s", self.file.by_s.as_ref(), 1.0)?,
            },
            Kind::Retire => What::Retire {
                targets: self.targets()?,
            },
            Kind::RollingRestart => What::RollingRestart {
                targets: self.targets()?,
                down: self.span("down_s", self.file.down_s.as_ref(), 1.0)?.min,
                pause: self.span("every_s", self.file.every_s.as_ref(), 1.0)?.min,
            },
        })
    }

    fn targets(&mut self) -> Result<Target, ScenarioError> {
        let file = self.file;
        let value = self.keys.need("targets", file.targets.as_ref())?;
        let set = self.set("targets", value)?;
        if set == Target::Others {
            return Err(self.keys.source.wrong(value, "targets", TARGETS_RULE));
        }
        Ok(set)
    }

    fn sides(&mut self) -> Result<(Target, Target), ScenarioError> {
        let file = self.file;
        let from = self.keys.need("from", file.from.as_ref())?;
        let from = self.set("from", from)?;
        self.keys.uses("to");
        let to = file.to.as_ref();
        let to = to.map_or(Ok(Target::Others), |to| self.set("to", to))?;
        Ok((from, to))
    }

    fn set(&self, key: &'static str, value: &Spanned<Value>) -> Result<Target, ScenarioError> {
        let wrong = || self.keys.source.wrong(value, key, TARGETS_RULE);
        let index = |number: i64| usize::try_from(number).map_err(|_| wrong());
        match value.get_ref() {
            Value::Integer(count) if *count > 0 => Ok(Target::Count(index(*count)?)),
            Value::Array(_) => Ok(Target::Index(
                Keys::indices(value.get_ref()).ok_or_else(wrong)?,
            )),
            Value::String(text) => named(text).ok_or_else(wrong),
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Table(_) => Err(wrong()),
        }
    }

    fn disk(&mut self) -> Disk {
        self.keys.uses("disk");
        match self.file.disk {
            Some(DiskFile::Lost) => Disk::Lost,
            Some(DiskFile::Kept) | None => Disk::Kept,
        }
    }

    fn span(
        &mut self,
        key: &'static str,
        value: Option<&[Number; 2]>,
        per: f64,
    ) -> Result<Span, ScenarioError> {
        let value = self.keys.need(key, value)?;
        self.keys.source.span(value, key, per)
    }
}

fn named(text: &str) -> Option<Target> {
    for (prefix, of) in [
        ("leader_and:", Target::LeaderAnd as fn(usize) -> Target),
        ("followers:", Target::Followers),
        ("holder_and:", Target::HolderAnd),
        ("idle:", Target::Idle),
    ] {
        if let Some(count) = text.strip_prefix(prefix) {
            let count = count.parse().ok()?;
            return (count > 0).then(|| of(count));
        }
    }
    match text {
        "leader" => Some(Target::Leader),
        "holder" => Some(Target::Holder),
        "holder_and_leader" => Some(Target::HolderAndLeader),
        "holder_and_next" => Some(Target::HolderAndNext),
        "all" => Some(Target::All),
        "others" => Some(Target::Others),
        _ => None,
    }
}
