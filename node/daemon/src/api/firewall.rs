//! Firewall rules of networks.
//!
//! Decides how the ends of a rule are written. Whether a rule may stand is for its application to
//! say.

use axum::{Json, extract::Path};
use consensus_core::{
    Agreed, Command, Done, FirewallRule, NewRule, PortRange, Refusal, RuleEnd, RuleNumber,
    RulePlace, RuleProtocol, Verdict,
};
use node_api::{
    ApiError,
    types::{Changed, FirewallRuleAdded, FirewallRuleRequest, FirewallRuleView, FirewallView},
};

use super::{Answer, Body, Member, change};
use crate::node::{invalid, invalid_text};

/// Where a rule goes of which nothing is said: with room before and behind.
const PRIORITY: u16 = 100;

pub(super) async fn list(Member(mesh): Member, Path(name): Path<String>) -> Answer<FirewallView> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let found = agreed.find_network(&name);
    let (id, network) = found.ok_or_else(|| Refusal::NetworkUnknown {
        network: name.clone(),
    })?;
    let firewall = agreed.firewall(*id);
    let rules = firewall.rules.iter().map(|rule| view(&agreed, rule));
    Ok(Json(FirewallView {
        network: network.name.clone(),
        default: firewall.default.as_str().to_owned(),
        rules: rules.collect(),
    }))
}

fn view(agreed: &Agreed, rule: &FirewallRule) -> FirewallRuleView {
    FirewallRuleView {
        number: rule.number.0,
        priority: rule.priority,
        from: rule.from.describe(agreed),
        to: rule.to.describe(agreed),
        protocol: rule.protocol.as_str().to_owned(),
        ports: rule.ports.iter().map(PortRange::to_string).collect(),
        verdict: rule.verdict.as_str().to_owned(),
    }
}

pub(super) async fn add(
    Member(mesh): Member,
    Path(network): Path<String>,
    Body(request): Body<FirewallRuleRequest>,
) -> Answer<FirewallRuleAdded> {
    let command = Command::AddFirewallRule(new_rule(network, &request)?);
    let (index, done) = mesh.proposer.submit(command).await?;
    let Done::RuleAdded { number } = done else {
        let hint = "`shoal network rule ls` lists the rules";
        let message = "the servers answered with something else than a rule's number";
        return Err(ApiError::new("InternalError", message, hint).into());
    };
    Ok(Json(FirewallRuleAdded {
        raft_index: index.0,
        warnings: Vec::new(),
        number: number.0,
    }))
}

fn new_rule(network: String, request: &FirewallRuleRequest) -> Result<NewRule, ApiError> {
    let place = match (request.priority, request.before) {
        (Some(_), Some(before)) => {
            let rule = "left out where a priority is given";
            return Err(invalid_text("place", &format!("before {before}"), rule));
        }
        (None, Some(before)) => RulePlace::Before(RuleNumber(before)),
        (priority, None) => RulePlace::Priority(priority.unwrap_or(PRIORITY)),
    };
    let protocol = request.protocol.as_deref().unwrap_or_default();
    let ports = request.ports.iter().map(|text| text.parse());
    Ok(NewRule {
        network,
        from: end(request.from.as_deref())?,
        to: end(request.to.as_deref())?,
        protocol: match protocol {
            "" => RuleProtocol::default(),
            name => RuleProtocol::from_name(name)
                .ok_or_else(|| invalid_text("protocol", name, "any, tcp, udp or icmp"))?,
        },
        ports: ports
            .collect::<Result<Vec<PortRange>, _>>()
            .map_err(|error| invalid(&error))?,
        verdict: verdict(&request.verdict)?,
        place,
    })
}

pub(super) fn verdict(name: &str) -> Result<Verdict, ApiError> {
    Verdict::from_name(name).ok_or_else(|| invalid_text("verdict", name, "allow or deny"))
}

/// `any`, `node:NAME`, `label:KEY=VALUE` or `cidr:PREFIX`.
fn end(text: Option<&str>) -> Result<RuleEnd<String>, ApiError> {
    let text = text.unwrap_or("any");
    let malformed = || {
        let rule = "any, node:NAME, label:KEY=VALUE or cidr:PREFIX";
        invalid_text("end of a rule", text, rule)
    };
    if text == "any" {
        return Ok(RuleEnd::Any);
    }
    let (kind, value) = text.split_once(':').ok_or_else(malformed)?;
    match kind {
        "node" => Ok(RuleEnd::Node(value.to_owned())),
        "cidr" => Ok(RuleEnd::Prefix(
            value.parse().map_err(|error| invalid(&error))?,
        )),
        "label" => {
            let (key, value) = value.split_once('=').ok_or_else(malformed)?;
            Ok(RuleEnd::Label {
                key: key.to_owned(),
                value: value.to_owned(),
            })
        }
        _ => Err(malformed()),
    }
}

pub(super) async fn remove(
    Member(mesh): Member,
    Path((network, rule)): Path<(String, String)>,
) -> Answer<Changed> {
    let number = rule.parse().map_err(|_| {
        let rule_is = "the number of a rule, as `shoal network rule ls` shows it";
        invalid_text("rule", &rule, rule_is)
    })?;
    let command = Command::RemoveFirewallRule {
        network,
        rule: RuleNumber(number),
    };
    change(&mesh, command).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_anybody_a_node_a_label_or_a_prefix() {
        let node = RuleEnd::Node("n1".to_owned());
        let label = RuleEnd::Label {
            key: "zone".to_owned(),
            value: "a:b".to_owned(),
        };
        let prefix = RuleEnd::Prefix("fd00::/64".parse().unwrap());
        for (text, is) in [
            ("any", RuleEnd::Any),
            ("node:n1", node),
            ("label:zone=a:b", label),
            ("cidr:fd00::/64", prefix),
        ] {
            assert_eq!(end(Some(text)).unwrap(), is, "{text}");
        }
        assert_eq!(end(None).unwrap(), RuleEnd::Any);
        for text in [
            "",
            "n1",
            "host:n1",
            "label:zone",
            "cidr:10.0.0.1",
            "cidr:0.0.0.0/0",
        ] {
            assert_eq!(
                end(Some(text)).unwrap_err().code,
                "InvalidInputError",
                "{text}"
            );
        }
    }

    #[test]
    fn a_rule_has_a_priority_or_another_that_it_goes_before() {
        let request = |priority, before| FirewallRuleRequest {
            verdict: "deny".into(),
            priority,
            before,
            ..FirewallRuleRequest::default()
        };
        let place = |request| new_rule("a".into(), &request).map(|rule| rule.place);
        assert_eq!(place(request(None, None)), Ok(RulePlace::Priority(100)));
        assert_eq!(place(request(Some(7), None)), Ok(RulePlace::Priority(7)));
        let before = RulePlace::Before(RuleNumber(3));
        assert_eq!(place(request(None, Some(3))), Ok(before));
        assert!(place(request(Some(7), Some(3))).is_err());
    }
}
