//! Logs on standard error: lines for people or JSON for programs.

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

use crate::config::LogFormat;

/// Starts logging. Called once.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<(), ParseError> {
    // Libraries tell their inner life at info; the daemon's own events are what an operator reads.
    let quiet = [
        "openraft=warn",
        "libp2p_swarm=warn",
        "libp2p_quic=warn",
        "gotatun=warn",
    ];
    let filter = if level.contains('=') || level.contains(',') {
        EnvFilter::try_new(level)?
    } else {
        EnvFilter::try_new(format!("{level},{}", quiet.join(",")))?
    };
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
