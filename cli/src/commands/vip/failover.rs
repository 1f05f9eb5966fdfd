//! `shoal vip failover`.

use node_api::{
    Answer,
    types::{FailoverRequest, FailoverView},
};

use super::{One, show::milliseconds};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Move it to another candidate, and wait until that one has it
///
/// The holder lets go first, so this costs a few milliseconds. The answer says who has it since and
/// how long that took: until the new holder says that the address is open on it.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Failover {
    #[command(flatten)]
    vip: One,
    /// To this one [default: the first one that is ready]
    #[arg(long, value_name = "NODE", value_parser = values::name)]
    to: Option<String>,
    /// Order it, and do not wait for it
    #[arg(long)]
    no_wait: bool,
}

impl Failover {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let request = FailoverRequest {
            to: self.to.clone(),
            wait: !self.no_wait,
        };
        let route = self.vip.part("failover");
        let answer: Answer<FailoverView> = context.client.post(&route, &request).await?;
        if context.terminal.json() {
            context.terminal.document(&answer.body)?;
        } else {
            context.terminal.text(&self.words(&answer.value))?;
            context.terminal.warnings(&answer.value.warnings)?;
        }
        Ok(Exit::Done)
    }

    fn words(&self, done: &FailoverView) -> String {
        let name = &self.vip.name;
        match (&done.to, done.took_us) {
            (Some(to), Some(us)) => {
                let from = done.from.as_deref().unwrap_or("nobody");
                format!("{name} moved from {from} to {to} in {}", milliseconds(us))
            }
            _ => {
                let to = self.to.as_deref().unwrap_or("the next candidate");
                format!("{name} is to move to {to}; `shoal vip show {name}` tells when it has")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        failover: Failover,
    }

    fn failover(line: &str) -> Failover {
        Line::parse_from(line.split(' ')).failover
    }

    #[test]
    fn a_move_that_is_over_is_told_with_its_time_and_one_that_is_ordered_without() {
        let mut done = FailoverView {
            raft_index: 7,
            moved: true,
            from: Some("n1".into()),
            to: Some("n2".into()),
            epoch: Some(4),
            took_us: Some(31_480),
            warnings: Vec::new(),
        };
        let words = failover("failover web").words(&done);
        assert_eq!(words, "web moved from n1 to n2 in 31.4 ms");
        (done.moved, done.to, done.took_us) = (false, None, None);
        let words = failover("failover web --to n2 --no-wait").words(&done);
        assert!(words.starts_with("web is to move to n2;"), "{words}");
    }
}
