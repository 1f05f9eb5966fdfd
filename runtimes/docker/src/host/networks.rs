//! Docker's networks, and who is in them.
//!
//! Decides: by which options a network's bridge is what was asked for, and how these are read back.
//! Which networks there are is the core's decision.
//! Never: changes a network; Docker can't. One that is to be different is removed and made anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use bollard::{
    models::{ContainerSummary, Ipam, IpamConfig, Network, NetworkCreateRequest},
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptions},
};
use consensus_core::IpPrefix;
use futures::{Stream, StreamExt};
use runtimes_core::networks::{
    BridgeNetwork, NETWORK_LABEL, NetworkObstacle, NetworkStep, SeenNetwork, plan,
};

use super::{DockerError, DockerHost, error::Subject};

/// The bridge's interface.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
/// Its MTU, and that of containers on it.
const BRIDGE_MTU: &str = "com.docker.network.driver.mtu";
/// The driver of networks that are a bridge of this host.
const BRIDGE_DRIVER: &str = "bridge";
/// Where nobody chose a name, the bridge has this one and so many digits of the network's id.
const BRIDGE_DIGITS: usize = 12;
/// From this version of the API on (Docker 28), dockerd drops what comes to a container from another
/// host, unless the network is in this mode. Published ports and the way out are as before. The
/// packet filter says who may come.
const UNPROTECTED_SINCE: (usize, usize) = (1, 48);
/// See [`UNPROTECTED_SINCE`]; 27 knows the option and refuses the value, so it is not given blindly.
const GATEWAY_MODE: (&str, &str) = (
    "com.docker.network.bridge.gateway_mode_ipv4",
    "nat-unprotected",
);

/// A running container's place in Docker's networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedContainer {
    /// Its name.
    pub name: String,
    /// Its address, by the id of the network.
    pub addresses: BTreeMap<String, Ipv4Addr>,
}

/// Docker's networks and who is in them, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkSurvey {
    /// All of them.
    pub networks: Vec<SeenNetwork>,
    /// The subnets of those that shoal did not make.
    pub others: BTreeSet<IpPrefix>,
    /// The bridges of those that shoal did not make, as their interfaces are called.
    pub other_bridges: BTreeSet<String>,
    /// The containers that run.
    pub running: Vec<AttachedContainer>,
}

/// Docker's networks after they were brought in line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    /// What there is.
    pub survey: NetworkSurvey,
    /// What is not as it is wanted, and why.
    pub obstacles: Vec<NetworkObstacle>,
}

impl DockerHost {
    /// All networks, and all containers in them.
    async fn survey_networks(&self) -> Result<NetworkSurvey, DockerError> {
        let listed = self.client.list_networks(None::<ListNetworksOptions>).await;
        let networks = listed.map_err(self.failed(Subject::Engine))?;
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let listed = self.client.list_containers(Some(options)).await;
        let containers = listed.map_err(self.failed(Subject::Engine))?;
        Ok(survey(networks, containers))
    }

    /// Makes and removes networks until Docker has those that are wanted, as far as it can be done.
    /// Gives back what is there then, and what stands in the way.
    pub async fn bring_networks_in_line(
        &self,
        wanted: &BTreeMap<String, BridgeNetwork>,
    ) -> Result<Networks, DockerError> {
        let mut survey = self.survey_networks().await?;
        let mut planned = plan(wanted, &survey.networks);
        let steps = std::mem::take(&mut planned.steps);
        let any = !steps.is_empty();
        for step in steps {
            match step {
                NetworkStep::Remove { id, name } => {
                    self.remove_network(&id).await?;
                    tracing::info!(name, "a network of Docker is removed");
                }
                NetworkStep::Create { name, network } => {
                    self.create_network(&name, &network).await?;
                    tracing::info!(name, subnet = %network.subnet, "a network of Docker is made");
                }
            }
        }
        if any {
            survey = self.survey_networks().await?;
        }
        let obstacles = planned.obstacles;
        Ok(Networks { survey, obstacles })
    }

    async fn create_network(&self, name: &str, network: &BridgeNetwork) -> Result<(), DockerError> {
        let request = create_request(name, network, self.speaks(UNPROTECTED_SINCE));
        let made = self.client.create_network(request).await;
        made.map(|_| ()).map_err(self.failed(Subject::Engine))
    }

