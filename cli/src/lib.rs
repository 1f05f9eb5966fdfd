//! `shoal`: the operator's command line.
//!
//! Decides: how commands are written and how answers are shown. Never: what a command does; that
//! is the daemon's. Invariants: secrets are never arguments; standard output carries answers and
//! standard error everything else, except that with `--json` errors are documents on standard
//! output too. Nothing here is an interface: it is a library so that its decoders can be reached by
//! the fuzz targets.

mod backup_file;
mod cli;
mod commands;
mod consent;
mod context;
mod endpoint;
mod enforcement;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod identity_file;
mod key_request;
mod looking_on;
mod progress;
mod secret_file;
mod shell_word;
mod table;
mod terminal;
mod values;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use cli::{Cli, Command};
use context::Context;
use failure::{Exit, Failure};
use terminal::Terminal;

/// The program: takes its arguments and gives its exit status.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let (args, daemon_args) = commands::run::split_off(args);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(&error, &args).into(),
    };
    let terminal = Terminal::new(cli.global.json);
    let done = if let Command::Run(_) = &cli.command {
        Err(commands::run::exec(&daemon_args.unwrap_or_default()).into())
    } else if let Command::Sim(sim) = &cli.command {
        sim.run(&terminal)
    } else {
        ask(cli, &terminal)
    };
    let exit = done.unwrap_or_else(|failure| match failure {
        Failure::OutputClosed => Exit::Done,
        Failure::Refused(error) => {
            terminal.failure(&error);
            failure::exit_of(&error)
        }
    });
    exit.into()
}

fn ask(cli: Cli, terminal: &Terminal) -> Result<Exit, Failure> {
    let context = Context::new(&cli.global, terminal)?;
    // One connection and nothing else to do: one thread is enough.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::no_runtime(&error))?;
    let done = runtime.block_on(commands::run_command(cli.command, &context));
    // A refused upload leaves a read of standard input behind, which is not waited for.
    runtime.shutdown_background();
    done
}
