//! `shoal k3s`: nodes of K3s clusters.

pub(super) mod consent;

use std::path::PathBuf;

use node_api::{
    Route,
    types::{K3sBinaryRequest, K3sRequest},
};

use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Nodes of K3s clusters
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum K3s {
    Provision(Provision),
}

/// Make a node a server or an agent of a K3s cluster
///
/// A server that names an unknown cluster founds it. `shoal cluster nodes` tells how far it is;
/// `shoal module unassign NODE k3s-server`, or k3s-agent, takes it back. A node that is in another
/// cluster leaves that one first, and loses all that K3s has there.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Provision {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// What it is to be: `server` or `agent`
    #[arg(long, value_name = "ROLE", value_parser = ["server", "agent"], hide_possible_values = true)]
    role: String,
    /// The cluster's name or id [default: the only one]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    cluster: Option<String>,
    /// The network of a new cluster [default: the node's first]
    #[arg(long, value_name = "NETWORK", value_parser = values::name)]
    network: Option<String>,
    /// Who gives a new cluster's pods their network: `flannel` or `ovn_kubernetes` [default: what the
    /// machine can carry]
    #[arg(long, value_name = "CNI")]
    cni: Option<String>,
    /// How soon the address of a new cluster's API moves when its holder dies: `lan`, in some 0.4 s,
    /// `safe`, in 1.2 s, `wan`, in 3.5 s, or `slow`, in 8 s [default: lan]
    #[arg(long, value_name = "PROFILE", value_parser = ["lan", "safe", "wan", "slow"], hide_possible_values = true)]
    vip_profile: Option<String>,
    #[command(flatten)]
    binary: Binary,
    #[command(flatten)]
    yes: Yes,
}

/// Which K3s.
#[derive(Debug, clap::Args)]
struct Binary {
    /// A K3s program on the node itself [default: the one in /usr/local/bin]
    #[arg(long = "k3s-binary", value_name = "PATH", conflicts_with = "url")]
    path: Option<PathBuf>,
    /// Where the node can fetch a K3s program
    #[arg(long = "k3s-url", value_name = "URL", requires = "sha256")]
    url: Option<String>,
    /// What the file there must hash to
    #[arg(long, value_name = "HEX", requires = "url")]
    sha256: Option<String>,
    /// What it must say its version is, such as v1.31.2+k3s1 [default: the cluster's]
    #[arg(long = "k3s-version", value_name = "VERSION")]
    version: Option<String>,
    /// A directory on the node with images that are there before any is pulled
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

/// Where a K3s program comes from, as it was written.
pub(super) struct Source {
    pub(super) path: Option<PathBuf>,
    pub(super) url: Option<String>,
    pub(super) sha256: Option<String>,
}

impl Source {
    pub(super) fn request(
        self,
        version: Option<String>,
        images: Option<PathBuf>,
    ) -> K3sBinaryRequest {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        K3sBinaryRequest {
            path: self.path.map(text),
            url: self.url,
            sha256: self.sha256,
            version,
            images: images.map(text),
        }
    }
}

impl Binary {
    fn request(self) -> K3sBinaryRequest {
        let source = Source {
            path: self.path,
            url: self.url,
            sha256: self.sha256,
        };
        source.request(self.version, self.images)
    }
}

impl K3s {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Provision(provision) => provision.run(context).await,
        }
    }
}

impl Provision {
    async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let article = if self.role == "agent" { "an" } else { "a" };
        let cluster = self.cluster.as_deref().unwrap_or("CLUSTER");
        let said = format!(
            "{} is to be {article} {} of a K3s cluster; `shoal cluster nodes {cluster}` tells how far it is",
            self.node, self.role
        );
        let route = Route::to(&["k3s", &self.node, "provision"]);
        let request = K3sRequest {
            role: self.role,
            cluster: self.cluster,
            network: self.network,
            cni: self.cni,
            binary: self.binary.request(),
            vip_profile: self.vip_profile,
            consent: false,
        };
        let answer = consent::post(context, &self.yes, &route, |consent| K3sRequest {
            consent,
            ..request.clone()
        });
        context.changed(Ok(answer.await?), &said)
    }
}
