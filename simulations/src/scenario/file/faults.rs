//! The `[[fault]]` tables of a scenario file.
//!
//! Decides: which keys each kind of fault needs and which it has no use for.

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{Number, Source};
use crate::{
    fault::{Disk, Fault, Nodes, What},
    random::Span,
    scenario::ScenarioError,
};

/// What a set of nodes may be written as.
const NODES_RULE: &str = "a count, a list of indices, \"25%\", \"half\", \"region:NAME\", and in `to` also \"others\", \"peers:COUNT\" or \"strangers:COUNT\"";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultFile {
    kind: Spanned<Kind>,
    at_s: Option<Number>,
    for_s: Option<Number>,
    nodes: Option<Spanned<Value>>,
    from: Option<Spanned<Value>>,
    to: Option<Spanned<Value>>,
    disk: Option<DiskFile>,
    percent: Option<Number>,
    by_ms: Option<[Number; 2]>,
    sync_ms: Option<[Number; 2]>,
    every_ms: Option<Number>,
    every_s: Option<[Number; 2]>,
    down_s: Option<[Number; 2]>,
    up_s: Option<Number>,
    count: Option<Spanned<i64>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Crash,
    Kill,
    Leave,
    Stall,
    SlowDisk,
    CutOneWay,
    Cut,
    Flap,
    Loss,
    Delay,
    RollingRestart,
    Churn,
    Forge,
    Storm,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum DiskFile {
    Kept,
    Lost,
}

/// Reads one fault and remembers which keys were of use.
struct Reader<'a> {
    file: &'a FaultFile,
    source: Source<'a>,
    used: Vec<&'static str>,
}

impl FaultFile {
    pub(super) fn read(&self, source: Source<'_>) -> Result<Fault, ScenarioError> {
        let mut reader = Reader {
            file: self,
            source,
            used: vec!["at_s", "for_s"],
        };
        let what = reader.what()?;
        let at = source.seconds_or(self.at_s.as_ref(), "at_s", std::time::Duration::ZERO)?;
        let lasts = self.for_s.as_ref();
        let lasts = lasts.map(|lasts| source.seconds(lasts, "for_s"));
        reader.refuse_surplus()?;
        let fault = Fault {
            at,
            lasts: lasts.transpose()?,
            what,
        };
        let ends = matches!(
            self.kind.get_ref(),
            Kind::Crash | Kind::Kill | Kind::Leave | Kind::RollingRestart
        );
        if fault.lasts.is_none() && !ends {
            return Err(reader.missing("for_s"));
        }
        Ok(fault)
    }

    /// The keys that stand there.
    fn present(&self) -> Vec<&'static str> {
        let keys = [
            ("nodes", self.nodes.is_some()),
            ("from", self.from.is_some()),
            ("to", self.to.is_some()),
            ("disk", self.disk.is_some()),
            ("percent", self.percent.is_some()),
            ("by_ms", self.by_ms.is_some()),
            ("sync_ms", self.sync_ms.is_some()),
            ("every_ms", self.every_ms.is_some()),
            ("every_s", self.every_s.is_some()),
            ("down_s", self.down_s.is_some()),
            ("up_s", self.up_s.is_some()),
            ("count", self.count.is_some()),
        ];
        let there = keys.into_iter().filter(|(_, there)| *there);
        there.map(|(key, _)| key).collect()
    }
}

