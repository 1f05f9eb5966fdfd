//! Who gets through the gate, over QUIC and over TCP.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use overlay_net::{CallError, Channel, Credentials, Net, NodeKey, Settings, Transport};

use crate::{
    authority::{Authority, issue},
    nodes::{LOCAL, Node, connected, disconnected, pair, tcp_only, until},
};

const DEADLINE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

async fn call(from: &Node, to: &Node) -> Result<Vec<u8>, CallError> {
    from.net
        .call(&to.id, Channel::Command, b"hello".to_vec(), DEADLINE)
        .await
}

/// Dials a server of `authority` with some credentials, and the other way round; says both codes.
async fn refusals(
    authority: &Authority,
    key: &NodeKey,
    credentials: Credentials,
    revoked: Option<&str>,
    over: Transport,
) -> [String; 2] {
    let mut own = authority.credentials(&NodeKey::generate());
    let server_key = NodeKey::generate();
    own.chain = authority.credentials(&server_key).chain;
    own.revoked.extend(revoked.map(str::to_owned));
    let mut server = Node::with(&server_key, own, LOCAL);
    server.echo(Channel::Command);
    let mut odd = Node::with(key, credentials, LOCAL);
    odd.echo(Channel::Command);
    let reach = async |node: &Node| -> SocketAddr {
        match over {
            Transport::Quic => node.address(),
            Transport::Tcp => tcp_only(node.address()).await,
        }
    };
    odd.net
        .set_addresses(server.id.clone(), vec![reach(&server).await]);
    server
        .net
        .set_addresses(odd.id.clone(), vec![reach(&odd).await]);
    let inward = call(&odd, &server).await.unwrap_err();
    let outward = call(&server, &odd).await.unwrap_err();
    assert!(server.net.connections().borrow().is_empty());
    for error in [&inward, &outward] {
        assert!(matches!(error, CallError::NotAdmitted(_)), "{error:?}");
        assert!(!error.hint().is_empty());
    }
    [inward.code().to_owned(), outward.code().to_owned()]
}

const TRANSPORTS: [Transport; 2] = [Transport::Quic, Transport::Tcp];

#[tokio::test]
async fn members_connect_over_quic_and_over_tcp() {
    for over in TRANSPORTS {
        let (_, a, mut b) = pair();
        b.echo(Channel::Command);
        if over == Transport::Tcp {
            let address = tcp_only(b.address()).await;
            a.net.set_addresses(b.id.clone(), vec![address]);
            b.net.set_addresses(a.id.clone(), vec![]);
        }
        assert_eq!(call(&a, &b).await.unwrap(), b"hello");
        let connections = a.net.connections();
        assert_eq!(connections.borrow()[&b.id].transport, over);
    }
}

#[tokio::test]
async fn a_stranger_is_refused() {
    for over in TRANSPORTS {
        let (ours, theirs) = (Authority::new(1), Authority::new(1));
        let key = NodeKey::generate();
        let codes = refusals(&ours, &key, theirs.credentials(&key), None, over).await;
        assert_eq!(codes, ["AdmissionStrangerError"; 2], "{over:?}");
        let empty = ours.credentials_of(vec![]);
        let codes = refusals(&ours, &key, empty, None, over).await;
        assert_eq!(codes, ["AdmissionStrangerError"; 2], "{over:?}");
    }
}

