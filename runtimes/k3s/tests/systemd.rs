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
    Daemon, Entrance, Membership, Place, StartedWith, Step, settings::render,
};
use runtimes_k3s::{Context, K3sRuntime, Paths};
use support::{
    booted::booted,
    host::{ADDRESS, Host, comes_to, eventually, program, succeed},
};

const UNIT: &str = "k3s.service";
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
        whole_life,
    );
}

async fn whole_life(host: Host) {
    let paths = &host.paths;
    let mut k3s = K3sRuntime::new(paths.clone());
    let binary = K3sBinary {
        origin: Some(BinaryOrigin::Path(program().display().to_string())),
        ..K3sBinary::INSTALLED
    };
    let settings = settings(&host);
    for step in [
        Step::Begin {
            attempt: LogIndex(7),
        },
        Step::Install {
            binary: binary.clone(),
        },
        Step::MakeSecrets,
        Step::WriteSettings(settings.clone()),
    ] {
        k3s.perform(step, &CONTEXT).await.unwrap();
    }
    let (seen, _) = k3s.observe(&binary, &CONTEXT, Time::ZERO).await.unwrap();
    let program = seen.program.unwrap();
    let with = StartedWith {
        settings,
        version: program.version,
        sum: program.sum,
        generation: LogIndex(7),
        token: None,
        founds: true,
    };
    k3s.perform(Step::Start(with.clone()), &CONTEXT)
        .await
        .unwrap();
    becomes_ready(paths, &binary, &with).await;
    eventually(SOON, || shown("ActiveState") == "active");
    assert_eq!(succeed("systemctl", &["is-enabled", UNIT]), "enabled");
    drop_in_is_in_force_and_roots_alone(paths);

    let first = shown("MainPID");
    succeed("kill", &["-KILL", &first]);
    eventually(SOON, || {
        let now = shown("MainPID");
        now != "0" && now != first
    });
    // As a shoald sees it that was not there meanwhile.
    becomes_ready(paths, &binary, &with).await;

    let mut later = K3sRuntime::new(paths.clone());
    later.perform(Step::Stop, &CONTEXT).await.unwrap();
    assert_eq!(shown("MainPID"), "0");
    later.perform(Step::Clean, &CONTEXT).await.unwrap();
    let (seen, _) = later.observe(&binary, &CONTEXT, Time::ZERO).await.unwrap();
    assert_eq!(seen.daemon, Daemon::Absent);
    assert!(!seen.leftovers && !seen.data, "{seen:?}");
    assert_eq!(shown("LoadState"), "not-found");
    let enabled = "find /etc/systemd/system -name 'k3s*'";
    assert_eq!(succeed("sh", &["-c", enabled]), "");
}

fn settings(host: &Host) -> String {
    let membership = Membership {
        role: K3sRole::Server,
        node_name: "alpha".into(),
        place: Place {
            ipv4: ADDRESS.parse().unwrap(),
            ipv6: "fd00::1".parse().unwrap(),
            interface: host.interface.into(),
        },
        vip: "fd00::f".parse().unwrap(),
        entrance: Entrance::Found,
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

fn drop_in_is_in_force_and_roots_alone(paths: &Paths) {
    let drop_in = Path::new("/etc/systemd/system/k3s.service.d/override.conf");
    assert_eq!(drop_in, paths.drop_in(K3sRole::Server));
    let mode = fs::metadata(drop_in).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(shown("DropInPaths").contains(&drop_in.display().to_string()));
    // Without its settings K3s would found a cluster of its own.
    let text = succeed("systemctl", &["cat", UNIT]);
    let settings = paths.settings();
    assert!(text.contains(&format!("AssertPathExists={}", settings.display())));
    assert_eq!(shown("AssertResult"), "yes");
    let secret = fs::read_to_string(paths.server_token()).unwrap();
    let command = shown("ExecStart") + &text;
    assert!(!command.contains(secret.trim()));
}

/// A property of the unit.
fn shown(property: &str) -> String {
    let property = format!("--property={property}");
    let arguments = ["show", "--value", &property, UNIT];
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
