//! The userspace device as a program of its own: `shoal-wireguard-device --interface NAME --pidfile
//! PATH`.
//!
//! Decides nothing; [`overlay_wireguard::run_device`] is the device. It exists for memory only: of
//! the daemon's program, a device process maps ten megabytes that it does not need.
//!
//! The two arguments, in this order, are those of `shoald wireguard-device`; nobody types them.

use std::{ffi::OsStr, path::PathBuf, process::ExitCode};

use overlay_wireguard::{DeviceSettings, run_device};

/// As sysexits.h has it: called in a way that makes no sense.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    let [interface_flag, interface, pidfile_flag, pidfile] = words[..] else {
        return ExitCode::from(EXIT_USAGE);
    };
    let (true, true, Some(interface)) = (
        interface_flag == "--interface",
        pidfile_flag == "--pidfile",
        interface.to_str(),
    ) else {
        return ExitCode::from(EXIT_USAGE);
    };
    let settings = DeviceSettings {
        interface: interface.to_owned(),
        pidfile: PathBuf::from(pidfile),
    };
    match run_device(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.exit_status()),
    }
}
