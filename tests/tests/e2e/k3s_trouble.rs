//! What may go wrong with a node's K3s: it ends again and again, its disk is not there, its cluster has lost
//! its majority. What is wrong is told, nothing is made worse meanwhile, and once somebody has mended it K3s
//! goes on with its data.

use std::time::Duration;

use shoal_tests::{Host, Lab, Mesh, patient, wait_until};

const SOON: Duration = Duration::from_secs(60);
const CLUSTER: &str = "prod";
const FOUNDED: [&str; 6] = patient(CLUSTER);
const JOINED: [&str; 2] = ["--cluster", CLUSTER];

/// Where K3s's data are: a disk of their own.
const PLACE: &str = "/var/lib/rancher";
const MOUNT: &str =
    "mkdir -p /var/lib/disk /var/lib/rancher && mount --bind /var/lib/disk /var/lib/rancher";
/// What a daemon says as it starts K3s.
const START: &str = "k3s step=\"start\"";
/// What K3s says as it ends.
const LAST_WORDS: &str = "the test has taken its port";
/// As often it is seen to be started.
const STARTS: usize = 4;
/// By as much two lines of a log may be closer than what they tell of: a busy machine writes the first one
/// late.
const LATE_MS: i64 = 500;

#[test]
fn a_k3s_goes_on_once_what_ends_it_is_mended_and_once_its_disk_is_there() {
    let Some(lab) = Lab::for_test("k3s-trouble") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    let (from, host) = (mesh.node("s1").host.clone(), mesh.node("a1").host.clone());
    host.sh(MOUNT).ok();
    from.provision_k3s(&host, "server", &FOUNDED);
    from.wait_for_k3s(CLUSTER, "a1", "ready");
    from.keep_kubeconfig(CLUSTER);
    from.kubectl_creates(CLUSTER, &["configmap", "before"]);

    is_started_more_and_more_rarely(&from, &host);
    host.turn_back("fail-start");
    goes_on(&from);

    // The machine comes up without its disk.
    host.power_off();
    host.power_on();
    mesh.node_mut("a1").restart_daemon();
    let said = from.k3s_fails_with(CLUSTER, "a1", "K3sDataMissingError");
    assert!(said.contains(PLACE), "{said}");
    host.wait_for_condition(SOON, &format!("mount {PLACE}"));
    // Nothing was put where the disk belongs: it would be hidden under it.
    assert_eq!(host.sh(&format!("ls -A {PLACE}")).ok().text(), "");
    assert_eq!(host.k3s_process(), "");
    host.sh(MOUNT).ok();
    goes_on(&from);
}

#[test]
fn a_cluster_goes_on_with_its_majority_though_the_server_that_led_it_has_ended_without_one() {
    let Some(lab) = Lab::for_test("k3s-majority") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 3);
    let from = mesh.node("s1").host.clone();
    let servers = ["a1", "a2", "a3"];
    for name in servers {
        let flags: &[&str] = if name == "a1" { &FOUNDED } else { &JOINED };
        from.provision_k3s(&mesh.node(name).host, "server", flags);
        from.wait_for_k3s(CLUSTER, name, "ready");
    }
    from.keep_kubeconfig(CLUSTER);
    from.kubectl_creates(CLUSTER, &["configmap", "before"]);
    let leads = whose_controllers_lead(&from, &servers);
    let host = mesh.node(&leads).host.clone();
    let process = host.k3s_process();
    let lost = servers.into_iter().filter(|name| *name != leads);
    let lost: Vec<&str> = lost.collect();
    for name in &lost {
        mesh.node(name).host.power_off();
    }

    wait_until(
        SOON,
        "K3s has ended, for its controllers lead no more",
        || {
            let look = "grep -q 'leaderelection lost' /var/lib/shoal/k3s/k3s.log";
            host.sh(look).success()
        },
    );
    let mut waits = String::new();
    wait_until(SOON, "it is started again", || {
        waits = host.k3s_process();
        !waits.is_empty() && waits != process
    });
    from.wait_for_k3s(CLUSTER, &leads, "starting");
    let shown = from.shoal_json(&["cluster", "show", CLUSTER]);
    assert_eq!(shown["status"], "active", "{shown}");

    for name in &lost {
        mesh.node(name).host.power_on();
        mesh.node_mut(name).restart_daemon();
    }
    from.wait_for_k3s(CLUSTER, &leads, "ready");
    has_what_it_had(&from);
    // It only waited for the others.
    assert_eq!(host.k3s_process(), waits);
    for name in servers {
        let all = format!("{name} has all of etcd again");
        let host = mesh.node(name).host.clone();
        wait_until(SOON, &all, || host.etcd_members() == servers.len());
        wait_until(SOON, &format!("{name} is ready"), || {
            from.sees_ready(CLUSTER, name)
        });
    }
}

