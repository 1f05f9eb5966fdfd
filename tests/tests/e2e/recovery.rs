//! When more is lost than a majority can bear: going on alone, and from a backup.

use std::time::Duration;

use shoal_tests::{Lab, Mesh, Node, text, wait_until};

/// Longer than an election or a reconnection takes on a busy machine.
const SOON: Duration = Duration::from_secs(40);
/// Suspicion takes its time on purpose.
const NOTICED: Duration = Duration::from_secs(60);

/// A change is made, whatever is going on at the moment.
fn label(node: &Node, label: &str) {
    let what = format!("{} sets {label}", node.name());
    wait_until(SOON, &what, || {
        node.host
            .shoal(&["node", "label", node.name(), label])
            .success()
    });
}

/// What `recover` says when it refuses.
fn recover_refused(host: &shoal_tests::Host, confirm: &str) -> String {
    let answer = host.shoal(&["recover", "--confirm", confirm]);
    assert!(!answer.success(), "{answer}");
    answer.stderr
}

#[test]
fn a_mesh_whose_majority_is_lost_goes_on_and_the_lost_come_back_as_agents() {
    let Some(lab) = Lab::for_test("recover") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 1);
    label(mesh.node("s1"), "before=loss");
    let survivor = mesh.node("s1").host.clone();
    let refused = recover_refused(&survivor, "lab");
    assert!(refused.contains("the majority is not lost"), "{refused}");
    for lost in ["s2", "s3"] {
        mesh.node(lost).daemon.kill9();
    }
    // Refused until the loss is noticed, and then until the mesh is named.
    wait_until(NOTICED, "the survivor sees the loss", || {
        recover_refused(&survivor, "elsewhere").contains("elsewhere")
    });
    survivor.shoal(&["recover", "--confirm", "lab"]).ok();
    label(mesh.node("s1"), "after=recovery");
    let row = survivor.node_row("s1");
    assert_eq!(row["labels"]["before"], "loss", "{row}");
    let agent = mesh.node("a1").host.clone();
    wait_until(SOON, "the agent follows the survivor", || {
        agent.node_row("s1")["labels"]["after"] == "recovery"
    });
    for lost in ["s2", "s3"] {
        mesh.node_mut(lost).restart_daemon();
    }
    for lost in ["s2", "s3"] {
        let host = mesh.node(lost).host.clone();
        host.wait_for_status(NOTICED, "a former server is an agent", |status| {
            status["role"] == "agent" && status["leader"] == "s1"
        });
        assert_eq!(host.node_row("s1")["labels"]["after"], "recovery");
        survivor.shoal(&["node", "promote", lost]).ok();
    }
    mesh.wait_until_settled(3);
    label(mesh.node("a1"), "whole=again");
}

#[test]
fn a_backup_makes_the_mesh_again_on_a_new_machine() {
    let Some(lab) = Lab::for_test("restore") else {
        return;
    };
    let first = Node::new(&lab, "s1");
    let key = "/run/lab/files/recovery.key";
    let init = ["init", "--name", "lab", "--recovery-key-out", key];
    first.host.shoal(&init).ok();
    let mesh_id = text(&first.host.shoal_json(&["status"]), "mesh_id");
    let mut mesh = Mesh { nodes: vec![first] };
    mesh.add(&lab, "a1", "agent");
    mesh.wait_until_settled(1);
    label(mesh.node("s1"), "before=loss");

    let file = "/run/lab/files/mesh.backup";
    let host = mesh.node("s1").host.clone();
    host.shoal(&["backup", "create", file]).ok();
    let again = host.shoal_refused(&["backup", "create", file]);
    assert_eq!(again["code"], "FileExistsError", "{again}");
    let shown = host.shoal_json(&["backup", "show", file, "--identity-file", key]);
    assert_eq!(text(&shown, "mesh_id"), mesh_id);
    mesh.node("s1").host.power_off();

    let new = Node::new(&lab, "n9");
    let restore = ["backup", "restore", file, "--identity-file", key, "--yes"];
    new.host.shoal(&restore).ok();
    assert_eq!(text(&new.host.shoal_json(&["status"]), "mesh_id"), mesh_id);
    label(&new, "after=restore");
    assert_eq!(new.host.node_row("s1")["labels"]["before"], "loss");
    let agent = mesh.node("a1").host.clone();
    wait_until(NOTICED, "the agent follows the new machine", || {
        let row = agent.shoal(&["node", "show", "n9", "--json"]);
        row.success() && row.json()["labels"]["after"] == "restore"
    });
    let address = new.overlay();
    wait_until(SOON, "the overlay spans both", || agent.pings(&address[0]));
    // The name of the mesh is taken: nobody restores into a mesh.
    let second = new.host.shoal_refused(&restore);
    assert_eq!(second["code"], "MeshExistsError", "{second}");
}
