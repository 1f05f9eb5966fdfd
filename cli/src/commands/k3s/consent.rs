//! Consent to K3s being wiped off nodes, with all that it has there: a server's part of etcd too.
//!
//! Decides: that a command is given without consent first, so that the mesh says what it costs, and whoever gave
//! it is asked. Never: what wipes K3s off a node: what hangs on a label, a selector or another assignment the
//! mesh alone knows.

use node_api::{Answer, Route, types::Changed};
use serde::Serialize;

use crate::{consent::Yes, context::Context, failure::Failure};

/// How the mesh refuses what it wants consent to.
const UNASKED: &str = "ConsentRequiredError";

/// Gives a command that may wipe K3s off nodes. `request` makes it, with consent or without.
pub(in crate::commands) async fn post<R: Serialize + Sync>(
    context: &Context<'_>,
    yes: &Yes,
    route: &Route,
    request: impl Fn(bool) -> R,
) -> Result<Answer<Changed>, Failure> {
    let given = yes.is_given();
    let refused = match context.client.post(route, &request(given)).await {
        Err(refused) if !given && refused.code == UNASKED => refused,
        answer => return Ok(answer?),
    };
    let question = format!(
        "Go on, though {}? With it goes all that K3s has there: a server's part of etcd too.",
        refused.message
    );
    yes.or_ask(context.terminal, "wiping K3s off a node", &question)?;
    Ok(context.client.post(route, &request(true)).await?)
}
