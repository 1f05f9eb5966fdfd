//! A node founds a K3s cluster, others join it: in order, once, and whatever becomes of their daemons
//! meanwhile.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, K3S, Lab, Mesh, PATIENT, text, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// What a cluster is called whose founder was told no name.
const CLUSTER: &str = "default";

/// Events of K3s as this host's daemon pushes them, from now on.
struct Told {
    host: Host,
}

const TOLD: &str = "/tmp/k3s.events";

impl Told {
    #[track_caller]
    fn from_now(host: &Host) -> Self {
        let script = format!("exec shoal events --follow --json --kind-prefix system.k3s. >{TOLD}");
        host.spawn(&["bash", "-c", &script]);
        Self { host: host.clone() }
    }

    /// What was told of a node, in the order in which it came.
    fn rows(&self, node: &str) -> Vec<Value> {
        let told = std::fs::read_to_string(self.host.disk(TOLD)).unwrap_or_default();
        let rows = told
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.filter(|row| row["node"] == node).collect()
    }

    /// The kinds of it.
    fn of(&self, node: &str) -> Vec<String> {
        self.rows(node).iter().map(kind_of).collect()
    }

    /// How long after the one kind the other was told of a node, by the events' own times. Both are of
    /// this machine's clock, which all hosts of a lab share.
    #[track_caller]
    fn between(&self, node: &str, one: &str, other: &str) -> Duration {
        let rows = self.rows(node);
        let at = |kind: &str| {
            let row = rows.iter().find(|row| kind_of(row) == kind);
            let row = row.unwrap_or_else(|| panic!("no {kind} of {node}: {rows:?}"));
            time_of_day_ms(row)
        };
        Duration::from_millis((DAY_MS + at(other) - at(one)) % DAY_MS)
    }

    /// These kinds come in this order, each of them once, and nothing else: no failure either, whatever
    /// becomes of the daemons. Only that a node is ready is told again by one that was not for five seconds,
    /// as one may be that shares its processors with a compiler.
    #[track_caller]
    fn wait_for(&self, node: &str, kinds: &[&str]) {
        wait_until(SOON, &format!("{kinds:?} is told of {node}"), || {
            let told = self.of(node);
            let mut told = told.iter();
            kinds.iter().all(|kind| told.any(|told| told == kind))
        });
        let told = self.of(node);
        for kind in kinds.iter().filter(|kind| **kind != READY) {
            let times = told.iter().filter(|told| told == kind).count();
            assert_eq!(times, 1, "{node}: {kind} in {told:?}");
        }
        let all = told.iter().all(|told| kinds.contains(&told.as_str()));
        assert!(all, "{node}: {told:?}");
    }
}

/// Without what all of them share.
fn kind_of(event: &Value) -> String {
    text(event, "kind").replace("system.k3s.", "")
}

const DAY_MS: u64 = 86_400_000;

/// Of an event's time, such as `2026-01-01T00:00:00.123Z`.
#[track_caller]
fn time_of_day_ms(event: &Value) -> u64 {
    let time = text(event, "time");
    let clock = time.split_once('T').expect("a date and a time").1;
    let parts = clock.trim_end_matches('Z').split([':', '.']);
    let parts = parts.map(|part| part.parse::<u64>().expect("digits"));
    let units = [3_600_000, 60_000, 1_000, 1];
    parts.zip(units).map(|(part, unit)| part * unit).sum()
}

/// Who only looks now and then looks every two seconds, and repeats what was lost every thirty. A push takes
/// milliseconds, and longer on a machine that builds at the same time.
const PUSHED_WITHIN: Duration = Duration::from_millis(1500);
const ASKED: &str = "handshake.join_request";
const ANSWERED: &str = "handshake.join_token_issued";
const READY: &str = "handshake.ready";
const FOUNDED: [&str; 5] = [
    "module.assigned",
    "runtime.installing",
    "handshake.bootstrap",
    READY,
    "cluster.bootstrapped",
];
const JOINED: [&str; 5] = [
    "module.assigned",
    "runtime.installing",
    ASKED,
    ANSWERED,
    READY,
];

