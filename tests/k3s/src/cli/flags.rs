//! Command lines, read as Go's `flag` package and urfave/cli read them.
//!
//! `-name` is `--name`; a switch takes a value only as `--name=value`; of a repeated text the
//! last counts, of a repeated list all do. An unknown flag ends the program, and so does an
//! argument that is no flag: K3s would ignore that one, and with it whatever stands behind it.

use std::collections::BTreeMap;

use crate::Fatal;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Number,
    Switch,
    List,
}

/// A flag that K3s knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    /// Empty: none.
    pub(crate) env: &'static str,
    pub(crate) kind: Kind,
}

impl Flag {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// What was asked for, by long name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Flags {
    values: BTreeMap<&'static str, Vec<String>>,
    /// What follows the flags; only commands with arguments of their own look at it.
    pub(crate) arguments: Vec<String>,
}

impl Flags {
    /// Reads `arguments`; what they leave unset comes from `environment`.
    pub(crate) fn parse(
        tables: &[&[Flag]],
        arguments: &[String],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Fatal> {
        let mut flags = Self::default();
        let known = |name: &str| tables.iter().copied().flatten().find(|flag| flag.is(name));
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(text) = strip_dashes(argument) else {
                flags.arguments.push(argument.clone());
                flags.arguments.extend(rest.cloned());
                break;
            };
            let (name, given) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let Some(flag) = known(name) else {
                return Err(Fatal::usage(format!(
                    "flag provided but not defined: -{name}"
                )));
            };
            let value = match (flag.kind, given) {
                (_, Some(value)) => value,
                (Kind::Switch, None) => "true".to_owned(),
                (Kind::Text | Kind::Number | Kind::List, None) => {
                    let missing = || Fatal::usage(format!("flag needs an argument: -{name}"));
                    rest.next().cloned().ok_or_else(missing)?
                }
            };
            check(flag, name, &value)?;
            flags.values.entry(flag.name).or_default().push(value);
        }
        for flag in tables.iter().copied().flatten() {
            if flag.env.is_empty() || flags.values.contains_key(flag.name) {
                continue;
            }
            if let Some(value) = environment(flag.env).filter(|value| !value.is_empty()) {
                check(flag, flag.name, &value)?;
                flags.values.insert(flag.name, vec![value]);
            }
        }
        Ok(flags)
    }

    /// The last value; empty values count as unset, as in K3s.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let last = self.values.get(name).and_then(|values| values.last());
        last.map(String::as_str).filter(|text| !text.is_empty())
    }

    /// All values, commas split.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let values = self.values.get(name).into_iter().flatten();
        values
            .flat_map(|value| value.split(','))
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// Whether a switch is on.
    pub(crate) fn on(&self, name: &str) -> bool {
        let last = self.values.get(name).and_then(|values| values.last());
        last.and_then(|text| boolean(text)).unwrap_or(false)
    }

    /// The last number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    /// The value of `key` in a list of `key=value`, as `--etcd-arg` and its like are. K3s does not split
    /// these at commas: a value may have some.
    pub(crate) fn component(&self, list: &str, key: &str) -> Option<String> {
        let arguments = self.values.get(list).into_iter().flatten().rev();
        arguments
            .filter_map(|argument| {
                let (name, value) = argument.split_once('=')?;
                (name == key).then(|| value.to_owned())
            })
            .next()
    }
}

/// `name` of `--name`, `-name`; `None` where it is no flag.
fn strip_dashes(argument: &str) -> Option<&str> {
    let text = argument.strip_prefix('-')?;
    let text = text.strip_prefix('-').unwrap_or(text);
    (!text.is_empty()).then_some(text)
}

fn check(flag: &Flag, name: &str, value: &str) -> Result<(), Fatal> {
    let sound = match flag.kind {
        Kind::Text | Kind::List => true,
        Kind::Number => value.parse::<i64>().is_ok(),
        Kind::Switch => boolean(value).is_some(),
    };
    if sound {
        return Ok(());
    }
    let what = if flag.kind == Kind::Switch {
        "boolean value"
    } else {
        "value"
    };
    Err(Fatal::usage(format!(
        "invalid {what} \"{value}\" for flag -{name}: parse error"
    )))
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::{NODE, SERVER};

    fn parse(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Flags, String> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let find = |name: &str| {
            let pair = environment.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        };
        Flags::parse(&[NODE, SERVER], &arguments, find).map_err(|fatal| fatal.to_string())
    }

    #[test]
    fn one_dash_or_two_and_either_way_to_give_a_value() {
        let flags = parse(
            &[
                "-node-name",
                "a",
                "--cluster-init",
                "--tls-san=x,y",
                "--tls-san",
                "z",
            ],
            &[],
        )
        .unwrap();
        assert_eq!(flags.text("node-name"), Some("a"));
        assert!(flags.on("cluster-init"));
        assert_eq!(flags.list("tls-san"), ["x", "y", "z"]);
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let flags = parse(
            &["--token", "line"],
            &[("K3S_TOKEN", "env"), ("K3S_URL", "https://a:1")],
        )
        .unwrap();
        assert_eq!(flags.text("token"), Some("line"));
        assert_eq!(flags.text("server"), Some("https://a:1"));
    }

    #[test]
    fn what_is_not_a_flag_of_k3s_is_refused() {
        for (arguments, words) in [
            (
                vec!["--node-nam", "a"],
                "flag provided but not defined: -node-nam",
            ),
            (vec!["--node-name"], "flag needs an argument: -node-name"),
            (
                vec!["--https-listen-port", "x"],
                "invalid value \"x\" for flag -https-listen-port: parse error",
            ),
            (
                vec!["--cluster-init=maybe"],
                "invalid boolean value \"maybe\" for flag -cluster-init: parse error",
            ),
        ] {
            assert_eq!(parse(&arguments, &[]).unwrap_err(), words);
        }
    }

    #[test]
    fn arguments_of_components_are_found_by_name() {
        let flags = parse(
            &[
                "--etcd-arg=election-timeout=1000",
                "--etcd-arg",
                "heartbeat-interval=100",
            ],
            &[],
        )
        .unwrap();
        assert_eq!(
            flags.component("etcd-arg", "election-timeout").as_deref(),
            Some("1000")
        );
        assert_eq!(flags.component("etcd-arg", "quota"), None);
        let at_once = ["--etcd-arg=heartbeat-interval=100,election-timeout=1000"];
        let flags = parse(&at_once, &[]).unwrap();
        assert_eq!(flags.component("etcd-arg", "election-timeout"), None);
    }
}