#[tokio::test]
async fn a_node_of_another_mesh_is_refused() {
    for over in TRANSPORTS {
        let (ours, theirs) = (Authority::new(1), Authority::new(2));
        let key = NodeKey::generate();
        let codes = refusals(&ours, &key, theirs.credentials(&key), None, over).await;
        assert_eq!(codes, ["AdmissionWrongMeshError"; 2], "{over:?}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    for over in TRANSPORTS {
        let authority = Authority::new(1);
        let key = NodeKey::generate();
        let mut leaf = authority.leaf(&key);
        leaf.begins = SystemTime::now() - 2 * DAY;
        leaf.ends = SystemTime::now() - DAY;
        let chain = vec![issue(&key, &leaf, &authority.root)];
        let expired = authority.credentials_of(chain);
        let codes = refusals(&authority, &key, expired, None, over).await;
        assert_eq!(codes, ["AdmissionExpiredError"; 2], "{over:?}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    for over in TRANSPORTS {
        let authority = Authority::new(1);
        let key = NodeKey::generate();
        let mut leaf = authority.leaf(&key);
        leaf.serial = 0x77;
        let chain = vec![issue(&key, &leaf, &authority.root)];
        let revoked = authority.credentials_of(chain);
        let codes = refusals(&authority, &key, revoked, Some("77"), over).await;
        assert_eq!(codes, ["AdmissionRevokedError"; 2], "{over:?}");
    }
}

#[tokio::test]
async fn a_malformed_certificate_is_refused() {
    for over in TRANSPORTS {
        let authority = Authority::new(1);
        let key = NodeKey::generate();
        let garbage = authority.credentials_of(vec![vec![1, 2, 3]]);
        let codes = refusals(&authority, &key, garbage, None, over).await;
        assert_eq!(codes, ["AdmissionMalformedError"; 2], "{over:?}");
    }
}

#[tokio::test]
async fn a_node_found_under_another_nodes_name_is_refused() {
    for over in TRANSPORTS {
        let (_, a, b) = pair();
        let absent = NodeKey::generate().node_id();
        let address = match over {
            Transport::Quic => b.address(),
            Transport::Tcp => tcp_only(b.address()).await,
        };
        a.net.set_addresses(absent.clone(), vec![address]);
        let error = a
            .net
            .call(&absent, Channel::Command, vec![], DEADLINE)
            .await
            .unwrap_err();
        assert_eq!(error.code(), "AdmissionWrongPeerError", "{over:?}");
        assert!(a.net.connections().borrow().is_empty());
    }
}

#[tokio::test]
async fn a_revocation_cuts_the_live_connection() {
    let (authority, a, mut b) = pair();
    b.echo(Channel::Command);
    call(&a, &b).await.unwrap();
    connected(&b, &a.id).await;
    let mut credentials = Credentials::clone(&b.credentials.borrow());
    // Both leaves of the fixture carry this serial.
    credentials.revoked.insert("abcdef".to_owned());
    b.credentials.send_replace(Arc::new(credentials));
    disconnected(&b, &a.id).await;
    disconnected(&a, &b.id).await;
    let error = call(&a, &b).await.unwrap_err();
    assert_eq!(error.code(), "AdmissionRevokedError");
    drop(authority);
}

#[tokio::test]
async fn renewed_certificates_are_shown_at_the_next_connection() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let mut leaf = authority.leaf(&key);
    leaf.ends = SystemTime::now() - DAY;
    leaf.begins = SystemTime::now() - 2 * DAY;
    let expired = authority.credentials_of(vec![issue(&key, &leaf, &authority.root)]);
    let a = Node::with(&key, expired, LOCAL);
    let mut b = Node::start(&authority, &NodeKey::generate());
    b.echo(Channel::Command);
    a.knows(&b);
    assert_eq!(
        call(&a, &b).await.unwrap_err().code(),
        "AdmissionExpiredError"
    );
    a.credentials
        .send_replace(Arc::new(authority.credentials(&key)));
    until("the renewed node is admitted", async || {
        call(&a, &b).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let first = Node::start(&authority, &key);
    let (_keep, credentials) = Authority::watched(authority.credentials(&key));
    let error = Net::start(Settings {
        key,
        listen: vec![first.address()],
        credentials,
    })
    .unwrap_err();
    assert_eq!(error.code(), "AddressInUseError");
    assert!(error.to_string().contains(&first.address().to_string()));
}

#[tokio::test]
async fn a_silent_client_is_dropped_and_others_are_served_meanwhile() {
    use tokio::io::AsyncReadExt as _;
    let (_, a, mut b) = pair();
    b.echo(Channel::Command);
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(tokio::net::TcpStream::connect(b.address()).await.unwrap());
    }
    assert_eq!(call(&a, &b).await.unwrap(), b"hello");
    for mut stream in silent {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "a silent client is held for ever");
    }
}
