//! `shoal events`: what happened.

use comfy_table::Table;
use node_api::{ApiError, Route, types::EventView};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::{NOTHING, or_nothing, pairs, table},
};

/// Show what happened in the mesh, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Only kinds that begin so, such as `node.`
    #[arg(long, value_name = "PREFIX")]
    kind_prefix: Option<String>,
    /// Go on with what happens from now
    #[arg(long, short)]
    follow: bool,
}

impl Events {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let mut route = Route::to(&["events"]);
        if let Some(prefix) = &self.kind_prefix {
            route = route.query("kind_prefix", prefix);
        }
        if self.follow {
            return follow(context, &route.flag("follow", true)).await;
        }
        context.list(context.client.get(&route).await, list)
    }
}

async fn follow(context: &Context<'_>, route: &Route) -> Result<Exit, Failure> {
    let mut lines = context.client.get_lines::<EventView>(route).await?;
    while let Some(line) = lines.next().await? {
        if context.terminal.json() {
            context.terminal.document(&line.body)?;
        } else {
            context.terminal.text(&one(&line.value))?;
        }
    }
    // Events never end by themselves.
    let ended = ApiError::new(
        "ConnectionLostError",
        "the daemon ended the stream of events",
        "it was probably stopped; follow again, here or on another node",
    );
    Err(ended.into())
}

fn one(event: &EventView) -> String {
    let node = event.node.as_deref().unwrap_or(NOTHING);
    let line = format!(
        "{}  {}  {}  {node}  {}",
        event.index,
        event.time,
        event.kind,
        pairs(&event.payload)
    );
    line.trim_end().to_owned()
}

fn list(events: &[EventView]) -> Table {
    let rows = events.iter().map(|event| {
        vec![
            event.index.to_string(),
            event.time.clone(),
            event.kind.clone(),
            or_nothing(event.node.as_ref()),
            pairs(&event.payload),
        ]
    });
    table(&["INDEX", "TIME", "KIND", "NODE", "PAYLOAD"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_one_a_line() {
        let event = |index, kind: &str, node: Option<&str>, payload: &[(&str, &str)]| EventView {
            index,
            time: "2026-01-01T00:00:00.123Z".into(),
            kind: kind.into(),
            node: node.map(Into::into),
            payload: payload
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        };
        let events = [
            event(
                9,
                "node.joined",
                Some("n2"),
                &[("role", "agent"), ("state", "joining")],
            ),
            event(10, "mesh.created", None, &[]),
        ];
        insta::assert_snapshot!(list(&events).trim_fmt(), @r"
        INDEX  TIME                      KIND          NODE  PAYLOAD
        9      2026-01-01T00:00:00.123Z  node.joined   n2    role=agent,state=joining
        10     2026-01-01T00:00:00.123Z  mesh.created  -     -
        ");
        assert_eq!(
            events.each_ref().map(one),
            [
                "9  2026-01-01T00:00:00.123Z  node.joined  n2  role=agent,state=joining",
                "10  2026-01-01T00:00:00.123Z  mesh.created  -",
            ]
        );
    }
}
