//! The event log, listed or followed.

use axum::{
    Json,
    body::Body,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use consensus_core::Event;
use node_api::types::EventView;
use serde::Deserialize;

use super::{Member, Query, rfc3339};

#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    kind_prefix: Option<String>,
    #[serde(default)]
    follow: bool,
}

pub(super) async fn list(Member(mesh): Member, Query(filter): Query<Filter>) -> Response {
    let prefix = filter.kind_prefix.unwrap_or_default();
    if !filter.follow {
        let events = mesh.proposer.views.events();
        let matching = events
            .after(None)
            .filter(|event| event.kind.as_str().starts_with(&prefix));
        return Json(matching.map(show).collect::<Vec<_>>()).into_response();
    }
    let watch = mesh.proposer.views.watch_events();
    let stream =
        futures::stream::unfold((watch, None, true), move |(mut watch, mut last, first)| {
            let prefix = prefix.clone();
            async move {
                if !first {
                    watch.changed().await.ok()?;
                }
                let events = watch.borrow_and_update().clone();
                let mut lines = Vec::new();
                for event in events
                    .after(last)
                    .filter(|event| event.kind.as_str().starts_with(&prefix))
                {
                    lines.extend(serde_json::to_vec(&show(event)).unwrap_or_default());
                    lines.push(b'\n');
                }
                last = events.last().or(last);
                Some((
                    Ok::<_, std::convert::Infallible>(lines),
                    (watch, last, false),
                ))
            }
        });
    (
        [(CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(stream),
    )
        .into_response()
}

fn show(event: &Event) -> EventView {
    EventView {
        index: event.index.0,
        time: rfc3339(event.time),
        kind: event.kind.as_str().into(),
        node: event.node.clone(),
        payload: event.payload.clone(),
    }
}
