//! What reading a fault has in common, whatever the scenario is about.
//!
//! Decides: that a key which a kind of fault needs is there, and that none is which it does not know.

use toml::{Spanned, Value};

use super::Source;
use crate::scenario::ScenarioError;

/// The keys of one fault, and which of them were of use.
pub(crate) struct Keys<'a> {
    pub(crate) source: Source<'a>,
    /// Where the fault stands.
    line: usize,
    /// What it is called.
    kind: &'static str,
    used: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    /// Those of a fault that begins at this byte; `always` are good for every kind.
    pub(crate) fn new(
        source: Source<'a>,
        at: usize,
        kind: &'static str,
        always: &[&'static str],
    ) -> Self {
        Self {
            source,
            line: source.line(at),
            kind,
            used: always.to_vec(),
        }
    }

    pub(crate) const fn line(&self) -> usize {
        self.line
    }

    pub(crate) const fn missing(&self, key: &'static str) -> ScenarioError {
        ScenarioError::Missing {
            line: self.line,
            kind: self.kind,
            key,
        }
    }

    /// The key is of use, there or not.
    pub(crate) fn uses(&mut self, key: &'static str) {
        self.used.push(key);
    }

    /// The key is of use and must be there.
    pub(crate) fn need<'v, T>(
        &mut self,
        key: &'static str,
        value: Option<&'v T>,
    ) -> Result<&'v T, ScenarioError> {
        self.uses(key);
        value.ok_or_else(|| self.missing(key))
    }

    /// Refuses what stands there and is of no use.
    pub(crate) fn refuse_surplus(&self, present: &[&'static str]) -> Result<(), ScenarioError> {
        match present.iter().find(|key| !self.used.contains(key)) {
            Some(key) => Err(ScenarioError::Surplus {
                line: self.line,
                kind: self.kind,
                key,
            }),
            None => Ok(()),
        }
    }

    /// A list of indices, rising and each once; nothing if the value is no such list.
    pub(crate) fn indices(value: &Value) -> Option<Vec<usize>> {
        let items = value.as_array().filter(|items| !items.is_empty())?;
        let index = |item: &Value| usize::try_from(item.as_integer()?).ok();
        let mut indices = items.iter().map(index).collect::<Option<Vec<_>>>()?;
        indices.sort_unstable();
        indices.dedup();
        Some(indices)
    }

    /// A part of a hundred that must be there, in millionths.
    pub(crate) fn percent(&mut self, value: Option<&Spanned<f64>>) -> Result<u32, ScenarioError> {
        let value = self.need("percent", value)?;
        self.source.ppm(value, "percent")
    }
}

/// Those of these keys that are there.
pub(crate) fn there(keys: &[(&'static str, bool)]) -> Vec<&'static str> {
    let there = keys.iter().filter(|(_, there)| *there);
    there.map(|(key, _)| *key).collect()
}
