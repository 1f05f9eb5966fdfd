//! The command line: what may be written after `shoal`.
//!
//! Decides: which arguments are a command. Arguments of a command live beside it in
//! [`commands`](crate::commands).

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, error::ErrorKind};
use node_api::ApiError;

use crate::{
    commands::{
        access, backup, ca, cluster, docker, events, init, join, k3s, module, network, node,
        operator, recover, run, sim, status, token, vip,
    },
    failure::{self, Exit},
    terminal::Terminal,
};

const AFTER_HELP: &str = "\
The daemon is found by --connect, else by SHOAL_SOCKET (a path or a unix:// URL), else at
/run/shoal/shoald.sock.

Exit codes: 0 done; 1 refused or failed; 2 the command line is wrong; 3 no daemon can be reached.
Errors go to standard error. With --json they are documents with code, message and hint on
standard output, as answers are.";

/// Turn machines into a mesh of Docker hosts, with no central server
#[derive(Debug, Parser)]
#[command(name = "shoal", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The daemon to ask: unix:///PATH or https://[ADDRESS]:PORT
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub(crate) connect: Option<String>,
    /// Answer with one JSON document; streams with one a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Read what the daemon knows at once, without asking the others whether it is the latest
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) stale: bool,
    /// Where ca.pem, cert.pem and key.pem for https are
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SHOAL_TLS_DIR",
        hide_env_values = true,
        default_value = "/var/lib/shoal/tls",
        help_heading = "Global options"
    )]
    pub(crate) tls_dir: PathBuf,
}

/// The nouns and verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Init),
    Join(join::Join),
    #[command(subcommand)]
    Token(token::Token),
    Status(status::Status),
    #[command(subcommand)]
    Node(node::Node),
    #[command(subcommand)]
    Network(network::Network),
    #[command(subcommand)]
    Vip(vip::Vip),
    #[command(subcommand)]
    Access(access::Access),
    #[command(subcommand)]
    Module(module::Module),
    #[command(subcommand)]
    Docker(docker::Docker),
    #[command(subcommand)]
    K3s(k3s::K3s),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    Events(events::Events),
    #[command(subcommand)]
    Ca(ca::Ca),
    #[command(subcommand)]
    Operator(operator::Operator),
    #[command(subcommand)]
    Backup(backup::Backup),
    Recover(recover::Recover),
    #[command(subcommand)]
    Sim(sim::Sim),
    Run(run::Run),
}

/// Says why the arguments are no command, or shows the help that was asked for.
pub(crate) fn refuse(error: &clap::Error, args: &[OsString]) -> Exit {
    let asked_for = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if !asked_for && wants_json(args) {
        let refusal = usage_error(error);
        Terminal::new(true).failure(&refusal);
        return failure::exit_of(&refusal);
    }
    // A closed pipe is no reason to complain about.
    drop(error.print());
    if asked_for { Exit::Done } else { Exit::Usage }
}

fn wants_json(args: &[OsString]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json")
}

fn usage_error(error: &clap::Error) -> ApiError {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // What follows are the usage and the reference to --help, which the hint replaces.
    let end = ["\n\nUsage:", "\n\nFor more"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .unwrap_or(text.len());
    let message: Vec<&str> = text[..end].split_whitespace().collect();
    failure::usage(message.join(" "), "see the command's --help")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use clap::CommandFactory;

    use super::*;

    fn describe(into: &mut String, path: &str, command: &mut clap::Command) {
        let help = command.render_long_help().to_string();
        // Global options are the same everywhere; they stand under the program's name.
        let help = match help.split_once("\n\nGlobal options:") {
            Some((own, _)) if path.contains(' ') => own.to_owned(),
            _ => help,
        };
        let rule = "=".repeat(path.len());
        writeln!(into, "{path}\n{rule}\n\n{}\n", help.trim_end()).unwrap();
        for sub in command.get_subcommands_mut() {
            let path = format!("{path} {}", sub.get_name());
            describe(into, &path, sub);
        }
    }

    #[test]
    fn the_whole_reference_is_as_reviewed() {
        let mut command = Cli::command();
        command.build();
        let mut reference = String::new();
        describe(&mut reference, "shoal", &mut command);
        insta::assert_snapshot!(reference);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn refusal(args: &[&str]) -> ApiError {
        usage_error(&Cli::try_parse_from(args).unwrap_err())
    }

    #[test]
    fn a_usage_error_is_one_sentence_with_a_stable_code() {
        let error = refusal(&["shoal", "node", "show"]);
        assert_eq!(error.code, "UsageError");
        assert_eq!(
            error.message,
            "the following required arguments were not provided: <NODE>"
        );
        let error = refusal(&["shoal", "noed"]);
        assert!(error.message.starts_with("unrecognized subcommand 'noed'"));
        assert!(!error.message.contains("Usage"), "{}", error.message);
    }

    #[test]
    fn json_after_two_dashes_is_the_containers() {
        let words = |text: &str| -> Vec<OsString> { text.split(' ').map(Into::into).collect() };
        assert!(wants_json(&words("shoal docker run --json")));
        assert!(!wants_json(&words("shoal docker run n i -- cat --json")));
    }

    #[test]
    fn a_module_goes_to_a_node_or_to_a_selector() {
        for good in [
            "shoal module assign n1 docker-engine",
            "shoal module assign --selector zone=a,disk=ssd docker-engine",
            "shoal module unassign docker-engine --selector zone=a",
        ] {
            assert!(Cli::try_parse_from(good.split(' ')).is_ok(), "{good}");
        }
        for bad in [
            "shoal module assign docker-engine",
            "shoal module assign",
            "shoal module assign --selector zone docker-engine",
            "shoal module assign n1 docker-engine --selector zone=a",
        ] {
            assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_of_docker_run_end_at_two_dashes() {
        let line = "shoal docker run n1 web -p 80:8080 -e A=b --name w -- httpd -f -p 8080 --json";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(!cli.global.json);
        let Command::Docker(docker::Docker::Run(run)) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(run.command, ["httpd", "-f", "-p", "8080", "--json"]);
        assert_eq!(run.publish, ["80:8080"]);
    }
}
