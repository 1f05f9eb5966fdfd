//! The demo: four machines become a mesh, one of them a Docker host, and the leader is killed. Then,
//! if a K3s was given, they become a cluster, which loses the server that answers for it.
//!
//! Everything is real but the machines, which are namespaces of this one. `KEEP=1` leaves them
//! up, `K3S=/path` names a K3s. With `SHOAL_DEMO_NO_DOCKER` set, for users without root, the parts
//! with Docker and K3s are left out.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program is for the eyes of a person"
)]

#[path = "demo/clusters.rs"]
mod clusters;

use std::{
    env, panic,
    time::{Duration, Instant},
};

use serde_json::Value;
use shoal_tests::{Host, IMAGE, Lab, Node, PAGE, image_tar, text, wait_until};

/// Nothing in the demo takes this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);
/// Where hosts find the image.
const TAR: &str = "/run/lab/files/image.tar";

fn main() {
    panic::set_hook(Box::new(|told| {
        let reason = told.payload_as_str().unwrap_or("it was cut short");
        eprintln!("\nError: the demo failed: {reason}");
    }));
    let flag = |name| env::var(name).is_ok_and(|value| !value.is_empty() && value != "0");
    let (keep, docker) = (flag("KEEP"), !flag("SHOAL_DEMO_NO_DOCKER"));
    // One that is not there is said before anything is built up.
    let k3s = clusters::given();
    let lab = if keep {
        Lab::kept("demo")
    } else {
        Lab::new("demo")
    };
    let mut demo = Demo::new(lab);
    demo.form_a_mesh();
    demo.measure_the_overlay();
    if docker {
        demo.make_a_docker_host();
        demo.serve_a_page("web", 8080);
        demo.show_that_outsiders_are_refused();
    }
    demo.kill_the_leader();
    if docker {
        demo.serve_a_page("web2", 8081);
    }
    demo.bring_the_dead_server_back();
    match k3s {
        Some(binary) if docker => {
            demo.make_a_cluster(&binary);
            demo.take_the_apis_holder_away();
        }
        Some(_) => clusters::say_how_to_get_one("K3s cannot run without root"),
        None => clusters::say_how_to_get_one("no K3s was given"),
    }
    demo.print_timeline();
    if keep {
        demo.say_how_to_use_it(docker);
    } else {
        drop(demo);
        println!("\nAll of it is gone again. `make demo KEEP=1` leaves it up.");
    }
}

/// What has been built so far. Drops the lab last.
struct Demo {
    start: Instant,
    timeline: Vec<(Duration, String)>,
    nodes: Vec<Node>,
    outside: Host,
    dead: Option<String>,
    lab: Lab,
}

impl Demo {
    fn new(lab: Lab) -> Self {
        let start = Instant::now();
        heading("Four machines, and one that will stay outside");
        let nodes: Vec<Node> = ["s1", "s2", "s3", "a1"]
            .iter()
            .map(|name| Node::new(&lab, name))
            .collect();
        let outside = lab.outside();
        for host in nodes.iter().map(|node| &node.host).chain([&outside]) {
            println!("  {:8} {}", host.name(), host.ipv4());
        }
        let mut demo = Self {
            start,
            timeline: Vec::new(),
            nodes,
            outside,
            dead: None,
            lab,
        };
        demo.done("four machines run shoald");
        demo
    }

    fn form_a_mesh(&mut self) {
        heading("They become a mesh");
        self.shoal("s1", &["init", "--name", "demo"]);
        for (name, role) in [("s2", "server"), ("s3", "server"), ("a1", "agent")] {
            let file = format!("/run/lab/files/{name}.token");
            self.shoal("s1", &["token", "create", "--role", role, "--out", &file]);
            let begin = Instant::now();
            self.shoal(name, &["join", "--token-file", &file]);
            let ipv6 = text(&self.node("s1").host.node_row(name), "overlay_ipv6");
            let from = self.node("s1").host.clone();
            wait_until(DEADLINE, "the first ping is answered", || from.pings(&ipv6));
            let took = begin.elapsed();
            self.done(&format!(
                "{name} joined; first overlay ping answered {} after `join`",
                seconds(took)
            ));
        }
        let host = &self.node("a1").host;
        host.wait_for_status(DEADLINE, "there are three voters", |status| {
            status["voters"].as_array().map(Vec::len) == Some(3) && status["reachable"] == 4
        });
        self.show("a1", &["node", "ls"]);
    }

