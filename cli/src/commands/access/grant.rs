//! `shoal access grant`: a device's place, and the configuration that it is given once.
//!
//! Invariants: a private key is made here, never sent, and kept nowhere but in the file that was
//! asked for; that file's place is taken before the mesh is asked.

use std::path::PathBuf;

use node_api::{
    Answer, Route,
    types::{AccessGrantDetails, AccessGrantRequest},
};
use serde_json::json;

use super::{configuration, key::DeviceKey};
use crate::{
    context::Context,
    failure::{Exit, Explained, Failure},
    secret_file::SecretFile,
    values,
};

/// Let a device into a network with plain WireGuard
///
/// Makes a key here unless --public-key gives one, and prints the device's configuration: the only
/// time that the key is shown. The mesh never has it.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Grant {
    /// Its name
    #[arg(value_parser = values::name)]
    name: String,
    /// The network's name
    #[arg(long, value_name = "NETWORK", default_value = "default", value_parser = values::name)]
    network: String,
    /// The device's WireGuard public key, whose private half stays there
    #[arg(long, value_name = "KEY", value_parser = values::wireguard_key)]
    public_key: Option<String>,
    /// The node that forwards for the device [default: a hub or server that can be reached]
    #[arg(long, value_name = "NODE", value_parser = values::name)]
    via: Option<String>,
    /// Where the device reaches that node, if not where the mesh does
    #[arg(long, value_name = "HOST:PORT", value_parser = values::endpoint)]
    endpoint: Option<String>,
    /// How long it is good for, such as 30d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    ttl: Option<std::time::Duration>,
    /// Write the configuration to a new file, readable by its owner only, instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the configuration as a QR code, for WireGuard's apps
    #[arg(long, conflicts_with = "public_key")]
    qr: bool,
}

/// There is a grant, and its configuration could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the configuration of {name} could not be written, and its key is lost")]
struct UnwrittenError {
    name: String,
    source: std::io::Error,
}

impl Explained for UnwrittenError {
    fn code(&self) -> &'static str {
        "FileWriteError"
    }

    fn hint(&self) -> String {
        let name = &self.name;
        format!("`shoal access revoke {name}`, and make it again with --out in another place")
    }
}

impl Grant {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let file = self.out.as_deref().map(SecretFile::create).transpose()?;
        let key = self.public_key.is_none().then(DeviceKey::generate);
        let public_key = key.as_ref().map(DeviceKey::public);
        let request = AccessGrantRequest {
            name: self.name.clone(),
            network: self.network.clone(),
            public_key: public_key.or(self.public_key.clone()).unwrap_or_default(),
            gateway: self.via.clone(),
            ttl_s: self.ttl.map(|ttl| ttl.as_secs()),
        };
        let route = Route::to(&["access-grants"]);
        let answer: Answer<AccessGrantDetails> = context.client.post(&route, &request).await?;
        let private = key.as_ref().map(DeviceKey::private);
        let details = &answer.value;
        let text = configuration::text(details, private.as_deref(), self.endpoint.as_deref())
            .unwrap_or_default();
        if let Some(file) = file {
            file.keep(&text).map_err(|source| UnwrittenError {
                name: self.name.clone(),
                source,
            })?;
        }
        self.say(context, details, &text)
    }

    /// What was made; the configuration where it went into no file.
    fn say(
        &self,
        context: &Context<'_>,
        details: &AccessGrantDetails,
        text: &str,
    ) -> Result<Exit, Failure> {
        let terminal = context.terminal;
        let path = self.out.as_ref().map(|path| path.display().to_string());
        if terminal.json() {
            let mut document = json!(details);
            let (name, value) = match path {
                Some(path) => ("path", path),
                None => ("configuration", text.to_owned()),
            };
            document[name] = value.into();
            terminal.value(&document)?;
            return Ok(Exit::Done);
        }
        if self.qr {
            terminal.text(&configuration::qr_code(text)?)?;
        }
        let gateway = &details.grant.gateway;
        match path {
            Some(path) => terminal.text(&format!(
                "{} is let in by way of {gateway}; its configuration is in {path}, and nowhere else",
                self.name
            ))?,
            None if self.qr => {}
            None => terminal.text(text)?,
        }
        terminal.warnings(&details.warnings)?;
        Ok(Exit::Done)
    }
}
