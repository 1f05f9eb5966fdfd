//! A wrong input for every verb: refused with code, message and hint, and nothing half done.

use std::fs;

use shoal_tests::{Lab, Mesh, Node, text};

/// Commands that are wrong in a mesh of `s1` and `a1`, and a word that the refusal must contain.
const WRONG: &[(&str, &str)] = &[
    ("init --name again", "mesh"),
    ("join --token-file /nowhere", "/nowhere"),
    ("join --token-file /run/lab/files/garbage", "garbage"),
    ("token create --role king", "king"),
    ("token create --ttl never", "never"),
    ("token create --ttl 0s", ""),
    ("token create --out /nowhere/token", "/nowhere"),
    ("node show nobody", "nobody"),
    ("node label nobody a=b", "nobody"),
    ("node label a1 nonsense", "nonsense"),
    ("node promote nobody", "nobody"),
    ("node promote s1", "server"),
    ("node demote nobody", "nobody"),
    ("node demote a1", "agent"),
    ("node demote s1", ""),
    ("node remove nobody --yes", "nobody"),
    ("node remove a1", ""),
    ("network show nothing", "nothing"),
    ("network attach nobody default", "nobody"),
    ("network attach a1 nothing", "nothing"),
    ("network detach nobody default", "nobody"),
    ("network detach a1 nothing", "nothing"),
    ("network set default --default maybe", "maybe"),
    ("network rule ls nothing", "nothing"),
    ("network rule add nothing --deny", "nothing"),
    ("network rule add default", "--allow"),
    ("network rule add default --allow --deny", "--deny"),
    (
        "network rule add default --from somebody --deny",
        "somebody",
    ),
    (
        "network rule add default --from node:nobody --deny",
        "nobody",
    ),
    (
        "network rule add default --to cidr:10.0.0.0/8 --deny",
        "10.0.0.0/8",
    ),
    (
        "network rule add default --from cidr:0.0.0.0/0 --deny",
        "0.0.0.0/0",
    ),
    (
        "network rule add default --from label:zone --deny",
        "label:zone",
    ),
    ("network rule add default --proto sctp --deny", "sctp"),
    ("network rule add default --port 0 --deny", "port"),
    ("network rule add default --port 90-80 --deny", "90-80"),
    ("network rule add default --port 80,,81 --deny", "port"),
    (
        "network rule add default --proto icmp --port 80 --deny",
        "icmp",
    ),
    ("network rule add default --before 9 --deny", "9"),
    (
        "network rule add default --before 1 --priority 2 --deny",
        "--priority",
    ),
    ("network rule rm default 7", "7"),
    ("network rule rm default seven", "seven"),
    ("network rule rm nothing 1", "nothing"),
    ("vip show nothing", "nothing"),
    (
        "vip create web --network nothing --candidates a1",
        "nothing",
    ),
    (
        "vip create web --network default --candidates nobody",
        "nobody",
    ),
    (
        "vip create web --network default --candidates a1,a1",
        "once",
    ),
    ("vip create web --network default --candidates a1,,s1", ""),
    (
        "vip create web --network default --candidates a1 --check udp:53",
        "udp:53",
    ),
    (
        "vip create web --network default --candidates a1 --check tcp:0",
        "tcp:0",
    ),
    (
        "vip create web --network default --candidates a1 --profile fast",
        "fast",
    ),
    ("vip candidates nothing a1", "nothing"),
    ("vip check nothing none", "nothing"),
    ("vip failover nothing", "nothing"),
    ("vip failover nothing --to a1", "nothing"),
    ("vip drill nothing", "nothing"),
    ("vip drill nothing --kill --yes", "nothing"),
    ("vip drill nothing --kill --to a1 --yes", "kill"),
    ("vip drill nothing --kill", "consent"),
    ("vip delete nothing --yes", "nothing"),
    ("access show nobody", "nobody"),
    ("access grant ann --network nothing", "nothing"),
    ("access grant ann --via nobody", "nobody"),
    ("access grant ann --public-key short", "short"),
    ("access grant ann --endpoint nowhere", "nowhere"),
    ("access grant ann --out /nowhere/x", "/nowhere"),
    ("access grant Ann", "Ann"),
    ("access move nobody --via s1", "nobody"),
    ("access suspend nobody", "nobody"),
    ("access resume nobody", "nobody"),
    ("access revoke nobody", "nobody"),
    ("module assign nobody docker-engine", "nobody"),
    ("module assign a1 rocket-engine", "rocket-engine"),
    ("module unassign a1 docker-engine", "docker-engine"),
    ("module unassign nobody docker-engine", "nobody"),
    ("docker ps nobody", "nobody"),
    ("docker ps a1", "a1"),
    ("docker pull a1 image", "a1"),
    ("docker import a1 --file /nowhere --tag x", "/nowhere"),
    ("docker run a1 image", "a1"),
    ("docker run a1 image -p much:80", "much"),
    ("docker logs a1 container", "a1"),
    ("docker env nobody", "nobody"),
    ("docker provision nobody", "nobody"),
    ("docker decommission a1", "a1"),
    ("module assign a1 k3s-agent", "cluster"),
    ("module assign a1 k3s-agent --cluster nothing", "nothing"),
    ("module assign a1 docker-engine --cluster prod", "prod"),
    ("module assign nobody k3s-server", "nobody"),
    ("module assign --selector zone=a k3s-server", "zone=a"),
    ("module unassign a1 k3s-server", "k3s-server"),
    ("k3s provision nobody --role server", "nobody"),
    ("k3s provision a1 --role king", "king"),
    ("k3s provision a1 --role agent", "cluster"),
    ("k3s provision a1 --role agent --cluster nothing", "nothing"),
    (
        "k3s provision a1 --role server --network nothing",
        "nothing",
    ),
    ("k3s provision a1 --role server --cni weave", "weave"),
    ("k3s provision a1 --role server --cluster Prod!", "Prod!"),
    (
        "k3s provision a1 --role server --k3s-binary k3s",
        "absolute",
    ),
    ("k3s provision a1 --role server --k3s-version 1.32", "1.32"),
    (
        "k3s provision a1 --role server --k3s-url http://x/k3s",
        "--sha256",
    ),
    (
        "k3s provision a1 --role server --k3s-url http://x/k3s --sha256 beef",
        "beef",
    ),
    (
        "k3s provision a1 --role server --k3s-url ftp://x/k3s --sha256 0000000000000000000000000000000000000000000000000000000000000000",
        "ftp://x/k3s",
    ),
    ("k3s provision a1 --role server --images images", "images"),
    ("cluster show nothing", "nothing"),
    ("cluster nodes nothing", "nothing"),
    ("cluster kubeconfig nothing", "nothing"),
    ("cluster kubeconfig nothing --out /nowhere/x", "/nowhere"),
    ("cluster snapshot nothing", "nothing"),
    (
        "cluster upgrade nothing --binary /k3s --version v1.32.0+k3s1",
        "nothing",
    ),
    ("cluster upgrade nothing --binary /k3s", "--version"),
    ("cluster decommission nothing", "consent"),
    ("cluster decommission nothing --yes", "nothing"),
];