    fn measure_the_overlay(&mut self) {
        heading("Everyone reaches everyone over WireGuard");
        let mut pairs = 0;
        for from in &self.nodes {
            for to in &self.nodes {
                let row = from.host.node_row(to.name());
                for key in ["overlay_ipv6", "overlay_ipv4"] {
                    let address = text(&row, key);
                    wait_until(DEADLINE, "the ping is answered", || {
                        from.host.pings(&address)
                    });
                    pairs += 1;
                }
            }
        }
        self.done(&format!("{pairs} pings answered, over IPv6 and IPv4"));
    }

    fn make_a_docker_host(&mut self) {
        heading("a1 becomes a Docker host");
        let begin = Instant::now();
        self.shoal("s1", &["module", "assign", "a1", "docker-engine"]);
        let watcher = self.node("s2").host.clone();
        wait_until(DEADLINE, "the Docker host is connected", || {
            watcher
                .docker_row("a1")
                .is_some_and(|row| row["status"] == "connected")
        });
        let took = begin.elapsed();
        let command = ["events", "--kind-prefix", "system.docker.", "--json"];
        for event in watcher.shoal(&command).ok().json_rows() {
            println!("  {}  {}", clock_of(&event), text(&event, "kind"));
        }
        self.show("s2", &["docker", "ls"]);
        self.done(&format!(
            "a1 is a Docker host, {} after `module assign`",
            seconds(took)
        ));
        image_tar(&self.lab.files().join("image.tar"));
        self.shoal(
            "s2",
            &["docker", "import", "a1", "--file", TAR, "--tag", IMAGE],
        );
    }

    fn serve_a_page(&mut self, name: &str, port: u16) {
        heading("A container serves a page, on the overlay");
        let from = self.a_living_server();
        let ports = format!("{port}:80");
        let begin = Instant::now();
        let run = ["docker", "run", "a1", IMAGE, "--name", name, "-p", &ports];
        let command = ["--", "httpd", "-f", "-p", "80", "-h", "/www"];
        self.shoal(&from, &[run.as_slice(), command.as_slice()].concat());
        let url = format!("http://[{}]:{port}/", self.overlay("a1"));
        let host = self.node(&from).host.clone();
        wait_until(DEADLINE, "the page is there", || {
            fetch(&host, &url) == Some(PAGE.to_owned())
        });
        println!("  {from}$ curl {url}\n    {}", PAGE.trim_end());
        self.done(&format!(
            "{name} runs and its page is fetched from {from}, {} after `docker run`",
            seconds(begin.elapsed())
        ));
    }

    fn show_that_outsiders_are_refused(&mut self) {
        heading("The same address, from outside of the mesh");
        let ipv6 = self.overlay("a1");
        let gateway = self.node("a1").host.ipv6();
        // The hardest case: the outsider sits on the same wire and knows the way.
        let route = format!("ip route add {ipv6} via {gateway}");
        println!("  outside$ {route}");
        self.outside.sh(&route).ok();
        for url in [
            format!("http://[{ipv6}]:8080/"),
            format!("http://[{gateway}]:8080/"),
            format!("https://[{ipv6}]:2376/version"),
        ] {
            let output = (self.outside).run(&["curl", "-sSk", "--max-time", "2", &url]);
            assert!(!output.success(), "an outsider was let in: {output}");
            println!("  outside$ curl {url}\n    {}", output.stderr.trim());
        }
        self.done("an outsider is refused the page and dockerd, even with a route");
    }