#[test]
fn a_server_founds_a_cluster_others_join_and_kubectl_works_through_the_virtual_ip() {
    let Some(lab) = Lab::for_test("k3s") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let host = |name: &str| mesh.node(name).host.clone();
    let (server, agent, other) = (host("s1"), host("a1"), host("a2"));
    let told = Told::from_now(&other);
    server
        .sh("mkdir /tmp/images && touch /tmp/images/pause.tar")
        .ok();
    let images = ["--images", "/tmp/images"];
    server.provision_k3s(&server, "server", &[PATIENT.as_slice(), &images].concat());
    server.wait_for_k3s(CLUSTER, "s1", "ready");
    // Where K3s looks for them before it pulls any.
    server
        .sh("test -e /var/lib/rancher/k3s/agent/images/pause.tar")
        .ok();
    server.provision_k3s(&agent, "agent", &[]);
    server.wait_for_k3s(CLUSTER, "a1", "ready");

    let rows = other.shoal(&["cluster", "ls", "--json"]).ok().json_rows();
    let [row] = rows.as_slice() else {
        panic!("one cluster: {rows:?}");
    };
    assert_eq!(row["name"], CLUSTER, "{row}");
    assert_eq!(row["status"], "active", "{row}");
    assert_eq!(row["node_count"], 2, "{row}");
    let vip = other.shoal_json(&["vip", "show", "k3s-default"]);
    let endpoint = format!("https://[{}]:6443", text(&vip, "address"));
    assert_eq!(row["api_endpoint"], endpoint, "{row}");

    other.keep_kubeconfig(CLUSTER);
    let config = other.sh("cat /tmp/default.kubeconfig").ok();
    assert!(
        config.stdout.contains(&format!("server: {endpoint}\n")),
        "it leads to the virtual IP"
    );
    for node in ["s1", "a1"] {
        wait_until(SOON, "kubectl sees the node", || {
            other.sees_ready(CLUSTER, node)
        });
    }
    told.wait_for("s1", &FOUNDED);
    told.wait_for("a1", &JOINED);
    let waited = told.between("a1", ASKED, ANSWERED);
    assert!(
        waited < PUSHED_WITHIN,
        "a token came {waited:?} after it was asked for"
    );
}

/// Kills the daemon of a node and starts it again.
#[track_caller]
fn kill(mesh: &mut Mesh, node: &str) {
    mesh.node(node).daemon.kill9();
    mesh.node_mut(node).restart_daemon();
}

/// What was put on a host, told apart from the same put there again.
#[track_caller]
fn installed(host: &Host) -> String {
    let shown = host.sh("stat -c '%i %y' /usr/local/bin/k3s").ok();
    shown.text().to_owned()
}

/// One K3s runs on the host, the very one.
#[track_caller]
fn runs_on(host: &Host, process: &str) {
    assert!(!process.is_empty() && !process.contains('\n'), "{process}");
    assert_eq!(host.k3s_process(), process, "{}", host.name());
}

