//! A real dockerd on a host of its own.
//!
//! Needs root, Debian's docker.io (or docker-ce), busybox-static, iproute2 and util-linux; says
//! loudly which test it skipped and why where they are missing.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests: clippy's exemption covers only the test functions themselves"
)]

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::TryStreamExt;
use runtimes_core::{
    daemon_json::{Layer, Override},
    docker::{Daemon, Desired, Observed, Phase, Step},
};
use runtimes_docker::{ContainerSpec, DockerHost, Protocol, PublishedPort, RestartPolicy};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{
    bare::without_docker,
    booted::booted,
    host::{Host, eventually, inside, listen, processes, succeed},
};

/// What the container serves.
const PAGE: &str = "a page\n";
/// Everything that a Docker engine consists of while it runs.
const ENGINE: [&str; 4] = ["dockerd", "containerd", "docker-proxy", "runc"];

#[test]
fn a_bare_host_becomes_a_docker_host_serves_and_becomes_bare_again() {
    inside(
        "a_bare_host_becomes_a_docker_host_serves_and_becomes_bare_again",
        whole_life,
    );
}

async fn whole_life(mut host: Host) {
    let mut adapter = host.adapter();
    let mut desired = host.assigned();
    let (steps, phase) = host.drive(&mut adapter, &mut desired).await.unwrap();
    assert_eq!(
        steps,
        ["MakeKey", "RequestCertificate", "WriteConfig", "Start"]
    );
    assert!(matches!(phase, Phase::Ready { .. }), "{phase:?}");
    nothing_listens_everywhere();
    shoals_own_share_of_the_start_is_small(&host);

    let docker = client(&host).await;
    strangers_are_refused(&host).await;
    import_busybox(&docker).await;
    a_page_is_served_on_the_overlay(&host, &docker).await;
    refusals_leave_nothing_behind(&docker).await;
    a_renewed_certificate_keeps_containers(&mut host, &mut adapter, &mut desired).await;
    overrides_are_reloaded_or_refused(&mut host, &mut adapter, &mut desired).await;

    let docker = client(&host).await;
    docker.remove("web", true).await.unwrap();
    docker.remove_image("busybox:1", false).await.unwrap();
    assert!(docker.images().await.unwrap().is_empty());
    docker_host_becomes_bare(&mut host).await;
}

#[test]
fn dockerd_outlives_whoever_started_it_and_is_found_again() {
    inside(
        "dockerd_outlives_whoever_started_it_and_is_found_again",
        outlives,
    );
}

async fn outlives(mut host: Host) {
    let mut desired = host.assigned();
    let mut adapter = host.adapter();
    // All but the start, which another process does and is killed after.
    while host.plan(&mut adapter, &desired).await.step != Some(Step::Start) {
        one_step(&mut host, &mut adapter, &mut desired).await;
    }
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["starts_dockerd_and_stays", "--exact", "--nocapture"])
        .env("SHOAL_TEST_STARTER", &host.data_dir)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let before = wait_for_answer(&host, &mut adapter, &desired).await;
    starter.kill().unwrap();
    starter.wait().unwrap();

    let mut adapter = host.adapter();
    let (steps, phase) = host.drive(&mut adapter, &mut desired).await.unwrap();
    assert!(steps.is_empty(), "{steps:?}");
    assert!(matches!(phase, Phase::Ready { .. }));
    assert_eq!(pid_of(&host.observe(&mut adapter, &desired).await), before);

    crash_is_repaired_without_losing_containers(&mut host, &mut desired, before).await;
    docker_host_becomes_bare(&mut host).await;
}

/// Not a test by itself: the process that is killed above.
#[test]
fn starts_dockerd_and_stays() {
    let Some(data_dir) = std::env::var_os("SHOAL_TEST_STARTER") else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let paths = runtimes_docker::Paths::under(data_dir.as_ref());
        let mut adapter = runtimes_docker::DockerRuntime::new(paths, Default::default());
        adapter.perform(Step::Start).await.unwrap();
        std::future::pending::<()>().await;
    });
}

