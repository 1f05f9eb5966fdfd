//! Who may do what: every route of the operator API and the least role that it asks for.
//!
//! Decides: the role. Never: who has which role; that is agreed. Invariant: a route that is not in
//! the table is nobody's, so a new one is forgotten as a refusal, not as a hole.

/// What an operator may do, as it is agreed. Each role may do what the ones before it may.
pub use consensus_core::OperatorRole as AccessRole;

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An operator of at least this role, or root on the node.
    Role(AccessRole),
    /// Root on the node, through its socket: it is about this machine, or carries secrets.
    Socket,
}

/// One route and what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The HTTP method.
    pub method: &'static str,
    /// The path with its placeholders, as the router spells it.
    pub path: &'static str,
    /// The verb that uses it.
    pub verb: &'static str,
    /// What it asks for.
    pub access: Access,
}

/// A path, and for each of its methods the verb that uses it and what it asks for.
macro_rules! rules {
    ($($path:literal { $($method:ident $verb:literal $access:expr),+ $(,)? })+) => {
        &[$($(Rule {
            method: stringify!($method),
            path: $path,
            verb: $verb,
            access: $access,
        },)+)+]
    };
}

const SOCKET: Access = Access::Socket;
const VIEWER: Access = Access::Role(AccessRole::Viewer);
const OPERATOR: Access = Access::Role(AccessRole::Operator);
const ADMIN: Access = Access::Role(AccessRole::Admin);

/// Every route. A container can be given the whole host, so whoever runs containers is root on the
/// Docker hosts; that is what the role of operator means.
pub const RULES: &[Rule] = rules! {
    "/v1/status" { GET "status" VIEWER }
    "/v1/init" { POST "init" SOCKET }
    "/v1/join" { POST "join" SOCKET }
    "/v1/tokens" {
        GET "token ls" ADMIN,
        POST "token create" ADMIN,
    }
    "/v1/tokens/{token}" { DELETE "token revoke" ADMIN }
    "/v1/nodes" { GET "node ls" VIEWER }
    "/v1/nodes/{node}" { GET "node show" VIEWER }
    "/v1/nodes/{node}/ping" { POST "node ping" OPERATOR }
    "/v1/nodes/{node}/labels" { POST "node label" OPERATOR }
    "/v1/nodes/{node}/role" { POST "node promote" ADMIN }
    "/v1/nodes/{node}/remove" { POST "node remove" ADMIN }
    "/v1/nodes/{node}/wireguard-key" { POST "node rotate-key" ADMIN }
    "/v1/networks" {
        GET "network ls" VIEWER,
        POST "network create" OPERATOR,
    }
    "/v1/networks/{network}" {
        GET "network show" VIEWER,
        POST "network set" OPERATOR,
        DELETE "network delete" OPERATOR,
    }
    "/v1/networks/{network}/peers/{node}" {
        POST "network set-peer" OPERATOR,
        PUT "network attach" OPERATOR,
        DELETE "network detach" OPERATOR,
    }
    "/v1/networks/{network}/rules" {
        GET "network rule ls" VIEWER,
        POST "network rule add" OPERATOR,
    }
    "/v1/networks/{network}/rules/{rule}" { DELETE "network rule rm" OPERATOR }
    "/v1/vips" {
        GET "vip ls" VIEWER,
        // A check may be a program, which every candidate runs as root.
        POST "vip create" ADMIN,
    }
    "/v1/vips/{vip}" {
        GET "vip show" VIEWER,
        DELETE "vip delete" OPERATOR,
    }
    "/v1/vips/{vip}/check" { PUT "vip check" ADMIN }
    "/v1/vips/{vip}/candidates" { PUT "vip candidates" OPERATOR }
    "/v1/vips/{vip}/failover" { POST "vip failover" OPERATOR }
    "/v1/vips/{vip}/drill" { POST "vip drill" OPERATOR }
    // A node's daemon ends.
    "/v1/vips/{vip}/drill/kill" { POST "vip drill --kill" ADMIN }
    "/v1/clusters" { GET "cluster ls" VIEWER }
    "/v1/clusters/{cluster}" {
        GET "cluster show" VIEWER,
        DELETE "cluster decommission" ADMIN,
    }
    "/v1/clusters/{cluster}/nodes" { GET "cluster nodes" VIEWER }
    // Whoever has it is the cluster's administrator, and root on its nodes.
    "/v1/clusters/{cluster}/kubeconfig" { POST "cluster kubeconfig" OPERATOR }
    "/v1/clusters/{cluster}/snapshot" { POST "cluster snapshot" OPERATOR }
    // They name a program that nodes run as root.
    "/v1/clusters/{cluster}/upgrade" { POST "cluster upgrade" ADMIN }
    "/v1/k3s/{node}/provision" { POST "k3s provision" ADMIN }
    "/v1/nodes/{node}/drain" {
        GET "node drain" VIEWER,
        POST "node drain" OPERATOR,
    }
    "/v1/nodes/{node}/uncordon" { POST "node uncordon" OPERATOR }
    "/v1/access-grants" {
        GET "access ls" VIEWER,
        POST "access grant" ADMIN,
    }
    "/v1/access-grants/{grant}" {
        GET "access show" VIEWER,
        DELETE "access revoke" OPERATOR,
    }
    "/v1/access-grants/{grant}/gateway" { PUT "access move" OPERATOR }
    "/v1/access-grants/{grant}/suspend" { POST "access suspend" OPERATOR }
    // Lets somebody in.
    "/v1/access-grants/{grant}/resume" { POST "access resume" ADMIN }
    "/v1/modules" { GET "module ls" VIEWER }
    "/v1/modules/assign" { POST "module assign" OPERATOR }
    "/v1/modules/unassign" { POST "module unassign" OPERATOR }
    "/v1/docker/hosts" { GET "docker ls" VIEWER }
    "/v1/docker/hosts/{node}" { DELETE "docker decommission" OPERATOR }
    "/v1/docker/hosts/{node}/provision" { POST "docker provision" OPERATOR }
    "/v1/docker/external/{name}" {
        PUT "docker register" OPERATOR,
        DELETE "docker unregister" OPERATOR,
    }
    "/v1/docker/hosts/{node}/containers" {
        GET "docker ps" VIEWER,
        POST "docker run" OPERATOR,
    }
    "/v1/docker/hosts/{node}/containers/{container}" { DELETE "docker rm" OPERATOR }
    "/v1/docker/hosts/{node}/containers/{container}/logs" { GET "docker logs" OPERATOR }
    "/v1/docker/hosts/{node}/images" { GET "docker images" VIEWER }
    "/v1/docker/hosts/{node}/images/{image}" { DELETE "docker rmi" OPERATOR }
    "/v1/docker/hosts/{node}/pull" { POST "docker pull" OPERATOR }
    "/v1/docker/hosts/{node}/import" { POST "docker import" OPERATOR }
    "/v1/docker/client-certificate" { POST "docker env" OPERATOR }
    "/v1/events" { GET "events" VIEWER }
    "/v1/ca" { GET "ca status" VIEWER }
    "/v1/ca/rotate" { POST "ca rotate" ADMIN }
    "/v1/ca/revoke" { POST "ca revoke" ADMIN }
    "/v1/operators" {
        GET "operator ls" ADMIN,
        POST "operator create" ADMIN,
    }
    "/v1/operators/{operator}/certificate" { POST "operator renew" ADMIN }
    "/v1/operators/{operator}/role" { POST "operator role" ADMIN }
    "/v1/operators/{operator}" { DELETE "operator remove" ADMIN }
    "/v1/backup" { POST "backup create" ADMIN }
    "/v1/restore" { POST "backup restore" SOCKET }
    "/v1/recover" {
        GET "recover" SOCKET,
        POST "recover" SOCKET,
    }
    "/metrics" { GET "metrics" VIEWER }
};

