//! Making and changing virtual IPs.

use clap::ValueEnum;
use node_api::{
    Route,
    types::{VipCandidatesRequest, VipCheckRequest, VipDetails, VipRequest},
};

use super::One;
use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// How a check is taken away.
const NO_CHECK: &str = "none";

/// Make a virtual IP. Its first candidate holds it
///
/// A candidate that fails its check twice in a row is not ready: if it holds the address, it lets go
/// of it, to the first candidate that is ready. The address does not come back by itself.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// A name for it
    #[arg(value_parser = values::name)]
    name: String,
    /// The network that it is in
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    network: String,
    /// Who may hold it, the most wanted first
    #[arg(long, value_name = "NODE,NODE", value_parser = node_list)]
    candidates: NodeList,
    /// What every candidate is asked once a second: tcp:PORT, http:PORT/PATH, https:PORT/PATH or
    /// command:/PROGRAM ARGUMENT... (run as root; words are parted by spaces)
    #[arg(long, value_parser = values::name)]
    check: Option<String>,
    /// How soon it moves when its holder dies
    #[arg(long, value_enum, default_value = "safe")]
    profile: Profile,
}

/// Nodes with commas between, by name or id.
#[derive(Debug, Clone)]
struct NodeList(Vec<String>);

fn node_list(text: &str) -> Result<NodeList, values::InvalidValue> {
    let names = text.split(',').map(values::name);
    names.collect::<Result<_, _>>().map(NodeList)
}

/// The durations of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// In some 0.4 s; for machines that are not overloaded, on one network
    Lan,
    /// In some 1.2 s; stalls of a seventh of a second cost nobody the address
    Safe,
    /// In some 3.5 s; for sites far apart, with losses in bursts
    Wan,
    /// In some 8 s; for machines whose kernel has no nf_tables
    Slow,
}

impl Profile {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Safe => "safe",
            Self::Wan => "wan",
            Self::Slow => "slow",
        }
    }
}

impl Create {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let request = VipRequest {
            name: self.name,
            network: self.network,
            candidates: self.candidates.0,
            check: asking(self.check),
            profile: Some(self.profile.as_str().into()),
        };
        let answer = context.client.post(&Route::to(&["vips"]), &request).await?;
        if context.terminal.json() {
            context.terminal.document(&answer.body)?;
        } else {
            context.terminal.text(&made(&answer.value))?;
        }
        Ok(Exit::Done)
    }
}

fn made(details: &VipDetails) -> String {
    let vip = &details.vip;
    let holder = vip.holder.as_deref().unwrap_or("nobody");
    format!("{} is {}, on {holder}", vip.name, vip.address)
}

fn asking(probe: Option<String>) -> VipCheckRequest {
    VipCheckRequest {
        probe,
        ..VipCheckRequest::default()
    }
}

/// Let others hold it, or the same in another order. Moves nothing
#[derive(Debug, clap::Args)]
pub(crate) struct Candidates {
    #[command(flatten)]
    vip: One,
    /// Who may hold it, the most wanted first
    #[arg(value_name = "NODE,NODE", value_parser = node_list)]
    candidates: NodeList,
}

impl Candidates {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let said = format!(
            "{} may be on {}",
            self.vip.name,
            self.candidates.0.join(", ")
        );
        let request = VipCandidatesRequest {
            candidates: self.candidates.0,
        };
        let route = self.vip.part("candidates");
        context.changed(context.client.put(&route, &request).await, &said)
    }
}

/// Ask its candidates something else
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    #[command(flatten)]
    vip: One,
    /// tcp:PORT, http:PORT/PATH, https:PORT/PATH, command:/PROGRAM ARGUMENT..., or none
    #[arg(value_parser = values::name)]
    check: String,
}

impl Check {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let said = match self.check.as_str() {
            NO_CHECK => format!("candidates of {} are asked nothing", self.vip.name),
            check => format!("candidates of {} are asked {check}", self.vip.name),
        };
        let request = asking(Some(self.check).filter(|check| check != NO_CHECK));
        let route = self.vip.part("check");
        context.changed(context.client.put(&route, &request).await, &said)
    }
}

/// Take a virtual IP away for good
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    vip: One,
    #[command(flatten)]
    yes: Yes,
}

impl Delete {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let name = &self.vip.name;
        let question = format!("Delete the virtual IP {name}? Nobody answers at its address then.");
        self.yes
            .or_ask(context.terminal, "deleting a virtual IP", &question)?;
        let answer = context.client.delete(&self.vip.route()).await;
        context.changed(answer, &format!("{name} is deleted"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;

    fn accepts(line: &str) -> bool {
        Cli::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn candidates_are_one_list() {
        for good in [
            "shoal vip create web --network n --candidates a",
            "shoal vip create web --network n --candidates a,b,c --check tcp:80 --profile lan",
            "shoal vip create web --network n --candidates a --profile slow",
            "shoal vip candidates web b,a",
            "shoal vip check web none",
            "shoal vip delete web --yes",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "shoal vip create web --network n",
            "shoal vip create web --candidates a",
            "shoal vip create web --network n --candidates a,,b",
            "shoal vip create web --network n --candidates a --profile fast",
            "shoal vip candidates web",
            "shoal vip candidates web a b",
            "shoal vip check web",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