#[test]
fn every_verb_refuses_wrong_input_and_nothing_changes() {
    let Some(lab) = Lab::for_test("wrong") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    fs::write(lab.files().join("garbage"), "this is no token\n").expect("writable");
    let server = mesh.node("s1").host.clone();
    let before = server
        .shoal(&["node", "ls", "--json"])
        .ok()
        .json_rows()
        .len();
    let mut wrong = Vec::new();
    for &(line, word) in WRONG {
        let words: Vec<&str> = line.split(' ').collect();
        for from in ["s1", "a1"] {
            let from = &mesh.node(from).host;
            let args: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
            let output = from.shoal(&args);
            if output.success() {
                wrong.push(format!("not refused: {output}"));
                continue;
            }
            let refusal = output.refusal();
            if !refusal.to_string().contains(word) {
                wrong.push(format!("{line}: does not name {word:?}: {refusal}"));
            }
            let spoken = from.shoal(&words);
            let hinted = spoken.stderr.contains(text(&refusal, "hint").as_str());
            if spoken.success() || !(hinted || spoken.stderr.contains("--help")) {
                wrong.push(format!("without --json there is no hint: {spoken}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let rows = server.shoal(&["node", "ls", "--json"]).ok().json_rows();
    assert_eq!(rows.len(), before);
    assert!(server.docker_row("a1").is_none());
    let firewall = server.shoal_json(&["network", "rule", "ls", "default"]);
    assert_eq!(firewall["rules"].as_array().map(Vec::len), Some(0));
    assert_eq!(firewall["default"], "allow");
    assert!(
        server
            .shoal(&["vip", "ls", "--json"])
            .ok()
            .json_rows()
            .is_empty()
    );
    let clusters = server.shoal(&["cluster", "ls", "--json"]).ok();
    assert!(clusters.json_rows().is_empty());
}

#[test]
fn without_a_mesh_every_verb_says_how_to_get_one() {
    let Some(lab) = Lab::for_test("no-mesh") else {
        return;
    };
    let node = Node::new(&lab, "n1");
    for line in [
        "token create",
        "node ls",
        "node show n1",
        "network ls",
        "module ls",
        "module assign n1 docker-engine",
        "docker ls",
        "docker ps n1",
        "k3s provision n1 --role server",
        "cluster ls",
        "cluster kubeconfig prod",
        "events",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let refusal = node.host.shoal_refused(&words);
        assert!(
            text(&refusal, "hint").contains("shoal init"),
            "{line}: {refusal}"
        );
    }
    assert!(node.host.shoal_json(&["status"])["mesh_id"].is_null());
}

#[test]
fn without_a_daemon_every_verb_says_so() {
    let Some(lab) = Lab::for_test("no-daemon") else {
        return;
    };
    let host = lab.host("n1");
    host.require_program("shoal");
    for line in ["status", "node ls", "docker ls", "events", "init --name x"] {
        let words: Vec<&str> = line.split(' ').collect();
        let refusal = host.shoal_refused(&words);
        assert!(
            text(&refusal, "message").contains("/run/shoal/"),
            "{refusal}"
        );
    }
    for endpoint in ["ftp://x", "unix://relative", "https://nowhere"] {
        host.shoal_refused(&["status", "--connect", endpoint]);
    }
}
