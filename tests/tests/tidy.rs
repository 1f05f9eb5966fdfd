//! The rules of STYLE.md that a program can check.
//!
//! Reads the files of the repository, never its history, and says every breach at once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The crates that decide: no runtime, no poller, no socket, not even indirectly.
const CORES: [&str; 4] = [
    "consensus-core",
    "consensus-lease",
    "overlay-core",
    "runtimes-core",
];

/// What a core's dependency tree must not contain.
const SHELL_CRATES: [&str; 3] = ["tokio", "mio", "socket2"];

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 500;

/// Files that are still too long, with their length. The list only shrinks: an entry that is no
/// longer needed, or larger than the file, fails the test.
const LONG_FILES: [(&str, usize); 0] = [];

/// Names that do not say what is decided there.
const EMPTY_NAMES: [&str; 10] = [
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "service",
    "services",
];

/// Directories of the authors' machines; the repository works anywhere.
const FOREIGN_PATHS: [&str; 3] = ["/work/", "/root/", "/home/"];

/// Files that carry no prose or code of ours.
const UNREAD: [&str; 4] = ["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT", "LICENSE"];

/// Folders of the workspace's crates that no operator runs.
const NO_PRODUCT: [&str; 3] = ["tests", "benches", "simulations"];

/// What the `k3s` of the tests is called, in small letters: its crate, its knobs, its mark for a version, what it
/// says of itself. The product is to take it for K3s.
const STAND_IN: [&str; 3] = ["stand-in", "k3s_stand_in", "tests/k3s"];

/// Stands in for a crate of others, and so has that one's version.
const STANDS_IN: &str = "consensus/histogram";

#[test]
fn cores_have_no_runtime_and_no_socket_in_their_dependency_tree() {
    let mut breaches = Vec::new();
    for core in CORES {
        let tree = cargo(&["tree", "-e", "normal,build", "-p", core, "--prefix", "none"]);
        assert!(tree.starts_with(core), "cargo tree said: {tree}");
        for line in tree.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if SHELL_CRATES.contains(&name) {
                breaches.push(format!("{core} depends on {line}"));
            }
        }
    }
    none(&breaches);
}

#[test]
fn cores_know_no_core_but_the_shared_vocabulary() {
    let mut breaches = Vec::new();
    for core in CORES {
        let tree = cargo(&["tree", "-e", "normal,build", "-p", core, "--prefix", "none"]);
        let ours = tree.lines().filter(|line| line.contains(root_text()));
        for line in ours {
            let name = line.split_whitespace().next().unwrap_or_default();
            if name != core && name != "consensus-core" {
                breaches.push(format!("{core} uses {name}"));
            }
        }
    }
    none(&breaches);
}

#[test]
fn every_module_says_what_it_decides() {
    let headless = sources().into_iter().filter(|path| {
        let text = read(path);
        let first = text.lines().find(|line| !line.trim().is_empty());
        !first.is_some_and(|line| line.starts_with("//!"))
    });
    none(&said(headless, "does not begin with a `//!` header"));
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut breaches = Vec::new();
    for path in sources().iter().filter(|path| !is_test(path)) {
        let lines = lines_before_tests(&read(path));
        let name = relative(path);
        let allowed = (LONG_FILES.iter().find(|(long, _)| *long == name)).map(|(_, lines)| *lines);
        match allowed {
            None if lines > FILE_LINES_MAX => breaches.push(format!("{name} has {lines} lines")),
            Some(allowed) if lines > allowed => {
                breaches.push(format!("{name} grew from {allowed} to {lines} lines"));
            }
            Some(allowed) if lines < allowed => {
                breaches.push(format!(
                    "{name} shrank to {lines} lines: say so in the list"
                ));
            }
            None | Some(_) => {}
        }
    }
    for (name, _) in LONG_FILES {
        if !root().join(name).exists() {
            breaches.push(format!("{name} is gone: take it off the list"));
        }
    }
    none(&breaches);
}

