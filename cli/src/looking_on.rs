//! Looking on at what the mesh carries out by itself: a drain, an upgrade, a new root.
//!
//! Decides: how long a mesh that does not answer is asked on, and where people read what is new. Never:
//! what is new, or when it is over; and whoever stops looking stops nothing.

use std::time::Duration;

use node_api::ApiError;
use tokio::time::{Instant, sleep};

use crate::{
    failure::{Failure, passes},
    terminal::Terminal,
};

/// How long nobody may answer. An election takes seconds, a server that starts again tens of them.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Looks again and again until `take` says what came of it, or that it failed.
pub(crate) async fn until_over<T, R>(
    every: Duration,
    mut look: impl AsyncFnMut() -> Result<T, ApiError>,
    mut take: impl FnMut(T) -> Result<Option<R>, Failure>,
) -> Result<R, Failure> {
    let mut heard = Instant::now();
    loop {
        match look().await {
            Ok(seen) => {
                heard = Instant::now();
                if let Some(over) = take(seen)? {
                    return Ok(over);
                }
            }
            Err(error) if passes(&error) && heard.elapsed() < SILENCE_MAX => {}
            Err(error) => return Err(error.into()),
        }
        sleep(every).await;
    }
}

/// What people are told meanwhile. A program is given one document, at the end.
pub(crate) struct News<'a> {
    terminal: &'a Terminal,
    shown: String,
}

impl<'a> News<'a> {
    /// Nothing yet.
    pub(crate) fn on(terminal: &'a Terminal) -> Self {
        Self {
            terminal,
            shown: String::new(),
        }
    }

    /// Shows what differs from what was shown last: on one line that changes, or line by line where
    /// there is no terminal.
    pub(crate) fn tell(&mut self, news: String) -> Result<(), Failure> {
        if news == self.shown {
            return Ok(());
        }
        match (self.terminal.json(), self.terminal.draws_progress()) {
            (true, _) => {}
            (false, true) => self.terminal.progress(&news)?,
            (false, false) => self.terminal.text(&news)?,
        }
        self.shown = news;
        Ok(())
    }

    /// Nothing more will be told.
    pub(crate) fn over(self) -> Result<(), Failure> {
        match self.terminal.draws_progress() {
            true => self.terminal.progress_over(),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn silent() -> ApiError {
        ApiError::new("NoMajorityError", "no majority", "")
    }

    fn code_of(failure: &Failure) -> String {
        match failure {
            Failure::Refused(error) => error.code.clone(),
            Failure::OutputClosed => "closed".into(),
        }
    }

    /// What comes of it if the n-th look, counted from zero, tells that.
    async fn followed(tell: impl Fn(u32) -> Result<bool, ApiError>) -> Result<u32, Failure> {
        let mut looks = 0;
        let look = async || {
            looks += 1;
            tell(looks - 1).map(|over| (looks, over))
        };
        until_over(SECOND, look, |(looks, over)| Ok(over.then_some(looks))).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_mesh_that_is_silent_for_less_than_a_minute_is_asked_on() {
        // It answers in between, so that the minute begins anew.
        let told = |n: u32| match n {
            50 | 100 => Ok(false),
            150 => Ok(true),
            _ => Err(silent()),
        };
        assert_eq!(followed(told).await.unwrap(), 151);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stays_silent_or_refuses_is_not() {
        let failure = followed(|_| Err(silent())).await.unwrap_err();
        assert_eq!(code_of(&failure), "NoMajorityError");
        let refused = |n: u32| match n {
            0 => Ok(false),
            _ => Err(ApiError::new("NotDrainedError", "", "")),
        };
        let failure = followed(refused).await.unwrap_err();
        assert_eq!(code_of(&failure), "NotDrainedError");
    }
}
