//! Who asks, and whether he may.
//!
//! Decides by `node_api::access`: root on the socket may do everything; an operator what his
//! present role allows. The role is read from the agreed state at every request, so that a change
//! or a revocation counts at the next one, on a connection that stands too.

use std::sync::Arc;

use consensus_authority::Verified;
use consensus_core::Holder;
use node_api::{Access, ApiError, access};

use crate::mesh::{Mesh, desk::operator_role, issuer::now};

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Whoever may open the socket: root.
    Socket,
    /// Whoever has shown this certificate.
    Operator {
        /// What the certificate says.
        verified: Arc<Verified>,
        /// What was shown, leaf first, DER.
        chain: Arc<Vec<Vec<u8>>>,
    },
}

tokio::task_local! {
    /// The operator on whose request this task runs.
    static OPERATOR: Option<String>;
}

/// The operator on whose request this runs; none for root, and for the daemon's own doings.
pub(crate) fn operator() -> Option<String> {
    OPERATOR.try_with(Clone::clone).ok().flatten()
}

/// Runs a request in its operator's name.
pub(super) async fn named<T>(name: Option<String>, work: impl Future<Output = T>) -> T {
    OPERATOR.scope(name, work).await
}

impl Caller {
    /// Refuses what the caller may not do. Gives the operator's name.
    pub(super) fn authorize(
        &self,
        mesh: Option<&Mesh>,
        method: &str,
        path: &str,
    ) -> Result<Option<String>, ApiError> {
        let Self::Operator { verified, chain } = self else {
            return Ok(None);
        };
        let Holder::Operator(name) = &verified.holder else {
            return Err(unknown("the certificate is no operator's"));
        };
        let mesh = mesh.ok_or(consensus_core::Refusal::NoMesh)?;
        let trust = Arc::clone(&mesh.credentials.borrow().trust);
        trust
            .verify(chain, now())
            .map_err(|refusal| unknown(&refusal.to_string()))?;
        let agreed = mesh.proposer.views.view().agreed.clone();
        let leaf = chain.first().map_or(&[][..], Vec::as_slice);
        let present = operator_role(&agreed, name, verified.serial(), leaf)
            .ok_or_else(|| unknown(&format!("{name} is no operator of this mesh")))?;
        match access(method, path) {
            Some(Access::Role(needed)) if present >= needed => Ok(Some(name.clone())),
            Some(Access::Role(needed)) => Err(ApiError::new(
                "RoleInsufficientError",
                format!(
                    "{name} is {}, and this needs the role {}",
                    present.as_str(),
                    needed.as_str()
                ),
                format!(
                    "an admin gives it: `shoal operator role {name} {}`",
                    needed.as_str()
                ),
            )),
            Some(Access::Socket) => Err(ApiError::new(
                "SocketOnlyError",
                "this is done on the node itself",
                "log in there as root and give the command without --connect",
            )),
            None => Err(ApiError::new(
                "RouteNotFoundError",
                format!("nobody may use {method} {path}"),
                "bring shoal and shoald to the same version",
            )),
        }
    }
}

fn unknown(reason: &str) -> ApiError {
    ApiError::new(
        "OperatorUnknownError",
        reason,
        "have an admin make a new certificate: `shoal operator renew NAME --out DIR`",
    )
}
