//! What is asked at a terminal, at a real one (a pseudo-terminal, pty(7)).

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::{Command, Stdio},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::{clusters::wiping, fake_daemon::Server, recovery::recover};

struct Said {
    code: i32,
    out: String,
    terminal: String,
}

/// Gives the command with a terminal for standard input and standard error, on which `typed` is
/// written. The terminal's own echo is part of what it shows.
fn at_a_terminal(mut command: Command, typed: &str) -> Said {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    command
        .stdin(terminal.try_clone().unwrap())
        .stderr(terminal)
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command holds the terminal's own end too; it must not outlive the child.
    drop(command);
    let mut controller = File::from(controller);
    controller.write_all(typed.as_bytes()).unwrap();
    let mut out = String::new();
    let mut from = child.stdout.take().unwrap();
    from.read_to_string(&mut out).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    let mut shown = Vec::new();
    let mut chunk = [0; 1024];
    // Once nobody has the other end any more, reading fails instead of ending (EIO).
    while let Ok(read @ 1..) = controller.read(&mut chunk) {
        shown.extend_from_slice(&chunk[..read]);
    }
    Said {
        code,
        out,
        terminal: String::from_utf8(shown).unwrap(),
    }
}

#[test]
fn at_a_terminal_recovery_asks_for_the_meshs_name() {
    for (typed, code) in [("home\n", 0), ("\n", 1), ("y\n", 1)] {
        let server = Server::answering(recover);
        let said = at_a_terminal(server.command(&["recover"]), typed);
        assert_eq!(said.code, code, "{}", said.terminal);
        assert!(
            said.terminal.contains("Write the mesh's name to go on: "),
            "{}",
            said.terminal
        );
        assert!(said.out.contains("What may be lost:"), "{}", said.out);
        assert_eq!(server.asked().len(), if code == 0 { 2 } else { 1 });
    }
}

#[test]
fn at_a_terminal_consent_is_a_yes_and_nothing_else() {
    for (typed, code) in [
        ("y\n", 0),
        ("yes\n", 0),
        ("\n", 1),
        ("n\n", 1),
        ("yep\n", 1),
    ] {
        let server = Server::answering(|_, _| {
            let revoked = json!({
                "raft_index": 7, "serials": ["0a"], "warnings": [],
                "enforcement": { "nodes": 1, "enforced": 1, "last_ms": 5, "each": [] },
            });
            (200, revoked.to_string())
        });
        let said = at_a_terminal(server.command(&["node", "remove", "n1"]), typed);
        assert_eq!(said.code, code, "{}", said.terminal);
        let question = "Remove n1 from the mesh? Its certificates are revoked and its addresses \
                        freed. [y/N] ";
        assert!(said.terminal.contains(question), "{}", said.terminal);
        assert_eq!(server.asked().len(), usize::from(code == 0));
    }
}

#[test]
fn at_a_terminal_what_wipes_k3s_off_a_node_is_told_and_done_after_a_yes() {
    for (typed, code) in [("y\n", 0), ("\n", 1)] {
        let server = Server::answering(wiping);
        let command = server.command(&["node", "label", "n1", "role=idle"]);
        let said = at_a_terminal(command, typed);
        assert_eq!(said.code, code, "{}", said.terminal);
        let question = "Go on, though this wipes K3s off n1 (server of prod)? \
                        With it goes all that K3s has there";
        assert!(said.terminal.contains(question), "{}", said.terminal);
        let asked = server.asked();
        let given = asked.iter().filter(|one| one.contains(r#""consent":true"#));
        assert_eq!(given.count(), usize::from(code == 0));
    }
}
