//! Claims about who gives pods their network, and how K3s is told so.

use consensus_core::NetworkProfile;
use serde_json::Value;

use super::*;

/// How a machine comes to a cluster.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// It founds it; what was asked for, if anything, decides.
    Founds,
    /// It joins one as a server.
    Serves,
    /// It joins one as an agent.
    Works,
}

/// What K3s on such a machine is told of pods' network, by way, asked CNI and network's prefix: the
/// values of `flannel-backend`, `flannel-iface`, `cluster-cidr` and `disable-network-policy`. `None` if
/// it is refused. `asked` of a node that joins is what its cluster has.
fn told(
    profile: NetworkProfile,
    asked: Option<Cni>,
    way: Way,
    prefix: Option<&str>,
) -> Option<[Value; 4]> {
    let cni = asked.unwrap_or(Cni::of_profile(profile));
    let mut stay = match way {
        Way::Founds => founder(),
        Way::Serves => stay(K3sRole::Server, Entrance::Join),
        Way::Works => agent(),
    };
    stay.membership = match (cni.runs_on(profile), stay.membership) {
        (true, Ok(membership)) => Ok(Membership {
            cni,
            pod_prefix: prefix.map(|prefix| prefix.parse().unwrap()),
            ..membership
        }),
        (true, Err(_)) | (false, _) => Err(Misfit::TooSmall {
            node: "n1".into(),
            cni: cni.as_str().into(),
        }),
    };
    let mut host = Host::new(stay);
    let phase = host.run();
    if let Phase::Failed { code, .. } = phase {
        assert_eq!(code, "CniProfileMismatchError");
        assert!(
            host.steps.is_empty(),
            "nothing is installed: {:?}",
            host.steps
        );
        return None;
    }
    assert!(matches!(phase, Phase::Ready { .. }), "{phase:?}");
    let settings: Value = serde_json::from_str(&host.observed.settings.unwrap()).unwrap();
    let keys = [
        "flannel-backend",
        "flannel-iface",
        "cluster-cidr",
        "disable-network-policy",
    ];
    Some(keys.map(|key| settings.get(key).cloned().unwrap_or(Value::Null)))
}

const HEAVY: NetworkProfile = NetworkProfile::Heavyweight;
const LIGHT: NetworkProfile = NetworkProfile::Lightweight;
const FLANNEL: Option<Cni> = Some(Cni::Flannel);
const OVN: Option<Cni> = Some(Cni::OvnKubernetes);
const PREFIX: Option<&str> = Some("10.42.0.0/16");

/// A machine, what was asked for, its way in, the network's prefix, and what its settings say: `-` is a
/// key that is not there, `refused` a whole row that is not.
type Row = (
    NetworkProfile,
    Option<Cni>,
    Way,
    Option<&'static str>,
    &'static str,
);

const ROWS: &[Row] = &[
    (HEAVY, None, Way::Founds, None, "none - - true"),
    (HEAVY, None, Way::Founds, PREFIX, "none - - true"),
    (HEAVY, FLANNEL, Way::Founds, None, "vxlan wg - -"),
    (
        HEAVY,
        FLANNEL,
        Way::Founds,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (HEAVY, OVN, Way::Founds, None, "none - - true"),
    (HEAVY, OVN, Way::Founds, PREFIX, "none - - true"),
    (LIGHT, None, Way::Founds, None, "vxlan wg - -"),
    (
        LIGHT,
        None,
        Way::Founds,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (LIGHT, FLANNEL, Way::Founds, None, "vxlan wg - -"),
    (
        LIGHT,
        FLANNEL,
        Way::Founds,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (LIGHT, OVN, Way::Founds, None, "refused"),
    (LIGHT, OVN, Way::Founds, PREFIX, "refused"),
    (HEAVY, FLANNEL, Way::Serves, None, "vxlan wg - -"),
    (
        HEAVY,
        FLANNEL,
        Way::Serves,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (HEAVY, OVN, Way::Serves, None, "none - - true"),
    (HEAVY, OVN, Way::Serves, PREFIX, "none - - true"),
    (LIGHT, FLANNEL, Way::Serves, None, "vxlan wg - -"),
    (
        LIGHT,
        FLANNEL,
        Way::Serves,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (LIGHT, OVN, Way::Serves, None, "refused"),
    (LIGHT, OVN, Way::Serves, PREFIX, "refused"),
    (HEAVY, FLANNEL, Way::Works, None, "- wg - -"),
    (HEAVY, FLANNEL, Way::Works, PREFIX, "- wg - -"),
    (HEAVY, OVN, Way::Works, None, "- - - -"),
    (HEAVY, OVN, Way::Works, PREFIX, "- - - -"),
    (LIGHT, FLANNEL, Way::Works, None, "- wg - -"),
    (LIGHT, FLANNEL, Way::Works, PREFIX, "- wg - -"),
    (LIGHT, OVN, Way::Works, None, "refused"),
    (LIGHT, OVN, Way::Works, PREFIX, "refused"),
];

/// SPEC 5.6 and 5.7: every profile, choice, way in, with and without a prefix.
#[test]
fn what_pods_get_follows_from_profile_choice_way_and_prefix() {
    for (profile, asked, way, prefix, expected) in ROWS.iter().copied() {
        let word = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.replace("shoal-default", "wg"),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                value.to_string()
            }
        };
        let got = told(profile, asked, way, prefix);
        let got = got.map_or("refused".to_owned(), |values| {
            values.each_ref().map(word).join(" ")
        });
        assert_eq!(got, expected, "{profile:?} {asked:?} {way:?} {prefix:?}");
    }
}
