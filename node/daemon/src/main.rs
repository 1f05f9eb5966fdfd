//! shoald: the daemon that every node runs.
//!
//! Decides nothing: the library beside it is all of it.

fn main() -> std::process::ExitCode {
    shoald::main()
}
