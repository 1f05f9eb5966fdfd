//! K3s under a real systemd, on a host of its own.
//!
//! Needs root and Debian's systemd; says loudly which test it skipped and why where they are missing.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests: clippy's exemption covers only the test functions themselves"
)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use consensus_core::{BinaryOrigin, Cni, K3sBinary, K3sRole, LogIndex, Time};
use runtimes_core::k3s::{
    Daemon, Entrance, Membership, Place, StartedWith, Step, TokenMark, settings::render,
};
use runtimes_k3s::{Context, JoinToken, K3sRuntime, Paths};
use support::{
    booted::booted,
    host::{ADDRESS, Host, comes_to, eventually, program, succeed},
};

const SERVER: &str = "k3s.service";
const AGENT: &str = "k3s-agent.service";
/// Of the agent's token.
const MARK: TokenMark = TokenMark([1; 32]);
/// A first start, on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(60);
const CONTEXT: Context<'_> = Context {
    role: K3sRole::Server,
    node: "alpha",
    foreign_network: false,
    wanted: true,
    drained: false,
    token: None,
};

#[test]
fn systemd_keeps_k3s_running_with_what_shoal_started_it_with_and_forgets_it_with_shoal() {
    booted(
        "systemd_keeps_k3s_running_with_what_shoal_started_it_with_and_forgets_it_with_shoal",
        whole_lives,
    );
}

/// One after the other, as a boot takes longer than either.
async fn whole_lives(host: Host) {
    let before = units();
    servers_life(&host).await;
    assert_eq!(units(), before);
    agents_life(&host).await;
    assert_eq!(units(), before);
}

async fn servers_life(host: &Host) {
    let paths = &host.paths;
    let mut k3s = K3sRuntime::new(paths.clone());
    let with = up_to_the_start(&mut k3s, host, &CONTEXT, Step::MakeSecrets).await;
    k3s.perform(Step::Start(with.clone()), &CONTEXT)
        .await
        .unwrap();
    let binary = binary();
    becomes_ready(paths, &binary, &with).await;
    eventually(SOON, || shown(SERVER, "ActiveState") == "active");
    assert_eq!(succeed("systemctl", &["is-enabled", SERVER]), "enabled");
    let place = "/etc/systemd/system/k3s.service.d/override.conf";
    assert_eq!(Path::new(place), paths.drop_in(K3sRole::Server));
    drop_in_is_in_force_and_roots_alone(SERVER, place, paths, &paths.server_token());

    let first = shown(SERVER, "MainPID");
    succeed("kill", &["-KILL", &first]);
    eventually(SOON, || {
        let now = shown(SERVER, "MainPID");
        now != "0" && now != first
    });
    // As a shoald sees it that was not there meanwhile.
    becomes_ready(paths, &binary, &with).await;
    is_forgotten(SERVER, paths, &CONTEXT).await;
}