#[test]
fn systemd_runs_dockerd_where_it_is_pid_1() {
    booted("systemd_runs_dockerd_where_it_is_pid_1", under_systemd);
}

async fn under_systemd(mut host: Host) {
    // A machine that was a Docker host by itself, as its package made it.
    succeed("systemctl", &["start", "docker.service"]);
    let mut adapter = host.adapter();
    let mut desired = host.assigned();
    let observed = host.observe(&mut adapter, &desired).await;
    assert!(matches!(observed.daemon, Daemon::Adoptable { .. }));

    a_taken_port_is_named_from_the_journal(&mut host, &mut desired).await;
    let (steps, phase) = host.drive(&mut adapter, &mut desired).await.unwrap();
    assert_eq!(steps, ["Start"]);
    assert!(matches!(phase, Phase::Ready { .. }), "{phase:?}");
    let unit = unit_shows("docker.service");
    assert!(unit.contains("ActiveState=active"), "{unit}");
    assert!(unit.contains("docker.service.d/zz-shoal.conf"), "{unit}");
    nothing_listens_everywhere();
    strangers_are_refused(&host).await;

    let docker = client(&host).await;
    import_busybox(&docker).await;
    a_page_is_served_on_the_overlay(&host, &docker).await;
    a_renewed_certificate_keeps_containers(&mut host, &mut adapter, &mut desired).await;
    overrides_are_reloaded_or_refused(&mut host, &mut adapter, &mut desired).await;
    the_next_shoald_finds_it_also_after_systemd_restarted_it(&mut host, &mut desired).await;
    systemd_host_becomes_as_before(&mut host).await;
}

async fn a_taken_port_is_named_from_the_journal(host: &mut Host, desired: &mut Desired) {
    let taken = TcpListener::bind("[fd00:5::1]:2376").unwrap();
    let mut adapter = host.adapter();
    let error = host.drive(&mut adapter, desired).await.unwrap_err();
    assert_eq!(error.code(), "DockerPortInUseError", "{error}");
    assert!(error.to_string().contains("[fd00:5::1]:2376"), "{error}");
    drop(taken);
    // systemd's own attempts might win otherwise.
    succeed("systemctl", &["stop", "docker.service"]);
}

/// The unit's state in systemd's words.
fn unit_shows(unit: &str) -> String {
    let properties = "--property=ActiveState,MainPID,DropInPaths,ExecStart";
    succeed("systemctl", &["show", properties, unit])
}

async fn the_next_shoald_finds_it_also_after_systemd_restarted_it(
    host: &mut Host,
    desired: &mut Desired,
) {
    let mut adapter = host.adapter();
    let (steps, _) = host.drive(&mut adapter, desired).await.unwrap();
    assert_eq!(steps, Vec::<String>::new());
    let before = pid_of(&host.observe(&mut adapter, desired).await);
    let pid = Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    eventually(Duration::from_secs(20), || {
        let unit = unit_shows("docker.service");
        unit.contains("ActiveState=active") && !unit.contains(&format!("MainPID={before}\n"))
    });
    let mut adapter = host.adapter();
    let (steps, phase) = host.drive(&mut adapter, desired).await.unwrap();
    assert_eq!(steps, Vec::<String>::new(), "it needs no second restart");
    assert!(matches!(phase, Phase::Ready { .. }), "{phase:?}");
    let page = host.neighbour_fetches("[fd00:5::1]:8080");
    assert_eq!(page.as_deref(), Some(PAGE), "the container lived on");
}

/// Unassigns: neither unit runs, no container, and the packaged command is back.
async fn systemd_host_becomes_as_before(host: &mut Host) {
    let mut adapter = host.adapter();
    let mut unassigned = host.assigned();
    unassigned.assigned = false;
    let (steps, phase) = host.drive(&mut adapter, &mut unassigned).await.unwrap();
    assert_eq!(steps, ["Stop", "RemoveFiles"]);
    assert_eq!(phase, Phase::Stopped);
    for unit in ["docker.service", "docker.socket"] {
        let shown = unit_shows(unit);
        assert!(shown.contains("ActiveState=inactive"), "{shown}");
        assert!(!shown.contains("shoal"), "{shown}");
    }
    assert_eq!(
        processes(&["dockerd", "docker-proxy"]),
        Vec::<String>::new()
    );
    assert_eq!(processes(&["busybox"]), Vec::<String>::new());
    let configuration = std::path::Path::new("/etc/shoal/docker");
    assert!(!host.data_dir.exists() && !configuration.exists());
    assert!(!host.paths().drop_in.parent().unwrap().exists());
}

