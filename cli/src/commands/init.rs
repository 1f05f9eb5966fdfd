//! `shoal init`: makes a mesh on this machine.

use node_api::{
    Route,
    types::{InitRequest, Joined},
};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::{facts, or_nothing},
};

/// Make a new mesh with this machine as its first server
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The mesh's name
    #[arg(long, value_name = "MESH")]
    name: Option<String>,
    /// Where the first network's IPv4 addresses come from [default: 100.96.0.0/16]
    #[arg(long, value_name = "PREFIX")]
    ipv4_prefix: Option<String>,
}

impl Init {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let request = InitRequest {
            name: self.name,
            ipv4_prefix: self.ipv4_prefix,
        };
        let answer = context.client.post(&Route::to(&["init"]), &request).await?;
        show_joined(context, &answer, words)
    }
}

/// Shows what a machine became; shared by `init` and `join`.
pub(super) fn show_joined(
    context: &Context<'_>,
    answer: &node_api::Answer<Joined>,
    words: impl Fn(&Joined) -> String,
) -> Result<Exit, Failure> {
    if context.terminal.json() {
        context.terminal.document(&answer.body)?;
    } else {
        context.terminal.text(&words(&answer.value))?;
        context.terminal.warnings(&answer.value.warnings)?;
    }
    Ok(Exit::Done)
}

/// What a machine is now.
pub(super) fn joined_facts(joined: &Joined) -> String {
    facts(&[
        ("Mesh", format!("{} ({})", joined.mesh, joined.mesh_id)),
        ("Node", format!("{} ({})", joined.node, joined.role)),
        ("Overlay IPv6", or_nothing(joined.overlay_ipv6.as_ref())),
        ("Overlay IPv4", or_nothing(joined.overlay_ipv4.as_ref())),
        ("Root fingerprint", joined.root_fingerprint.clone()),
        ("Root in words", joined.root_words.clone()),
    ])
}

fn words(joined: &Joined) -> String {
    format!(
        "The mesh stands.\n\n{}\n\
         Next, for each further machine, make a token here:\n  \
         shoal token create --role server --out token\n\
         Three servers survive the loss of any one; further machines join as agents.",
        joined_facts(joined)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_says_what_was_made_and_what_comes_next() {
        let joined = Joined {
            mesh_id: "00112233445566778899aabbccddeeff".into(),
            mesh: "home".into(),
            node: "n1".into(),
            role: "server".into(),
            overlay_ipv6: Some("fd00::1".parse().unwrap()),
            overlay_ipv4: None,
            root_fingerprint: "ab12".into(),
            root_words: "one two three".into(),
            warnings: vec![],
        };
        insta::assert_snapshot!(words(&joined), @r"
        The mesh stands.

        Mesh:             home (00112233445566778899aabbccddeeff)
        Node:             n1 (server)
        Overlay IPv6:     fd00::1
        Overlay IPv4:     -
        Root fingerprint: ab12
        Root in words:    one two three

        Next, for each further machine, make a token here:
          shoal token create --role server --out token
        Three servers survive the loss of any one; further machines join as agents.
        ");
    }
}
