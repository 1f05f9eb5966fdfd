//! How much of everything the replicated state may hold.
//!
//! Decides nothing but sizes. Whatever a command brings in is either of a fixed size, or held to
//! one of these; so the state as a whole is bounded, and with it snapshots, pushes to agents and
//! the memory of every server. A command that would exceed one is refused as too large.

/// Names of nodes, networks, operators and meshes are DNS labels (RFC 1123).
pub const NAME_BYTES_MAX: usize = 63;
/// The longest value of a label, a module's name and such; a key is half of it.
pub const TEXT_BYTES_MAX: usize = 256;
/// More labels than anyone sorts machines by.
pub const LABELS_MAX: usize = 64;
/// A dozen facts about a machine, keys and values together.
pub const METADATA_BYTES_MAX: usize = 4096;
/// The same, counted: short facts cost memory beyond their letters.
pub const METADATA_MAX: usize = 64;
/// More addresses than a machine is reached at.
pub const ADDRESSES_MAX: usize = 16;
/// Members. Every view is pushed to every node; beyond this the mesh wants another design.
pub const NODES_MAX: usize = 10_000;
/// More votes cost more time than they save meshes: seven servers survive three losses.
pub const SERVERS_MAX: usize = 7;
/// More open tokens than an operator can have handed out.
pub const TOKENS_MAX: usize = 1000;
/// A node gossips its endpoints in so many networks.
pub const NETWORKS_MAX: usize = 32;
/// More networks than a machine is the way into.
pub const LAN_SUBNETS_MAX: usize = 16;
/// Every change settles every node against every selector; nobody tells so many apart.
pub const SELECTORS_MAX: usize = 256;
/// More external hosts than anyone lists by hand.
pub const EXTERNAL_HOSTS_MAX: usize = 1000;
/// People and programs with a certificate of their own.
pub const OPERATORS_MAX: usize = 1000;
/// Removed nodes that are remembered so that they can be told; the oldest are forgotten.
pub const REMOVED_KEPT: usize = 10_000;
/// A PKCS#10 request with an Ed25519 key and three names is about 400 bytes.
pub const CSR_BYTES_MAX: usize = 4096;
/// An Ed25519 certificate with a few names is about 500 bytes, a P-256 one 700.
pub const CERTIFICATE_BYTES_MAX: usize = 2048;
/// A failure's reason with its sources, in words.
pub const REASON_BYTES_MAX: usize = 4096;
/// RFC 5280, 4.1.2.2: serial numbers have at most 20 octets.
pub const SERIAL_CHARS_MAX: usize = 40;
/// A node holds two leaves of each of four profiles at a time; the rest is for docker clients.
pub const CERTIFICATES_PER_HOLDER_MAX: usize = 128;
/// Leaves remembered in all, live and revoked: twenty for each of the most nodes.
pub const CERTIFICATES_MAX: usize = 200_000;
/// A server has two; the rest is for one that loses its key again and again.
pub const INTERMEDIATES_PER_SERVER_MAX: usize = 16;
/// All servers' and those of former servers whose leaves are still in use.
pub const INTERMEDIATES_MAX: usize = 256;
/// An X25519 recipient of age has 62 characters; its plugins' have somewhat more.
pub const RECIPIENT_CHARS_MAX: usize = 100;
/// An age file takes about a hundred bytes for each of eight recipients, and the key itself.
pub const SEALED_KEY_BYTES_MAX: usize = 8192;
/// Each is renewed several times a second by its holder, at every server.
pub const VIRTUAL_IPS_MAX: usize = 256;
/// More machines than one service is kept ready on.
pub const VIP_CANDIDATES_MAX: usize = 16;
/// The last changes of a virtual IP's holder that are shown; older ones are in the event log.
pub const VIP_MOVES_KEPT: usize = 16;
/// Devices of people; every node routes every one's addresses.
pub const ACCESS_GRANTS_MAX: usize = 1000;
/// A network's own; each node has its kernel ask them one by one.
pub const FIREWALL_RULES_MAX: usize = 128;
/// Ports and ranges that one rule names.
pub const RULE_PORTS_MAX: usize = 32;
/// Each has an etcd of its own and three machines at best.
pub const CLUSTERS_MAX: usize = 64;
/// Nodes that a cluster has still to forget; it does so within seconds, unless it has no server.
pub const DEPARTED_MAX: usize = 1000;
/// Kubernetes gives a node one, two with both families.
pub const POD_SUBNETS_MAX: usize = 2;
/// Where a file server has a K3s.
pub const URL_BYTES_MAX: usize = 1024;
/// A program's path and its arguments.
pub const CHECK_WORDS_MAX: usize = 32;

/// A server's intermediate lives a week; a day more for clocks that differ.
pub const INTERMEDIATE_LIFE_MS_MAX: u64 = 8 * DAY_MS;
/// An operator's certificate lives up to 90 days; a day more for clocks that differ.
pub const OPERATOR_LEAF_LIFE_MS_MAX: u64 = 91 * DAY_MS;

/// A day in milliseconds.
pub(crate) const DAY_MS: u64 = 24 * 3600 * 1000;