#[test]
fn docker_is_installed_where_it_is_missing_and_not_started_by_its_package() {
    without_docker(
        "docker_is_installed_where_it_is_missing_and_not_started_by_its_package",
        installation,
    );
}

async fn installation(data_dir: std::path::PathBuf) {
    let paths = runtimes_docker::Paths::under(&data_dir);
    let forbidden = runtimes_docker::Settings {
        install_packages: false,
        ..Default::default()
    };
    let mut adapter = runtimes_docker::DockerRuntime::new(paths.clone(), forbidden);
    let error = adapter.perform(Step::Install).await.unwrap_err();
    assert_eq!(error.code(), "RuntimeMissingError");
    assert!(
        error
            .to_string()
            .starts_with("dockerd, containerd, runc missing"),
        "{error}"
    );

    let mut adapter = runtimes_docker::DockerRuntime::new(paths.clone(), Default::default());
    adapter.perform(Step::Install).await.unwrap();
    succeed("dockerd", &["--version"]);
    assert_eq!(processes(&["dockerd"]), Vec::<String>::new());
    assert!(!paths.policy_rc.exists());
    adapter.perform(Step::RemoveFiles).await.unwrap();
    assert!(!data_dir.exists());
}

#[test]
fn a_dockerd_that_shoal_did_not_start_is_refused_and_survives() {
    inside(
        "a_dockerd_that_shoal_did_not_start_is_refused_and_survives",
        foreign,
    );
}