#[test]
fn names_say_what_is_decided() {
    let empty = files().into_iter().filter(|path| {
        let relative = relative(path);
        let parts = Path::new(&relative).iter().filter_map(|part| part.to_str());
        let mut words = parts.flat_map(|part| part.split(['.', '_', '-']));
        words.any(|word| EMPTY_NAMES.contains(&word))
    });
    let mut breaches = said(empty, "has a name that says nothing");
    for path in sources() {
        for (number, line) in read(&path).lines().enumerate() {
            if module_name(line).is_some_and(|name| EMPTY_NAMES.contains(&name)) {
                breaches.push(at(&path, number, "a module's name says nothing", line));
            }
        }
    }
    none(&breaches);
}

#[test]
fn no_test_file_is_forgotten() {
    let mut breaches = Vec::new();
    for path in sources() {
        let Some(parent) = path.parent() else {
            continue;
        };
        if is_crate_root(&path) || declared(&path, parent) || placed_by_path(&path, parent) {
            continue;
        }
        breaches.push(format!("{} is no module of any crate", relative(&path)));
    }
    none(&breaches);
}

#[test]
fn every_crate_obeys_the_workspace() {
    let mut breaches = Vec::new();
    for dir in members() {
        let manifest = read(&root().join(&dir).join("Cargo.toml"));
        if !manifest.contains("[lints]\nworkspace = true") {
            breaches.push(format!("{dir} does not inherit the workspace's lints"));
        }
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            if key == "version" && dir == STANDS_IN {
                continue;
            }
            if !manifest.contains(&format!("{key}.workspace = true")) {
                breaches.push(format!("{dir} does not inherit {key}"));
            }
        }
    }
    none(&breaches);
}

#[test]
fn every_core_repeats_the_roots_clippy_settings_and_bans_the_world() {
    let shared = read(&root().join("clippy.toml"));
    let banned = [
        "std::time::Instant::now",
        "std::time::SystemTime::now",
        "std::thread::spawn",
        "std::collections::HashMap",
        "std::sync::Mutex",
        "std::net::UdpSocket",
    ];
    let mut breaches = Vec::new();
    for dir in members().iter().filter(|dir| dir.ends_with("/core")) {
        let own = read(&root().join(dir).join("clippy.toml"));
        let settings = shared.lines().filter(|line| line.contains(" = "));
        for setting in settings.chain(banned) {
            if !own.contains(setting) {
                breaches.push(format!("{dir}/clippy.toml lacks {setting}"));
            }
        }
    }
    none(&breaches);
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_undone() {
    // Spelled so that this file does not find itself.
    let marks = [
        "#[ignore",
        "todo!(",
        "unimplemented!(",
        "FIX\u{4d}E",
        "not implemented",
    ];
    let mut breaches = Vec::new();
    for path in sources().iter().filter(|path| !path.ends_with("tidy.rs")) {
        for (number, line) in read(path).lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                breaches.push(at(path, number, "left undone", line));
            }
        }
    }
    none(&breaches);
}

#[test]
fn no_part_of_the_product_knows_that_the_k3s_of_the_tests_is_none() {
    let folders = members().into_iter().filter(|dir| {
        let top = dir.split('/').next().unwrap_or_default();
        !NO_PRODUCT.contains(&top)
    });
    let folders: Vec<String> = folders.map(|dir| format!("{dir}/")).collect();
    let mut product = files();
    product.retain(|path| {
        let relative = relative(path);
        folders.iter().any(|dir| relative.starts_with(dir)) && !is_test(path)
    });
    assert!(product.len() > folders.len(), "every crate has a source");
    let mut breaches = Vec::new();
    for path in &product {
        for (number, line) in read(path).lines().enumerate() {
            let small = line.to_lowercase();
            if STAND_IN.iter().any(|name| small.contains(name)) {
                breaches.push(at(path, number, "knows the k3s of the tests", line));
            }
        }
    }
    none(&breaches);
}

#[test]
fn the_repository_names_no_place_of_its_authors_machines() {
    let mut breaches = Vec::new();
    for path in files().iter().filter(|path| !path.ends_with("tidy.rs")) {
        if UNREAD.contains(&relative(path).as_str()) {
            continue;
        }
        for (number, line) in read(path).lines().enumerate() {
            if FOREIGN_PATHS.iter().any(|foreign| line.contains(foreign)) {
                breaches.push(at(path, number, "a path of one machine", line));
            }
        }
    }
    none(&breaches);
}