/// One whose cluster does not answer: it is started all the same, and asks again and again.
async fn agents_life(host: &Host) {
    let paths = &host.paths;
    let opened = format!(r#"{{"agent":"{}"}}"#, "ab".repeat(32));
    let token = JoinToken::from_bytes(opened.as_bytes()).unwrap();
    let context = Context {
        role: K3sRole::Agent,
        token: Some(&token),
        ..CONTEXT
    };
    let mut k3s = K3sRuntime::new(paths.clone());
    let with = up_to_the_start(&mut k3s, host, &context, Step::WriteToken(MARK)).await;
    k3s.perform(Step::Start(with), &context).await.unwrap();
    eventually(SOON, || shown(AGENT, "MainPID") != "0");
    assert!(shown(AGENT, "ExecStart").contains("/usr/local/bin/k3s agent"));
    assert_eq!(succeed("systemctl", &["is-enabled", AGENT]), "enabled");
    let place = "/etc/systemd/system/k3s-agent.service.d/override.conf";
    assert_eq!(Path::new(place), paths.drop_in(K3sRole::Agent));
    drop_in_is_in_force_and_roots_alone(AGENT, place, paths, &paths.agent_token());
    assert_eq!(shown(SERVER, "LoadState"), "not-found");
    is_forgotten(AGENT, paths, &context).await;
}

/// Takes the steps before the first start; what it is to be started with.
async fn up_to_the_start(
    k3s: &mut K3sRuntime,
    host: &Host,
    context: &Context<'_>,
    secrets: Step,
) -> StartedWith {
    let (binary, settings) = (binary(), settings(host, context.role));
    for step in [
        Step::Begin {
            attempt: LogIndex(7),
        },
        Step::Install {
            binary: binary.clone(),
        },
        secrets,
        Step::WriteSettings(settings.clone()),
    ] {
        k3s.perform(step, context).await.unwrap();
    }
    let (seen, _) = k3s.observe(&binary, context, Time::ZERO).await.unwrap();
    let program = seen.program.unwrap();
    StartedWith {
        settings,
        version: program.version,
        sum: program.sum,
        generation: LogIndex(7),
        token: context.token.map(|_| MARK),
        founds: context.role == K3sRole::Server,
    }
}

/// Stops it and takes it off, as a shoald that did not start it.
async fn is_forgotten(unit: &str, paths: &Paths, context: &Context<'_>) {
    let mut later = K3sRuntime::new(paths.clone());
    later.perform(Step::Stop, context).await.unwrap();
    assert_eq!(shown(unit, "MainPID"), "0");
    later.perform(Step::Clean, context).await.unwrap();
    let binary = binary();
    let (seen, _) = later.observe(&binary, context, Time::ZERO).await.unwrap();
    assert_eq!(seen.daemon, Daemon::Absent);
    assert!(!seen.leftovers && !seen.data, "{seen:?}");
    assert_eq!(shown(unit, "LoadState"), "not-found");
    let enabled = "find /etc/systemd/system -name 'k3s*'";
    assert_eq!(succeed("sh", &["-c", enabled]), "");
}

/// All that systemd is told by files, one line each. A directory that is empty tells it nothing, and
/// `systemctl disable` removes one that it has emptied.
fn units() -> Vec<String> {
    let full = "! '(' -type d -empty ')' -printf '%p %y %m %l\\n'";
    let find = format!("find /etc/systemd/system {full} | sort");
    let found = succeed("sh", &["-c", &find]);
    assert!(!found.is_empty());
    found.lines().map(str::to_owned).collect()
}

fn binary() -> K3sBinary {
    K3sBinary {
        origin: Some(BinaryOrigin::Path(program().display().to_string())),
        ..K3sBinary::INSTALLED
    }
}

fn settings(host: &Host, role: K3sRole) -> String {
    let membership = Membership {
        role,
        node_name: "alpha".into(),
        place: Place {
            ipv4: ADDRESS.parse().unwrap(),
            ipv6: "fd00::1".parse().unwrap(),
            interface: host.interface.into(),
        },
        vip: "fd00::f".parse().unwrap(),
        entrance: match role {
            K3sRole::Server => Entrance::Found,
            K3sRole::Agent => Entrance::Join,
        },
        cni: Cni::Flannel,
        pod_prefix: None,
    };
    render(&membership, &host.paths.secret_files())
}

async fn becomes_ready(paths: &Paths, binary: &K3sBinary, with: &StartedWith) {
    comes_to(SOON, || async {
        let mut k3s = K3sRuntime::new(paths.clone());
        let (seen, _) = k3s.observe(binary, &CONTEXT, Time::ZERO).await.unwrap();
        match seen.daemon {
            Daemon::Ours {
                started_with,
                ready,
            } => {
                assert_eq!(started_with.as_ref(), Some(with));
                ready
            }
            Daemon::Absent => false,
            Daemon::Foreign { pid } => panic!("{pid:?} is nobody else's"),
        }
    })
    .await;
}

/// `secret` is the file with what it joins with.
fn drop_in_is_in_force_and_roots_alone(unit: &str, place: &str, paths: &Paths, secret: &Path) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(Path::new(place)), 0o600);
    assert_eq!(mode(secret), 0o600);
    let own = format!("/etc/systemd/system/{unit}");
    assert_eq!(shown(unit, "FragmentPath"), own);
    assert!(shown(unit, "DropInPaths").contains(place));
    // Without its settings K3s would found a cluster of its own.
    let text = succeed("systemctl", &["cat", unit]);
    let settings = paths.settings();
    assert!(text.contains(&format!("AssertPathExists={}", settings.display())));
    assert_eq!(shown(unit, "AssertResult"), "yes");
    let secret = fs::read_to_string(secret).unwrap();
    let command = shown(unit, "ExecStart") + &text;
    assert!(!command.contains(secret.trim()));
}

/// A property of a unit.
fn shown(unit: &str, property: &str) -> String {
    let property = format!("--property={property}");
    let arguments = ["show", "--value", &property, unit];
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
