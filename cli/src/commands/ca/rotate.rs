//! `shoal ca rotate`: replaces the mesh's root.
//!
//! Decides: what of a rotation's progress is news. Never: how far the rotation is; the mesh carries it
//! out whether or not anybody looks on.

use std::time::Duration;

use node_api::{
    Answer, ApiError, Route,
    types::{CaStatus, Changed, RotateRequest, RotationView},
};

use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    looking_on::until_over,
    table::names,
};

/// Between two looks. A step takes at least a round to every node; a person sees half a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Names of those waited for that fit on a line of a terminal.
const NAMES_MOST: usize = 6;

/// Replace the mesh's root, without any interruption
///
/// Every node is made to trust a new root beside the old one; then every certificate is issued
/// anew under it; then the old root is dropped. The command shows how far that is until it is
/// over. Interrupting it does not stop the rotation.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Rotate {
    /// Why, for the event
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Begin it, and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    yes: Yes,
}

impl Rotate {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let question = "Replace the mesh's root? Every certificate is issued anew.";
        self.yes
            .or_ask(context.terminal, "rotating the root", question)?;
        let request = RotateRequest {
            reason: self.reason,
        };
        let route = Route::to(&["ca", "rotate"]);
        let answer: Result<Answer<Changed>, _> = context.client.post(&route, &request).await;
        context.changed(answer, "the rotation has begun")?;
        match self.no_wait {
            true => Ok(Exit::Done),
            false => follow(context).await,
        }
    }
}

/// Shows the rotation until it is over.
async fn follow(context: &Context<'_>) -> Result<Exit, Failure> {
    // What this node knew before it heard of the rotation would look like its end.
    let client = context.client.clone().stale(false);
    let drawn = context.terminal.draws_progress();
    let mut followed = Followed::default();
    let look = async || client.get(&Route::to(&["ca"])).await.map_err(goes_on);
    let take = |answer: Answer<CaStatus>| {
        let Some(rotation) = &answer.value.rotation else {
            return Ok(Some(answer));
        };
        if let Some(news) = followed.take(rotation) {
            show(context, &answer, &news, drawn)?;
        }
        Ok(None)
    };
    let ended = until_over(LOOK_EVERY, look, take).await;
    if drawn {
        context.terminal.progress_over()?;
    }
    let answer = ended?;
    if context.terminal.json() {
        context.terminal.document(&answer.body)?;
    } else {
        context.terminal.text(&over(&answer.value))?;
        context.terminal.warnings(&answer.value.warnings)?;
    }
    Ok(Exit::Done)
}

fn show(
    context: &Context<'_>,
    answer: &Answer<CaStatus>,
    news: &News,
    drawn: bool,
) -> Result<(), Failure> {
    let terminal = context.terminal;
    match news {
        News::Step(_) | News::Waiting(_) if terminal.json() => terminal.document(&answer.body),
        News::Waiting(text) if drawn => terminal.progress(text),
        News::Step(text) => {
            if drawn {
                terminal.progress_over()?;
            }
            terminal.text(text)
        }
        News::Waiting(text) => terminal.text(text),
    }
}

/// The error, with what it does not mean.
fn goes_on(error: ApiError) -> ApiError {
    let hint = "the rotation goes on by itself; `shoal ca status` shows how far it is";
    ApiError {
        hint: match error.hint.as_str() {
            "" => hint.into(),
            own => format!("{hint}. Besides: {own}"),
        },
        ..error
    }
}

fn over(status: &CaStatus) -> String {
    let root = status.roots.first();
    let root = root.map(|root| format!("; the root is {} ({})", root.fingerprint, root.words));
    format!("the rotation is over{}", root.unwrap_or_default())
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// Another step.
    Step(String),
    /// The same step, waiting for others.
    Waiting(String),
}

/// The last that was told of a rotation.
#[derive(Debug, Default)]
struct Followed {
    step: Option<String>,
    waiting_for: Vec<String>,
}

impl Followed {
    fn take(&mut self, rotation: &RotationView) -> Option<News> {
        let mut waiting_for = rotation.waiting_for.clone();
        waiting_for.sort();
        let another_step = self.step.as_ref() != Some(&rotation.step);
        if !another_step && waiting_for == self.waiting_for {
            return None;
        }
        let whom = match waiting_for.as_slice() {
            [] => "waiting for nobody any more".into(),
            some => format!("waiting for {}", names(some, NAMES_MOST)),
        };
        let step = &rotation.step;
        let news = match (another_step, meaning(step)) {
            (false, _) => News::Waiting(format!("{step}: {whom}")),
            (true, Some(meaning)) => News::Step(format!("{step}: {meaning}; {whom}")),
            (true, None) => News::Step(format!("{step}: {whom}")),
        };
        self.step = Some(step.clone());
        self.waiting_for = waiting_for;
        Some(news)
    }
}

fn meaning(step: &str) -> Option<&'static str> {
    match step {
        "trusting" => Some("every node is to trust the new root beside the old one"),
        "issuing" => Some("every certificate is issued anew under the new root"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::passes;

    fn rotation(step: &str, waiting_for: &[&str]) -> RotationView {
        RotationView {
            step: step.into(),
            reason: String::new(),
            began_ms: 0,
            waiting_for: waiting_for.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn only_another_step_and_another_set_waited_for_are_news() {
        let mut followed = Followed::default();
        let mut take = |step, waiting_for: &[&str]| followed.take(&rotation(step, waiting_for));
        let step = |text: &str| Some(News::Step(text.into()));
        let waiting = |text: &str| Some(News::Waiting(text.into()));
        assert_eq!(
            take("trusting", &["n2", "n1"]),
            step(
                "trusting: every node is to trust the new root beside the old one; \
                 waiting for n1, n2"
            )
        );
        assert_eq!(take("trusting", &["n1", "n2"]), None);
        assert_eq!(
            take("trusting", &["n2"]),
            waiting("trusting: waiting for n2")
        );
        assert_eq!(
            take("trusting", &[]),
            waiting("trusting: waiting for nobody any more")
        );
        assert_eq!(
            take("issuing", &["n1"]),
            step("issuing: every certificate is issued anew under the new root; waiting for n1")
        );
        assert_eq!(take("later", &["n1"]), step("later: waiting for n1"));
    }

    #[test]
    fn a_mesh_that_may_answer_again_is_asked_again_and_a_refusal_is_final() {
        for (code, again) in [
            ("NoMajorityError", true),
            ("DaemonUnreachableError", true),
            ("TlsError", false),
            ("AccessDeniedError", false),
        ] {
            assert_eq!(passes(&ApiError::new(code, "", "")), again, "{code}");
        }
    }

    #[test]
    fn an_error_on_the_way_does_not_look_like_the_rotations_end() {
        let error = goes_on(ApiError::new("TlsError", "m", "renew it"));
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("TlsError", "m")
        );
        assert!(error.hint.starts_with("the rotation goes on by itself"));
        assert!(error.hint.ends_with("renew it"));
    }
}
