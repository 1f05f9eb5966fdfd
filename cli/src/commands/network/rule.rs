//! `shoal network rule`: who may reach whom inside a network.

use node_api::{
    Route,
    types::{FirewallRuleAdded, FirewallRuleRequest, FirewallRuleView, FirewallView},
};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::table,
    values,
};

/// Firewall rules: who may reach whom inside a network, and at which ports
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Rule {
    /// List a network's rules in the order in which they are asked; the first that fits decides
    Ls {
        /// The network's name
        #[arg(value_parser = values::name)]
        network: String,
    },
    /// Let new connections through, or drop them
    Add(Add),
    /// Take a rule away
    Rm {
        /// The network's name
        #[arg(value_parser = values::name)]
        network: String,
        /// The rule's number
        #[arg(value_parser = values::name)]
        rule: String,
    },
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("verdict").required(true).args(["allow", "deny"])))]
pub(crate) struct Add {
    /// The network's name
    #[arg(value_parser = values::name)]
    network: String,
    /// Who opens the connection: `any`, `node:NAME`, `label:KEY=VALUE` or `cidr:PREFIX`
    #[arg(long, value_name = "WHO", default_value = "any")]
    from: String,
    /// Who is asked for it, with what is reached through him: `any`, `node:NAME` or
    /// `label:KEY=VALUE`
    #[arg(long, value_name = "WHO", default_value = "any")]
    to: String,
    /// `any`, `tcp`, `udp` or `icmp`; with ports, `any` is TCP and UDP
    #[arg(long, value_name = "PROTOCOL", default_value = "any")]
    proto: String,
    /// Ports and ranges of ports, such as 80,8000-8100 [default: any]
    #[arg(long = "port", value_name = "PORT,...", value_delimiter = ',')]
    ports: Vec<String>,
    /// Let them through
    #[arg(long)]
    allow: bool,
    /// Drop them
    #[arg(long)]
    deny: bool,
    /// Rules with lower priorities are asked first, and those of one priority as they were added
    /// [default: 100]
    #[arg(long, value_name = "NUMBER", conflicts_with = "before")]
    priority: Option<u16>,
    /// Put it straight before the rule with this number
    #[arg(long, value_name = "RULE")]
    before: Option<u32>,
}

impl Add {
    fn request(&self) -> FirewallRuleRequest {
        FirewallRuleRequest {
            from: Some(self.from.clone()),
            to: Some(self.to.clone()),
            protocol: Some(self.proto.clone()),
            ports: self.ports.clone(),
            verdict: if self.deny { "deny" } else { "allow" }.to_owned(),
            priority: self.priority,
            before: self.before,
        }
    }
}

impl Rule {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let client = &context.client;
        let rules = |network: &str| Route::to(&["networks", network, "rules"]);
        match self {
            Self::Ls { network } => context.show(client.get(&rules(&network)).await, show),
            Self::Add(add) => {
                let answer = client.post(&rules(&add.network), &add.request()).await;
                context.show(answer, |added: &FirewallRuleAdded| {
                    format!("rule {} of {} is in force", added.number, add.network)
                })
            }
            Self::Rm { network, rule } => {
                let route = Route::to(&["networks", &network, "rules", &rule]);
                let said = format!("rule {rule} of {network} is gone");
                context.changed(client.delete(&route).await, &said)
            }
        }
    }
}

fn show(firewall: &FirewallView) -> String {
    let headings = [
        "RULE", "PRIORITY", "FROM", "TO", "PROTO", "PORTS", "VERDICT",
    ];
    let rest = vec![
        "default".to_owned(),
        "-".to_owned(),
        "any".to_owned(),
        "any".to_owned(),
        "any".to_owned(),
        "any".to_owned(),
        firewall.default.clone(),
    ];
    let rows = firewall.rules.iter().map(row).chain([rest]);
    table(&headings, rows).trim_fmt()
}

fn row(rule: &FirewallRuleView) -> Vec<String> {
    let ports = match rule.ports.is_empty() {
        true => "any".to_owned(),
        false => rule.ports.join(","),
    };
    vec![
        rule.number.to_string(),
        rule.priority.to_string(),
        rule.from.clone(),
        rule.to.clone(),
        rule.protocol.clone(),
        ports,
        rule.verdict.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_listed_as_they_are_asked_with_the_default_at_the_end() {
        let firewall = FirewallView {
            network: "default".into(),
            default: "deny".into(),
            rules: vec![
                FirewallRuleView {
                    number: 2,
                    priority: 10,
                    from: "label:role=web".into(),
                    to: "node:db".into(),
                    protocol: "tcp".into(),
                    ports: vec!["5432".into(), "8000-8100".into()],
                    verdict: "allow".into(),
                },
                FirewallRuleView {
                    number: 1,
                    priority: 100,
                    from: "cidr:fd00::9/128".into(),
                    to: "any".into(),
                    protocol: "icmp".into(),
                    ports: vec![],
                    verdict: "deny".into(),
                },
            ],
        };
        insta::assert_snapshot!(show(&firewall), @r"
        RULE     PRIORITY  FROM              TO       PROTO  PORTS           VERDICT
        2        10        label:role=web    node:db  tcp    5432,8000-8100  allow
        1        100       cidr:fd00::9/128  any      icmp   any             deny
        default  -         any               any      any    any             deny
        ");
    }
}
