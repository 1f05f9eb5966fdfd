//! The agent's connections to every server.
//!
//! Follows `pkg/agent/tunnel/tunnel.go`: the agent asks for the list of servers and does not go
//! on before it has reached each of them at its advertised address. Afterwards it keeps up with
//! the list.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    logline,
    wire::client::{Call, Client},
};

/// As K3s: so long between attempts.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The server says something each second.
const SILENCE: Duration = Duration::from_secs(5);

/// All tunnels of an agent.
pub(crate) struct Tunnels {
    client: Arc<Client>,
    open: BTreeMap<String, (JoinHandle<()>, watch::Receiver<bool>)>,
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        for (task, _) in self.open.values() {
            task.abort();
        }
    }
}

impl Tunnels {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            open: BTreeMap::new(),
        }
    }

    /// Keeps a tunnel to each of these `address:port` and to no other.
    pub(crate) fn keep(&mut self, addresses: &[String]) {
        self.open.retain(|address, (task, _)| {
            let wanted = addresses.contains(address);
            if !wanted {
                task.abort();
                logline::info(format!("Stopped tunnel to {address}"));
            }
            wanted
        });
        for address in addresses {
            if !self.open.contains_key(address) {
                let (connected, seen) = watch::channel(false);
                let task = tokio::spawn(hold(self.client.clone(), address.clone(), connected));
                self.open.insert(address.clone(), (task, seen));
            }
        }
    }

    /// Returns when each has been connected once.
    pub(crate) async fn until_connected(&mut self) {
        for (_, seen) in self.open.values_mut() {
            let _ = seen.wait_for(|connected| *connected).await;
        }
    }
}

async fn hold(client: Arc<Client>, address: String, connected: watch::Sender<bool>) {
    let url = format!("https://{address}/v1-k3s/connect");
    loop {
        let why = match client.open(Call::get(&url)).await {
            Ok(response) if response.status() == 200 => {
                logline::info(format!(
                    "Remotedialer connected to proxy url=wss://{address}/v1-k3s/connect"
                ));
                connected.send_replace(true);
                let mut body = response.into_body();
                while let Ok(Some(Ok(_))) = tokio::time::timeout(SILENCE, body.frame()).await {}
                "websocket: close 1006 (abnormal closure): unexpected EOF".to_owned()
            }
            Ok(response) => format!("websocket: bad handshake ({})", response.status()),
            Err(error) => error.to_string(),
        };
        logline::error(format!(
            "Remotedialer proxy error; reconnecting... error={why} url=wss://{address}/v1-k3s/connect"
        ));
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
