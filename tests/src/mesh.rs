//! A mesh, made in a lab the way an operator makes one: by `init`, tokens and `join`.
//!
//! What nothing orders is done at once: hosts boot while the first one makes the mesh, and agents join
//! together. Servers join one after another: Raft takes in one voter at a time.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{daemon::Daemon, host::Host, lab::Lab, together::together, wait::wait_until};

/// An election and a handful of commits, on a machine that builds at the same time.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
/// Who makes the mesh.
const FOUNDER: &str = "s1";

/// A host with its running daemon.
pub struct Node {
    /// The machine.
    pub host: Host,
    /// Its daemon, as last started.
    pub daemon: Daemon,
}

impl Node {
    /// A new host of the lab with a daemon that is in no mesh yet.
    #[track_caller]
    pub fn new(lab: &Lab, name: &str) -> Self {
        Self::boot(lab.unpowered(name))
    }

    #[track_caller]
    fn boot(host: Host) -> Self {
        host.power_on();
        let daemon = host.daemon(&[]);
        Self { host, daemon }
    }

    #[track_caller]
    fn join(&self, token: &str) {
        self.host.shoal(&["join", "--token-file", token]).ok();
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Starts the daemon again after it ended.
    #[track_caller]
    pub fn restart_daemon(&mut self) {
        self.daemon = self.host.daemon(&[]);
    }

    /// The node's overlay addresses, IPv6 first.
    #[track_caller]
    pub fn overlay(&self) -> [String; 2] {
        let row = self.host.shoal_json(&["node", "show", self.name()]);
        ["overlay_ipv6", "overlay_ipv4"].map(|key| text(&row, key))
    }
}

/// Servers `s1`, `s2`, … and agents `a1`, `a2`, … of one mesh. `s1` made it.
pub struct Mesh {
    /// Servers first, in the order in which they joined.
    pub nodes: Vec<Node>,
}

impl Mesh {
    /// Makes a mesh and waits until every node knows of a leader and of every member.
    #[track_caller]
    pub fn new(lab: &Lab, servers: usize, agents: usize) -> Self {
        let named_s = (1..=servers).map(|number| format!("s{number}"));
        let named_a = (1..=agents).map(|number| format!("a{number}"));
        let hosts = named_s.chain(named_a).map(|name| lab.unpowered(&name));
        let nodes = together(hosts.collect(), |host| {
            let node = Node::boot(host);
            if node.name() == FOUNDER {
                node.host.shoal(&["init", "--name", "lab"]).ok();
            }
            node
        });
        let mesh = Self { nodes };
        mesh.join_servers(servers);
        mesh.join_agents(servers);
        mesh.wait_until_settled(servers);
        mesh
    }

    /// Joins the servers after the first, each once the one before it votes.
    #[track_caller]
    fn join_servers(&self, servers: usize) {
        if servers < 2 {
            return;
        }
        let token = self.token("servers.token", &["--role", "server", "--reusable"]);
        let founder = &self.node(FOUNDER).host;
        for joined in 2..=servers {
            let node = &self.nodes[joined - 1];
            node.join(&token);
            let what = format!("{} votes", node.name());
            founder.wait_for_status(SETTLE_DEADLINE, &what, |status| {
                voter_count(status) == Some(joined)
            });
        }
    }

    /// Joins all nodes after the servers.
    #[track_caller]
    fn join_agents(&self, servers: usize) {
        let agents: Vec<&Node> = self.nodes[servers..].iter().collect();
        if agents.is_empty() {
            return;
        }
        let token = self.token("agents.token", &["--role", "agent", "--reusable"]);
        together(agents, |agent| agent.join(&token));
    }

    /// Joins one more node.
    #[track_caller]
    pub fn add(&mut self, lab: &Lab, name: &str, role: &str) {
        let node = Node::new(lab, name);
        let token = self.token(&format!("{name}.token"), &["--role", role]);
        node.join(&token);
        self.nodes.push(node);
    }