#[test]
fn a_founder_goes_on_where_it_was_when_its_daemon_is_killed() {
    let Some(lab) = Lab::for_test("k3s-founder") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    let host = |mesh: &Mesh, name: &str| mesh.node(name).host.clone();
    let (server, founder) = (host(&mesh, "s1"), host(&mesh, "a1"));
    let told = Told::from_now(&server);
    let files = FileServer::start(&server, "slow");
    founder.hasten_k3s("server");
    let source = files.source(&server);
    let source: Vec<&str> = source.iter().map(String::as_str).collect();
    let provision = ["k3s", "provision", "a1", "--role", "server"];
    server
        .shoal(&[provision.as_slice(), &PATIENT, &source].concat())
        .ok();
    // In the middle of the file.
    server.wait_for_k3s(CLUSTER, "a1", "installing");
    wait_until(SOON, "half of the file is there", || files.asked() == 1);
    kill(&mut mesh, "a1");
    wait_until(SOON, "it is asked for again", || files.asked() == 2);
    founder.turn_knob("start-delay-ms", "3000");
    files.go_on();

    // Started, not ready.
    server.wait_for_k3s(CLUSTER, "a1", "bootstrap");
    wait_until(SOON, "K3s runs", || !founder.k3s_process().is_empty());
    let (program, process) = (installed(&founder), founder.k3s_process());
    kill(&mut mesh, "a1");
    server.wait_for_k3s(CLUSTER, "a1", "ready");
    runs_on(&founder, &process);

    // As if it had been killed before it could write down what it had started.
    mesh.node("a1").daemon.kill9();
    founder
        .sh("sed -i 's/\"pid\": [0-9]*/\"pid\": 0/' /var/lib/shoal/k3s/process.json")
        .ok();
    mesh.node_mut("a1").restart_daemon();
    wait_until(SOON, "the mesh is whole", || {
        server.shoal_json(&["status"])["reachable"] == 2
    });
    server.keep_kubeconfig(CLUSTER);
    wait_until(SOON, "kubectl sees the founder", || {
        server.sees_ready(CLUSTER, "a1")
    });
    runs_on(&founder, &process);
    assert_eq!(installed(&founder), program);
    assert_eq!(files.asked(), 2);
    told.wait_for("a1", &FOUNDED);
}

#[test]
fn a_node_goes_on_where_it_was_when_its_daemon_is_killed() {
    let Some(lab) = Lab::for_test("k3s-joiner") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 2);
    let host = |mesh: &Mesh, name: &str| mesh.node(name).host.clone();
    let (server, founder, agent) = (host(&mesh, "s1"), host(&mesh, "a1"), host(&mesh, "a2"));
    let told = Told::from_now(&server);
    server.provision_k3s(&founder, "server", &PATIENT);
    server.wait_for_k3s(CLUSTER, "a1", "ready");
    // Nobody is there to give a token.
    mesh.node("a1").daemon.kill9();
    server.provision_k3s(&agent, "agent", &[]);
    server.wait_for_k3s(CLUSTER, "a2", "join_request");
    kill(&mut mesh, "a2");
    assert_eq!(
        text(&server.k3s_row(CLUSTER, "a2").expect("it is in"), "phase"),
        "join_request"
    );
    // Nobody is there to take it.
    mesh.node("a2").daemon.kill9();
    mesh.node_mut("a1").restart_daemon();
    server.wait_for_k3s(CLUSTER, "a2", "join_token_issued");
    agent.turn_knob("not-ready", "the test says so");
    mesh.node_mut("a2").restart_daemon();
    server.wait_for_k3s(CLUSTER, "a2", "starting");
    wait_until(SOON, "K3s runs", || !agent.k3s_process().is_empty());
    let (program, process) = (installed(&agent), agent.k3s_process());
    kill(&mut mesh, "a2");
    agent.turn_back("not-ready");
    server.wait_for_k3s(CLUSTER, "a2", "ready");
    runs_on(&agent, &process);
    kill(&mut mesh, "a2");
    server.keep_kubeconfig(CLUSTER);
    wait_until(SOON, "kubectl sees the node", || {
        server.sees_ready(CLUSTER, "a2")
    });
    runs_on(&agent, &process);
    assert_eq!(installed(&agent), program);
    told.wait_for("a2", &JOINED);

    // On the way out: K3s does not end when it is asked, as it hangs.
    agent.sh(&format!("kill -STOP {process}")).ok();
    server
        .shoal(&["module", "unassign", "a2", "k3s-agent", "--yes"])
        .ok();
    server.wait_for_k3s(CLUSTER, "a2", "leaving");
    kill(&mut mesh, "a2");
    agent.sh(&format!("kill -CONT {process}")).ok();
    server.wait_until_not_in(CLUSTER, "a2");
    assert_eq!(agent.k3s_process(), "");
    let left = "ls -d /usr/local/bin/k3s /var/lib/shoal/k3s /var/lib/rancher/k3s /etc/rancher/node \
                /run/k3s 2>/dev/null";
    assert_eq!(agent.sh(left).text(), "");
    // Its operator's own settings were there before.
    assert_eq!(agent.sh("ls -A /etc/rancher/k3s").text(), "config.yaml");
    wait_until(SOON, "the cluster has forgotten it", || {
        let nodes = server.kubectl(CLUSTER, &["get", "nodes", "-o", "name"]);
        nodes.success() && nodes.text() == "node/a1"
    });
}

