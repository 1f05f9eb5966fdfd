//! Files of settings: `config.yaml`, then `config.yaml.d/*.yaml` in alphabetical order.
//!
//! Follows `pkg/configfilearg/parser.go`: the last file that has a key wins, `key+` appends to
//! what was there, and the result is put before the command line's flags as `--key=value`.
//! One thing is stricter: an unknown key ends the program. K3s warns, drops it and goes on
//! without what was asked for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::flags::Flag;
use crate::Fatal;

/// Where K3s looks when nobody says otherwise.
pub(crate) const DEFAULT: &str = "/etc/rancher/k3s/config.yaml";

/// The flags that files ask for. `named`: the file was asked for and must exist.
pub(crate) fn arguments(
    file: &Path,
    named: bool,
    tables: &[&[Flag]],
) -> Result<Vec<String>, Fatal> {
    let mut settings: BTreeMap<String, Value> = BTreeMap::new();
    for path in files(file, named)? {
        for (key, value) in read(&path)? {
            let (name, append) = match key.strip_suffix('+') {
                Some(name) => (name.to_owned(), true),
                None => (key.clone(), false),
            };
            if !tables.iter().copied().flatten().any(|flag| flag.is(&name)) {
                return Err(Fatal::new(format!(
                    "Unknown flag --{name} found in {} (K3s would log this, skip it and go on without)",
                    path.display()
                )));
            }
            match settings.get_mut(&name) {
                Some(old) if append => {
                    let joined = [slice(old), slice(&value)].concat();
                    *old = Value::Array(joined);
                }
                Some(_) | None => {
                    settings.insert(name, value);
                }
            }
        }
    }
    let mut arguments = Vec::new();
    for (name, value) in settings {
        let values = match &value {
            Value::Array(values) => values.clone(),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => vec![value],
        };
        for value in values {
            arguments.push(format!("--{name}={}", text(&name, &value)?));
        }
    }
    Ok(arguments)
}

fn files(file: &Path, named: bool) -> Result<Vec<PathBuf>, Fatal> {
    let dir = PathBuf::from(format!("{}.d", file.display()));
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && is_yaml(path))
        .collect();
    files.sort();
    if file.exists() {
        files.insert(0, file.to_owned());
    } else if named && files.is_empty() {
        return Err(Fatal::new(format!(
            "stat {}: no such file or directory",
            file.display()
        )));
    }
    Ok(files)
}

fn is_yaml(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml")
    })
}

fn read(path: &Path) -> Result<BTreeMap<String, Value>, Fatal> {
    let because = |error: String| Fatal::new(format!("{}: {error}", path.display()));
    let content = fs::read_to_string(path).map_err(|error| because(error.to_string()))?;
    let mut options = serde_saphyr::Options::default();
    // YAML 1.1, as K3s's parser reads it: 0644 is a number in octal, yes is true.
    options.legacy_octal_numbers = true;
    options.with_snippet = false;
    let parsed: Option<BTreeMap<String, Value>> =
        serde_saphyr::from_str_with_options(&content, options)
            .map_err(|error| because(error.to_string()))?;
    Ok(parsed.unwrap_or_default())
}

fn slice(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values.clone(),
        Value::Null => Vec::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            vec![value.clone()]
        }
    }
}

/// The value as a flag takes it.
fn text(name: &str, value: &Value) -> Result<String, Fatal> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Bool(on) => Ok(on.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) | Value::Object(_) => Err(Fatal::new(format!(
            "the value of {name} is neither a scalar nor a list of scalars"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::{NODE, SERVER};

    fn merged(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        arguments(&dir.path().join("config.yaml"), false, &[NODE, SERVER])
            .map_err(|fatal| fatal.to_string())
    }

    #[test]
    fn later_files_replace_and_plus_appends() {
        let found = merged(&[
            (
                "config.yaml",
                "token: boop\nnode-label:\n  - foo=bar\n  - bar=baz\n",
            ),
            (
                "config.yaml.d/1.yaml",
                "write-kubeconfig-mode: \"600\"\nnode-taint:\n  - alice=bob:NoExecute\n",
            ),
            (
                "config.yaml.d/2.yaml",
                "write-kubeconfig-mode: \"777\"\nnode-label:\n  - other=what\nnode-taint+:\n  - charlie=delta:NoSchedule\ncluster-init: true\n",
            ),
            ("config.yaml.d/3.txt", "nonsense: true\n"),
        ]);
        assert_eq!(
            found.unwrap(),
            [
                "--cluster-init=true",
                "--node-label=other=what",
                "--node-taint=alice=bob:NoExecute",
                "--node-taint=charlie=delta:NoSchedule",
                "--token=boop",
                "--write-kubeconfig-mode=777",
            ]
        );
    }

    #[test]
    fn a_mode_without_quotes_is_an_octal_number_and_no_longer_a_mode() {
        let found = merged(&[("config.yaml", "write-kubeconfig-mode: 0644\n")]);
        assert_eq!(found.unwrap(), ["--write-kubeconfig-mode=420"]);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let refused = merged(&[("config.yaml.d/a.yaml", "flanel-iface: wg0\n")]).unwrap_err();
        assert!(
            refused.contains("Unknown flag --flanel-iface found in"),
            "{refused}"
        );
    }

    #[test]
    fn no_file_is_no_flag() {
        assert!(merged(&[]).unwrap().is_empty());
    }
}