    /// Has the first node make a token; returns where hosts find its file.
    #[track_caller]
    pub fn token(&self, file: &str, flags: &[&str]) -> String {
        let path = format!("/run/lab/files/{file}");
        let command: Vec<&str> = (["token", "create", "--out", &path].into_iter())
            .chain(flags.iter().copied())
            .collect();
        self.nodes[0].host.shoal(&command).ok();
        path
    }

    /// The node of that name.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        &self.nodes[self.position(name)]
    }

    /// The node of that name, to be changed.
    #[track_caller]
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        let position = self.position(name);
        &mut self.nodes[position]
    }

    #[track_caller]
    fn position(&self, name: &str) -> usize {
        (self.nodes.iter().position(|node| node.name() == name))
            .unwrap_or_else(|| panic!("the mesh has no node {name}"))
    }

    /// Who leads, as a node sees it.
    #[track_caller]
    pub fn leader_seen_by(&self, name: &str) -> String {
        let host = &self.node(name).host;
        let mut leader = None;
        host.wait_for_status(SETTLE_DEADLINE, "a leader is known", |status| {
            leader = status["leader"].as_str().map(ToOwned::to_owned);
            leader.is_some()
        });
        leader.expect("the wait ended with a leader")
    }

    /// Waits until every node sees all members, that many voters and one and the same leader.
    #[track_caller]
    pub fn wait_until_settled(&self, voters: usize) {
        let start = Instant::now();
        for node in &self.nodes {
            let left = SETTLE_DEADLINE.saturating_sub(start.elapsed());
            let what = format!("{} sees the whole mesh", node.name());
            node.host.wait_for_status(left, &what, |status| {
                status["reachable"] == self.nodes.len()
                    && voter_count(status) == Some(voters)
                    && status["leader"].is_string()
            });
        }
    }

    /// Waits until every node answers a ping of every other one, over IPv6 and IPv4.
    #[track_caller]
    pub fn wait_until_everyone_answers_everyone(&self, deadline: Duration) {
        let addresses: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node, node.overlay()))
            .collect();
        for (from, _) in &addresses {
            for (to, overlay) in &addresses {
                for address in overlay {
                    let what = format!("{} answers {} at {address}", to.name(), from.name());
                    wait_until(deadline, &what, || from.host.pings(address));
                }
            }
        }
    }
}

impl Host {
    /// Whether one ping is answered within a second.
    #[track_caller]
    pub fn pings(&self, address: &str) -> bool {
        self.run(&["ping", "-n", "-c", "1", "-W", "1", address])
            .success()
    }

    /// Those of these addresses that answer one ping within a second. All are asked at once: where none is
    /// to answer, each would take its second.
    #[track_caller]
    pub fn reached(&self, addresses: &[&str]) -> Vec<String> {
        let each = "for to; do (ping -n -c 1 -W 1 $to >/dev/null && echo $to) & done; wait";
        let command = [["bash", "-c", each, "bash"].as_slice(), addresses].concat();
        let output = self.run(&command).ok();
        output.stdout.lines().map(str::to_owned).collect()
    }

    /// The row of a node, as this host's daemon sees it.
    #[track_caller]
    pub fn node_row(&self, name: &str) -> Value {
        self.shoal_json(&["node", "show", name])
    }

    /// The row of a Docker host, if there is one.
    #[track_caller]
    pub fn docker_row(&self, name: &str) -> Option<Value> {
        let rows = self.shoal(&["docker", "ls", "--json"]).ok().json_rows();
        rows.into_iter().find(|row| row["node"] == name)
    }
}

/// How many vote, as a status says.
fn voter_count(status: &Value) -> Option<usize> {
    status["voters"].as_array().map(Vec::len)
}

/// A text field of an answer; panics when it is missing.
#[track_caller]
pub fn text(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is no text in {value}"))
        .to_owned()
}