#[test]
fn a_server_that_joins_goes_on_where_it_was_when_its_daemon_is_killed() {
    let Some(lab) = Lab::for_test("k3s-joining-server") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 2);
    let host = |mesh: &Mesh, name: &str| mesh.node(name).host.clone();
    let (server, founder, joiner) = (host(&mesh, "s1"), host(&mesh, "a1"), host(&mesh, "a2"));
    let told = Told::from_now(&server);
    server.provision_k3s(&founder, "server", &PATIENT);
    server.wait_for_k3s(CLUSTER, "a1", "ready");
    // Its API is not to be ready yet when it is a member of etcd already.
    joiner.turn_knob("fail-readyz", "");
    server.provision_k3s(&joiner, "server", &["--cluster", CLUSTER]);
    wait_until(SOON, "it is a member of etcd", || {
        founder.etcd_members() == 2
    });
    server.wait_for_k3s(CLUSTER, "a2", "starting");
    let (program, process) = (installed(&joiner), joiner.k3s_process());
    kill(&mut mesh, "a2");
    wait_until(SOON, "the mesh is whole", || {
        server.shoal_json(&["status"])["reachable"] == 3
    });
    runs_on(&joiner, &process);
    let row = server.k3s_row(CLUSTER, "a2").expect("it is in");
    assert_eq!(row["phase"], "starting", "{row}");
    joiner.turn_back("fail-readyz");
    server.wait_for_k3s(CLUSTER, "a2", "ready");
    kill(&mut mesh, "a2");
    server.keep_kubeconfig(CLUSTER);
    wait_until(SOON, "kubectl sees the node", || {
        server.sees_ready(CLUSTER, "a2")
    });
    runs_on(&joiner, &process);
    assert_eq!(installed(&joiner), program);
    wait_until(SOON, "etcd has it once", || founder.etcd_members() == 2);
    told.wait_for("a2", &JOINED);
}

/// Hands a `k3s` out over HTTP; one that is slow stops in the middle until it is told to go on.
struct FileServer {
    host: Host,
}

const FILE_SERVER: &str = "
import http.server, os, sys, time
data = open(sys.argv[1], 'rb').read()
held = sys.argv[2] == 'slow'
class Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open('/tmp/asked', 'a') as asked:
            asked.write(self.path + '\\n')
        self.send_response(200)
        self.send_header('content-length', str(len(data)))
        self.end_headers()
        half = len(data) // 2
        self.wfile.write(data[:half])
        self.wfile.flush()
        while held and not os.path.exists('/tmp/go-on'):
            time.sleep(0.02)
        self.wfile.write(data[half:])
http.server.ThreadingHTTPServer(('0.0.0.0', 8000), Files).serve_forever()
";

impl FileServer {
    #[track_caller]
    fn start(host: &Host, pace: &str) -> Self {
        host.require_program("k3s");
        host.spawn(&["python3", "-c", FILE_SERVER, K3S, pace]);
        wait_until(SOON, "the file server listens", || {
            !host.sh("ss -Hltn sport = :8000").stdout.is_empty()
        });
        Self { host: host.clone() }
    }

    /// The flags that name the file.
    #[track_caller]
    fn source(&self, at: &Host) -> [String; 4] {
        let sum = self.host.run(&["sha256sum", K3S]).ok();
        let sum = sum.text().split(' ').next().unwrap_or_default().to_owned();
        let url = format!("http://{}:8000/k3s", at.ipv4());
        ["--k3s-url".into(), url, "--sha256".into(), sum]
    }