/// What a route asks for; none for a route that nobody may use.
pub fn access(method: &str, path: &str) -> Option<Access> {
    RULES
        .iter()
        .find(|rule| rule.method == method && rule.path == path)
        .map(|rule| rule.access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_route_is_listed_twice() {
        for (at, rule) in RULES.iter().enumerate() {
            let again = RULES[at + 1..]
                .iter()
                .find(|other| (other.method, other.path) == (rule.method, rule.path));
            assert_eq!(again, None, "{} {}", rule.method, rule.path);
        }
    }

    #[test]
    fn a_viewer_changes_nothing() {
        for rule in RULES {
            if rule.access == VIEWER {
                assert_eq!(rule.method, "GET", "{}", rule.path);
            }
        }
    }

    #[test]
    fn what_lets_in_or_carries_secrets_is_for_admins_or_root() {
        let grave = [
            "/tokens",
            "/ca/",
            "/operators",
            "/backup",
            "/role",
            "/remove",
        ];
        for rule in RULES {
            if grave.iter().any(|part| rule.path.contains(part)) {
                assert!(rule.access == ADMIN, "{} {}", rule.method, rule.path);
            }
        }
        for path in ["/v1/init", "/v1/join", "/v1/restore", "/v1/recover"] {
            assert_eq!(access("POST", path), Some(Access::Socket));
        }
    }

    #[test]
    fn what_nodes_run_as_root_is_named_by_admins_and_a_clusters_administrator_is_no_viewer() {
        for (method, path, asked) in [
            ("POST", "/v1/k3s/{node}/provision", ADMIN),
            ("POST", "/v1/clusters/{cluster}/upgrade", ADMIN),
            ("DELETE", "/v1/clusters/{cluster}", ADMIN),
            ("POST", "/v1/clusters/{cluster}/kubeconfig", OPERATOR),
            ("POST", "/v1/clusters/{cluster}/snapshot", OPERATOR),
            ("GET", "/v1/clusters", VIEWER),
            ("GET", "/v1/clusters/{cluster}", VIEWER),
            ("GET", "/v1/clusters/{cluster}/nodes", VIEWER),
        ] {
            assert_eq!(access(method, path), Some(asked), "{method} {path}");
        }
        assert_eq!(access("GET", "/v1/clusters/{cluster}/kubeconfig"), None);
    }

    #[test]
    fn a_route_that_is_not_listed_is_nobodys() {
        assert_eq!(access("POST", "/v1/status"), None);
        assert_eq!(access("GET", "/v1/elsewhere"), None);
    }
}
