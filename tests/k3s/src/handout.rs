//! The files by which a running server is used: join tokens and the administrator's kubeconfig.
//!
//! Follows `pkg/server/server.go` of K3s in names, forms and permissions.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    Fatal,
    apiserver::identity::MASTERS,
    cli::token,
    files::{self, KUBECONFIG},
    logline,
    pki::{self, Pair, Subject},
    server::Server,
};

/// `token`, `node-token`, `agent-token`.
pub(crate) fn write_tokens(server: &Server) -> Result<(), Fatal> {
    let layout = &server.layout;
    let ca = &server.server_ca.cert;
    let own = layout.server("token");
    let content = token::full(ca, "server", &server.passwords.server);
    files::write_private(&own, format!("{content}\n").as_bytes())?;
    logline::info(format!(
        "Server node token is available at {}",
        own.display()
    ));
    files::link(&own, &layout.server("node-token"))?;
    let agents = layout.server("agent-token");
    if server.passwords.node == server.passwords.server {
        return files::link(&own, &agents);
    }
    let _ = fs::remove_file(&agents);
    let content = token::full(ca, "node", &server.passwords.node);
    files::write_private(&agents, format!("{content}\n").as_bytes())
}

/// The administrator's certificate and kubeconfig.
pub(crate) fn write_kubeconfigs(server: &Server) -> Result<(), Fatal> {
    let layout = &server.layout;
    let admin = pki::issue(
        &server.client_ca,
        &Subject::client("system:admin", Some(MASTERS)),
    )?;
    pki::store(&layout.tls("client-admin"), &admin)?;
    let host = match (server.settings.bind, server.settings.node.ip()) {
        (Some(address), _) => address,
        (None, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
        (None, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
    };
    let url = format!("https://{}", SocketAddr::new(host, server.settings.port));
    let content = kubeconfig(&url, &server.server_ca.cert, &admin);
    files::write_private(&layout.server("cred/admin.kubeconfig"), content.as_bytes())?;
    let file = server.settings.kubeconfig.clone();
    let file = file.unwrap_or_else(|| PathBuf::from(KUBECONFIG));
    files::write_private(&file, content.as_bytes())?;
    if let Some(mode) = &server.settings.kubeconfig_mode {
        match u32::from_str_radix(mode, 8) {
            Ok(bits) => {
                let _ = fs::set_permissions(&file, fs::Permissions::from_mode(bits));
            }
            Err(error) => logline::error(format!(
                "failed to set {} to mode {mode}: {error}",
                file.display()
            )),
        }
    }
    if file != Path::new(KUBECONFIG) {
        files::make_dir(Path::new("/etc/rancher/k3s"))?;
        files::link(&file, Path::new(KUBECONFIG))?;
    }
    logline::info(format!("Wrote kubeconfig {}", file.display()));
    Ok(())
}

fn kubeconfig(url: &str, ca: &str, pair: &Pair) -> String {
    let encoded = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {url}\n  name: default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  name: default\ncurrent-context: default\nkind: Config\npreferences: {{}}\nusers:\n- name: default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encoded(ca),
        encoded(&pair.cert),
        encoded(&pair.key)
    )
}
