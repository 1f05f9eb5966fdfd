//! Which K3s may be asked for.
//!
//! Decides what a path, an address and a version look like. Whether there is one is found out on the
//! node.

use super::invalid;
use crate::{
    BinaryOrigin, K3sBinary, Refusal,
    limits::{TEXT_BYTES_MAX, URL_BYTES_MAX},
};

pub(super) fn check(binary: &K3sBinary) -> Result<(), Refusal> {
    match &binary.origin {
        Some(BinaryOrigin::Path(path)) => check_path("path of the K3s binary", path)?,
        Some(BinaryOrigin::Url { url, .. }) => {
            check_userinfo(url)?;
            let scheme = ["http://", "https://"];
            let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
            let good = scheme.iter().any(|scheme| url.starts_with(scheme)) && plain;
            if !good || url.len() > URL_BYTES_MAX {
                let rule = "http://… or https://… of at most 1024 visible ASCII characters";
                return Err(invalid("address of the K3s binary", url, rule));
            }
        }
        None => {}
    }
    if let Some(images) = &binary.images {
        check_path("directory of images", images)?;
    }
    let version = |version: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+');
        version.len() <= TEXT_BYTES_MAX && version.starts_with('v') && version.bytes().all(plain)
    };
    match &binary.version {
        Some(text) if !version(text) => {
            let rule = "as `k3s --version` says it, such as v1.31.2+k3s1";
            Err(invalid("K3s version", text, rule))
        }
        Some(_) | None => Ok(()),
    }
}

/// What is agreed every node knows and every viewer may read: no place for a password.
fn check_userinfo(url: &str) -> Result<(), Refusal> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Ok(());
    };
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some(at) = rest[..host].rfind('@') else {
        return Ok(());
    };
    let without = format!("{scheme}://…{}", &rest[at..]);
    let rule =
        "without a name and a password: a server that anybody may ask, as the sum is checked";
    Err(invalid("address of the K3s binary", &without, rule))
}

fn check_path(what: &str, path: &str) -> Result<(), Refusal> {
    let plain = !path.chars().any(char::is_control);
    if path.starts_with('/') && path.len() <= TEXT_BYTES_MAX && plain {
        return Ok(());
    }
    Err(invalid(what, path, "an absolute path of at most 256 bytes"))
}
