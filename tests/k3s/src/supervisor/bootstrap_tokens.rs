//! `k3s token`: bootstrap tokens, with which agents join for a while.
//!
//! Follows `docs/cli/token.md` of K3s: a token is a secret of `kube-system` named after its id.
//! `rotate` is K3s's too, and is refused here.

use std::{io::Write, path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use super::bootstrap;
use crate::{
    Fatal,
    cli::{flags::Flags, settings, token},
    clock, files,
    files::Layout,
    pki::Pair,
    wire::{
        client::{Answer, Call, Client},
        tls,
    },
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECRETS: &str = "https://127.0.0.1:6443/api/v1/namespaces/kube-system/secrets";

fn random() -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let draw = |count: usize| -> String {
        let picks = (0..count).map(|_| letters[rand::random_range(0..letters.len())]);
        picks.map(char::from).collect()
    };
    format!("{}.{}", draw(6), draw(16))
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Runs one of the commands.
pub(crate) async fn run(command: &str, flags: &Flags) -> Result<(), Fatal> {
    let layout = Layout::new(&settings::data_dir(flags));
    match command {
        "generate" => say(&random()),
        "create" => create(&layout, flags).await?,
        "delete" => {
            for argument in &flags.arguments {
                let id = argument.split('.').next().unwrap_or_default();
                let path = format!("{SECRETS}/bootstrap-token-{id}");
                ask(&layout, Method::DELETE, &path, &Value::Null).await?;
                say(&format!("bootstrap token \"{id}\" deleted"));
            }
        }
        "list" => {
            let path = format!("{SECRETS}?fieldSelector=type%3Dbootstrap.kubernetes.io/token");
            let found = ask(&layout, Method::GET, &path, &Value::Null).await?;
            say("TOKEN TTL EXPIRES DESCRIPTION");
            for secret in found["items"].as_array().into_iter().flatten() {
                let until = decoded(secret, "expiration");
                let left =
                    clock::parse(&until).map(|until| until.saturating_sub(clock::unix_seconds()));
                let left = left.map_or("<forever>".to_owned(), |left| format!("{left}s"));
                let (id, words) = (decoded(secret, "token-id"), decoded(secret, "description"));
                say(&format!("{id} {left} {until} {words}"));
            }
        }
        other => {
            return Err(Fatal::new(format!(
                "k3s token {other} is no command of K3s, or one that this stand-in does not have"
            )));
        }
    }
    Ok(())
}

async fn create(layout: &Layout, flags: &Flags) -> Result<(), Fatal> {
    let text = flags.arguments.first().cloned().unwrap_or_else(random);
    if !token::is_bootstrap(&text) {
        return Err(Fatal::new(format!(
            "the bootstrap token \"{text}\" was not of the form \"\\A([a-z0-9]{{6}})\\.([a-z0-9]{{16}})\\z\""
        )));
    }
    let (id, secret) = text.split_once('.').unwrap_or_default();
    let ttl = settings::duration(flags.text("ttl").filter(|ttl| *ttl != "0"), DAY)?;
    let mut data = json!({
        "token-id": id,
        "token-secret": secret,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:k3s:default-node-token",
        "description": flags.text("description").unwrap_or_default(),
    });
    if flags.text("ttl") != Some("0") {
        data["expiration"] = json!(clock::rfc3339(clock::unix_seconds() + ttl.as_secs()));
    }
    let object = json!({
        "kind": "Secret",
        "apiVersion": "v1",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "stringData": data,
    });
    ask(layout, Method::POST, SECRETS, &object).await?;
    let ca = files::read(&layout.tls("server-ca.crt"))?;
    say(&token::full_bootstrap(&ca, &text));
    Ok(())
}

async fn ask(layout: &Layout, method: Method, url: &str, body: &Value) -> Result<Value, Fatal> {
    let read = |name: &str| files::read(Path::new(&layout.tls(name)));
    let pair = Pair {
        cert: read("client-admin.crt")?,
        key: read("client-admin.key")?,
    };
    let tls = tls::client(&read("server-ca.crt")?, Some(&pair))?;
    let client = Client::new(tls, None, bootstrap::DEADLINE);
    let body = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let call = Call {
        method,
        url,
        headers: &[],
        body,
    };
    let answer: Answer = client
        .call(call)
        .await
        .map_err(|error| Fatal::new(error.to_string()))?;
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.ok() {
        return Ok(said);
    }
    Err(Fatal::new(
        said["message"].as_str().unwrap_or("no answer").to_owned(),
    ))
}

fn decoded(secret: &Value, field: &str) -> String {
    let encoded = secret["data"][field].as_str().unwrap_or_default();
    String::from_utf8(STANDARD.decode(encoded).unwrap_or_default()).unwrap_or_default()
}
