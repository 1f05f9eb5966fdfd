//! The `[[fault]]` tables of a scenario file.
//!
//! Decides: which keys each kind of fault needs and which it has no use for.

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{
    Number, Source,
    keys::{Keys, there},
};
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

impl Kind {
    /// Its name.
    const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Kill => "kill",
            Self::Leave => "leave",
            Self::Stall => "stall",
            Self::SlowDisk => "slow_disk",
            Self::CutOneWay => "cut_one_way",
            Self::Cut => "cut",
            Self::Flap => "flap",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::RollingRestart => "rolling_restart",
            Self::Churn => "churn",
            Self::Forge => "forge",
            Self::Storm => "storm",
        }
    }
}

/// Reads one fault and remembers which keys were of use.
struct Reader<'a> {
    file: &'a FaultFile,
    keys: Keys<'a>,
}

impl FaultFile {
    pub(super) fn read(&self, source: Source<'_>) -> Result<Fault, ScenarioError> {
        let mut reader = Reader {
            file: self,
            keys: Keys::new(
                source,
                self.kind.span().start,
                self.kind.get_ref().name(),
                &["at_s", "for_s"],
            ),
        };
        let what = reader.what()?;
        let at = source.seconds_or(self.at_s.as_ref(), "at_s", std::time::Duration::ZERO)?;
        let lasts = self.for_s.as_ref();
        let lasts = lasts.map(|lasts| source.seconds(lasts, "for_s"));
        reader.keys.refuse_surplus(&self.present())?;
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
            return Err(reader.keys.missing("for_s"));
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
        there(&keys)
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
                let ppm = self.keys.percent(self.file.percent.as_ref())?;
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

    fn nodes(&mut self) -> Result<Nodes, ScenarioError> {
        let file = self.file;
        let value = self.keys.need("nodes", file.nodes.as_ref())?;
        self.set("nodes", value)
    }

    fn sides(&mut self) -> Result<(Nodes, Nodes), ScenarioError> {
        let file = self.file;
        let from = self.keys.need("from", file.from.as_ref())?;
        let from = self.set("from", from)?;
        self.keys.uses("to");
        let to = file.to.as_ref();
        let to = to.map_or(Ok(Nodes::Others), |to| self.set("to", to))?;
        if is_relative(&from) {
            return Err(ScenarioError::Value {
                line: self.keys.line(),
                key: "from",
                value: "said in terms of `to`".into(),
                rule: "a set of its own; say `to` in terms of it",
            });
        }
        Ok((from, to))
    }

    fn set(&self, key: &'static str, value: &Spanned<Value>) -> Result<Nodes, ScenarioError> {
        let wrong = || self.keys.source.wrong(value, key, NODES_RULE);
        let index = |number: i64| usize::try_from(number).map_err(|_| wrong());
        let nodes = match value.get_ref() {
            Value::Integer(count) if *count > 0 => Nodes::Count(index(*count)?),
            Value::Array(_) => Nodes::Index(Keys::indices(value.get_ref()).ok_or_else(wrong)?),
            Value::String(text) => named(text).ok_or_else(wrong)?,
            Value::Integer(_)
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
        self.keys.uses("disk");
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
        let value = self.keys.need(key, value)?;
        self.keys.source.span_ms(value, key)
    }

    fn span_s(
        &mut self,
        key: &'static str,
        value: Option<&[Number; 2]>,
    ) -> Result<Span, ScenarioError> {
        let value = self.keys.need(key, value)?;
        let span = self.keys.source.span(value, key, 1.0)?;
        if span.min.is_zero() {
            return Err(self
                .keys
                .source
                .wrong(&value[0], key, "longer than nothing"));
        }
        Ok(span)
    }

    fn every_ms(&mut self) -> Result<std::time::Duration, ScenarioError> {
        let file = self.file;
        let value = self.keys.need("every_ms", file.every_ms.as_ref())?;
        let every = self.keys.source.millis(value, "every_ms")?;
        if every.is_zero() {
            return Err(self
                .keys
                .source
                .wrong(value, "every_ms", "longer than nothing"));
        }
        Ok(every)
    }

    fn up(&mut self) -> Result<std::time::Duration, ScenarioError> {
        let file = self.file;
        let value = self.keys.need("up_s", file.up_s.as_ref())?;
        let up = self.keys.source.seconds(value, "up_s")?;
        if up.is_zero() {
            return Err(self.keys.source.wrong(value, "up_s", "longer than nothing"));
        }
        Ok(up)
    }

    fn count(&mut self) -> Result<usize, ScenarioError> {
        let file = self.file;
        let value = self.keys.need("count", file.count.as_ref())?;
        self.keys
            .source
            .whole(value, "count", 1..=100, "from 1 to 100")
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