async fn foreign(host: Host) {
    let mut theirs = Command::new("dockerd")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut adapter = host.adapter();
    let desired = host.assigned();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let observed = host.observe(&mut adapter, &desired).await;
        if let Daemon::Foreign { pid: Some(pid) } = observed.daemon {
            assert_eq!(pid, theirs.id());
            break;
        }
        assert!(Instant::now() < deadline, "{observed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let plan = host.plan(&mut adapter, &desired).await;
    assert!(
        matches!(
            plan.phase,
            Phase::Failed {
                code: "DockerAlreadyRunningError",
                ..
            }
        ),
        "{plan:?}"
    );
    for step in [Step::Start, Step::Restart, Step::Stop] {
        let error = adapter.perform(step).await.unwrap_err();
        assert_eq!(error.code(), "DockerAlreadyRunningError");
    }
    assert!(theirs.try_wait().unwrap().is_none());
    theirs.kill().unwrap();
    theirs.wait().unwrap();
}

#[test]
fn a_taken_address_is_named_and_the_next_attempt_succeeds() {
    inside(
        "a_taken_address_is_named_and_the_next_attempt_succeeds",
        taken_address,
    );
}

async fn taken_address(mut host: Host) {
    let occupant = TcpListener::bind(api_address()).unwrap();
    let mut adapter = host.adapter();
    let mut desired = host.assigned();
    let error = host.drive(&mut adapter, &mut desired).await.unwrap_err();
    assert_eq!(error.code(), "DockerPortInUseError");
    assert!(error.to_string().contains("2376"), "{error}");
    eventually(Duration::from_secs(10), || processes(&ENGINE).is_empty());
    drop(occupant);
    let (steps, phase) = host.drive(&mut adapter, &mut desired).await.unwrap();
    assert_eq!(steps, ["Start"], "{phase:?}");
    assert!(matches!(phase, Phase::Ready { .. }));
    docker_host_becomes_bare(&mut host).await;
}

fn api_address() -> SocketAddr {
    (listen().ipv6, 2376).into()
}

async fn client(host: &Host) -> DockerHost {
    DockerHost::connect(api_address(), host.ca.client())
        .await
        .unwrap()
}

async fn one_step(
    host: &mut Host,
    adapter: &mut runtimes_docker::DockerRuntime,
    desired: &mut Desired,
) {
    match host.plan(adapter, desired).await.step.unwrap() {
        Step::RequestCertificate { csr } => {
            desired.certificate = Some(host.ca.answer(&csr, 9));
        }
        step @ (Step::Install
        | Step::MakeKey
        | Step::WriteConfig(_)
        | Step::Start
        | Step::Reload
        | Step::Restart
        | Step::Probe
        | Step::Stop
        | Step::RemoveFiles
        | Step::StopContainer(_)
        | Step::Rest
        | Step::StartContainers) => adapter.perform(step).await.unwrap(),
    }
}

fn pid_of(observed: &Observed) -> u32 {
    match &observed.daemon {
        Daemon::Ours { pid, .. } => *pid,
        other @ (Daemon::Absent | Daemon::Foreign { .. } | Daemon::Adoptable { .. }) => {
            panic!("{other:?}")
        }
    }
}

async fn wait_for_answer(
    host: &Host,
    adapter: &mut runtimes_docker::DockerRuntime,
    desired: &Desired,
) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let observed = host.observe(adapter, desired).await;
        if let Daemon::Ours {
            pid,
            answers: Some(_),
            started_with: Some(_),
        } = observed.daemon
        {
            return pid;
        }
        assert!(Instant::now() < deadline, "{observed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The goal is one second beside dockerd's own start.
fn shoals_own_share_of_the_start_is_small(host: &Host) {
    let log = std::fs::read_to_string(host.paths().log()).unwrap();
    let time_of = |what: &str| {
        let line = log.lines().find(|line| line.contains(what)).unwrap();
        let time = line.split('"').nth(1).unwrap();
        let ms = succeed("date", &["-d", time, "+%s%3N"]);
        ms.trim().parse::<u128>().unwrap()
    };
    let (began, ended) = host.last_step;
    let before = time_of("Starting up").saturating_sub(began);
    let after = ended.saturating_sub(time_of("API listen on [fd00:5::1]:2376"));
    eprintln!("  of which before dockerd: {before} ms, after it listens: {after} ms");
    assert!(before + after < 1000, "{before} + {after} ms");
}

fn nothing_listens_everywhere() {
    let listening = succeed("ss", &["-Hltn"]);
    assert!(listening.contains("[fd00:5::1]:2376"), "{listening}");
    for wildcard in ["0.0.0.0:2", "[::]:2", "*:2"] {
        let local = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
        assert!(
            !listening
                .lines()
                .filter_map(local)
                .any(|address| address.starts_with(wildcard)),
            "{listening}"
        );
    }
}

async fn strangers_are_refused(host: &Host) {
    let other_mesh = support::ca::Ca::new();
    let stranger = host.ca.client_that_shows(&other_mesh);
    let error = DockerHost::connect(api_address(), stranger)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "DockerUntrustedError", "{error:?}");
    // A client of another mesh does not trust this engine either.
    let error = DockerHost::connect(api_address(), other_mesh.client())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "DockerUntrustedError", "{error:?}");
    // Without any certificate not one byte of an answer comes back.
    let curl = Command::new("curl")
        .args(["-sk", "--max-time", "5", "https://[fd00:5::1]:2376/version"])
        .output();
    if let Ok(answer) = curl {
        assert!(
            !answer.status.success() && answer.stdout.is_empty(),
            "{answer:?}"
        );
    }
}

async fn import_busybox(docker: &DockerHost) {
    let root = tempfile::tempdir().unwrap();
    let inside = |path: &str| root.path().join(path);
    std::fs::create_dir_all(inside("bin")).unwrap();
    std::fs::create_dir_all(inside("www")).unwrap();
    std::fs::copy("/bin/busybox", inside("bin/busybox")).unwrap();
    std::fs::write(inside("www/index.html"), PAGE).unwrap();
    let tar = Command::new("tar")
        .args(["-C", root.path().to_str().unwrap(), "-c", "."])
        .output()
        .unwrap();
    let chunks: Vec<_> = tar
        .stdout
        .chunks(64 << 10)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let id = docker
        .import(futures::stream::iter(chunks), "busybox:1")
        .await
        .unwrap();
    let images = docker.images().await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(
        (&images[0].id, &images[0].tags[0]),
        (&id, &"busybox:1".to_owned())
    );
}

