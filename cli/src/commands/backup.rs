//! `shoal backup`: one sealed file with all that the mesh has agreed.

mod create;
mod restore;
mod show;

use node_api::types::BackupView;

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::{facts, names, span, utc},
};

/// Names that fit on a line; all are in the document.
const NAMES_MOST: usize = 12;

/// Sealed copies of all that the mesh has agreed, its keys included
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Backup {
    Create(create::Create),
    Show(show::Show),
    Restore(restore::Restore),
}

impl Backup {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Create(create) => create.run(context).await,
            Self::Show(show) => show.run(context),
            Self::Restore(restore) => restore.run(context).await,
        }
    }
}

/// What a backup holds; shared by `show` and `restore`.
fn view_facts(view: &BackupView, now_ms: u64) -> String {
    let some = |list: &[String]| match list {
        [] => "none".into(),
        list => names(list, NAMES_MOST),
    };
    let age = span(now_ms.saturating_sub(view.created_ms));
    facts(&[
        ("Mesh", format!("{} ({})", view.mesh, view.mesh_id)),
        ("Made", format!("{} ({age} ago)", utc(view.created_ms))),
        ("Log index", view.raft_index.to_string()),
        ("Made by", format!("shoald {}", view.version)),
        ("Servers", some(&view.servers)),
        (
            "Nodes",
            format!("{}: {}", view.nodes.len(), some(&view.nodes)),
        ),
        ("Roots", some(&view.root_fingerprints)),
        ("Also holds", some(&view.attachments)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_says_of_which_mesh_and_when_it_is() {
        let view = BackupView {
            mesh_id: "00ff".into(),
            mesh: "home".into(),
            created_ms: 1_767_225_600_000,
            raft_index: 42,
            version: "0.1.0".into(),
            nodes: vec!["n1".into(), "n2".into()],
            servers: vec!["n1".into()],
            root_fingerprints: vec!["ab12".into()],
            attachments: vec![],
        };
        insta::assert_snapshot!(view_facts(&view, 1_767_484_800_000), @r"
        Mesh:       home (00ff)
        Made:       2026-01-01 00:00 UTC (3 d ago)
        Log index:  42
        Made by:    shoald 0.1.0
        Servers:    n1
        Nodes:      2: n1, n2
        Roots:      ab12
        Also holds: none
        ");
    }
}