/// Which server has the lease of K3s's controllers.
#[track_caller]
fn whose_controllers_lead(from: &Host, servers: &[&str]) -> String {
    let lease = [
        "-n",
        "kube-system",
        "get",
        "lease",
        "kube-controller-manager",
    ];
    let path = ["-o", "jsonpath={.spec.holderIdentity}"];
    let mut holder = String::new();
    wait_until(SOON, "the controllers of a server lead", || {
        let shown = from.kubectl(CLUSTER, &[lease.as_slice(), &path].concat());
        let server = shown.text().split('_').next();
        holder = server.unwrap_or_default().to_owned();
        shown.success() && servers.contains(&holder.as_str())
    });
    holder
}

/// It is ready again, with what it had.
#[track_caller]
fn goes_on(from: &Host) {
    from.wait_for_k3s(CLUSTER, "a1", "ready");
    has_what_it_had(from);
}

#[track_caller]
fn has_what_it_had(from: &Host) {
    wait_until(SOON, "the cluster has what it had", || {
        let get = ["get", "configmap", "before", "-o", "name"];
        from.kubectl(CLUSTER, &get).success()
    });
}

/// Each start is twice as long after the one before as that was, and its words are told.
#[track_caller]
fn is_started_more_and_more_rarely(from: &Host, host: &Host) {
    host.turn_knob("fail-start", LAST_WORDS);
    let before = starts(host).len();
    host.run(&["kill", "-9", &host.k3s_process()]).ok();
    wait_until(SOON, &format!("it is started {STARTS} times"), || {
        starts(host).len() >= before + STARTS
    });
    // As its daemon does it: what K3s says of itself comes as late as a busy machine lets it. After pauses
    // of at least one, two and four seconds, or twice as long where it counts the first end too.
    let starts: Vec<i64> = (starts(host)[before..][..STARTS].iter())
        .map(|time| milliseconds(host, time))
        .collect();
    for (number, pair) in starts.windows(2).enumerate() {
        let (gap_ms, pause_ms) = (pair[1] - pair[0], 1000 << number);
        let waited = gap_ms + LATE_MS >= pause_ms;
        assert!(waited, "start {number}: {gap_ms} ms, {starts:?}");
    }
    let said = from.k3s_fails_with(CLUSTER, "a1", LAST_WORDS);
    assert!(said.contains("look at K3s's log on the node"), "{said}");
    host.wait_for_condition(SOON, LAST_WORDS);
}

/// When the host's daemon has started K3s, as its log writes it.
fn starts(host: &Host) -> Vec<String> {
    let log = host.log("shoald");
    let lines = log.lines().filter(|line| line.contains(START));
    let times = lines.filter_map(|line| line.split_whitespace().next());
    times.map(str::to_owned).collect()
}

/// The time that a log has written, since 1970.
#[track_caller]
fn milliseconds(host: &Host, time: &str) -> i64 {
    let shown = host.run(&["date", "-d", time, "+%s%3N"]).ok();
    shown.text().parse().expect("milliseconds")
}
