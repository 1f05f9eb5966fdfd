//! When Docker is looked at, and what dockerd is told of the server for names.

use consensus_core::{
    DockerHost, DockerPhase, LogIndex, MeshId, Network, NetworkId, Peer, RoutingMode, WallMs,
};
use futures::channel::mpsc;

use super::*;

const OLD: NetworkId = NetworkId::from_bytes([1; 16]);
const NEW: NetworkId = NetworkId::from_bytes([2; 16]);
/// Two seconds of them, each 10 ms after the last.
const EVENTS: usize = 200;
const OLD_ADDRESS: &str = "10.41.1.1";
const NEW_ADDRESS: &str = "10.42.1.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn me() -> NodeId {
    format!("12D3KooW{}", "a".repeat(44)).parse().unwrap()
}

/// This node is a Docker host with places in two networks.
fn agreed(phase: DockerPhase) -> Agreed {
    let mut agreed = Agreed::default();
    for (id, n) in [(OLD, 1), (NEW, 2)] {
        let network = Network {
            name: format!("net{n}"),
            handle: format!("net{n}"),
            ipv6: consensus_core::Ipv6Prefix64::of(MeshId::from_bytes([1; 16]), id),
            ipv4: format!("100.{}.0.0/16", 95 + n).parse().unwrap(),
            wireguard_port: 7440,
            routing_mode: RoutingMode::Mesh,
            pod_subnet_prefix: None,
            container_subnet_prefix: format!("10.{}.0.0/16", 40 + n).parse().ok(),
            container_subnets_given: 2,
        };
        let peer = Peer {
            ipv6: "fd00::1".parse().unwrap(),
            ipv4: format!("100.{}.0.1", 95 + n).parse().unwrap(),
            attached: LogIndex(n),
            hub: false,
            lan_subnets: BTreeSet::new(),
            container_subnet: format!("10.{}.1.0/24", 40 + n).parse().ok(),
        };
        agreed.networks.insert(id, network);
        agreed.peers.insert((id, me()), peer);
    }
    let host = DockerHost {
        phase,
        since: WallMs(0),
        listen: None,
        version: None,
        certificate: None,
        provisioned: true,
    };
    agreed.docker_hosts.insert(me(), host);
    agreed
}

fn ready() -> DockerPhase {
    DockerPhase::Ready {
        version: "20.10".to_owned(),
    }
}

/// What dockerd is told where the server listens at these, fails at those, and Docker can make all
/// bridges but one.
fn told(at: &[&str], failed: &[&str], without: Option<&str>) -> NamesServer {
    let agreed = agreed(ready());
    let listening = Listening {
        at: at.iter().map(|text| ip(text)).collect(),
        failed: failed
            .iter()
            .map(|text| (ip(text), String::new()))
            .collect(),
    };
    let places = places(&agreed, &me(), &BTreeSet::new());
    let can_be = |network: &BridgeNetwork| Some(network.bridge.as_str()) != without;
    names_server(&agreed, &me(), &served(&places, &listening, can_be))
}

#[test]
fn dockerd_is_told_of_the_server_where_containers_can_ask_it_and_of_nothing_before_that_is_known() {
    let (old, new) = (OLD_ADDRESS, NEW_ADDRESS);
    let bridge = Some("br-sh-net1");
    for (at, failed, without, expected) in [
        (&[old, new][..], &[][..], None, NamesServer::At(ip(old))),
        // Another program has the port, or there can be no bridge: the other network's will do.
        (&[new], &[old], None, NamesServer::At(ip(new))),
        (&[old, new], &[], bridge, NamesServer::At(ip(new))),
        (&[], &[old, new], None, NamesServer::Nobody),
        (&[old], &[new], bridge, NamesServer::Nobody),
        // It has not been tried yet, and another word would be another start of dockerd.
        (&[], &[], None, NamesServer::Undecided),
        (&[new], &[], None, NamesServer::Undecided),
    ] {
        assert_eq!(
            told(at, failed, without),
            expected,
            "{at:?} {failed:?} {without:?}"
        );
    }
}

