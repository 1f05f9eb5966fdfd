//! Scenario files: TOML.
//!
//! Decides: which keys there are, their units and limits. Unknown keys are refused. Never: whether
//! a fault can happen in a mesh of that size; that is `checks`.

use std::time::Duration;

use overlay_core::membership::Settings;
use serde::{Deserialize, de::DeserializeOwned};
use toml::Spanned;

use super::{Bounds, Link, Region, Scenario, ScenarioError, Start, Topology};
use crate::{
    clock::Clocks,
    random::{Jitter, Span},
};

mod faults;
pub(crate) mod keys;

/// No time in a scenario is longer than a day: longer runs say nothing new and never end.
const SECONDS_MAX: f64 = 86_400.0;

pub(crate) type Number = Spanned<f64>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    name: Spanned<String>,
    #[serde(default, rename = "kind")]
    _kind: KindFile,
    #[serde(default)]
    about: String,
    nodes: Spanned<i64>,
    #[serde(default)]
    profile: Profile,
    start: Option<StartFile>,
    calm_s: Option<Number>,
    settle_s: Option<Number>,
    network: Option<LinkFile>,
    #[serde(default)]
    region: Vec<RegionFile>,
    #[serde(default)]
    between: Vec<BetweenFile>,
    clocks: Option<ClocksFile>,
    bounds: Option<BoundsFile>,
    #[serde(default)]
    fault: Vec<faults::FaultFile>,
}