    fn kill_the_leader(&mut self) {
        heading("The leader is killed");
        let status = self.node("a1").host.shoal_json(&["status"]);
        let leader = text(&status, "leader");
        let begin = Instant::now();
        println!(
            "  {leader}$ kill -9 {}",
            self.node(&leader).daemon.process().pid()
        );
        self.node(&leader).daemon.kill9();
        let agent = self.node("a1").host.clone();
        wait_until(DEADLINE, "a command is carried out", || {
            let output = agent.shoal(&["node", "label", "a1", "after=kill", "--json"]);
            output.success()
        });
        let took = begin.elapsed();
        let status = agent.shoal_json(&["status"]);
        self.done(&format!(
            "{leader} is dead, {} leads; a1's next command was carried out {} after the kill",
            text(&status, "leader"),
            seconds(took)
        ));
        self.dead = Some(leader);
    }

    fn bring_the_dead_server_back(&mut self) {
        let Some(name) = self.dead.take() else {
            return;
        };
        heading("The dead server returns");
        let node = (self.nodes.iter_mut().find(|node| node.name() == name)).expect("it is ours");
        node.restart_daemon();
        let host = node.host.clone();
        host.wait_for_status(DEADLINE, "it has what was decided without it", |status| {
            status["leader"].is_string() && status["reachable"] == 4
        });
        wait_until(DEADLINE, "it has what was decided without it", || {
            host.node_row("a1")["labels"]["after"] == "kill"
        });
        self.show(&name, &["status"]);
        self.done(&format!("{name} is back and up to date"));
    }

    fn print_timeline(&self) {
        heading("Timeline");
        for (at, what) in &self.timeline {
            println!("  {:>8}  {what}", seconds(*at));
        }
    }

    fn say_how_to_use_it(&self, docker: bool) {
        let user = if docker {
            ""
        } else {
            " --user --preserve-credentials"
        };
        heading("It is still up");
        println!("On any of the machines, for example:");
        for node in &self.nodes {
            let enter = node.host.enter_command();
            let enter = enter.replacen(" --net", &format!("{user} --net"), 1);
            println!("\n  # {}\n  {enter} shoal status", node.name());
        }
        if docker {
            println!("\nOr, once inside with `bash` instead of `shoal status`:");
            println!("  shoal docker ps a1");
            println!("  eval \"$(shoal docker env a1)\" && docker ps");
        }
        println!("\nLogs: {}/*/shoald.log", self.lab.dir().display());
        println!("\nEnd it with:\n  {}", self.lab.teardown_command());
    }

    /// Runs a command and shows only that it was given.
    fn shoal(&self, node: &str, args: &[&str]) {
        println!("  {node}$ shoal {}", args.join(" "));
        self.node(node).host.shoal(args).ok();
    }

    /// Runs a command and shows its answer too.
    fn show(&self, node: &str, args: &[&str]) {
        println!("  {node}$ shoal {}", args.join(" "));
        for line in self.node(node).host.shoal(args).ok().stdout.lines() {
            println!("    {line}");
        }
    }

    fn done(&mut self, what: &str) {
        println!("  => {what}");
        self.timeline.push((self.start.elapsed(), what.to_owned()));
    }

    fn node(&self, name: &str) -> &Node {
        (self.nodes.iter().find(|node| node.name() == name)).expect("the demo knows its nodes")
    }

    fn a_living_server(&self) -> String {
        let living = ["s2", "s3"]
            .into_iter()
            .find(|name| self.dead.as_deref() != Some(name));
        living.expect("only one server is ever dead").to_owned()
    }

    fn overlay(&self, name: &str) -> String {
        text(&self.node("a1").host.node_row(name), "overlay_ipv6")
    }
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}

/// The time of day of an event, to the millisecond.
fn clock_of(event: &Value) -> String {
    let time = text(event, "time");
    let clock = time
        .split_once('T')
        .map_or(time.as_str(), |(_, clock)| clock);
    clock.trim_end_matches('Z').to_owned()
}

fn fetch(host: &Host, url: &str) -> Option<String> {
    let output = host.run(&["curl", "-sS", "--max-time", "2", url]);
    output.success().then_some(output.stdout)
}