    /// How often the file was asked for.
    fn asked(&self) -> usize {
        let asked = std::fs::read_to_string(self.host.disk("/tmp/asked")).unwrap_or_default();
        asked.lines().count()
    }

    #[track_caller]
    fn go_on(&self) {
        self.host.sh("touch /tmp/go-on").ok();
    }
}

#[test]
fn a_k3s_from_a_file_server_is_taken_for_its_sum_alone_and_a_missing_one_is_named() {
    let Some(lab) = Lab::for_test("k3s-install") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let host = |name: &str| mesh.node(name).host.clone();
    let (server, one, other) = (host("s1"), host("a1"), host("a2"));
    let files = FileServer::start(&server, "quick");
    let [url, address, sum, right] = files.source(&server);
    let wrong = "0".repeat(64);
    one.hasten_k3s("server");
    let provision = |node: &str, role: &str, more: &[&str]| {
        let command = ["k3s", "provision", node, "--role", role];
        server.shoal(&[command.as_slice(), more].concat())
    };
    let from = |sum_is| {
        let source: [&str; 4] = [&url, &address, &sum, sum_is];
        [PATIENT.as_slice(), &source].concat()
    };
    provision("a1", "server", &from(&wrong)).ok();
    let said = server.k3s_fails_with(CLUSTER, "a1", "K3sChecksumError");
    assert!(said.contains(&wrong) && said.contains(&right), "{said}");
    assert!(!one.sh("test -e /usr/local/bin/k3s").success());
    // What was never ready is changed by saying it anew.
    provision("a1", "server", &from(&right)).ok();
    server.wait_for_k3s(CLUSTER, "a1", "ready");

    somebody_elses_k3s_is_left_alone(&server, &other);
    other
        .sh("rm -r /var/lib/rancher /etc/rancher /usr/local/bin/k3s")
        .ok();
    // There is one beside the programs under test, where no host of an operator has any.
    other.sh(&format!("mount --bind /dev/null {K3S}")).ok();
    provision("a2", "agent", &[]).ok();
    let said = server.k3s_fails_with(CLUSTER, "a2", "K3sMissingError");
    assert!(said.contains("nobody said where to get one"), "{said}");
    other.wait_for_condition(SOON, "--k3s-binary");
    provision("a2", "agent", &["--k3s-binary", "/nowhere/k3s"]).ok();
    let said = server.k3s_fails_with(CLUSTER, "a2", "/nowhere/k3s");
    assert!(said.contains("K3sMissingError"), "{said}");
    let other_version = [
        url.as_str(),
        &address,
        &sum,
        &right,
        "--k3s-version",
        "v1.0.0+k3s1",
    ];
    provision("a2", "agent", &other_version).ok();
    let said = server.k3s_fails_with(CLUSTER, "a2", "K3sVersionMismatchError");
    assert!(said.contains("v1.0.0+k3s1"), "{said}");
    provision("a2", "agent", &[&url, &address, &sum, &right]).ok();
    server.wait_for_k3s(CLUSTER, "a2", "ready");
    secrets_stay_in_their_files(&mesh);
}

/// All that an installation of K3s consists of, one line each.
const INSTALLATION: &str = "find /usr/local/bin /etc/rancher /etc/systemd/system/k3s.service* \
     /var/lib/rancher /var/lib/kubelet /run/k3s -printf '%p %y %m %U %s %T@ %l\\n' | sort";

