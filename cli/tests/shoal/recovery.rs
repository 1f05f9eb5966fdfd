//! The recovery key, backups, and what is left of a mesh.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use age::secrecy::ExposeSecret;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::fake_daemon::{Server, ended, mode, names, refusal, shoal};

const RECOVERY_KEY: &str = "AGE-SECRET-KEY-1EXAMPLE";

fn joined() -> Value {
    json!({
        "mesh_id": "00", "mesh": "home", "node": "n1", "role": "server",
        "overlay_ipv6": "fd00::1", "overlay_ipv4": null, "root_fingerprint": "ab",
        "root_words": "one two", "warnings": [],
    })
}

fn init(_: &str, _: &[u8]) -> (u16, String) {
    let mut joined = joined();
    joined["recovery_key"] = RECOVERY_KEY.into();
    (200, joined.to_string())
}

#[test]
fn init_shows_the_recovery_key_once_and_what_it_is_for() {
    let server = Server::answering(init);
    let human = server.run(&["init", "--name", "home"]);
    assert_eq!((human.code, human.err.as_str()), (0, ""), "{human}");
    let apart = format!("\n\n    {RECOVERY_KEY}\n\n");
    assert_eq!(human.out.matches(RECOVERY_KEY).count(), 1, "{human}");
    assert!(human.out.contains(&apart), "{human}");
    assert!(
        human
            .out
            .contains("opens backups and the root key when every server is lost"),
        "{human}"
    );
    assert_eq!(
        server.asked(),
        [r#"POST /v1/init {"name":"home","ipv4_prefix":null}"#]
    );
    let program = server.run(&["init", "--json"]);
    assert_eq!(program.json()["recovery_key"], RECOVERY_KEY);
}

#[test]
fn a_recovery_key_in_a_file_is_nowhere_else() {
    let server = Server::answering(init);
    let path = server.directory.path().join("recovery");
    let file = path.to_str().unwrap();
    for json in [false, true] {
        let args = ["init", "--recovery-key-out", file, "--json"];
        let said = server.run(&args[..args.len() - usize::from(!json)]);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{said}");
        assert!(!said.out.contains(RECOVERY_KEY), "{said}");
        if json {
            assert_eq!(said.json().get("recovery_key"), Some(&Value::Null));
        } else {
            assert!(
                said.out
                    .contains(&format!("The recovery key is in {file}.")),
                "{said}"
            );
        }
        assert_eq!(mode(&path), 0o600);
        let kept = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = kept.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, [RECOVERY_KEY]);

        let asked = server.asked().len();
        let again = server.run(&["--json", "init", "--recovery-key-out", file]);
        assert_eq!(again.json()["code"], "FileExistsError");
        assert_eq!(server.asked().len(), asked, "a mesh was made all the same");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_recovery_key_whose_file_cannot_take_it_is_shown_after_all() {
    let server = Server::answering(init);
    // Files may not grow at all, so that the write fails as it does on a full disk (setrlimit(2)).
    let path = server.directory.path().join("recovery");
    let mut limited = std::process::Command::new("sh");
    limited
        .env_clear()
        .env("SHOAL_SOCKET", server.directory.path().join("s.sock"))
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_shoal"), "init", "--recovery-key-out"])
        .arg(&path);
    let said = ended(limited);
    assert_eq!(said.code, 1, "{said}");
    assert!(said.out.contains(RECOVERY_KEY), "{said}");
    assert!(
        said.err
            .starts_with("Warning: the recovery key could not be written to "),
        "{said}"
    );
    assert!(!path.exists());
}

#[test]
fn a_mesh_that_is_refused_leaves_no_key_file() {
    let server = Server::answering(|_, _| (409, refusal("MeshExistsError")));
    let path = server.directory.path().join("recovery");
    let refused = server.run(&["init", "--recovery-key-out", path.to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(!path.exists());
}

#[test]
fn stale_goes_with_every_read_and_with_nothing_else() {
    let server = Server::answering(|request, _| match request {
        "GET /v1/nodes?stale=true" | "GET /v1/events?kind_prefix=node.&stale=true" => {
            (200, "[]".into())
        }
        "DELETE /v1/tokens/1f" => (200, json!({ "raft_index": 7, "warnings": [] }).to_string()),
        other => panic!("{other}"),
    });
    for line in [
        "--stale node ls",
        "events --kind-prefix node. --stale",
        "token revoke 1f --stale",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let said = server.run(&args);
        assert_eq!(said.code, 0, "{line} {said}");
    }
}

/// A backup, and the file with the key that opens it.
struct Sealed {
    file: Vec<u8>,
    key: age::x25519::Identity,
}

impl Sealed {
    fn new() -> Self {
        let key = age::x25519::Identity::generate();
        let view = json!({
            "mesh_id": "00ff", "mesh": "home", "created_ms": 1_767_225_600_000_u64,
            "raft_index": 42, "version": "0.1.0", "nodes": ["n1", "n2"], "servers": ["n1"],
            "root_fingerprints": ["ab"], "attachments": [], "later": 1,
        })
        .to_string();
        let length = u32::try_from(view.len()).unwrap().to_be_bytes();
        let recipient = key.to_public();
        let recipients = std::iter::once(&recipient as &dyn age::Recipient);
        let mut file = Vec::new();
        let mut writer = age::Encryptor::with_recipients(recipients)
            .unwrap()
            .wrap_output(&mut file)
            .unwrap();
        for part in [b"SHOALBK1", &length[..], view.as_bytes(), &[7; 100_000]] {
            writer.write_all(part).unwrap();
        }
        writer.finish().unwrap();
        Self { file, key }
    }

    fn write(&self, directory: &Path) -> (String, String) {
        let (file, key) = (directory.join("b.age"), directory.join("key"));
        fs::write(&file, &self.file).unwrap();
        let text = self.key.to_string();
        fs::write(&key, format!("# mine\n{}\n", text.expose_secret())).unwrap();
        fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        (text(&file), text(&key))
    }
}

#[test]
fn a_backup_is_fetched_whole_under_its_name_or_not_at_all() {
    let sealed = Sealed::new();
    let file = sealed.file.clone();
    let server = Server::answering(move |request, body| {
        assert_eq!(request, "POST /v1/backup");
        match String::from_utf8_lossy(body).contains("age1") {
            true => (200, file.clone()),
            false => (200, b"PK\x03\x04".to_vec()),
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("home.age");
    let out = path.to_str().unwrap();
    let recipient = sealed.key.to_public().to_string();
    let human = server.run(&["backup", "create", out, "--recipient", &recipient]);
    assert_eq!((human.code, human.err.as_str()), (0, ""), "{human}");
    assert_eq!(fs::read(&path).unwrap(), sealed.file);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(directory.path()), ["home.age"]);
    let body = format!(r#"POST /v1/backup {{"recipients":["{recipient}"]}}"#);
    assert_eq!(server.asked(), [body]);

    let again = server.run(&["--json", "backup", "create", out]);
    assert_eq!(again.json()["code"], "FileExistsError");
    assert_eq!(server.asked().len(), 1);

    let foreign = directory.path().join("foreign.age");
    let foreign = foreign.to_str().unwrap();
    let refused = server.run(&["--json", "backup", "create", foreign]);
    assert_eq!(refused.json()["code"], "UnexpectedAnswerError");
    let nowhere = directory.path().join("none/b.age");
    let refused = server.run(&["--json", "backup", "create", nowhere.to_str().unwrap()]);
    assert_eq!(refused.json()["code"], "FileWriteError");
    assert_eq!(names(directory.path()), ["home.age"]);

    let third = directory.path().join("third.age");
    let third = third.to_str().unwrap();
    let program = server.run(&[
        "--json",
        "backup",
        "create",
        third,
        "--recipient",
        &recipient,
    ]);
    let said = json!({ "file": third, "size_bytes": sealed.file.len() });
    assert_eq!(program.json(), said);
}

#[test]
fn a_backup_that_is_refused_or_cut_short_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("b.age");
    let out = path.to_str().unwrap();
    let server = Server::answering(|_, _| (403, refusal("AccessDeniedError")));
    let refused = server.run(&["--json", "backup", "create", out]);
    assert_eq!(refused.json()["code"], "AccessDeniedError");

    // Half an answer, from a daemon that dies.
    let socket = directory.path().join("cut.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let daemon = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Read};
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        for line in stream.by_ref().lines().map(Result::unwrap) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n16\r\n";
        let mut stream = stream.into_inner();
        stream.write_all(head).unwrap();
        stream.write_all(b"age-encryption.org/v1\n\r\n").unwrap();
    });
    let url = format!("unix://{}", socket.display());
    let cut = ended(shoal(&[
        "--json",
        "--connect",
        &url,
        "backup",
        "create",
        out,
    ]));
    daemon.join().unwrap();
    assert_eq!(cut.json()["code"], "ConnectionLostError", "{cut}");
    assert_eq!(names(directory.path()), ["cut.sock"]);
}

#[test]
fn a_backup_is_shown_without_any_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let sealed = Sealed::new();
    let (file, key) = sealed.write(directory.path());
    let show = |args: &[&str]| ended(shoal(&[&["backup", "show", &file], args].concat()));
    let human = show(&["--identity-file", &key]);
    assert_eq!((human.code, human.err.as_str()), (0, ""), "{human}");
    assert!(
        human.out.starts_with("The backup is whole.\n\nMesh: "),
        "{human}"
    );
    assert!(human.out.contains("2026-01-01 00:00 UTC"), "{human}");
    let program = show(&["--json", "--identity-file", &key]);
    assert_eq!(program.json()["later"], 1, "{program}");

    let secret = sealed.key.to_string().expose_secret().to_owned();
    let code = |expected: &str| {
        let refused = show(&["--json", "--identity-file", &key]);
        assert_eq!((refused.code, refused.err.as_str()), (1, ""), "{refused}");
        assert_eq!(refused.json()["code"], expected, "{refused}");
        assert!(!refused.out.contains(&secret), "{refused}");
    };
    fs::write(&file, &sealed.file[..sealed.file.len() - 20]).unwrap();
    code("BackupInvalidError");
    fs::write(&file, "no age file").unwrap();
    code("BackupInvalidError");
    fs::write(&file, Sealed::new().file).unwrap();
    code("BackupIdentityError");
    fs::remove_file(&file).unwrap();
    code("BackupFileError");
    fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    code("IdentityFileError");
    fs::remove_file(&key).unwrap();
    code("IdentityFileError");
}

#[test]
fn a_restored_mesh_gets_the_whole_file_and_the_key_on_this_machine_only() {
    let directory = tempfile::tempdir().unwrap();
    let sealed = Sealed::new();
    let (file, key) = sealed.write(directory.path());
    let server = Server::answering(|_, _| (200, joined().to_string()));
    let words = ["backup", "restore", &file, "--identity-file", &key];

    let asked = server.run(&[&words[..], &["--json"]].concat());
    assert_eq!(asked.json()["code"], "ConfirmationRequiredError");
    let elsewhere = ["--json", "--connect", "https://[fd00::1]:7443"];
    let elsewhere = server.run(&[&words[..], &elsewhere, &["--yes"]].concat());
    assert_eq!(elsewhere.json()["code"], "SocketRequiredError");
    assert!(server.asked().is_empty());

    let human = server.run(&[&words[..], &["--yes"]].concat());
    assert_eq!(human.code, 0, "{human}");
    assert!(human.out.contains("Overlay IPv6:     fd00::1\n"), "{human}");
    assert!(human.err.contains("Log index:"), "{human}");
    let said = server.asked();
    let body = said[0].strip_prefix("POST /v1/restore ").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let sent = BASE64_STANDARD.decode(body["backup"].as_str().unwrap());
    assert_eq!(sent.unwrap(), sealed.file);
    assert_eq!(body["identity"], sealed.key.to_string().expose_secret());
    let shown = format!("{human}");
    assert!(!shown.contains("AGE-SECRET-KEY-1"), "{human}");

    // A file that is not whole never gets as far as a daemon.
    fs::write(&file, &sealed.file[..5_000]).unwrap();
    let refused = server.run(&[&words[..], &["--yes", "--json"]].concat());
    assert_eq!(refused.json()["code"], "BackupInvalidError");
    assert_eq!(server.asked().len(), 1);
}

pub(crate) fn plan(refused: &Value) -> String {
    let plan = json!({
        "mesh": "home", "survivor": "n1", "lost": ["n2", "n3"], "reachable": ["n1"], "needed": 2,
        "committed_index": 41, "last_index": 44, "may_be_lost": ["what only n2 and n3 knew"],
        "refused": refused,
    });
    plan.to_string()
}

pub(crate) fn recover(request: &str, _: &[u8]) -> (u16, String) {
    match request {
        "GET /v1/recover" => (200, plan(&Value::Null)),
        "POST /v1/recover" => {
            let done = json!({
                "raft_index": 45, "era": 1, "demoted": ["n2", "n3"],
                "warnings": ["one server survives no loss"],
            });
            (200, done.to_string())
        }
        other => panic!("{other}"),
    }
}

#[test]
fn recovery_shows_what_may_be_lost_and_goes_on_only_with_the_meshs_name() {
    let server = Server::answering(recover);
    for (args, code) in [
        (&["recover"][..], "ConfirmationRequiredError"),
        (&["recover", "--confirm", "hom"], "NotConfirmedError"),
        (&["recover", "--confirm", "HOME"], "NotConfirmedError"),
    ] {
        let human = server.run(args);
        assert_eq!(human.code, 1, "{human}");
        assert!(human.out.contains("what only n2 and n3 knew"), "{human}");
        let program = server.run(&[args, &["--json"]].concat());
        let lines: Vec<Value> = program
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["survivor"], "n1");
        assert_eq!(lines[1]["code"], code);
    }
    assert!(server.asked().iter().all(|asked| asked.starts_with("GET ")));

    let human = server.run(&["recover", "--confirm", "home"]);
    assert_eq!(human.code, 0, "{human}");
    assert_eq!(human.err, "Warning: one server survives no loss\n");
    assert!(human.out.contains("No longer servers: n2, n3."), "{human}");
    assert_eq!(
        server.asked().last().unwrap(),
        r#"POST /v1/recover {"confirm":"home"}"#
    );
    let program = server.run(&["recover", "--confirm", "home", "--json"]);
    let last: Value = serde_json::from_str(program.out.lines().last().unwrap()).unwrap();
    assert_eq!((program.code, &last["era"]), (0, &json!(1)));
}

#[test]
fn recovery_that_is_refused_or_asked_for_from_afar_changes_nothing() {
    let server = Server::answering(|request, _| {
        assert_eq!(request, "GET /v1/recover");
        let refused = json!({ "code": "MajorityAnswersError", "message": "m", "hint": "h" });
        (200, plan(&refused))
    });
    let human = server.run(&["recover", "--confirm", "home"]);
    assert_eq!(human.code, 1, "{human}");
    assert!(human.out.contains("Reachable: n1"), "{human}");
    assert_eq!(human.err, "Error: m\nHint: h\n");
    let afar = server.run(&["--json", "--connect", "https://[fd00::1]:7443", "recover"]);
    assert_eq!(afar.json()["code"], "SocketRequiredError");
}