fn web(name: &str, port: u16) -> ContainerSpec {
    let serve = "echo serving; exec /bin/busybox httpd -f -v -p 80 -h /www";
    ContainerSpec {
        image: "busybox:1".into(),
        name: Some(name.into()),
        ports: vec![PublishedPort {
            host: port,
            container: 80,
            protocol: Protocol::Tcp,
        }],
        command: ["/bin/busybox", "sh", "-c", serve]
            .map(str::to_owned)
            .into(),
        environment: vec!["A=b".into()],
        restart: RestartPolicy::Always,
        network: None,
    }
}

async fn a_page_is_served_on_the_overlay(host: &Host, docker: &DockerHost) {
    docker.run(&web("web", 8080), listen()).await.unwrap();
    for address in ["[fd00:5::1]:8080", "100.64.0.1:8080"] {
        eventually(Duration::from_secs(10), || {
            host.neighbour_fetches(address).as_deref() == Some(PAGE)
        });
    }
    let listed = docker.containers(false).await.unwrap();
    assert_eq!(
        (listed[0].name.as_str(), listed[0].state.as_str()),
        ("web", "running")
    );
    let published: Vec<_> = listed[0]
        .ports
        .iter()
        .filter_map(|p| p.address.clone())
        .collect();
    assert_eq!(published.len(), 2, "{published:?}");
    nothing_listens_on_wildcard_8080();
    let lines: Vec<_> = docker.logs("web", false, None).try_collect().await.unwrap();
    assert_eq!(&lines[0].bytes[..], b"serving\n");
    let mut following = Box::pin(docker.logs("web", true, Some(1)));
    let first = tokio::time::timeout(Duration::from_secs(5), following.try_next());
    assert!(first.await.unwrap().unwrap().is_some());
}

fn nothing_listens_on_wildcard_8080() {
    let listening = succeed("ss", &["-Hltn"]);
    assert!(
        !listening.contains("0.0.0.0:8080") && !listening.contains("[::]:8080"),
        "{listening}"
    );
    assert!(listening.contains("[fd00:5::1]:8080"), "{listening}");
}

async fn refusals_leave_nothing_behind(docker: &DockerHost) {
    let code = |result: Result<String, runtimes_docker::DockerError>| result.unwrap_err().code();
    assert_eq!(
        code(docker.run(&web("web", 8081), listen()).await),
        "NameInUseError"
    );
    assert_eq!(
        code(docker.run(&web("web2", 8080), listen()).await),
        "PortInUseError"
    );
    let mut absent = web("web3", 8082);
    absent.image = "absent:1".into();
    assert_eq!(
        code(docker.run(&absent, listen()).await),
        "ImageNotFoundError"
    );
    assert_eq!(docker.containers(true).await.unwrap().len(), 1);
    let code = |result: Result<(), runtimes_docker::DockerError>| result.unwrap_err().code();
    assert_eq!(
        code(docker.stop("nobody", None).await),
        "ContainerNotFoundError"
    );
    assert_eq!(
        code(docker.remove("web", false).await),
        "ContainerRunningError"
    );
    assert_eq!(
        code(docker.remove_image("busybox:1", false).await),
        "ImageInUseError"
    );
    let pulled: Result<Vec<_>, _> = docker.pull("absent").try_collect().await;
    assert_eq!(pulled.unwrap_err().code(), "RegistryError");
    let logs: Result<Vec<_>, _> = docker.logs("nobody", false, None).try_collect().await;
    assert_eq!(logs.unwrap_err().code(), "ContainerNotFoundError");
}