#[test]
fn a_node_without_containers_tells_dockerd_of_nobody_and_the_filter_of_no_bridge() {
    let served = [(ip(OLD_ADDRESS), true)].into();
    let stopping = agreed(DockerPhase::Stopping);
    let told = names_server(&stopping, &me(), &served);
    assert_eq!(told, NamesServer::Nobody);
    assert!(bridges(&stopping, &me()).is_empty());
    let names: Vec<String> = bridges(&agreed(ready()), &me())
        .into_iter()
        .map(|bridge| bridge.interface)
        .collect();
    assert_eq!(names, ["br-sh-net1", "br-sh-net2"]);
}

#[test]
fn a_host_at_rest_has_no_names_of_containers_and_is_not_asked_for_any() {
    let network = BridgeNetwork {
        network: "net1".into(),
        bridge: "br-sh-net1".into(),
        subnet: "10.41.1.0/24".parse().unwrap(),
        mtu: 1420,
    };
    let survey = NetworkSurvey {
        networks: vec![runtimes_core::networks::SeenNetwork {
            id: "abc".into(),
            name: "shoal-net1".into(),
            made_of: Some(network),
            ours: true,
            containers: BTreeSet::new(),
        }],
        running: vec![runtimes_docker::AttachedContainer {
            name: "Web".into(),
            addresses: [("abc".into(), "10.41.1.2".parse().unwrap())].into(),
        }],
        ..NetworkSurvey::default()
    };
    let own = |phase| {
        let mut agreed = agreed(phase);
        let other: NodeId = format!("12D3KooW{}", "b".repeat(44)).parse().unwrap();
        let host = agreed.docker_hosts[&me()].clone();
        let peer = Peer {
            ipv4: "100.96.0.2".parse().unwrap(),
            container_subnet: "10.41.2.0/24".parse().ok(),
            ..agreed.peers[&(OLD, me())].clone()
        };
        agreed.docker_hosts.insert(other.clone(), host);
        agreed.peers.insert((OLD, other), peer);
        let places = places(&agreed, &me(), &BTreeSet::new());
        let directory = directory(&agreed, &me(), &places, &survey, |_| true);
        let names = &directory.networks[&OLD];
        (names.containers.contains_key("web"), names.hosts.len())
    };
    assert_eq!(own(ready()), (true, 1));
    assert_eq!(own(DockerPhase::Drained), (false, 0));
}

#[tokio::test(start_paused = true)]
async fn events_in_a_row_lead_to_one_look_in_a_quarter_of_a_second_and_the_last_one_to_a_look_too()
{
    let (mut events, stream) = mpsc::channel(EVENTS);
    let mut changes: Changes = Box::pin(stream);
    let begun = Instant::now();
    let storm = async move {
        for _ in 0..EVENTS {
            events.try_send(Ok(())).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Instant::now()
    };
    let looks = async {
        let (mut looked, mut looks) = (None, Vec::new());
        while burst(&mut changes, looked).await {
            let now = Instant::now();
            looked = Some(now);
            looks.push(now);
        }
        looks
    };
    let (last_event, looks) = tokio::join!(storm, looks);
    assert_eq!(looks[0] - begun, BURST, "the first is looked at soon");
    for pair in looks.windows(2) {
        assert!(pair[1] - pair[0] >= LOOKS_APART, "{:?}", pair[1] - pair[0]);
    }
    assert!((8..=9).contains(&looks.len()), "{}", looks.len());
    let last_sent = last_event - Duration::from_millis(10);
    assert!(looks.last().is_some_and(|last| *last >= last_sent));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_docker_does_not_make_is_given_up_on_until_it_is_there_or_not_wanted() {
    let network = |bridge: &str| BridgeNetwork {
        network: bridge.into(),
        bridge: bridge.into(),
        subnet: "10.41.1.0/24".parse().unwrap(),
        mtu: 1420,
    };
    // Every machine has the one, and none the other.
    let wanted: BTreeMap<_, _> = ["lo", "br-sh-nowhere"]
        .map(|bridge| (bridge.to_owned(), network(bridge)))
        .into();
    let mut known = Known::default();
    known.look_for_bridges(&wanted);
    assert!(!known.lacks("br-sh-nowhere"), "it is about to be made");
    tokio::time::advance(BRIDGE_WITHIN).await;
    known.look_for_bridges(&wanted);
    assert!(known.lacks("br-sh-nowhere") && !known.lacks("lo"));
    known.look_for_bridges(&BTreeMap::new());
    assert!(!known.lacks("br-sh-nowhere"));
}
