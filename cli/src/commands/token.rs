//! `shoal token`: lets machines into the mesh.

mod create;

use comfy_table::Table;
use node_api::{Route, types::TokenView};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::{countdown, or_nothing, table},
    values,
};

/// Tokens that let machines into the mesh
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Token {
    /// List all tokens, without their secrets
    Ls,
    Create(create::Create),
    Revoke(Revoke),
}

/// Take a token back: no machine can join with it any more
///
/// Machines that joined with it stay; `shoal node remove` removes one.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Revoke {
    /// The token's id, as `shoal token ls` shows it
    #[arg(value_name = "ID", value_parser = values::name)]
    token: String,
}

impl Token {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Ls => {
                let now_ms = super::status::now_ms();
                let answer = context.client.get(&Route::to(&["tokens"])).await;
                context.list(answer, |tokens| list(tokens, now_ms))
            }
            Self::Create(create) => create.run(context).await,
            Self::Revoke(revoke) => revoke.run(context).await,
        }
    }
}

impl Revoke {
    async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["tokens", &self.token]);
        let said = format!("token {} is revoked", self.token);
        context.changed(context.client.delete(&route).await, &said)
    }
}

fn list(tokens: &[TokenView], now_ms: u64) -> Table {
    let rows = tokens.iter().map(|token| {
        let uses = if token.reusable { "any number" } else { "one" };
        vec![
            token.id.clone(),
            token.role.clone(),
            uses.into(),
            countdown(token.expires_ms, now_ms),
            or_nothing(token.used_by.as_ref()),
        ]
    });
    table(&["ID", "ROLE", "USES", "EXPIRES", "USED BY"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_what_a_token_still_does() {
        let used = TokenView {
            id: "1f2e3d4c".into(),
            role: "server".into(),
            expires_ms: 100_000,
            reusable: false,
            used_by: Some("n2".into()),
        };
        let open = TokenView {
            id: "aa".into(),
            role: "agent".into(),
            expires_ms: 50_400_000,
            reusable: true,
            used_by: None,
        };
        insta::assert_snapshot!(list(&[used, open], 400_000).trim_fmt(), @r"
        ID        ROLE    USES        EXPIRES       USED BY
        1f2e3d4c  server  one         ended 5m ago  n2
        aa        agent   any number  in 13h 53m    -
        ");
    }
}
