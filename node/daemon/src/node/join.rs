//! Joining the mesh that a token names.
//!
//! Decides what is checked before the token is used: its text, this host's routes, this node's
//! own settings. A refusal by the mesh is final, silence is not: the next address is tried. When no
//! address of the token answers, members may be found on the local network; the token is shown to
//! none of them before it has proved that it belongs to the token's root.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use node_api::{
    ApiError,
    types::{JoinRequest, Joined},
};

use super::{Entered, Node, check_prefix, listen_error};
use crate::{
    mesh::{
        peer_wire::{EnrolAnswer, EnrolRequest, GateRequest, decode, encode},
        renewal::node_request,
        views::View,
    },
    token::Token,
};

/// How long members are looked for on the local network; answers take a fraction of a second.
const LOOK_AROUND: Duration = Duration::from_secs(3);
/// Addresses that are tried of those found; each may cost some seconds.
const NEARBY_MAX: usize = 8;

impl Node {
    /// Joins the mesh that the token names.
    pub(crate) async fn join(&self, request: JoinRequest) -> Result<Joined, ApiError> {
        let _entering = self.entering.lock().await;
        self.refuse_second_mesh()?;
        let token = Token::decode(&request.token).map_err(|error| {
            let hint = "copy the whole file that `shoal token create --out FILE` wrote";
            ApiError::new("BootstrapTokenMalformedError", error.to_string(), hint)
        })?;
        for prefix in &token.prefixes {
            check_prefix(*prefix).await?;
        }
        let enrolment = self.enrolment(&request, Some(&token))?;
        let csr = node_request(&self.host.key)?;
        let body = encode(&GateRequest::Join(Box::new(EnrolRequest {
            token: token.id,
            secret: token.secret,
            csr,
            enrolment,
        })));
        let answer = self.enrol(&token, body).await?;
        let mesh = answer
            .agreed
            .mesh
            .clone()
            .ok_or(consensus_core::Refusal::NoMesh)?;
        let roots = answer.agreed.trusted_roots();
        // Whoever answered has proved that the token's root vouches for it. That root may have
        // been replaced since the token was made; its successor is what is trusted from now on.
        if roots.is_empty() {
            let hint = "do not use this token; make a new one on a node that you trust";
            return Err(ApiError::new(
                "EnrolWrongRootError",
                "the mesh answered without any root",
                hint,
            ));
        }
        let connected = self
            .host
            .connect(mesh.id, &roots, answer.chain.clone())
            .map_err(|error| listen_error(&error))?;
        let view = View {
            revision: answer.revision,
            agreed: Arc::new(answer.agreed),
        };
        self.enter(
            connected,
            Entered {
                mesh: mesh.id,
                chain: answer.chain,
                view,
                raft: None,
                recovery_key: None,
            },
        )
    }

    /// Tries the token's addresses in turn, then the configured ones, then what is found on the
    /// local network. A refusal by the mesh is final, silence is not.
    async fn enrol(&self, token: &Token, body: Vec<u8>) -> Result<EnrolAnswer, ApiError> {
        let mut last: Option<ApiError> = None;
        for address in token.addresses.iter().chain(&self.host.config.seeds) {
            match self.enrol_at(*address, token, &body).await {
                Ok(answer) => return Ok(answer),
                Err(Unenrolled::Refused(error)) => return Err(error),
                Err(Unenrolled::Elsewhere(error)) => last = Some(error),
            }
        }
        for address in self.nearby(token).await {
            // Who is no member of this mesh is nobody's fault: it was not asked for.
            match self.enrol_at(address, token, &body).await {
                Ok(answer) => return Ok(answer),
                Err(Unenrolled::Refused(error)) => return Err(error),
                Err(Unenrolled::Elsewhere(_)) => {}
            }
        }
        Err(last.unwrap_or_else(|| {
            ApiError::new(
                "EnrolNoAnswerError",
                "the token names no address",
                "make a new one with `shoal token create`",
            )
        }))
    }

    async fn enrol_at(
        &self,
        address: SocketAddr,
        token: &Token,
        body: &[u8],
    ) -> Result<EnrolAnswer, Unenrolled> {
        let enrolled = overlay_net::enrol(
            &self.host.key,
            address,
            token.mesh,
            overlay_net::Anchor::Fingerprint(token.root_fingerprint),
            body.to_vec(),
        )
        .await;
        match enrolled {
            Ok(bytes) => decode(&bytes).map_err(Unenrolled::Refused),
            Err(error) => {
                let answer = ApiError::new(error.code(), error.to_string(), error.hint());
                if matches!(error, overlay_net::EnrolError::Refused(_)) {
                    return Err(Unenrolled::Refused(answer));
                }
                tracing::info!(%address, %error, "no enrolment here");
                Err(Unenrolled::Elsewhere(answer.caused_by(&error)))
            }
        }
    }

    /// Where somebody speaks libp2p on the local network, the likeliest first.
    async fn nearby(&self, token: &Token) -> Vec<SocketAddr> {
        if !self.host.config.mdns {
            return Vec::new();
        }
        let in_overlay = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => token.prefixes.iter().any(|prefix| prefix.contains(ip)),
            IpAddr::V6(_) => false,
        };
        let found = overlay_net::discover(&self.host.key, LOOK_AROUND).await;
        let mut found: Vec<SocketAddr> = (found.into_iter())
            .filter(|at| !at.ip().is_loopback() && !in_overlay(at.ip()))
            .collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        found.truncate(NEARBY_MAX);
        tracing::info!(?found, "looked for members on the local network");
        found
    }
}

/// Why there is no enrolment at an address.
enum Unenrolled {
    /// The mesh itself says no.
    Refused(ApiError),
    /// Nobody, or nobody of this mesh, answers there.
    Elsewhere(ApiError),
}