    /// Removes a network by its id. One that is gone already is no error.
    async fn remove_network(&self, id: &str) -> Result<(), DockerError> {
        match self.client.remove_network(id).await {
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404, ..
            })
            | Ok(()) => Ok(()),
            Err(error) => Err(self.failed(Subject::Engine)(error)),
        }
    }

    /// Says each time that a container or a network of Docker may have changed. Ends with the engine.
    pub fn changes(&self) -> impl Stream<Item = Result<(), DockerError>> + Send + use<> {
        // Health checks run programs in containers all the time, and change nothing.
        let changes = vec![
            "create",
            "start",
            "die",
            "destroy",
            "rename",
            "connect",
            "disconnect",
            "remove",
        ];
        let kinds = vec!["container", "network"];
        let wanted = HashMap::from([("type", kinds), ("event", changes)]);
        let options = EventsOptionsBuilder::new().filters(&wanted).build();
        let failed = self.failed(Subject::Engine);
        self.client
            .events(Some(options))
            .map(move |event| event.map(drop).map_err(&failed))
    }

    fn speaks(&self, (major, minor): (usize, usize)) -> bool {
        let mut parts = self.info.api_version.split('.');
        let mut next = || parts.next().and_then(|part| part.parse::<usize>().ok());
        (next(), next()) >= (Some(major), Some(minor))
    }
}

fn create_request(name: &str, network: &BridgeNetwork, unprotected: bool) -> NetworkCreateRequest {
    let mut options = HashMap::from([
        (BRIDGE_NAME.to_owned(), network.bridge.clone()),
        (BRIDGE_MTU.to_owned(), network.mtu.to_string()),
    ]);
    if unprotected {
        let (key, value) = GATEWAY_MODE;
        options.insert(key.to_owned(), value.to_owned());
    }
    let config = IpamConfig {
        subnet: Some(network.subnet.to_string()),
        gateway: network.gateway().map(|gateway| gateway.to_string()),
        ..IpamConfig::default()
    };
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some(BRIDGE_DRIVER.to_owned()),
        ipam: Some(Ipam {
            config: Some(vec![config]),
            ..Ipam::default()
        }),
        options: Some(options),
        labels: Some(HashMap::from([(
            NETWORK_LABEL.to_owned(),
            network.network.clone(),
        )])),
        ..NetworkCreateRequest::default()
    }
}

/// What the two lists say together.
fn survey(networks: Vec<Network>, containers: Vec<ContainerSummary>) -> NetworkSurvey {
    let mut survey = NetworkSurvey::default();
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for container in containers {
        let Some(name) = name_of(&container) else {
            continue;
        };
        let settings = container.network_settings.and_then(|it| it.networks);
        let mut addresses = BTreeMap::new();
        for (network, endpoint) in settings.unwrap_or_default() {
            let id = endpoint.network_id.filter(|id| !id.is_empty());
            // One that never ran knows its networks by their names only.
            for key in id.iter().chain([&network]) {
                members.entry(key.clone()).or_default().insert(name.clone());
            }
            // A stopped container has none.
            let address = endpoint.ip_address.and_then(|text| text.parse().ok());
            if let (Some(id), Some(address)) = (id, address) {
                addresses.insert(id, address);
            }
        }
        if !addresses.is_empty() {
            survey.running.push(AttachedContainer { name, addresses });
        }
    }
    for network in networks {
        let (Some(id), Some(name)) = (network.id.clone(), network.name.clone()) else {
            continue;
        };
        let made_of = made_of(&network);
        let ours =
            (network.labels.as_ref()).is_some_and(|labels| labels.contains_key(NETWORK_LABEL));
        if !ours {
            survey.others.extend(subnets(&network));
            survey.other_bridges.extend(bridge_of(&network, &id));
        }
        let containers = [&id, &name].map(|key| members.get(key));
        survey.networks.push(SeenNetwork {
            containers: containers
                .into_iter()
                .flatten()
                .flatten()
                .cloned()
                .collect(),
            id,
            name,
            made_of,
            ours,
        });
    }
    survey
}

/// Docker writes a slash before it, and may add names by which others link to it.
fn name_of(container: &ContainerSummary) -> Option<String> {
    let names = container.names.as_ref()?;
    let own = |name: &&String| name.trim_start_matches('/').find('/').is_none();
    let name = names.iter().find(own)?;
    Some(name.trim_start_matches('/').to_owned())
}

fn subnets(network: &Network) -> Vec<IpPrefix> {
    let config = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
    let subnets = config.into_iter().flatten();
    let subnets = subnets.filter_map(|config| config.subnet.as_ref()?.parse().ok());
    subnets.collect()
}

/// The interface of a network's bridge, if it has one.
fn bridge_of(network: &Network, id: &str) -> Option<String> {
    let is_bridge = network.driver.as_deref() == Some(BRIDGE_DRIVER);
    let options = network.options.as_ref();
    let chosen = options
        .and_then(|options| options.get(BRIDGE_NAME))
        .cloned();
    let made_up = || id.get(..BRIDGE_DIGITS).map(|digits| format!("br-{digits}"));
    chosen.or_else(made_up).filter(|_| is_bridge)
}

