//! Who gets through the gate, over QUIC and over TCP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use consensus_core::LogIndex;
use overlay_net::{CallError, Channel, Credentials, Net, NodeKey, Path, Settings, Transport};

use crate::{
    authority::{Authority, trust},
    nodes::{LOCAL, Node, connected, disconnected, pair, tcp_only, until},
};

const DEADLINE: Duration = Duration::from_secs(10);

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
    own.trust = Arc::new(authority.trust(revoked.as_slice()));
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
        let path = connections.borrow()[&b.id].path.clone();
        let Path::Direct { transport, .. } = path else {
            panic!("{path:?}")
        };
        assert_eq!(transport, over);
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
        let expired = authority.expired(&key);
        let codes = refusals(&authority, &key, expired, None, over).await;
        assert_eq!(codes, ["AdmissionExpiredError"; 2], "{over:?}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    for over in TRANSPORTS {
        let authority = Authority::new(1);
        let key = NodeKey::generate();
        let leaf = authority.leaf(&key, Duration::ZERO);
        let revoked = authority.credentials_of(leaf.chain.clone());
        let codes = refusals(&authority, &key, revoked, Some(&leaf.serial), over).await;
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

/// The serial number of the leaf that a node shows.
fn serial(node: &Node, authority: &Authority) -> String {
    let chain = node.credentials.borrow().chain.clone();
    let now = consensus_authority::wall(std::time::SystemTime::now());
    let verified = authority.trust(&[]).verify(&chain, now).unwrap();
    verified.serial().to_owned()
}

#[tokio::test]
async fn a_revocation_cuts_the_live_connection_and_says_by_when() {
    let (authority, a, mut b) = pair();
    b.echo(Channel::Command);
    call(&a, &b).await.unwrap();
    connected(&b, &a.id).await;
    let mut credentials = Credentials::clone(&b.credentials.borrow());
    credentials.trust = Arc::new(authority.trust(&[&serial(&a, &authority)]));
    credentials.revision = LogIndex(7);
    b.credentials.send_replace(Arc::new(credentials));
    let mut enforced = b.net.enforced();
    enforced
        .wait_for(|index| *index == LogIndex(7))
        .await
        .unwrap();
    disconnected(&b, &a.id).await;
    disconnected(&a, &b.id).await;
    let error = call(&a, &b).await.unwrap_err();
    assert_eq!(error.code(), "AdmissionRevokedError");
}

#[tokio::test]
async fn a_removed_node_is_cut_off_and_refused_whatever_it_shows() {
    let (_, a, mut b) = pair();
    b.echo(Channel::Command);
    call(&a, &b).await.unwrap();
    connected(&b, &a.id).await;
    let mut credentials = Credentials::clone(&b.credentials.borrow());
    credentials.removed = Arc::new([a.id.clone()].into());
    b.credentials.send_replace(Arc::new(credentials));
    disconnected(&b, &a.id).await;
    disconnected(&a, &b.id).await;
    let error = call(&a, &b).await.unwrap_err();
    assert_eq!(error.code(), "AdmissionRemovedError");
}

#[tokio::test]
async fn renewed_certificates_are_shown_at_the_next_connection() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let a = Node::with(&key, authority.expired(&key), LOCAL);
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

/// The old chain is revoked on the other side as soon as the new one was shown: only a connection
/// that has taken the new one over survives that.
#[tokio::test]
async fn a_renewal_reaches_the_connection_that_stands() {
    for over in TRANSPORTS {
        let authority = Authority::new(1);
        let key = NodeKey::generate();
        let hour = Duration::from_secs(3600);
        let first = authority.credentials_of(authority.leaf(&key, hour).chain);
        let a = Node::with(&key, first, LOCAL);
        let mut b = Node::start(&authority, &NodeKey::generate());
        b.echo(Channel::Command);
        match over {
            Transport::Quic => a.knows(&b),
            Transport::Tcp => {
                let address = tcp_only(b.address()).await;
                a.net.set_addresses(b.id.clone(), vec![address]);
            }
        }
        call(&a, &b).await.unwrap();
        connected(&b, &a.id).await;
        let before = b.net.connections().borrow()[&a.id].clone();
        let old = serial(&a, &authority);
        a.credentials
            .send_replace(Arc::new(authority.credentials(&key)));
        until(
            "the new certificate is known on the other side",
            async || {
                let connections = b.net.connections();
                let known = connections.borrow().get(&a.id).cloned();
                known.is_some_and(|known| known.certificate_ends > before.certificate_ends)
            },
        )
        .await;
        let mut credentials = Credentials::clone(&b.credentials.borrow());
        credentials.trust = Arc::new(authority.trust(&[&old]));
        credentials.revision = LogIndex(9);
        b.credentials.send_replace(Arc::new(credentials));
        let mut enforced = b.net.enforced();
        enforced
            .wait_for(|index| *index == LogIndex(9))
            .await
            .unwrap();
        assert_eq!(call(&a, &b).await.unwrap(), b"hello", "{over:?}");
        let after = b.net.connections().borrow()[&a.id].clone();
        assert_eq!(after.path, before.path, "{over:?}");
    }
}

#[tokio::test]
async fn a_root_that_is_dropped_takes_its_connections_with_it() {
    let old = Authority::new(1);
    let new = old.successor();
    let (key, other) = (NodeKey::generate(), NodeKey::generate());
    // One still shows the old root's chain, the other one's is cross-signed: both know both roots.
    let both = |chain| Credentials {
        trust: Arc::new(trust(&[&old, &new], &[])),
        ..old.credentials_of(chain)
    };
    let a = Node::with(&key, both(old.leaf(&key, Duration::ZERO).chain), LOCAL);
    let mut b = Node::with(&other, both(new.leaf(&other, Duration::ZERO).chain), LOCAL);
    b.echo(Channel::Command);
    a.knows(&b);
    call(&a, &b).await.unwrap();
    connected(&b, &a.id).await;
    let mut credentials = Credentials::clone(&b.credentials.borrow());
    credentials.trust = Arc::new(new.trust(&[]));
    b.credentials.send_replace(Arc::new(credentials));
    disconnected(&b, &a.id).await;
    // The cross certificate leads whoever knows only the old root to the new one.
    let behind = NodeKey::generate();
    let c = Node::with(&behind, old.credentials(&behind), LOCAL);
    c.knows(&b);
    let error = call(&c, &b).await.unwrap_err();
    assert_eq!(error.code(), "AdmissionStrangerError", "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let first = Node::start(&authority, &key);
    let (_keep, credentials) = Authority::watched(authority.credentials(&key));
    let settings = Settings::new(key, vec![first.address()], credentials);
    let error = Net::start(settings).unwrap_err();
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
