//! The host's own resolvers.
//!
//! Decides: which they are (resolv.conf(5)), and how long each is waited for. Those on a loopback
//! address serve the host alone: it may ask them for its containers, and they can't do so themselves.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::server::PORT;

/// Where the host says whom it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Whom systemd-resolved asks, where the host asks that one.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// More are not asked by anybody (resolv.conf(5), MAXNS).
const SERVERS_MAX: usize = 3;
/// One resolver. Two are asked before Docker's own resolver gives up, after four seconds.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1500);

/// Where the host's resolvers are found, and how they are asked.
#[derive(Debug, Clone)]
pub(crate) struct Resolvers {
    /// The file that names them.
    pub(crate) file: PathBuf,
    /// Where they listen.
    pub(crate) port: u16,
    /// How long each is waited for.
    pub(crate) answers_within: Duration,
}

impl Default for Resolvers {
    fn default() -> Self {
        Self {
            file: RESOLV_CONF.into(),
            port: PORT,
            answers_within: ANSWERS_WITHIN,
        }
    }
}

impl Resolvers {
    /// Whom the host asks at this moment.
    pub(crate) async fn of_host(&self) -> Vec<SocketAddr> {
        let text = tokio::fs::read_to_string(&self.file).await;
        let servers = nameservers(&text.unwrap_or_default()).into_iter();
        servers
            .map(|server| SocketAddr::new(server, self.port))
            .collect()
    }
}

/// Whom containers can ask themselves while this node's own server is away.
pub fn for_containers() -> Vec<IpAddr> {
    let of = |path: &str| {
        let text = fs::read_to_string(Path::new(path)).unwrap_or_default();
        let servers = nameservers(&text).into_iter();
        servers.filter(|server| !server.is_loopback()).collect()
    };
    let servers: Vec<IpAddr> = of(RESOLV_CONF);
    match servers.is_empty() {
        true => of(RESOLVED_CONF),
        false => servers,
    }
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_server = words.next() == Some("nameserver");
            // One with a zone is reached by that link alone, and so by nobody's container.
            words.next().filter(|_| is_server)?.parse().ok()
        })
        .take(SERVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_servers_of_the_file_count_and_nothing_else_of_it() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 127.0.0.53\n\
            nameserver fe80::1%eth0\n  nameserver\t2001:db8::1 \noptions ndots:2\n\
            nameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        let expected: [IpAddr; 3] =
            ["127.0.0.53", "2001:db8::1", "192.0.2.1"].map(|text| text.parse().unwrap());
        assert_eq!(nameservers(text), expected);
        assert_eq!(nameservers(""), Vec::<IpAddr>::new());
    }
}
