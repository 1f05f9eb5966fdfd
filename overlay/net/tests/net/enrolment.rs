//! How a machine joins.

use std::{net::SocketAddr, time::Duration};

use overlay_net::{Anchor, EnrolError, NodeKey, Refused, enrol};

use crate::{
    authority::Authority,
    nodes::{LOCAL, Node, tcp_only},
};

struct Scene {
    authority: Authority,
    server: Node,
    joiner: NodeKey,
}

fn scene() -> Scene {
    let authority = Authority::new(1);
    let server = Node::start(&authority, &NodeKey::generate());
    Scene {
        authority,
        server,
        joiner: NodeKey::generate(),
    }
}

impl Scene {
    async fn enrol(&self, address: SocketAddr) -> Result<Vec<u8>, EnrolError> {
        enrol(
            &self.joiner,
            address,
            self.authority.mesh,
            Anchor::Fingerprint(self.authority.fingerprint()),
            b"token".to_vec(),
        )
        .await
    }

    /// No request has reached the daemon.
    fn assert_unasked(&mut self) {
        assert!(self.server.incoming.enrolments.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_joiner_is_enrolled_over_quic_and_over_tcp() {
    for over_tcp in [false, true] {
        let mut scene = scene();
        let address = match over_tcp {
            false => scene.server.address(),
            true => tcp_only(scene.server.address()).await,
        };
        let mesh = scene.authority.mesh;
        let anchor = Anchor::Fingerprint(scene.authority.fingerprint());
        let key = scene.joiner.clone();
        let asking =
            tokio::spawn(
                async move { enrol(&key, address, mesh, anchor, b"token".to_vec()).await },
            );
        let request = scene.server.incoming.enrolments.recv().await.unwrap();
        assert_eq!(request.body, b"token");
        assert_eq!(request.from, scene.joiner.node_id());
        assert!(request.observed.ip().is_loopback());
        request.reply.send(Ok(vec![7; 200_000])).unwrap();
        assert_eq!(asking.await.unwrap().unwrap(), vec![7; 200_000]);
        let connections = scene.server.net.connections();
        assert!(connections.borrow().is_empty(), "it never becomes a peer");
    }
}

#[tokio::test]
async fn the_meshs_refusal_reaches_the_joiner_with_its_code_and_hint() {
    let Scene {
        authority,
        mut server,
        joiner,
    } = scene();
    let address = server.address();
    tokio::spawn(async move {
        let request = server.incoming.enrolments.recv().await.unwrap();
        let refused = Refused::new("TokenExpiredError", "the token has expired", "make another");
        request.reply.send(Err(refused)).unwrap();
        server
    });
    let error = enrol(
        &joiner,
        address,
        authority.mesh,
        Anchor::Fingerprint(authority.fingerprint()),
        vec![],
    )
    .await
    .unwrap_err();
    assert_eq!(error.code(), "TokenExpiredError");
    assert_eq!(error.hint(), "make another");
}

#[tokio::test]
async fn a_wrong_root_never_sees_the_request() {
    let mut scene = scene();
    let other = Authority::new(1);
    let error = enrol(
        &scene.joiner,
        scene.server.address(),
        scene.authority.mesh,
        Anchor::Fingerprint(other.fingerprint()),
        b"secret".to_vec(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.code(), "EnrolWrongRootError");
    scene.assert_unasked();
}

#[tokio::test]
async fn an_impostor_with_the_public_root_never_sees_the_request() {
    let authority = Authority::new(1);
    // It shows the true root, which is public, but the root never signed for it.
    let key = NodeKey::generate();
    let mut credentials = Authority::new(1).credentials(&key);
    credentials.trust = std::sync::Arc::new(authority.trust(&[]));
    let server = Node::with(&key, credentials, LOCAL);
    let mut scene = Scene {
        authority,
        server,
        joiner: NodeKey::generate(),
    };
    let error = scene.enrol(scene.server.address()).await.unwrap_err();
    assert_eq!(error.code(), "EnrolUnprovenError");
    scene.assert_unasked();
}

#[tokio::test]
async fn another_mesh_is_told_apart() {
    let mut scene = scene();
    let other = Authority::new(2);
    let error = enrol(
        &scene.joiner,
        scene.server.address(),
        other.mesh,
        Anchor::Fingerprint(other.fingerprint()),
        b"secret".to_vec(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.code(), "EnrolWrongMeshError");
    scene.assert_unasked();
}

#[tokio::test]
async fn nothing_at_the_address_is_told_apart_with_a_hint_about_udp() {
    let scene = scene();
    let free = std::net::TcpListener::bind(LOCAL).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let error = scene.enrol(address).await.unwrap_err();
    assert_eq!(error.code(), "EnrolNoAnswerError");
    assert!(error.hint().contains("UDP"), "{}", error.hint());
}

#[tokio::test]
async fn a_daemon_that_takes_no_enrolments_refuses_at_once() {
    let Scene {
        authority,
        mut server,
        joiner,
    } = scene();
    server.incoming.enrolments.close();
    let answer = enrol(
        &joiner,
        server.address(),
        authority.mesh,
        Anchor::Fingerprint(authority.fingerprint()),
        vec![],
    );
    let error = tokio::time::timeout(Duration::from_secs(5), answer)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code(), "EnrolBusyError");
}

#[tokio::test]
async fn who_knows_only_the_old_root_is_led_to_the_new_one_and_nobody_else_is() {
    let old = Authority::new(1);
    let new = old.successor();
    let key = NodeKey::generate();
    let mut server = Node::with(&key, new.credentials(&key), LOCAL);
    let address = server.address();
    let ask = async |anchor| {
        let joiner = NodeKey::generate();
        enrol(&joiner, address, old.mesh, anchor, b"back".to_vec()).await
    };
    let stranger = Authority::new(1);
    let error = ask(Anchor::Roots(vec![stranger.root_der()]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "EnrolUnprovenError");
    assert!(server.incoming.enrolments.try_recv().is_err());
    let answering = tokio::spawn(async move {
        let request = server.incoming.enrolments.recv().await.unwrap();
        request.reply.send(Ok(b"welcome".to_vec())).unwrap();
        server
    });
    let answer = ask(Anchor::Roots(vec![old.root_der()])).await.unwrap();
    assert_eq!(answer, b"welcome");
    drop(answering.await.unwrap());
}