/// One that somebody installed, whether it runs or not: it is named, and nothing of it is touched, neither
/// when the node is to be in a cluster nor when it is not to be any more.
#[track_caller]
fn somebody_elses_k3s_is_left_alone(from: &Host, host: &Host) {
    // As K3s's own installer leaves a machine (k3s-io/k3s, install.sh).
    host.sh(&format!(
        "set -e; install {K3S} /usr/local/bin/k3s; mkdir -p /etc/systemd/system /etc/rancher/k3s
         printf '[Service]\\nExecStart=/usr/local/bin/k3s server\\n' >/etc/systemd/system/k3s.service
         touch /etc/systemd/system/k3s.service.env
         printf 'node-ip: {}\\nflannel-iface: eth0\\n' >/etc/rancher/k3s/config.yaml",
        host.ipv4()
    ))
    .ok();
    let foreign = host.spawn(&["/usr/local/bin/k3s", "server"]);
    let serves = || {
        let get = host.run(&["k3s", "kubectl", "--request-timeout=3s", "get", "nodes"]);
        get.stdout.contains(" Ready ")
    };
    wait_until(SOON, "somebody else's K3s serves", serves);
    let name = host.name();
    let provision = ["k3s", "provision", name, "--role", "agent"];
    let provision = [provision.as_slice(), &["--k3s-binary", K3S]].concat();
    let unassign = ["module", "unassign", name, "k3s-agent", "--yes"];

    from.shoal(&provision).ok();
    let said = from.k3s_fails_with(CLUSTER, name, "K3sAlreadyRunningError");
    assert!(said.contains("its own k3s-uninstall.sh"), "{said}");
    from.shoal(&unassign).ok();
    from.wait_until_not_in(CLUSTER, name);
    assert!(foreign.is_running());
    wait_until(SOON, "somebody else's K3s still serves", serves);

    foreign.kill9();
    let before = host.sh(INSTALLATION).ok().stdout;
    for part in ["/usr/local/bin/k3s ", "k3s.service ", "server/token "] {
        assert!(before.contains(part), "{part} in {before}");
    }
    from.shoal(&provision).ok();
    let said = from.k3s_fails_with(CLUSTER, name, "K3sDataPresentError");
    assert!(said.contains("/var/lib/rancher/k3s"), "{said}");
    from.shoal(&unassign).ok();
    from.wait_until_not_in(CLUSTER, name);
    assert_eq!(host.sh(INSTALLATION).ok().stdout, before);
}

/// Tokens and keys are nowhere but in files of their own, which are root's alone.
#[track_caller]
fn secrets_stay_in_their_files(mesh: &Mesh) {
    let keep = "/var/lib/shoal/k3s";
    let founder = &mesh.node("a1").host;
    let read = |file: &str| {
        let text = founder.sh(&format!("cat {keep}/{file}")).ok();
        text.text().to_owned()
    };
    let config = founder.sh("grep client-key-data: /etc/rancher/k3s/k3s.yaml");
    let key = config
        .text()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .to_owned();
    let secrets = [read("server-token"), read("agent-token"), key];
    for secret in &secrets {
        assert!(secret.len() >= 32, "{}", secret.len());
    }
    let modes = "find /var/lib/shoal/k3s /etc/rancher -type f ! -perm 0600 -printf '%p %m\\n'";
    for node in &mesh.nodes {
        let host = &node.host;
        let open = host.sh(modes).stdout;
        let open: Vec<&str> = open
            .lines()
            .filter(|line| !line.starts_with("/etc/rancher/k3s/config.yaml "))
            .collect();
        assert!(open.is_empty(), "{}: {open:?}", host.name());
        for secret in &secrets {
            // Not as an argument: it would be found there.
            std::fs::write(host.disk("/tmp/secret"), secret).expect("the host's disk is writable");
            let found = host.sh(&format!(
                "tail -n +1 /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -aqF -f /tmp/secret && echo processes
                 grep -rlaF -f /tmp/secret /var/lib/shoal --exclude-dir=k3s
                 grep -laF -f /tmp/secret {keep}/*.log {keep}/*.json /etc/rancher/k3s/config.yaml.d/*
                 true"
            ));
            assert_eq!(found.text(), "", "{}", host.name());
            assert!(!host.log("shoald").contains(secret.as_str()));
        }
    }
}