/// What a file may say of itself; other kinds of scenarios have files of their own.
#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum KindFile {
    #[default]
    Membership,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Profile {
    #[default]
    Lan,
    Wan,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum StartFile {
    Cold,
    Warm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkFile {
    latency_ms: Option<[Number; 2]>,
    jitter_ms: Option<Number>,
    #[serde(default)]
    jitter: JitterFile,
    loss_percent: Option<Number>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum JitterFile {
    #[default]
    Uniform,
    Exponential,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionFile {
    name: Spanned<String>,
    share: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BetweenFile {
    regions: [String; 2],
    latency_ms: Option<[Number; 2]>,
    jitter_ms: Option<Number>,
    #[serde(default)]
    jitter: JitterFile,
    loss_percent: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClocksFile {
    skew_ms: Option<Number>,
    drift_ppm: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundsFile {
    detection_ms: Option<Number>,
    false_deaths: Option<Spanned<i64>>,
    bytes_per_second: Option<Spanned<i64>>,
    no_suspicion: Option<bool>,
    stale_death_s: Option<Number>,
    bystander_suspicions: Option<Spanned<i64>>,
    deaths_after_standstill: Option<Spanned<i64>>,
}

/// The text, to find lines in.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a>(pub(crate) &'a str);

pub(super) fn read(text: &str) -> Result<Scenario, ScenarioError> {
    let source = Source(text);
    let file: ScenarioFile = source.parse()?;
    let defaults = Scenario::calm(name_of(&file.name, source)?, 2);
    let settings = match file.profile {
        Profile::Lan => Settings::lan(),
        Profile::Wan => Settings::wan(),
    };
    let topology = topology(&file, source)?;
    let faults = file.fault.iter().map(|fault| fault.read(source));
    Ok(Scenario {
        nodes: source.whole(&file.nodes, "nodes", 2..=20_000, "from 2 to 20000")?,
        settings,
        start: match file.start {
            Some(StartFile::Cold) => Start::Cold,
            Some(StartFile::Warm) => Start::Warm,
            None => Start::BySize,
        },
        calm: source.seconds_or(file.calm_s.as_ref(), "calm_s", defaults.calm)?,
        settle: source.seconds_or(file.settle_s.as_ref(), "settle_s", defaults.settle)?,
        clocks: clocks(file.clocks.as_ref(), source)?,
        faults: faults.collect::<Result<_, _>>()?,
        bounds: bounds(file.bounds.as_ref(), source)?,
        topology,
        about: file.about,
        ..defaults
    })
}

pub(crate) fn name_of<'a>(
    name: &'a Spanned<String>,
    source: Source<'_>,
) -> Result<&'a str, ScenarioError> {
    let text = name.get_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        let rule = "up to 64 letters, digits, - and _";
        return Err(source.wrong(name, "name", rule));
    }
    Ok(text)
}

fn topology(file: &ScenarioFile, source: Source<'_>) -> Result<Topology, ScenarioError> {
    let mut topology = Scenario::calm("", 2).topology;
    if let Some(network) = &file.network {
        topology.link = link_of(network, Link::lan(), source)?;
    }
    if !file.region.is_empty() {
        topology.regions = file
            .region
            .iter()
            .map(|region| {
                let share = region.share.as_ref().map_or(Ok(1), |share| {
                    source.whole(share, "share", 1..=1000, "from 1 to 1000")
                });
                let name = region.name.get_ref().clone();
                if name.is_empty() {
                    return Err(source.wrong(&region.name, "name", "a name"));
                }
                Ok(Region {
                    name,
                    share: u32::try_from(share?).unwrap_or(1),
                })
            })
            .collect::<Result<_, _>>()?;
    }
    for between in &file.between {
        let [one, two] = &between.regions;
        let place = |name: &String| {
            topology
                .place_of(name)
                .ok_or_else(|| ScenarioError::Region {
                    name: name.clone(),
                    known: file
                        .region
                        .iter()
                        .map(|r| r.name.get_ref().clone())
                        .collect(),
                })
        };
        let (one, two) = (place(one)?, place(two)?);
        let keys = (
            between.latency_ms.as_ref(),
            between.jitter_ms.as_ref(),
            between.jitter,
            between.loss_percent.as_ref(),
        );
        let link = link(keys, topology.link, source)?;
        topology.between.push(((one.min(two), one.max(two)), link));
    }
    Ok(topology)
}

pub(crate) fn link_of(
    file: &LinkFile,
    defaults: Link,
    source: Source<'_>,
) -> Result<Link, ScenarioError> {
    let keys = (
        file.latency_ms.as_ref(),
        file.jitter_ms.as_ref(),
        file.jitter,
        file.loss_percent.as_ref(),
    );
    link(keys, defaults, source)
}

type LinkKeys<'a> = (
    Option<&'a [Number; 2]>,
    Option<&'a Number>,
    JitterFile,
    Option<&'a Number>,
);

fn link(keys: LinkKeys<'_>, defaults: Link, source: Source<'_>) -> Result<Link, ScenarioError> {
    let (latency, jitter, shape, loss) = keys;
    Ok(Link {
        latency: match latency {
            Some(latency) => source.span_ms(latency, "latency_ms")?,
            None => defaults.latency,
        },
        jitter: match jitter {
            Some(jitter) => {
                let span = source.millis(jitter, "jitter_ms")?;
                match shape {
                    JitterFile::Uniform => Jitter::Uniform(span),
                    JitterFile::Exponential => Jitter::Exponential(span),
                }
            }
            None => defaults.jitter,
        },
        loss_ppm: match loss {
            Some(loss) => source.ppm(loss, "loss_percent")?,
            None => defaults.loss_ppm,
        },
    })
}

pub(crate) fn clocks(
    file: Option<&ClocksFile>,
    source: Source<'_>,
) -> Result<Clocks, ScenarioError> {
    let Some(file) = file else {
        return Ok(Clocks::default());
    };
    let drift = file.drift_ppm.as_ref().map_or(Ok(0), |drift| {
        source.whole(drift, "drift_ppm", 0..=100_000, "from 0 to 100000")
    })?;
    Ok(Clocks {
        skew_max: match &file.skew_ms {
            Some(skew) => source.millis(skew, "skew_ms")?,
            None => Duration::ZERO,
        },
        drift_ppm_max: u32::try_from(drift).unwrap_or(0),
    })
}

fn bounds(file: Option<&BoundsFile>, source: Source<'_>) -> Result<Bounds, ScenarioError> {
    let defaults = Bounds::default();
    let Some(file) = file else {
        return Ok(defaults);
    };
    let number = |value: &Option<Spanned<i64>>, key| {
        let value = value.as_ref();
        let number = value.map(|value| source.whole(value, key, 0..=i64::MAX, "0 or more"));
        number.transpose().map(|number| number.map(|n| n as u64))
    };
    let detection = file.detection_ms.as_ref();
    Ok(Bounds {
        detection_max: detection
            .map(|bound| source.millis(bound, "detection_ms"))
            .transpose()?,
        false_deaths_max: number(&file.false_deaths, "false_deaths")?.unwrap_or(0),
        bytes_per_second_max: number(&file.bytes_per_second, "bytes_per_second")?,
        no_suspicion: file.no_suspicion.unwrap_or(false),
        stale_death_max: source.seconds_or(
            file.stale_death_s.as_ref(),
            "stale_death_s",
            defaults.stale_death_max,
        )?,
        bystander_suspicions_max: number(&file.bystander_suspicions, "bystander_suspicions")?,
        deaths_after_standstill_max: number(
            &file.deaths_after_standstill,
            "deaths_after_standstill",
        )?,
    })
}

impl Source<'_> {
    pub(crate) fn parse<T: DeserializeOwned>(self) -> Result<T, ScenarioError> {
        toml::from_str(self.0).map_err(|error| ScenarioError::Syntax {
            line: error.span().map_or(1, |span| self.line(span.start)),
            problem: error.message().lines().collect::<Vec<_>>().join("; "),
        })
    }

    pub(crate) fn line(self, at: usize) -> usize {
        1 + self
            .0
            .bytes()
            .take(at)
            .filter(|byte| *byte == b'\n')
            .count()
    }

    pub(crate) fn wrong<T: ToString>(
        self,
        value: &Spanned<T>,
        key: &'static str,
        rule: &'static str,
    ) -> ScenarioError {
        ScenarioError::Value {
            line: self.line(value.span().start),
            key,
            value: value.get_ref().to_string(),
            rule,
        }
    }

    pub(crate) fn whole(
        self,
        value: &Spanned<i64>,
        key: &'static str,
        limits: std::ops::RangeInclusive<i64>,
        rule: &'static str,
    ) -> Result<usize, ScenarioError> {
        let number = *value.get_ref();
        match usize::try_from(number) {
            Ok(fits) if limits.contains(&number) => Ok(fits),
            Ok(_) | Err(_) => Err(self.wrong(value, key, rule)),
        }
    }

    /// A number of seconds divided by `per`.
    fn time(self, value: &Number, key: &'static str, per: f64) -> Result<Duration, ScenarioError> {
        let seconds = *value.get_ref() / per;
        if !(0.0..=SECONDS_MAX).contains(&seconds) {
            return Err(self.wrong(value, key, "a time from 0 to a day"));
        }
        // Whole microseconds; rounding is exact and the same everywhere (IEEE 754).
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was just checked"
        )]
        let us = (seconds * 1e6).round() as u64;
        Ok(Duration::from_micros(us))
    }

    pub(crate) fn millis(
        self,
        value: &Number,
        key: &'static str,
    ) -> Result<Duration, ScenarioError> {
        self.time(value, key, 1000.0)
    }

    pub(crate) fn seconds(
        self,
        value: &Number,
        key: &'static str,
    ) -> Result<Duration, ScenarioError> {
        self.time(value, key, 1.0)
    }

    pub(crate) fn seconds_or(
        self,
        value: Option<&Number>,
        key: &'static str,
        default: Duration,
    ) -> Result<Duration, ScenarioError> {
        value.map_or(Ok(default), |value| self.seconds(value, key))
    }

    pub(crate) fn span(
        self,
        [min, max]: &[Number; 2],
        key: &'static str,
        per: f64,
    ) -> Result<Span, ScenarioError> {
        let span = Span {
            min: self.time(min, key, per)?,
            max: self.time(max, key, per)?,
        };
        if span.max < span.min {
            return Err(self.wrong(max, key, "the least, then the most"));
        }
        Ok(span)
    }

    fn span_ms(self, span: &[Number; 2], key: &'static str) -> Result<Span, ScenarioError> {
        self.span(span, key, 1000.0)
    }

    pub(crate) fn ppm(self, value: &Number, key: &'static str) -> Result<u32, ScenarioError> {
        let percent = *value.get_ref();
        if !(0.0..=100.0).contains(&percent) {
            return Err(self.wrong(value, key, "from 0 to 100"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was just checked"
        )]
        let ppm = (percent * 10_000.0).round() as u32;
        Ok(ppm)
    }
}