/// The parts that a network of shoal's was made of.
fn made_of(network: &Network) -> Option<BridgeNetwork> {
    let options = network.options.as_ref()?;
    let [subnet] = subnets(network)[..] else {
        return None;
    };
    let made_of = BridgeNetwork {
        network: network.labels.as_ref()?.get(NETWORK_LABEL)?.clone(),
        bridge: options.get(BRIDGE_NAME)?.clone(),
        subnet,
        mtu: options.get(BRIDGE_MTU)?.parse().ok()?,
    };
    let config = network.ipam.as_ref()?.config.as_ref()?.first()?;
    let gateway = config.gateway.as_ref()?.parse().ok();
    (gateway == made_of.gateway()).then_some(made_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge() -> BridgeNetwork {
        BridgeNetwork {
            network: "default".into(),
            bridge: "br-sh-default".into(),
            subnet: "10.43.1.0/24".parse().unwrap(),
            mtu: 1420,
        }
    }

    /// The network as Docker lists what it was asked to make.
    fn listed(request: NetworkCreateRequest) -> Network {
        Network {
            id: Some("abc".into()),
            name: Some(request.name),
            ipam: request.ipam,
            options: request.options,
            labels: request.labels,
            ..Network::default()
        }
    }

    #[test]
    fn what_was_made_is_known_again_and_a_foreign_network_is_not() {
        for unprotected in [false, true] {
            let made = listed(create_request("shoal-default", &bridge(), unprotected));
            let mut foreign = made.clone();
            foreign.labels = None;
            foreign.id = Some("def".into());
            let survey = survey(vec![made, foreign], Vec::new());
            assert_eq!(survey.networks[0].made_of, Some(bridge()));
            assert!(survey.networks[0].ours);
            assert!(!survey.networks[1].ours);
            assert_eq!(survey.others, [bridge().subnet].into());
        }
    }

    #[test]
    fn the_bridges_of_foreign_networks_are_told_by_the_names_that_they_have() {
        let text = r#"[
            {"Name": "bridge", "Id": "a", "Driver": "bridge", "Options": {
                "com.docker.network.bridge.name": "docker0"}},
            {"Name": "plain", "Id": "0123456789abcdef", "Driver": "bridge", "Options": {}},
            {"Name": "named", "Id": "b", "Driver": "bridge", "Options": {
                "com.docker.network.bridge.name": "web-bridge"}},
            {"Name": "vlan", "Id": "0123456789abcdef", "Driver": "macvlan", "Options": {
                "parent": "eth0"}},
            {"Name": "host", "Id": "0123456789abcdef", "Driver": "host"}
        ]"#;
        let mut networks: Vec<Network> = serde_json::from_str(text).unwrap();
        networks.push(listed(create_request("shoal-default", &bridge(), false)));
        let survey = survey(networks, Vec::new());
        let expected = ["br-0123456789ab", "docker0", "web-bridge"];
        assert_eq!(survey.other_bridges, expected.map(str::to_owned).into());
    }

    #[test]
    fn containers_are_told_with_their_addresses_and_stopped_ones_as_members() {
        let text = r#"[
            {"Names": ["/other/alias", "/web"], "NetworkSettings": {"Networks": {
                "shoal-default": {"NetworkID": "abc", "IPAddress": "10.43.1.2"}}}},
            {"Names": ["/old"], "NetworkSettings": {"Networks": {
                "shoal-default": {"NetworkID": "abc", "IPAddress": ""}}}}
        ]"#;
        let containers: Vec<ContainerSummary> = serde_json::from_str(text).unwrap();
        let made = listed(create_request("shoal-default", &bridge(), false));
        let survey = survey(vec![made], containers);
        let members = ["old".to_owned(), "web".to_owned()].into();
        assert_eq!(survey.networks[0].containers, members);
        let [web] = &survey.running[..] else {
            panic!("{survey:?}")
        };
        assert_eq!(web.name, "web");
        let address = "10.43.1.2".parse().unwrap();
        assert_eq!(web.addresses, [("abc".to_owned(), address)].into());
    }

    #[test]
    fn only_an_engine_that_knows_the_mode_is_given_it() {
        let (key, value) = GATEWAY_MODE;
        let options = |unprotected| create_request("x", &bridge(), unprotected).options.unwrap();
        assert_eq!(options(true).get(key).map(String::as_str), Some(value));
        assert_eq!(options(false).get(key), None);
    }
}
