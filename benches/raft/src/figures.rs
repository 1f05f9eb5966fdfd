//! Figures: quantiles, medians, and the file that collects them.
//!
//! Decides what a figure is called. Never compares: `report` does.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

/// One figure of one round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// In which round it was taken; zero for what is not done in rounds.
    pub(crate) round: u32,
    /// Of what.
    pub(crate) system: String,
    /// How many clients wrote at once; zero where it does not matter.
    pub(crate) clients: usize,
    /// What it says, with its unit.
    pub(crate) metric: String,
    /// Its value.
    pub(crate) value: f64,
}

/// The file of all figures: a line each, its fields separated by tabs.
pub(crate) struct Figures {
    file: File,
    round: u32,
    system: String,
}

impl Figures {
    pub(crate) fn append_to(path: &Path, round: u32, system: &str) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("{path:?} can't be written"))?;
        Ok(Self {
            file,
            round,
            system: system.to_owned(),
        })
    }

    pub(crate) fn note(&mut self, clients: usize, metric: &str, value: f64) -> anyhow::Result<()> {
        let Self { round, system, .. } = &self;
        let line = format!("{round}\t{system}\t{clients}\t{metric}\t{value}\n");
        Ok(self.file.write_all(line.as_bytes())?)
    }
}

/// Reads every figure of a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Figure>> {
    let text = fs::read_to_string(path).with_context(|| format!("{path:?} can't be read"))?;
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> anyhow::Result<Figure> {
    let wrong = || format!("{line:?} is not a figure");
    let fields: Vec<&str> = line.split('\t').collect();
    let [round, system, clients, metric, value] = fields[..] else {
        anyhow::bail!(wrong());
    };
    Ok(Figure {
        round: round.parse().with_context(wrong)?,
        system: system.to_owned(),
        clients: clients.parse().with_context(wrong)?,
        metric: metric.to_owned(),
        value: value.parse().with_context(wrong)?,
    })
}

/// The value below which `per_mille` of a thousand lie. Sorts.
pub(crate) fn quantile(values: &mut [Duration], per_mille: usize) -> Duration {
    values.sort_unstable();
    let rank = (values.len() * per_mille).div_ceil(1000).max(1) - 1;
    values.get(rank).copied().unwrap_or_default()
}

/// The median; of an even number the mean of the two in the middle. Nothing of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((sorted[middle - 1] + upper) / 2.0)
    }
}

/// Milliseconds, with the fraction.
pub(crate) fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let mut values: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut values, 500), Duration::from_millis(50));
        assert_eq!(quantile(&mut values, 990), Duration::from_millis(99));
        assert_eq!(quantile(&mut values, 1000), Duration::from_millis(100));
        assert_eq!(
            quantile(&mut [Duration::from_millis(3)], 500),
            Duration::from_millis(3)
        );
    }

    #[test]
    fn a_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_figure_is_read_as_it_was_written() {
        let figure = parse("2\tetcd\t16\twrites_per_s\t812.5").unwrap();
        let expected = Figure {
            round: 2,
            system: "etcd".to_owned(),
            clients: 16,
            metric: "writes_per_s".to_owned(),
            value: 812.5,
        };
        assert_eq!(figure, expected);
        assert!(parse("2\tetcd\t16").is_err());
    }
}
