//! `shoal node drain` and `uncordon`: a node that is emptied, and let work again.

use std::time::{Duration, Instant};

use node_api::{
    Answer, Route,
    types::{DrainRequest, DrainView},
};

use crate::{
    context::Context,
    failure::{Exit, Explained, Failure},
    looking_on::{News, until_over},
    values,
};

/// From one look at how far it is to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that lives says that its time is up within moments of that. Who says nothing is dead.
const WORD_WITHIN: Duration = Duration::from_secs(15);

/// Empty a node: virtual IPs and pods go elsewhere, containers stop, then what ran them
///
/// Containers that Docker is to keep running always stop first, each with the time that it was made
/// with, and start again when the node is let work: `shoal node uncordon`. Pods are evicted as their
/// disruption budgets allow; those of daemon sets stay. What keeps a node from being empty is told as
/// it goes.
#[derive(Debug, clap::Args)]
pub(crate) struct DrainNode {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = values::duration)]
    timeout: Duration,
    /// Only keep new work away; nothing is moved
    #[arg(long)]
    cordon_only: bool,
    /// Even if its cluster cannot do without it
    #[arg(long)]
    force: bool,
    /// Do not wait until it is empty
    #[arg(long)]
    no_wait: bool,
}

/// Why a node is not empty.
#[derive(Debug, thiserror::Error)]
#[error("{node} could not be emptied: {reason}")]
struct NotDrainedError {
    node: String,
    reason: String,
}

impl Explained for NotDrainedError {
    fn code(&self) -> &'static str {
        "DrainFailedError"
    }

    fn hint(&self) -> String {
        format!(
            "remove what is in the way and drain it again, or let it work: `shoal node uncordon {}`",
            self.node
        )
    }
}

/// Nobody says how far a node is.
#[derive(Debug, thiserror::Error)]
#[error("{node} has not said that it is empty, nor why it is not")]
struct NoWordError {
    node: String,
}

impl Explained for NoWordError {
    fn code(&self) -> &'static str {
        "DrainUnansweredError"
    }

    fn hint(&self) -> String {
        format!(
            "see whether it is silent: `shoal node show {0}`; nothing new comes to it all the same, and \
             a dead node can be removed: `shoal node remove {0}`",
            self.node
        )
    }
}

impl DrainNode {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["nodes", &self.node, "drain"]);
        let request = DrainRequest {
            timeout_s: Some(self.timeout.as_secs()),
            cordon_only: self.cordon_only,
            force: self.force,
        };
        let began = context.client.post(&route, &request).await;
        if self.no_wait {
            return context.changed(began, &format!("{} is being emptied", self.node));
        }
        let began = began?;
        if !context.terminal.json() {
            context.terminal.warnings(&began.value.warnings)?;
        }
        let answer = follow(context, &route, self.timeout + WORD_WITHIN).await?;
        context.show(Ok(answer), words)
    }
}

/// Looks on until it is empty, or is not going to be.
async fn follow(
    context: &Context<'_>,
    route: &Route,
    word_within: Duration,
) -> Result<Answer<DrainView>, Failure> {
    // What this node knew of an earlier drain would look like the end of this one.
    let client = context.client.clone().stale(false);
    let mut news = News::on(context.terminal);
    let by = Instant::now() + word_within;
    let look = async || client.get(route).await;
    let ended = until_over(LOOK_EVERY, look, |answer| take(answer, by, &mut news)).await;
    news.over()?;
    ended
}

fn take(
    answer: Answer<DrainView>,
    by: Instant,
    news: &mut News<'_>,
) -> Result<Option<Answer<DrainView>>, Failure> {
    let view = &answer.value;
    match view.state.as_str() {
        "draining" if Instant::now() > by => Err(NoWordError {
            node: view.node.clone(),
        }
        .into()),
        "draining" => {
            news.tell(progress(view))?;
            Ok(None)
        }
        "failed" => Err(NotDrainedError {
            node: view.node.clone(),
            reason: view.reason.clone().unwrap_or_default(),
        }
        .into()),
        _ => Ok(Some(answer)),
    }
}

/// `n4 waits for container db to stop`, or `n4 is not heard of; it waited for container db to stop`.
fn progress(view: &DrainView) -> String {
    match (view.heard, &view.reason) {
        (false, Some(reason)) => reason.clone(),
        (_, reason) => {
            let waits_for = reason.as_deref().unwrap_or("its runtimes");
            format!("{} waits for {waits_for}", view.node)
        }
    }
}

fn words(view: &DrainView) -> String {
    match (view.cordon_only, &view.reason) {
        (true, _) => format!("nothing new comes to {}", view.node),
        (false, None) => format!("{} is empty", view.node),
        (false, Some(stays)) => format!("{} is drained; {stays}", view.node),
    }
}

/// Lets a drained node work again.
pub(super) async fn uncordon(context: &Context<'_>, node: &str) -> Result<Exit, Failure> {
    let answer = context
        .client
        .post(&Route::to(&["nodes", node, "uncordon"]), &())
        .await;
    context.changed(answer, &format!("{node} takes work again"))
}
