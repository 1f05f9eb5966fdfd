//! One daemon: it starts once, stops cleanly and says why it cannot.

use std::time::Duration;

use shoal_tests::{Host, Lab, Node, Output, SOCKET};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_second_daemon_on_the_same_data_directory_is_refused() {
    let Some(lab) = Lab::for_test("second") else {
        return;
    };
    let first = Node::new(&lab, "n1");
    let refused = starts_in_vain(
        &first.host,
        &["--socket", "/run/other.sock", "--listen", "10.77.0.1:9000"],
    );
    assert!(refused.stderr.contains("/var/lib/shoal"), "{refused}");
    first.host.shoal_json(&["status"]);
}

#[test]
fn an_address_in_use_is_refused_by_name_and_leaves_nothing() {
    let Some(lab) = Lab::for_test("address") else {
        return;
    };
    let first = Node::new(&lab, "n1");
    // Only a member listens for others.
    first.host.shoal(&["init", "--name", "lab"]).ok();
    let refused = starts_in_vain(
        &first.host,
        &[
            "--socket",
            "/run/other.sock",
            "--data-dir",
            "/var/lib/other",
        ],
    );
    assert!(refused.stderr.contains("10.77.0.1:7440"), "{refused}");
    assert!(!first.host.run(&["test", "-e", "/run/other.sock"]).success());
    first.host.shoal_json(&["status"]);
}

#[test]
fn an_unknown_setting_is_refused_by_name() {
    let Some(lab) = Lab::for_test("setting") else {
        return;
    };
    let host = lab.host("n1");
    host.sh("echo 'nmae = \"n1\"' > /tmp/shoald.toml").ok();
    let refused = host.run(&["shoald", "run", "--config", "/tmp/shoald.toml"]);
    assert!(!refused.success(), "{refused}");
    assert!(refused.stderr.contains("nmae"), "{refused}");
    assert_hint(&refused);
}

#[test]
fn sigterm_stops_the_daemon_cleanly_and_it_starts_again() {
    let Some(lab) = Lab::for_test("sigterm") else {
        return;
    };
    let mut node = Node::new(&lab, "n1");
    node.host.shoal(&["init", "--name", "lab"]).ok();
    let before = node.host.shoal_json(&["status"]);
    let status = node.daemon.stop();
    assert!(status.success(), "{status}");
    assert!(!node.host.run(&["test", "-e", SOCKET]).success());
    node.restart_daemon();
    node.host
        .wait_for_status(SOON, "the node leads its mesh again", |after| {
            after["mesh_id"] == before["mesh_id"] && after["leader"] == "n1"
        });
}

#[test]
fn a_mesh_survives_power_loss_of_all_its_machines() {
    let Some(lab) = Lab::for_test("blackout") else {
        return;
    };
    let mut node = Node::new(&lab, "n1");
    node.host.shoal(&["init", "--name", "lab"]).ok();
    node.host.shoal(&["node", "label", "n1", "zone=a"]).ok();
    node.host.power_off();
    node.host.power_on();
    node.restart_daemon();
    node.host
        .wait_for_status(SOON, "the node leads its mesh again", |status| {
            status["leader"] == "n1"
        });
    assert_eq!(node.host.node_row("n1")["labels"]["zone"], "a");
}

#[test]
fn without_the_right_to_make_interfaces_the_node_says_so() {
    let Some(lab) = Lab::for_test("tun") else {
        return;
    };
    let host = lab.host("n1");
    let command = host.daemon_command(&[]).join(" ");
    let daemon = host.spawn(&[
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        "bash",
        "-c",
        &command,
    ]);
    shoal_tests::wait_until(SOON, "the daemon answers or ended", || {
        host.takes_commands() || !daemon.is_running()
    });
    assert!(daemon.is_running(), "it can still be asked what is wrong");
    let answer = host.shoal(&["init", "--name", "lab", "--json"]);
    if answer.success() {
        host.wait_for_condition(SOON, "NET_ADMIN");
    } else {
        let refusal = answer.refusal().to_string();
        assert!(refusal.contains("NET_ADMIN"), "{refusal}");
        assert!(host.shoal_json(&["status"])["mesh_id"].is_null());
    }
}

/// Starts a second daemon that must end by itself, with a reason and a hint.
#[track_caller]
fn starts_in_vain(host: &Host, flags: &[&str]) -> Output {
    let command = host.daemon_command(flags);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let output = host.run(&command);
    assert!(!output.success(), "{output}");
    assert_hint(&output);
    output
}

#[track_caller]
fn assert_hint(output: &Output) {
    assert!(output.stderr.to_lowercase().contains("hint"), "{output}");
}
