//! `shoal node ping`: what one node says of its way to another, now.

use node_api::{
    Route,
    types::{PingRequest, PingView},
};

use super::round_trip;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Have a node probe another one now, over its own connection; exit code 1 if there is no answer
#[derive(Debug, clap::Args)]
pub(crate) struct Ping {
    /// The node that probes, by name or id
    #[arg(value_name = "FROM", value_parser = values::name)]
    from: String,
    /// The node that is probed, by name or id
    #[arg(value_name = "TO", value_parser = values::name)]
    to: String,
}

impl Ping {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["nodes", &self.from, "ping"]);
        let request = PingRequest { to: self.to };
        let answer = context.client.post::<PingView>(&route, &request).await?;
        let answered = answer.value.answered;
        context.show(Ok(answer), words)?;
        Ok(match answered {
            true => Exit::Done,
            false => Exit::Failed,
        })
    }
}

fn words(ping: &PingView) -> String {
    let path = ping.path.as_deref().unwrap_or("no connection");
    match ping.rtt_us {
        Some(rtt) => format!(
            "{} reaches {} in {} ({path})",
            ping.from,
            ping.to,
            round_trip(rtt)
        ),
        None => format!(
            "{} does not reach {} ({path}): {}",
            ping.from,
            ping.to,
            ping.reason.as_deref().unwrap_or("no reason is known")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping() -> PingView {
        PingView {
            from: "n1".into(),
            to: "n2".into(),
            answered: true,
            rtt_us: Some(1480),
            path: Some("relayed via n3".into()),
            reason: None,
        }
    }

    #[test]
    fn an_answer_tells_time_and_way() {
        assert_eq!(words(&ping()), "n1 reaches n2 in 1.4 ms (relayed via n3)");
    }

    #[test]
    fn silence_tells_its_reason() {
        let silent = PingView {
            answered: false,
            rtt_us: None,
            path: None,
            reason: Some("no address is known".into()),
            ..ping()
        };
        assert_eq!(
            words(&silent),
            "n1 does not reach n2 (no connection): no address is known"
        );
    }
}