async fn a_renewed_certificate_keeps_containers(
    host: &mut Host,
    adapter: &mut runtimes_docker::DockerRuntime,
    desired: &mut Desired,
) {
    let containers = processes(&["busybox"]).len();
    let csr = desired.certificate.as_ref().unwrap().csr.clone();
    desired.certificate = Some(host.ca.answer(&csr, 4711));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(ask_until(host.ca.client(), stopped.clone())))
        .collect();
    let (steps, _) = host.drive(adapter, desired).await.unwrap();
    assert_eq!(steps, ["WriteConfig", "Restart"]);
    stop.send_replace(true);
    for client in clients {
        let asked = client.await.unwrap();
        assert!(asked > 1, "a client asked {asked} times only");
    }
    assert_eq!(processes(&["busybox"]).len(), containers);
    let page = host.neighbour_fetches("[fd00:5::1]:8080");
    assert_eq!(page.as_deref(), Some(PAGE));
}

/// A client that connects anew for every request and bears no failure. Gives how often it asked.
async fn ask_until(
    tls: Arc<rustls::ClientConfig>,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> usize {
    let mut asked = 0;
    while !*stopped.borrow() {
        let docker = DockerHost::connect(api_address(), Arc::clone(&tls))
            .await
            .unwrap();
        assert_eq!(docker.containers(true).await.unwrap().len(), 1);
        asked += 1;
    }
    asked
}

fn wish(document: Value) -> Override {
    Override {
        name: "test".into(),
        layer: Layer::Node,
        category_position: 1,
        priority: 1,
        document,
    }
}

async fn overrides_are_reloaded_or_refused(
    host: &mut Host,
    adapter: &mut runtimes_docker::DockerRuntime,
    desired: &mut Desired,
) {
    let before = pid_of(&host.observe(adapter, desired).await);
    desired.overrides = vec![wish(json!({"debug": true, "labels": ["shoal=1"]}))];
    let (steps, _) = host.drive(adapter, desired).await.unwrap();
    assert_eq!(steps, ["WriteConfig", "Reload"]);
    let (steps, _) = host.drive(adapter, desired).await.unwrap();
    assert!(steps.is_empty());
    for wrong in [json!({"no-such-key": 1}), json!({"mtu": "large"})] {
        let mut wrongly = desired.clone();
        wrongly.overrides = vec![wish(wrong)];
        let error = host.drive(adapter, &mut wrongly).await.unwrap_err();
        assert_eq!(error.code(), "InvalidDaemonConfigError", "{error}");
    }
    let (steps, phase) = host.drive(adapter, desired).await.unwrap();
    assert!(steps.is_empty() && matches!(phase, Phase::Ready { .. }));
    assert_eq!(pid_of(&host.observe(adapter, desired).await), before);
}

async fn crash_is_repaired_without_losing_containers(
    host: &mut Host,
    desired: &mut Desired,
    before: u32,
) {
    let docker = client(host).await;
    import_busybox(&docker).await;
    docker.run(&web("web", 8080), listen()).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    eventually(Duration::from_secs(5), || {
        processes(&["dockerd"]).is_empty()
    });
    assert_eq!(processes(&["busybox"]).len(), 1);
    let mut adapter = host.adapter();
    let (steps, phase) = host.drive(&mut adapter, desired).await.unwrap();
    assert_eq!(steps, ["Start"]);
    assert!(matches!(phase, Phase::Ready { .. }));
    assert_eq!(
        client(host).await.containers(false).await.unwrap()[0].name,
        "web"
    );
}

/// Unassigns: nothing of the engine runs, nothing that shoal wrote is left.
async fn docker_host_becomes_bare(host: &mut Host) {
    let mut adapter = host.adapter();
    let mut unassigned = host.assigned();
    unassigned.assigned = false;
    let (steps, phase) = host.drive(&mut adapter, &mut unassigned).await.unwrap();
    assert_eq!(steps, ["Stop", "RemoveFiles"]);
    assert_eq!(phase, Phase::Stopped);
    assert_eq!(processes(&ENGINE), Vec::<String>::new());
    assert_eq!(processes(&["busybox"]), Vec::<String>::new());
    let configuration = std::path::Path::new("/etc/shoal/docker");
    assert!(!host.data_dir.exists() && !configuration.exists());
}
