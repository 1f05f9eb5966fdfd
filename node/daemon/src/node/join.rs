//! Joining the mesh that a token names.
//!
//! Decides what is checked before the token is used: its text, this host's routes, this node's
//! own settings. A refusal by the mesh is final, silence is not: the next address is tried.

use std::sync::Arc;

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

    /// Tries the token's addresses in turn. A refusal by the mesh is final, silence is not.
    async fn enrol(&self, token: &Token, body: Vec<u8>) -> Result<EnrolAnswer, ApiError> {
        let mut last: Option<ApiError> = None;
        for address in &token.addresses {
            let enrolled = overlay_net::enrol(
                &self.host.key,
                *address,
                token.mesh,
                overlay_net::Anchor::Fingerprint(token.root_fingerprint),
                body.clone(),
            )
            .await;
            match enrolled {
                Ok(bytes) => return decode(&bytes),
                Err(error) => {
                    let answer = ApiError::new(error.code(), error.to_string(), error.hint());
                    if matches!(error, overlay_net::EnrolError::Refused(_)) {
                        return Err(answer);
                    }
                    tracing::info!(%address, %error, "no enrolment here");
                    last = Some(answer.caused_by(&error));
                }
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
}
