//! What may go wrong with a node's K3s: it ends again and again, its disk is not there. What is wrong is
//! told, nothing is made worse meanwhile, and once somebody has mended it K3s goes on with its data.

use std::time::Duration;

use shoal_tests::{Host, Lab, Mesh, patient, wait_until};

const SOON: Duration = Duration::from_secs(60);
const CLUSTER: &str = "prod";
const FOUNDED: [&str; 6] = patient(CLUSTER);

/// Where K3s's data are: a disk of their own.
const PLACE: &str = "/var/lib/rancher";
const MOUNT: &str =
    "mkdir -p /var/lib/disk /var/lib/rancher && mount --bind /var/lib/disk /var/lib/rancher";
/// What K3s says as it ends.
const LAST_WORDS: &str = "the test has taken its port";
/// As often it is seen to end.
const ENDS: usize = 4;

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
    let status = host.wait_for_condition(SOON);
    assert!(status.contains(&format!("mount {PLACE}")), "{status}");
    // Nothing was put where the disk belongs: it would be hidden under it.
    assert_eq!(host.sh(&format!("ls -A {PLACE}")).ok().text(), "");
    assert_eq!(host.k3s_process(), "");
    host.sh(MOUNT).ok();
    goes_on(&from);
}

/// It is ready again, with what it had.
#[track_caller]
fn goes_on(from: &Host) {
    from.wait_for_k3s(CLUSTER, "a1", "ready");
    wait_until(SOON, "the cluster has what it had", || {
        let get = ["get", "configmap", "before", "-o", "name"];
        from.kubectl(CLUSTER, &get).success()
    });
}

/// Its words are told, and each start is twice as long after the one before as that was.
#[track_caller]
fn is_started_more_and_more_rarely(from: &Host, host: &Host) {
    host.turn_knob("fail-start", LAST_WORDS);
    host.run(&["kill", "-9", &host.k3s_process()]).ok();
    let mut starts = Vec::new();
    wait_until(SOON, &format!("it has ended {ENDS} times"), || {
        starts = ends(host);
        starts.len() >= ENDS
    });
    // By K3s's own clock, which tells seconds: a machine that is busy makes none of them shorter. After
    // pauses of at least one, two and four seconds, or twice as long where it counts the first end too.
    for (number, pair) in starts[..ENDS].windows(2).enumerate() {
        let (gap, pause) = (pair[1] - pair[0], 1 << number);
        assert!(gap >= pause - 1, "start {number}: {gap} s, {starts:?}");
    }
    let said = from.k3s_fails_with(CLUSTER, "a1", LAST_WORDS);
    assert!(said.contains("look at K3s's log on the node"), "{said}");
    let status = host.wait_for_condition(SOON);
    assert!(status.contains(LAST_WORDS), "{status}");
}

/// When K3s ended with its last words, in seconds since 1970.
#[track_caller]
fn ends(host: &Host) -> Vec<i64> {
    let script = format!(
        "sed -n 's/^time=\"\\([^\"]*\\)\".*{LAST_WORDS}.*/\\1/p' /var/lib/shoal/k3s/k3s.log | date -f - +%s"
    );
    let shown = host.sh(&script).ok();
    let times = shown.stdout.lines();
    times.map(|time| time.parse().expect("seconds")).collect()
}
