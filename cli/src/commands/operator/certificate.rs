//! `shoal operator create` and `shoal operator renew`: a key made here, and a certificate for it.
//!
//! Invariant: the key never leaves the bundle's directory.

use std::path::{Path, PathBuf};

use node_api::{
    Answer, ApiError, OVERLAY_API_PORT, Route,
    types::{OperatorBundle, OperatorCertificateRequest, OperatorRequest},
};
use serde_json::json;

use super::{RoleName, bundle::Bundle};
use crate::{
    commands::status::now_ms,
    context::Context,
    failure::{Exit, Failure},
    key_request::{self, Algorithm},
    shell_word::plain_or_quoted,
    table::{countdown, names},
    values,
};

const SECONDS_PER_DAY: u64 = 86_400;
/// Further addresses that are shown; all are in the document.
const ENDPOINTS_MOST: usize = 4;

/// Let somebody operate the mesh from elsewhere
///
/// Makes a key here, has the mesh issue a certificate for it, and writes both to a directory, to
/// be given to the other machine's --tls-dir. The key is nowhere else.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// The operator's name
    #[arg(value_parser = values::name)]
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: RoleName,
    #[command(flatten)]
    certificate: Certificate,
}

/// Issue an operator another certificate, for a new key
///
/// The one at hand serves until it ends; `shoal ca revoke` ends it before.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Renew {
    /// The operator's name
    #[arg(value_parser = values::name)]
    name: String,
    #[command(flatten)]
    certificate: Certificate,
}

#[derive(Debug, clap::Args)]
struct Certificate {
    /// Days until the certificate ends, 90 at most [default: 90]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=90))]
    days: Option<u64>,
    /// Where to write key.pem, cert.pem and ca.pem: a new directory, or an empty one
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make a P-256 key, which browsers can use, instead of an Ed25519 key
    #[arg(long)]
    p256: bool,
}

impl Create {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let Self {
            name,
            role,
            certificate,
        } = self;
        let request = async |csr_pem, ttl_s| {
            let request = OperatorRequest {
                name: name.clone(),
                role: role.as_str().into(),
                csr_pem,
                ttl_s,
            };
            let route = Route::to(&["operators"]);
            context.client.post(&route, &request).await
        };
        certificate.issue(context, request).await
    }
}

impl Renew {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let Self { name, certificate } = self;
        let request = async |csr_pem, ttl_s| {
            let request = OperatorCertificateRequest { csr_pem, ttl_s };
            let route = Route::to(&["operators", &name, "certificate"]);
            context.client.post(&route, &request).await
        };
        certificate.issue(context, request).await
    }
}

impl Certificate {
    async fn issue(
        self,
        context: &Context<'_>,
        request: impl AsyncFnOnce(String, Option<u64>) -> Result<Answer<OperatorBundle>, ApiError>,
    ) -> Result<Exit, Failure> {
        let algorithm = if self.p256 {
            Algorithm::P256
        } else {
            Algorithm::Ed25519
        };
        let made = key_request::make(algorithm)?;
        // The directory comes first: a certificate whose key cannot be kept is better not issued.
        let bundle = Bundle::create(&self.out, &made.key_pem)?;
        let ttl_s = self.days.map(|days| days * SECONDS_PER_DAY);
        let issued = request(made.csr_pem, ttl_s).await?.value;
        bundle.keep(&issued.certificate_pem, &issued.ca_pem)?;
        let directory = std::path::absolute(&self.out).unwrap_or(self.out);
        if context.terminal.json() {
            context.terminal.value(&document(&issued, &directory))?;
        } else {
            let said = words(&issued, &directory, self.p256, now_ms());
            context.terminal.text(&said)?;
        }
        Ok(Exit::Done)
    }
}

fn connect_command(issued: &OperatorBundle, directory: &Path) -> String {
    let example = format!("https://[ADDRESS]:{OVERLAY_API_PORT}");
    let endpoint = issued.endpoints.first().unwrap_or(&example);
    format!(
        "shoal --tls-dir {} --connect {} status",
        plain_or_quoted(&directory.to_string_lossy()),
        plain_or_quoted(endpoint)
    )
}

fn document(issued: &OperatorBundle, directory: &Path) -> serde_json::Value {
    json!({
        "name": issued.name,
        "role": issued.role,
        "directory": directory,
        "expires_ms": issued.expires_ms,
        "endpoints": issued.endpoints,
        "connect_command": connect_command(issued, directory),
    })
}

fn words(issued: &OperatorBundle, directory: &Path, p256: bool, now_ms: u64) -> String {
    let mut text = format!(
        "{} has the role of {}. Its key and certificate are in {}; the certificate ends {}.\n\n\
         Copy that directory to a machine that reaches the mesh's addresses. There:\n  {}\n",
        issued.name,
        issued.role,
        directory.display(),
        countdown(issued.expires_ms, now_ms),
        connect_command(issued, directory),
    );
    if let Some((_, others @ [_, ..])) = issued.endpoints.split_first() {
        text += &format!("Others that answer: {}\n", names(others, ENDPOINTS_MOST));
    }
    if p256 {
        let file = |name: &str| plain_or_quoted(&directory.join(name).to_string_lossy());
        text += &format!(
            "For a browser, which must also be told to trust {}:\n  \
             openssl pkcs12 -export -inkey {} -in {} -out {}\n",
            file("ca.pem"),
            file("key.pem"),
            file("cert.pem"),
            file("browser.p12"),
        );
    }
    text + "Whoever has the directory is that operator: delete what need not stay."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(endpoints: &[&str]) -> OperatorBundle {
        OperatorBundle {
            name: "alice".into(),
            role: "viewer".into(),
            certificate_pem: String::new(),
            ca_pem: String::new(),
            expires_ms: 90 * 86_400_000,
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_new_operator_is_told_how_to_begin() {
        let issued = issued(&["https://[fd00::1]:7443", "https://[fd00::2]:7443"]);
        insta::assert_snapshot!(words(&issued, "/srv/x/alice".as_ref(), false, 0), @r"
        alice has the role of viewer. Its key and certificate are in /srv/x/alice; the certificate ends in 90d 0h.

        Copy that directory to a machine that reaches the mesh's addresses. There:
          shoal --tls-dir /srv/x/alice --connect 'https://[fd00::1]:7443' status
        Others that answer: https://[fd00::2]:7443
        Whoever has the directory is that operator: delete what need not stay.
        ");
    }

    #[test]
    fn a_browser_needs_one_file_more() {
        insta::assert_snapshot!(words(&issued(&[]), "/srv/x y".as_ref(), true, 60_000), @r"
        alice has the role of viewer. Its key and certificate are in /srv/x y; the certificate ends in 89d 23h.

        Copy that directory to a machine that reaches the mesh's addresses. There:
          shoal --tls-dir '/srv/x y' --connect 'https://[ADDRESS]:7443' status
        For a browser, which must also be told to trust '/srv/x y/ca.pem':
          openssl pkcs12 -export -inkey '/srv/x y/key.pem' -in '/srv/x y/cert.pem' -out '/srv/x y/browser.p12'
        Whoever has the directory is that operator: delete what need not stay.
        ");
    }

    #[test]
    fn the_document_names_files_and_holds_no_key() {
        let document = document(&issued(&["https://[fd00::1]:7443"]), "/a".as_ref());
        assert_eq!(
            document["connect_command"],
            "shoal --tls-dir /a --connect 'https://[fd00::1]:7443' status"
        );
        assert_eq!(document["directory"], "/a");
    }
}
