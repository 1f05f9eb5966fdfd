//! `shoal`: the operator's command line.
//!
//! Decides nothing: the library beside it is all of it.

fn main() -> std::process::ExitCode {
    shoal::main()
}