impl Reader<'_> {
    fn what(&mut self) -> Result<What, ScenarioError> {
        Ok(match self.file.kind.get_ref() {
            Kind::Crash => What::Crash {
                nodes: self.nodes()?,
                disk: self.disk(),
            },
            Kind::Kill => What::Kill {
                nodes: self.nodes()?,
                disk: self.disk(),
            },
            Kind::Leave => What::Leave {
                nodes: self.nodes()?,
            },
            Kind::Stall => What::Stall {
                nodes: self.nodes()?,
            },
            Kind::SlowDisk => What::SlowDisk {
                nodes: self.nodes()?,
                sync: self.span_ms("sync_ms", self.file.sync_ms.as_ref())?,
                every: self.every_ms()?,
            },
            Kind::CutOneWay => {
                let (from, to) = self.sides()?;
                What::CutOneWay { from, to }
            }
            Kind::Cut => {
                let (from, to) = self.sides()?;
                What::Cut { from, to }
            }
            Kind::Flap => {
                let (from, to) = self.sides()?;
                let down = self.span_s("down_s", self.file.down_s.as_ref())?.min;
                let up = self.up()?;
                What::Flap { from, to, down, up }
            }
            Kind::Loss => {
                let (from, to) = self.sides()?;
                let ppm = self.percent()?;
                What::Loss { from, to, ppm }
            }
            Kind::Delay => {
                let (from, to) = self.sides()?;
                let by = self.span_ms("by_ms", self.file.by_ms.as_ref())?;
                What::Delay { from, to, by }
            }
            Kind::RollingRestart => What::RollingRestart {
                nodes: self.nodes()?,
                down: self.span_s("down_s", self.file.down_s.as_ref())?.min,
                every: self.span_s("every_s", self.file.every_s.as_ref())?.min,
                disk: self.disk(),
            },
            Kind::Churn => What::Churn {
                nodes: self.nodes()?,
                every: self.span_s("every_s", self.file.every_s.as_ref())?,
                down: self.span_s("down_s", self.file.down_s.as_ref())?,
                disk: self.disk(),
            },
            Kind::Forge => {
                let (from, to) = self.sides()?;
                What::Forge { from, to }
            }
            Kind::Storm => What::Storm {
                count: self.count()?,
            },
        })
    }

    fn kind(&self) -> &'static str {
        match self.file.kind.get_ref() {
            Kind::Crash => "crash",
            Kind::Kill => "kill",
            Kind::Leave => "leave",
            Kind::Stall => "stall",
            Kind::SlowDisk => "slow_disk",
            Kind::CutOneWay => "cut_one_way",
            Kind::Cut => "cut",
            Kind::Flap => "flap",
            Kind::Loss => "loss",
            Kind::Delay => "delay",
            Kind::RollingRestart => "rolling_restart",
            Kind::Churn => "churn",
            Kind::Forge => "forge",
            Kind::Storm => "storm",
        }
    }

    fn line(&self) -> usize {
        self.source.line(self.file.kind.span().start)
    }

    fn missing(&self, key: &'static str) -> ScenarioError {
        ScenarioError::Missing {
            line: self.line(),
            kind: self.kind(),
            key,
        }
    }

    fn need<'v, T>(
        &mut self,
        key: &'static str,
        value: Option<&'v T>,
    ) -> Result<&'v T, ScenarioError> {
        self.used.push(key);
        value.ok_or_else(|| self.missing(key))
    }

    fn refuse_surplus(&self) -> Result<(), ScenarioError> {
        let present = self.file.present();
        match present.into_iter().find(|key| !self.used.contains(key)) {
            Some(key) => Err(ScenarioError::Surplus {
                line: self.line(),
                kind: self.kind(),
                key,
            }),
            None => Ok(()),
        }
    }

    fn nodes(&mut self) -> Result<Nodes, ScenarioError> {
        let file = self.file;
        let value = self.need("nodes", file.nodes.as_ref())?;
        self.set("nodes", value)
    }

    fn sides(&mut self) -> Result<(Nodes, Nodes), ScenarioError> {
        let file = self.file;
        let from = self.need("from", file.from.as_ref())?;
        let from = self.set("from", from)?;
        self.used.push("to");
        let to = file.to.as_ref();
        let to = to.map_or(Ok(Nodes::Others), |to| self.set("to", to))?;
        if is_relative(&from) {
            return Err(ScenarioError::Value {
                line: self.line(),
                key: "from",
                value: "said in terms of `to`".into(),
                rule: "a set of its own; say `to` in terms of it",
            });
        }
        Ok((from, to))
    }

    fn set(&self, key: &'static str, value: &Spanned<Value>) -> Result<Nodes, ScenarioError> {
        let wrong = || self.source.wrong(value, key, NODES_RULE);
        let index = |number: i64| usize::try_from(number).map_err(|_| wrong());
        let nodes = match value.get_ref() {
            Value::Integer(count) if *count > 0 => Nodes::Count(index(*count)?),
            Value::Array(items) if !items.is_empty() => {
                let numbers = items.iter().map(|item| item.as_integer().ok_or_else(wrong));
                let mut indices = numbers
                    .map(|number| number.and_then(index))
                    .collect::<Result<Vec<_>, _>>()?;
                indices.sort_unstable();
                indices.dedup();
                Nodes::Index(indices)
            }
            Value::String(text) => named(text).ok_or_else(wrong)?,
            Value::Integer(_)
            | Value::Array(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Table(_) => return Err(wrong()),
        };
        if is_relative(&nodes) && key == "nodes" {
            return Err(wrong());
        }
        Ok(nodes)
    }

    fn disk(&mut self) -> Disk {
        self.used.push("disk");
        match self.file.disk {
            Some(DiskFile::Lost) => Disk::Lost,
            Some(DiskFile::Kept) | None => Disk::Kept,
        }
    }

    fn span_ms(
        &mut self,
        key: &'static str,
        value: Option<&[Number; 2]>,
    ) -> Result<Span, ScenarioError> {
        let value = self.need(key, value)?;
        self.source.span_ms(value, key)
    }

    fn span_s(
        &mut self,
        key: &'static str,
        value: Option<&[Number; 2]>,
    ) -> Result<Span, ScenarioError> {
        let value = self.need(key, value)?;
        let span = self.source.span(value, key, 1.0)?;
        if span.min.is_zero() {
            return Err(self.source.wrong(&value[0], key, "longer than nothing"));
        }
        Ok(span)
    }

    fn every_ms(&mut self) -> Result<std::time::Duration, ScenarioError> {
        let file = self.file;
        let value = self.need("every_ms", file.every_ms.as_ref())?;
        let every = self.source.millis(value, "every_ms")?;
        if every.is_zero() {
            return Err(self.source.wrong(value, "every_ms", "longer than nothing"));
        }
        Ok(every)
    }

    fn up(&mut self) -> Result<std::time::Duration, ScenarioError> {
        let file = self.file;
        let value = self.need("up_s", file.up_s.as_ref())?;
        let up = self.source.seconds(value, "up_s")?;
        if up.is_zero() {
            return Err(self.source.wrong(value, "up_s", "longer than nothing"));
        }
        Ok(up)
    }

    fn percent(&mut self) -> Result<u32, ScenarioError> {
        let file = self.file;
        let value = self.need("percent", file.percent.as_ref())?;
        self.source.ppm(value, "percent")
    }

    fn count(&mut self) -> Result<usize, ScenarioError> {
        let file = self.file;
        let value = self.need("count", file.count.as_ref())?;
        self.source.whole(value, "count", 1..=100, "from 1 to 100")
    }
}

/// Whether the set says something only beside another one.
const fn is_relative(nodes: &Nodes) -> bool {
    matches!(nodes, Nodes::Others | Nodes::Peers(_) | Nodes::Strangers(_))
}

fn named(text: &str) -> Option<Nodes> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok()?;
        return (1..=100)
            .contains(&percent)
            .then_some(Nodes::Percent(percent));
    }
    if let Some(region) = text.strip_prefix("region:") {
        return Some(Nodes::Region(region.to_owned()));
    }
    for (prefix, of) in [
        ("peers:", Nodes::Peers as fn(usize) -> Nodes),
        ("strangers:", Nodes::Strangers),
    ] {
        if let Some(count) = text.strip_prefix(prefix) {
            let count = count.parse().ok()?;
            return (count > 0).then(|| of(count));
        }
    }
    match text {
        "half" => Some(Nodes::Half),
        "others" => Some(Nodes::Others),
        _ => None,
    }
}
