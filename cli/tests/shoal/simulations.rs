//! Claims about `shoal sim`: it needs no daemon, says what broke, and how to see it again.

use std::{
    path::Path,
    process::{Command, Output},
};

fn shoal(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(args)
        .env("SHOAL_SOCKET", "/nowhere/shoald.sock")
        .output()
        .expect("shoal starts")
}

fn document(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A scenario that cannot hold: nobody knows of a death within a millisecond.
fn impossible(dir: &Path) -> String {
    let file = dir.join("impossible.toml");
    let text = "name = \"impossible\"\nnodes = 3\nsettle_s = 12\n[bounds]\ndetection_ms = 1\n\
                [[fault]]\nkind = \"crash\"\nnodes = 1\n";
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn scenarios_are_listed_shown_and_run_without_a_daemon() {
    let listed = shoal(&["sim", "ls", "--json"]);
    let names = document(&listed);
    let has = |name: &str| {
        names
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == name)
    };
    assert!(has("split") && has("one_crash") && has("wan"));
    let shown = shoal(&["sim", "show", "split"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("name = \"split\""));
    let run = shoal(&["sim", "run", "one_crash", "--seeds", "2"]);
    assert!(run.status.success(), "{}", error_of(&run));
    assert!(String::from_utf8_lossy(&run.stdout).contains("every invariant held"));
}

#[test]
fn the_document_of_a_run_is_the_same_for_the_same_seed() {
    let args = [
        "sim",
        "run",
        "one_crash",
        "--seeds",
        "2",
        "--from",
        "5",
        "--json",
    ];
    let [one, two] = [shoal(&args), shoal(&args)].map(|output| document(&output));
    assert_eq!(one["trace_hash"], two["trace_hash"]);
    assert_eq!(one["violations"], serde_json::json!([]));
    for key in ["p50", "p90", "p99", "max"] {
        assert!(one["detection_ms"][key].is_u64(), "{key}");
    }
    let replayed = shoal(&["sim", "replay", "one_crash", "--seed", "5", "--json"]);
    assert_eq!(
        document(&replayed)["trace_hash"],
        one["runs"][0]["trace_hash"]
    );
}

#[test]
fn a_group_of_servers_is_run_replayed_and_reported_like_a_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("report.html");
    let args = ["sim", "run", "leader_killed", "--seeds", "2", "--json"];
    let html = ["--html", page.to_str().unwrap()];
    let run = document(&shoal(&[&args[..], &html[..]].concat()));
    assert_eq!(run["kind"], "agreement");
    assert_eq!(run["violations"], serde_json::json!([]));
    assert_eq!(run["failover_ms"]["count"], 20);
    let replayed = document(&shoal(&[
        "sim",
        "replay",
        "leader_killed",
        "--seed",
        "1",
        "--json",
    ]));
    assert_eq!(replayed["trace_hash"], run["runs"][1]["trace_hash"]);
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    for foreign in ["<script", "http://", "https://", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let told = shoal(&["sim", "replay", "leader_killed", "--seed", "1"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains("is killed") && told.contains("writes go on after"),
        "{told}"
    );
}

#[test]
fn a_broken_invariant_fails_with_the_command_that_shows_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = impossible(dir.path());
    let run = shoal(&["sim", "run", &file, "--seeds", "2", "--from", "7"]);
    assert_eq!(run.status.code(), Some(1));
    let replay = format!("shoal sim replay {file} --seed 7");
    assert!(error_of(&run).contains(&replay), "{}", error_of(&run));
    let words: Vec<_> = replay.split(' ').skip(1).collect();
    let again = shoal(&words);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stdout).contains("is held dead"));
    let json = shoal(&["sim", "run", &file, "--seeds", "1", "--json"]);
    assert_eq!(json.status.code(), Some(1));
    assert_eq!(
        document(&json)["violations"][0]["invariant"],
        "timely_detection"
    );
}

#[test]
fn a_wrong_scenario_is_refused_with_its_line_and_an_unknown_one_with_the_known() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.toml");
    std::fs::write(&file, "name = \"wrong\"\nnodes = 3\nsize = 4\n").unwrap();
    let run = shoal(&["sim", "run", file.to_str().unwrap(), "--json"]);
    assert_eq!(run.status.code(), Some(1));
    let error = document(&run);
    assert_eq!(error["code"], "ScenarioSyntaxError");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("line 3: unknown field")
    );
    let unknown = document(&shoal(&["sim", "run", "nothing", "--json"]));
    assert_eq!(unknown["code"], "ScenarioNotFoundError");
    let missing = document(&shoal(&["sim", "run", "/nowhere/x.toml", "--json"]));
    assert_eq!(missing["code"], "ScenarioFileError");
}

#[test]
fn reports_are_written_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let (page, file) = (dir.path().join("r.html"), dir.path().join("r.json"));
    let (page_arg, file_arg) = (page.to_str().unwrap(), file.to_str().unwrap());
    let args = [
        "sim",
        "run",
        "one_crash",
        "--seeds",
        "1",
        "--html",
        page_arg,
        "--report",
        file_arg,
    ];
    assert!(shoal(&args).status.success());
    assert!(
        std::fs::read_to_string(&page)
            .unwrap()
            .starts_with("<!doctype html>")
    );
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(report["scenario"], "one_crash");
    let refused = shoal(&[
        "sim",
        "run",
        "one_crash",
        "--html",
        "/nowhere/r.html",
        "--json",
    ]);
    assert_eq!(document(&refused)["code"], "FileWriteError");
}
