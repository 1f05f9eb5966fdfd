//! What an operator can do about each refusal.
//!
//! Decides the words alone.

use crate::Refusal;

impl Refusal {
    /// What the operator can do about it.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each refusal, and nothing is decided here"
    )]
    pub fn hint(&self) -> String {
        match self {
            Self::NoMesh => {
                "make one with `shoal init`, or join one with `shoal join --token-file FILE`".into()
            }
            Self::MeshExists => {
                "a node belongs to one mesh; use another data directory for a second one".into()
            }
            Self::TokenUnknown { .. } | Self::TokenSecretWrong => {
                "make a new one with `shoal token create` and copy the whole file".into()
            }
            Self::TokenExpired { .. } | Self::TokenUsed { .. } => {
                "make a new one with `shoal token create` on any node of the mesh".into()
            }
            Self::NodeUnknown { .. } => "`shoal node ls` lists the nodes".into(),
            Self::NodeNameTaken { .. } => "start the daemon with another `--name`".into(),
            Self::NodeEnrolled { .. } => {
                "it needs no second join; `shoal status` on it shows its mesh".into()
            }
            Self::Invalid { rule, .. } => format!("it must be {rule}"),
            Self::LastServer { .. } => {
                "promote another node first: `shoal node promote NODE`".into()
            }
            Self::MajorityAtRisk { .. } => {
                "bring a silent server back or remove that one first; `--force` does it all the same, and the mesh may then stand still".into()
            }
            Self::RoleUnchanged { .. } => "nothing to do".into(),
            Self::NetworkUnknown { .. } => "`shoal network ls` lists the networks".into(),
            Self::PeerExists { .. } => "nothing to do".into(),
            Self::PeerUnknown { network, .. } => {
                format!("`shoal network show {network}` lists its peers")
            }
            Self::AddressesExhausted { network, .. } => format!(
                "free one: `shoal network show {network}` lists its peers, `shoal network detach` and `shoal node remove` free theirs"
            ),
            Self::AddressCollision { .. } => {
                "make a new node key: empty the data directory and join again".into()
            }
            Self::MissingSdwanPeer { node } => {
                format!("attach one: `shoal network attach {node} default`")
            }
            Self::ModuleUnknown { .. } => "`shoal module ls` lists the modules".into(),
            Self::ModuleAssigned { module, .. } if module.starts_with("k3s-") => {
                "`shoal cluster ls` shows how far it is; for another cluster or another K3s: `shoal k3s provision`".into()
            }
            Self::ModuleAssigned { .. } => {
                "nothing to do; `shoal docker ls` and `shoal cluster ls` show how far it is".into()
            }
            Self::ModuleNotAssigned { .. } => "`shoal module ls` lists the assignments".into(),
            Self::ModuleBySelector {
                module, selector, ..
            } => {
                format!("unassign it there: `shoal module unassign --selector {selector} {module}`")
            }
            Self::PeerInUse { node, .. } => {
                format!("unassign it first: `shoal module unassign {node} docker-engine`")
            }
            Self::DockerHostUnknown { node } => {
                format!(
                    "`shoal docker ls` lists the hosts; `shoal docker provision {node}` makes one"
                )
            }
            Self::DockerHostExists { .. } => "`shoal docker ls` lists the hosts".into(),
            Self::NotYours { .. } => "give the command on the node that it concerns".into(),
            Self::NotServer { .. } => "`shoal node ls` shows the servers".into(),
            Self::TooLarge { .. } => "make it smaller".into(),
            Self::CertificateUnknown { .. } => {
                "`shoal ca status` lists the certificates; one that ended needs no revocation".into()
            }
            Self::IntermediateUnusable { .. } => {
                "ask another server; this one makes itself a new intermediate".into()
            }
            Self::RootUnknown { .. } => "`shoal ca status` lists the roots".into(),
            Self::SealedToOthers => {
                "the set of servers has changed meanwhile: seal it to today's".into()
            }
            Self::RotationUnderWay { .. }
            | Self::RotationOutOfStep { .. }
            | Self::RotationHeld { .. } => "`shoal ca status` shows how far it is".into(),
            Self::NoRotation => "begin one with `shoal ca rotate`".into(),
            Self::OperatorUnknown { .. } => "`shoal operator ls` lists the operators".into(),
            Self::OperatorExists { .. } => {
                "choose another name, or remove that one with `shoal operator remove`".into()
            }
            Self::NodeRemoved { .. } => {
                "empty its data directory and join again with a new token".into()
            }
            Self::NetworkExists { .. } => {
                "choose another name; `shoal network ls` lists the networks".into()
            }
            Self::NetworkInUse { network, .. } => format!(
                "`shoal network show {network}` lists its peers; `shoal network detach NODE {network}` takes one out"
            ),
            Self::NetworkHandleTaken { .. } => "choose another name".into(),
            Self::WireguardPortTaken { .. } => {
                "choose another port, or leave it out and have a free one picked".into()
            }
            Self::PrefixOverlap { .. } => {
                "choose another prefix; `shoal network ls` and `shoal network show` list those in use".into()
            }
            Self::VipUnknown { .. } => "`shoal vip ls` lists the virtual IPs".into(),
            Self::VipExists { .. } => {
                "choose another name, or delete that one with `shoal vip delete`".into()
            }
            Self::VipCollision { .. } => {
                "give the command again: it then gets another address".into()
            }
            Self::VipNotCandidate { vip, .. } | Self::VipNoCandidate { vip, .. } => {
                format!("`shoal vip show {vip}` lists its candidates and how they are")
            }
            Self::VipHeld { vip, .. } => {
                format!("`shoal vip failover {vip}` moves it to the next candidate")
            }
            Self::VipNotHolder { vip, .. }
            | Self::VipEpoch { vip, .. }
            | Self::VipNotClosed { vip, .. }
            | Self::VipVoters { vip, .. } => {
                format!("it moved meanwhile, or is about to: see `shoal vip show {vip}`")
            }
            Self::VipUsesPeer { vip, .. } => {
                format!("take it off the candidates first: `shoal vip candidates {vip} NODE,…`")
            }
            Self::ClusterUnknown { .. } | Self::ClusterInError { .. } => {
                "`shoal cluster ls` lists the clusters and how they are".into()
            }
            Self::ClusterNone => {
                "found one first: `shoal k3s provision NODE --role server --cluster NAME`".into()
            }
            Self::ClusterAmbiguous { .. } => "name one with `--cluster NAME`".into(),
            Self::ClusterFixed { .. } => {
                "found another cluster with what you want, or leave the option out".into()
            }
            Self::ClusterBusy { cluster, .. } => {
                format!("`shoal cluster show {cluster}` shows how far it is")
            }
            Self::ClusterLastServer { cluster, .. } => format!(
                "add another server first: `shoal k3s provision NODE --role server --cluster {cluster}`; or give the cluster up with `shoal cluster decommission {cluster}`"
            ),
            Self::ClusterMajorityAtRisk { node, cluster, .. } => format!(
                "bring a silent server back, or take it out first (`shoal node remove`), let a drained one work again (`shoal node uncordon`), or add one: `shoal k3s provision NODE --role server --cluster {cluster}`; one that is to be removed leaves its cluster in peace with `shoal module unassign {node} k3s-server`, and has left once `shoal cluster nodes {cluster}` shows it no more; `--force` of `node drain` and `node remove` does it all the same, and the cluster's API then stands still"
            ),
            Self::ClusterUsesPeer { node, .. } => {
                format!("take the node out of it first: `shoal module unassign {node} k3s-server`, or k3s-agent")
            }
            Self::ClusterUsesVip { cluster, .. } => {
                format!("it comes and goes with the cluster: `shoal cluster show {cluster}`")
            }
            Self::CniProfileMismatch { .. } => {
                "choose flannel for a new cluster (`--cni flannel`), or a heavyweight node".into()
            }
            Self::K3sNodeUnknown { .. } => {
                "`shoal cluster nodes NAME` lists a cluster's nodes".into()
            }
            Self::K3sRoleTaken { node, has } => {
                format!("take it away first: `shoal module unassign {node} {has}`")
            }
            Self::K3sRuns { cluster, .. } => format!(
                "the whole cluster gets another K3s, one node after another: `shoal cluster upgrade {cluster} --binary PATH --version V`"
            ),
            Self::NotClusterServer { cluster, .. } => {
                format!("`shoal cluster nodes {cluster}` lists its servers")
            }
            Self::TokenSealedToOthers { .. } => "seal it to the node's own recipient".into(),
            Self::NotDrained { .. } => "nothing to do; `shoal node ls` shows the nodes".into(),
            Self::NodeDrained { node } => {
                format!("let it work again first: `shoal node uncordon {node}`")
            }
            Self::ConsentRequired { .. } => {
                "with it goes all that K3s has there, a server's part of etcd too; if that is meant give `--yes`, or `\"consent\": true` in a request".into()
            }
            Self::GrantUnknown { .. } => "`shoal access ls` lists the access grants".into(),
            Self::GrantExists { .. } => {
                "choose another name, or revoke that one with `shoal access revoke`".into()
            }
            Self::GrantCollision { .. } => {
                "give the command again: it then gets another address".into()
            }
            Self::GrantKeyTaken { .. } => {
                "every device needs a key of its own: make one with `wg genkey`, or leave --public-key out".into()
            }
            Self::GrantUsesPeer { grant, .. } => {
                format!("choose another gateway first: `shoal access move {grant} --via NODE`")
            }
            Self::KeyRotationUnderWay { node } => {
                format!("`shoal node show {node}` shows how far it is")
            }
            Self::KeyInDevices { .. } => {
                "`--leave-devices` does it all the same; give each a new configuration with `shoal access show DEVICE` then".into()
            }
            Self::KeyNotAnnounced { .. } => {
                "nothing to do: the node tries again by itself".into()
            }
            Self::FirewallRuleUnknown { network, .. } => {
                format!("`shoal network rule ls {network}` lists its rules")
            }
        }
    }
}
