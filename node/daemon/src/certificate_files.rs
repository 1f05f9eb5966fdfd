//! The node's certificates as files, for clients on the same machine (`shoal --connect https://…`).

use std::{io, path::Path};

use overlay_net::NodeKey;

use crate::data_dir::replace_file;

/// A DER block as PEM (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Writes `ca.pem`, `cert.pem` and `key.pem`, all readable by root only.
pub(crate) fn write_client_files(
    dir: &Path,
    root: &[u8],
    leaf: &[u8],
    key: &NodeKey,
) -> io::Result<()> {
    replace_file(&dir.join("ca.pem"), pem("CERTIFICATE", root).as_bytes())?;
    replace_file(&dir.join("cert.pem"), pem("CERTIFICATE", leaf).as_bytes())?;
    let key = zeroize::Zeroizing::new(pem("PRIVATE KEY", &key.pkcs8_der()));
    replace_file(&dir.join("key.pem"), key.as_bytes())
}
