//! An agent's own way to the API, at 127.0.0.1:6444, for whoever on the machine has the kubelet's
//! kubeconfig.
//!
//! Follows `pkg/agent/loadbalancer`: connections are passed on as they are, to the first server that
//! takes them.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::agent::Node;
use crate::{Fatal, wire::listener};

/// K3s's default of `--lb-server-port`.
const PORT: u16 = 6444;
/// A server that takes longer to take a connection is tried no further.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Opens the port, and passes on for as long as the process runs.
pub(crate) async fn open(node: Arc<Node>) -> Result<(), Fatal> {
    let listener = listener::bind((Ipv4Addr::LOCALHOST, PORT).into()).await?;
    tokio::spawn(pass_on(listener, node));
    Ok(())
}

async fn pass_on(listener: TcpListener, node: Arc<Node>) {
    while let Ok((mut incoming, _)) = listener.accept().await {
        let node = node.clone();
        tokio::spawn(async move {
            for server in node.api.candidates() {
                let address = server.trim_start_matches("https://");
                let connecting = timeout(CONNECT_WITHIN, TcpStream::connect(address));
                if let Ok(Ok(mut outgoing)) = connecting.await {
                    let _ = copy_bidirectional(&mut incoming, &mut outgoing).await;
                    return;
                }
                node.api.demote(&server);
            }
        });
    }
}