#[track_caller]
fn none(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn said(paths: impl Iterator<Item = PathBuf>, what: &str) -> Vec<String> {
    paths
        .map(|path| format!("{} {what}", relative(&path)))
        .collect()
}

fn at(path: &Path, number: usize, what: &str, line: &str) -> String {
    format!("{}:{}: {what}: {}", relative(path), number + 1, line.trim())
}

fn root() -> &'static Path {
    Path::new(root_text())
}

fn root_text() -> &'static str {
    let own = env!("CARGO_MANIFEST_DIR");
    own.strip_suffix("/tests")
        .expect("this crate lies in tests/")
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(args)
        .args(["--offline", "--locked"])
        .output()
        .expect("cargo runs, for it runs this test");
    assert!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The folders of the workspace's crates.
fn members() -> Vec<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let list = (manifest.split_once("members = ["))
        .and_then(|(_, rest)| rest.split_once(']'))
        .expect("the workspace lists its members")
        .0;
    list.split(',')
        .map(|member| member.trim().trim_matches('"').to_owned())
        .filter(|member| !member.is_empty())
        .collect()
}

/// Every file of the repository, in a stable order; what builds leave behind is none.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir)
            .expect("the repository is readable")
            .flatten()
        {
            let path = entry.path();
            let name = entry.file_name();
            let kind = entry.file_type().expect("a listed file has a type");
            if kind.is_dir() && name != "target" && name != ".git" {
                open.push(path);
            } else if kind.is_file() && name != ".git" {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<PathBuf> {
    let mut files = files();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// Files that hold tests only.
fn is_test(path: &Path) -> bool {
    let relative = relative(path);
    relative.contains("/tests/") || relative.ends_with("tests.rs")
}

fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .position(|line| line.trim() == "#[cfg(test)]")
        .unwrap_or(lines.len())
}

/// The name in `mod name;` or `pub(crate) mod name {`.
fn module_name(line: &str) -> Option<&str> {
    let line = line.trim();
    let rest = line.strip_prefix("pub").map_or(line, |rest| {
        rest.split_once("mod ")
            .map_or(rest, |(before, _)| &rest[before.len()..])
    });
    let name = rest.trim().strip_prefix("mod ")?;
    Some(name.trim_end_matches([';', '{', ' ']))
}

/// Files that Cargo finds by itself.
fn is_crate_root(path: &Path) -> bool {
    let relative = relative(path);
    let parts: Vec<&str> = relative.split('/').collect();
    let Some(dir) = members()
        .into_iter()
        .find(|dir| relative.starts_with(&format!("{dir}/")))
    else {
        return false;
    };
    let inside = &parts[dir.split('/').count()..];
    matches!(
        inside,
        ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
            | ["build.rs"]
    )
}

/// Whether the module above declares this file.
fn declared(path: &Path, parent: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let (name, folder) = match stem {
        Some("mod") => (
            parent.file_name().and_then(|name| name.to_str()),
            parent.parent().unwrap_or(parent),
        ),
        other => (other, parent),
    };
    let Some(name) = name else {
        return false;
    };
    let beside = folder.with_extension("rs");
    let candidates = ["mod.rs", "lib.rs", "main.rs"].map(|file| folder.join(file));
    let here = fs::read_dir(folder).into_iter().flatten().flatten();
    // A test's folder of shared modules belongs to the test files beside it.
    let roots = here
        .map(|entry| entry.path())
        .filter(|path| is_rust(path) && is_crate_root(path));
    candidates
        .into_iter()
        .chain([beside])
        .chain(roots)
        .filter(|file| file.exists() && file != path)
        .any(|file| {
            read(&file)
                .lines()
                .any(|line| module_name(line) == Some(name))
        })
}

/// Whether a file beside it names it in a `#[path]`.
fn placed_by_path(path: &Path, parent: &Path) -> bool {
    let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let attribute = format!("#[path = \"{file}\"]");
    let beside = fs::read_dir(parent).into_iter().flatten().flatten();
    beside
        .map(|entry| entry.path())
        .filter(|beside| is_rust(beside) && beside != path)
        .any(|beside| read(&beside).contains(&attribute))
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}
