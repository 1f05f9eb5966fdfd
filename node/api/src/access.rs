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

const fn rule(
    method: &'static str,
    path: &'static str,
    verb: &'static str,
    access: Access,
) -> Rule {
    Rule {
        method,
        path,
        verb,
        access,
    }
}

const VIEWER: Access = Access::Role(AccessRole::Viewer);
const OPERATOR: Access = Access::Role(AccessRole::Operator);
const ADMIN: Access = Access::Role(AccessRole::Admin);

/// Every route. A container can be given the whole host, so whoever runs containers is root on the
/// Docker hosts; that is what the role of operator means.
pub const RULES: &[Rule] = &[
    rule("GET", "/v1/status", "status", VIEWER),
    rule("POST", "/v1/init", "init", Access::Socket),
    rule("POST", "/v1/join", "join", Access::Socket),
    rule("GET", "/v1/tokens", "token ls", ADMIN),
    rule("POST", "/v1/tokens", "token create", ADMIN),
    rule("DELETE", "/v1/tokens/{token}", "token revoke", ADMIN),
    rule("GET", "/v1/nodes", "node ls", VIEWER),
    rule("GET", "/v1/nodes/{node}", "node show", VIEWER),
    rule("POST", "/v1/nodes/{node}/ping", "node ping", OPERATOR),
    rule("POST", "/v1/nodes/{node}/labels", "node label", OPERATOR),
    rule("POST", "/v1/nodes/{node}/role", "node promote", ADMIN),
    rule("POST", "/v1/nodes/{node}/remove", "node remove", ADMIN),
    rule(
        "POST",
        "/v1/nodes/{node}/wireguard-key",
        "node rotate-key",
        ADMIN,
    ),
    rule("GET", "/v1/networks", "network ls", VIEWER),
    rule("POST", "/v1/networks", "network create", OPERATOR),
    rule("GET", "/v1/networks/{network}", "network show", VIEWER),
    rule("POST", "/v1/networks/{network}", "network set", OPERATOR),
    rule(
        "DELETE",
        "/v1/networks/{network}",
        "network delete",
        OPERATOR,
    ),
    rule(
        "POST",
        "/v1/networks/{network}/peers/{node}",
        "network set-peer",
        OPERATOR,
    ),
    rule(
        "PUT",
        "/v1/networks/{network}/peers/{node}",
        "network attach",
        OPERATOR,
    ),
    rule(
        "DELETE",
        "/v1/networks/{network}/peers/{node}",
        "network detach",
        OPERATOR,
    ),
    rule(
        "GET",
        "/v1/networks/{network}/rules",
        "network rule ls",
        VIEWER,
    ),
    rule(
        "POST",
        "/v1/networks/{network}/rules",
        "network rule add",
        OPERATOR,
    ),
    rule(
        "DELETE",
        "/v1/networks/{network}/rules/{rule}",
        "network rule rm",
        OPERATOR,
    ),
    rule("GET", "/v1/vips", "vip ls", VIEWER),
    // A check may be a program, which every candidate runs as root.
    rule("POST", "/v1/vips", "vip create", ADMIN),
    rule("GET", "/v1/vips/{vip}", "vip show", VIEWER),
    rule("DELETE", "/v1/vips/{vip}", "vip delete", OPERATOR),
    rule("PUT", "/v1/vips/{vip}/check", "vip check", ADMIN),
    rule(
        "PUT",
        "/v1/vips/{vip}/candidates",
        "vip candidates",
        OPERATOR,
    ),
    rule("POST", "/v1/vips/{vip}/failover", "vip failover", OPERATOR),
    rule("POST", "/v1/vips/{vip}/drill", "vip drill", OPERATOR),
    // A node's daemon ends.
    rule(
        "POST",
        "/v1/vips/{vip}/drill/kill",
        "vip drill --kill",
        ADMIN,
    ),
    rule("GET", "/v1/clusters", "cluster ls", VIEWER),
    rule("GET", "/v1/clusters/{cluster}", "cluster show", VIEWER),
    rule(
        "DELETE",
        "/v1/clusters/{cluster}",
        "cluster decommission",
        ADMIN,
    ),
    rule(
        "GET",
        "/v1/clusters/{cluster}/nodes",
        "cluster nodes",
        VIEWER,
    ),
    // Whoever has it is the cluster's administrator, and root on its nodes.
    rule(
        "POST",
        "/v1/clusters/{cluster}/kubeconfig",
        "cluster kubeconfig",
        OPERATOR,
    ),
    rule(
        "POST",
        "/v1/clusters/{cluster}/snapshot",
        "cluster snapshot",
        OPERATOR,
    ),
    // They name a program that nodes run as root.
    rule(
        "POST",
        "/v1/clusters/{cluster}/upgrade",
        "cluster upgrade",
        ADMIN,
    ),
    rule("POST", "/v1/k3s/{node}/provision", "k3s provision", ADMIN),
    rule("GET", "/v1/nodes/{node}/drain", "node drain", VIEWER),
    rule("POST", "/v1/nodes/{node}/drain", "node drain", OPERATOR),
    rule(
        "POST",
        "/v1/nodes/{node}/uncordon",
        "node uncordon",
        OPERATOR,
    ),
    rule("GET", "/v1/access-grants", "access ls", VIEWER),
    rule("POST", "/v1/access-grants", "access grant", ADMIN),
    rule("GET", "/v1/access-grants/{grant}", "access show", VIEWER),
    rule(
        "DELETE",
        "/v1/access-grants/{grant}",
        "access revoke",
        OPERATOR,
    ),
    rule(
        "PUT",
        "/v1/access-grants/{grant}/gateway",
        "access move",
        OPERATOR,
    ),
    rule(
        "POST",
        "/v1/access-grants/{grant}/suspend",
        "access suspend",
        OPERATOR,
    ),
    // Lets somebody in.
    rule(
        "POST",
        "/v1/access-grants/{grant}/resume",
        "access resume",
        ADMIN,
    ),
    rule("GET", "/v1/modules", "module ls", VIEWER),
    rule("POST", "/v1/modules/assign", "module assign", OPERATOR),
    rule("POST", "/v1/modules/unassign", "module unassign", OPERATOR),
    rule("GET", "/v1/docker/hosts", "docker ls", VIEWER),
    rule(
        "DELETE",
        "/v1/docker/hosts/{node}",
        "docker decommission",
        OPERATOR,
    ),
    rule(
        "POST",
        "/v1/docker/hosts/{node}/provision",
        "docker provision",
        OPERATOR,
    ),
    rule(
        "PUT",
        "/v1/docker/external/{name}",
        "docker register",
        OPERATOR,
    ),
    rule(
        "DELETE",
        "/v1/docker/external/{name}",
        "docker unregister",
        OPERATOR,
    ),
    rule(
        "GET",
        "/v1/docker/hosts/{node}/containers",
        "docker ps",
        VIEWER,
    ),
    rule(
        "POST",
        "/v1/docker/hosts/{node}/containers",
        "docker run",
        OPERATOR,
    ),
    rule(
        "DELETE",
        "/v1/docker/hosts/{node}/containers/{container}",
        "docker rm",
        OPERATOR,
    ),
    rule(
        "GET",
        "/v1/docker/hosts/{node}/containers/{container}/logs",
        "docker logs",
        OPERATOR,
    ),
    rule(
        "GET",
        "/v1/docker/hosts/{node}/images",
        "docker images",
        VIEWER,
    ),
    rule(
        "DELETE",
        "/v1/docker/hosts/{node}/images/{image}",
        "docker rmi",
        OPERATOR,
    ),
    rule(
        "POST",
        "/v1/docker/hosts/{node}/pull",
        "docker pull",
        OPERATOR,
    ),
    rule(
        "POST",
        "/v1/docker/hosts/{node}/import",
        "docker import",
        OPERATOR,
    ),
    rule(
        "POST",
        "/v1/docker/client-certificate",
        "docker env",
        OPERATOR,
    ),
    rule("GET", "/v1/events", "events", VIEWER),
    rule("GET", "/v1/ca", "ca status", VIEWER),
    rule("POST", "/v1/ca/rotate", "ca rotate", ADMIN),
    rule("POST", "/v1/ca/revoke", "ca revoke", ADMIN),
    rule("GET", "/v1/operators", "operator ls", ADMIN),
    rule("POST", "/v1/operators", "operator create", ADMIN),
    rule(
        "POST",
        "/v1/operators/{operator}/certificate",
        "operator renew",
        ADMIN,
    ),
    rule(
        "POST",
        "/v1/operators/{operator}/role",
        "operator role",
        ADMIN,
    ),
    rule(
        "DELETE",
        "/v1/operators/{operator}",
        "operator remove",
        ADMIN,
    ),
    rule("POST", "/v1/backup", "backup create", ADMIN),
    rule("POST", "/v1/restore", "backup restore", Access::Socket),
    rule("GET", "/v1/recover", "recover", Access::Socket),
    rule("POST", "/v1/recover", "recover", Access::Socket),
    rule("GET", "/metrics", "metrics", VIEWER),
];

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
