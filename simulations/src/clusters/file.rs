//! Files of scenarios of clusters: TOML with `kind = "clusters"`.
//!
//! Decides: which keys there are, their units and limits. Unknown keys are refused.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::scenario::{NODES_MAX, NODES_MIN, Post, Scenario, Strikes};
use crate::{
    random::Span,
    scenario::{
        ScenarioError,
        file::{Number, Source, name_of},
    },
};

/// How much one strike may be wanted rather than another.
const WEIGHT_MAX: i64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    name: Spanned<String>,
    #[serde(rename = "kind")]
    _kind: KindFile,
    #[serde(default)]
    about: String,
    nodes: Spanned<i64>,
    storm_s: Option<Number>,
    settle_s: Option<Number>,
    wishes_s: Option<[Number; 2]>,
    upgrades: Option<Spanned<i64>>,
    pod_prefixes: Option<Spanned<i64>>,
    strikes: Option<StrikesFile>,
    post: Option<PostFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindFile {
    Clusters,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrikesFile {
    every_s: Option<[Number; 2]>,
    shoald: Option<Spanned<i64>>,
    k3s: Option<Spanned<i64>>,
    power: Option<Spanned<i64>>,
    disk: Option<Spanned<i64>>,
    source: Option<Spanned<i64>>,
    silence: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostFile {
    lost: Option<Spanned<i64>>,
    unanswered: Option<Spanned<i64>>,
    doubled: Option<Spanned<i64>>,
    late: Option<Spanned<i64>>,
}

pub(super) fn read(text: &str) -> Result<Scenario, ScenarioError> {
    let source = Source(text);
    let file: ScenarioFile = source.parse()?;
    let name = name_of(&file.name, source)?.to_owned();
    let every = Span::micros(2_000_000, 15_000_000);
    let strikes = file.strikes.as_ref();
    let strikes_every = strikes.and_then(|strikes| strikes.every_s.as_ref());
    let percent =
        |value: Option<&Spanned<i64>>, key| number(value, key, 100, "from 0 to 100", source);
    let scenario = Scenario {
        name,
        nodes: source.whole(&file.nodes, "nodes", 0..=i64::MAX, "a number")?,
        storm: source.seconds_or(file.storm_s.as_ref(), "storm_s", Duration::from_secs(300))?,
        settle: source.seconds_or(file.settle_s.as_ref(), "settle_s", Duration::from_secs(900))?,
        wishes_every: file
            .wishes_s
            .as_ref()
            .map_or(Ok(Span::micros(2_000_000, 30_000_000)), |span| {
                source.span(span, "wishes_s", 1.0)
            })?,
        upgrades: percent(file.upgrades.as_ref(), "upgrades")?,
        pod_prefixes: percent(file.pod_prefixes.as_ref(), "pod_prefixes")?,
        strikes_every: strikes_every.map_or(Ok(every), |span| source.span(span, "every_s", 1.0))?,
        strikes: strikes.map_or(Ok(Strikes::default()), |strikes| weights(strikes, source))?,
        post: file
            .post
            .as_ref()
            .map_or(Ok(Post::default()), |post| percents(post, source))?,
        about: file.about,
    };
    if !(NODES_MIN..=NODES_MAX).contains(&scenario.nodes) {
        let nodes = scenario.nodes;
        return scenario.sized(nodes);
    }
    Ok(scenario)
}

fn weights(file: &StrikesFile, source: Source<'_>) -> Result<Strikes, ScenarioError> {
    let weight =
        |value: Option<&Spanned<i64>>, key| number(value, key, WEIGHT_MAX, "from 0 to 100", source);
    Ok(Strikes {
        shoald: weight(file.shoald.as_ref(), "shoald")?,
        k3s: weight(file.k3s.as_ref(), "k3s")?,
        power: weight(file.power.as_ref(), "power")?,
        disk: weight(file.disk.as_ref(), "disk")?,
        source: weight(file.source.as_ref(), "source")?,
        silence: weight(file.silence.as_ref(), "silence")?,
    })
}

/// A word that is always lost is never agreed, and nothing would end.
fn percents(file: &PostFile, source: Source<'_>) -> Result<Post, ScenarioError> {
    let percent =
        |value: Option<&Spanned<i64>>, key| number(value, key, 90, "from 0 to 90", source);
    Ok(Post {
        lost: percent(file.lost.as_ref(), "lost")?,
        unanswered: percent(file.unanswered.as_ref(), "unanswered")?,
        doubled: percent(file.doubled.as_ref(), "doubled")?,
        late: percent(file.late.as_ref(), "late")?,
    })
}

fn number(
    value: Option<&Spanned<i64>>,
    key: &'static str,
    limit: i64,
    rule: &'static str,
    source: Source<'_>,
) -> Result<u32, ScenarioError> {
    value.map_or(Ok(0), |value| {
        let number = source.whole(value, key, 0..=limit, rule)?;
        Ok(u32::try_from(number).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"mine\"\nkind = \"clusters\"\n";

    #[test]
    fn what_is_left_out_is_calm() {
        let scenario = read(&format!("{HEAD}nodes = 6\n")).unwrap();
        assert_eq!(scenario.strikes, Strikes::default());
        assert_eq!(scenario.post, Post::default());
        assert_eq!(scenario.end(), Duration::from_secs(1200));
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for (text, said) in [
            ("nodes = 2\n", "5 nodes"),
            ("nodes = 99\n", "99"),
            ("nodes = 6\n[post]\nlost = 100\n", "`lost` is 100"),
            ("nodes = 6\npod_prefixes = 101\n", "`pod_prefixes` is 101"),
            ("nodes = 6\n[strikes]\nweather = 1\n", "unknown field"),
        ] {
            let error = read(&format!("{HEAD}{text}")).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
