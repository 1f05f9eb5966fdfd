//! Decoders of what engines, host programs and files say, for the fuzz targets alone.
//!
//! Decides nothing and is no part of the interface.

use bollard::models;
use runtimes_core::docker::ConfigFiles;
use runtimes_host::{exec, files, journal, process, units};

use crate::{
    ContainerSummary, EngineInfo, ImageSummary, PullProgress, host::shape, log_tail, readiness,
    validate,
};

/// A listing of containers.
pub fn containers(json: &[u8]) -> serde_json::Result<Vec<ContainerSummary>> {
    let listed: Vec<models::ContainerSummary> = serde_json::from_slice(json)?;
    Ok(listed.into_iter().map(Into::into).collect())
}

/// A listing of images.
pub fn images(json: &[u8]) -> serde_json::Result<Vec<ImageSummary>> {
    let listed: Vec<models::ImageSummary> = serde_json::from_slice(json)?;
    Ok(listed.into_iter().map(Into::into).collect())
}

/// A sign of life of a pull.
pub fn pull_progress(json: &[u8]) -> serde_json::Result<PullProgress> {
    serde_json::from_slice::<models::CreateImageInfo>(json).map(Into::into)
}

/// What an engine says about itself, and the API version that is spoken with it.
pub fn engine(json: &[u8]) -> serde_json::Result<(EngineInfo, (usize, usize))> {
    let info: EngineInfo = serde_json::from_slice(json)?;
    let spoken = shape::api_version(&info.api_version);
    Ok((info, (spoken.major_version, spoken.minor_version)))
}

/// An image with its tag, and that in two parts.
pub fn image_reference(image: &str) -> (String, String, String) {
    let whole = shape::with_tag(image);
    let (repository, tag) = shape::split_tag(&whole);
    (whole.clone(), repository.to_owned(), tag.to_owned())
}

/// The line that tells why dockerd ended, and the code of that end.
pub fn end_reason(said: &str) -> (String, &'static str) {
    (log_tail::reason(said), readiness::why(said).code())
}

/// Whether dockerd complains in a log.
pub fn complains(said: &str) -> bool {
    log_tail::complains(said)
}

/// What dockerd has against a configuration.
pub fn refused_configuration(tail: &str) -> String {
    validate::refused(tail).to_string()
}

/// The cursor that journalctl shows.
pub fn journal_cursor(shown: &str) -> Option<String> {
    journal::cursor(shown)
}

/// The unit's main process, as systemctl shows it.
pub fn main_pid(shown: &str) -> Option<u32> {
    units::main_pid(shown)
}

/// The last bytes of a text.
pub fn last_bytes(text: &str, bytes: usize) -> &str {
    exec::last_bytes(text, bytes)
}

/// The record of the process that shoal started, written again.
pub fn process_record(json: &str) -> serde_json::Result<String> {
    serde_json::to_string(&serde_json::from_str::<process::Record<ConfigFiles>>(json)?)
}

/// The list of files that shoal wrote, written again.
pub fn manifest(json: &str) -> serde_json::Result<String> {
    serde_json::to_string(&serde_json::from_str::<files::Manifest>(json)?)
}
