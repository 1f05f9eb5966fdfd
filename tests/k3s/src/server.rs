//! `k3s server`, from its settings to an API that answers.
//!
//! Follows `pkg/server/server.go`, `pkg/cluster` and `pkg/etcd` of K3s in the order of things:
//! found or join, ports, agreement, files with tokens and kubeconfig, then the own agent.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Fatal,
    apiserver::{identity::Passwords, requests, watch::History},
    cli::{
        settings::{self, ServerSettings},
        token::{self, Token},
    },
    clock, controllers,
    controllers::nodes::ETCD_FINALIZER,
    etcd::{
        driver::{self, Etcd, Timing},
        peer,
        register::{Ballot, Durable},
        snapshot,
        state::{Command, Member, State},
    },
    files::{self, Layout},
    handout, knobs, logline,
    node::agent::{self, Role},
    notify,
    pki::{self, Pair, Subject},
    supervisor::bootstrap,
    wire::{listener, tls, tls::Verifier},
};

/// How often a server says that it is an endpoint of the API.
const LEASE_EVERY: Duration = Duration::from_secs(2);
/// A server that stops says so, if that is quick.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often something that is not there yet is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For so long a server waits for etcd, and with it for its API (`DefaultAPIServerReadyTimeout`).
const ETCD_WITHIN: Duration = Duration::from_secs(900);
/// Where the controller manager says that it ends. The line is another one in every version.
const LOST_AT: &str = "controllermanager.go:332";

/// A running server.
pub(crate) struct Server {
    pub(crate) settings: ServerSettings,
    pub(crate) layout: Layout,
    pub(crate) etcd: Arc<Etcd>,
    pub(crate) history: Arc<History>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) passwords: Passwords,
    pub(crate) server_ca: Pair,
    pub(crate) client_ca: Pair,
    /// Whether others can join.
    pub(crate) clustered: bool,
    open: AtomicBool,
}

impl Server {
    /// Whether the API takes requests.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    fn lease_key(&self) -> String {
        format!(
            "coordination.k8s.io/leases/kube-system/apiserver-{}",
            self.settings.node.name
        )
    }
}

/// How this server came to its cluster.
struct Found {
    me: Member,
    clustered: bool,
    disk: PathBuf,
    /// The cluster's members, where this one is to be added.
    joins: Option<Value>,
}

/// Runs until it is told to stop, or cannot go on.
pub(crate) async fn run(settings: ServerSettings) -> Result<(), Fatal> {
    let layout = Layout::new(&settings.node.data_dir);
    files::make_dir(&layout.server(""))?;
    if settings.cluster_reset {
        let me = member(&settings, &layout)?;
        snapshot::reset(&layout, settings.restore.as_deref(), &me)?;
        return check_token(&settings, &layout);
    }
    tokio::time::sleep(knobs::start_delay()).await;
    let found = find_cluster(&settings, &layout).await?;
    let sockets = open_port(&settings).await?;
    let server = start(settings, layout, found).await?;
    let config = serving(&server)?;
    for socket in sockets {
        let (server, config) = (server.clone(), config.clone());
        tokio::spawn(listener::serve(socket, config, move |request, remote| {
            requests::handle(server.clone(), request, remote)
        }));
    }
    tokio::spawn(controllers::run(server.clone()));
    tokio::select! {
        result = live(server.clone()) => result,
        () = server.etcd.until_expelled() => {
            peer::write_tombstone(&server.layout);
            Err(Fatal::new("this server was removed from the cluster"))
        }
        () = controllers::lease::until_lost(&server) => {
            // A part of Kubernetes ends the process without asking K3s.
            logline::klog_error(LOST_AT, "leaderelection lost");
            std::process::exit(1)
        }
        () = crate::asked_to_stop() => {
            let goodbye = server.etcd.submit(controllers::remove(&server.lease_key()));
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
            Ok(())
        }
    }
}

fn member(settings: &ServerSettings, layout: &Layout) -> Result<Member, Fatal> {
    Ok(Member {
        name: peer::name(layout, &settings.node.name)?,
        peer_url: peer::url(settings.node.ip()),
        learner: false,
    })
}

/// Founds a cluster, joins one, or goes on with the one that this server is part of.
async fn find_cluster(settings: &ServerSettings, layout: &Layout) -> Result<Found, Fatal> {
    let url = settings.node.server.as_deref();
    peer::clear_tombstone(layout, url.is_some())?;
    let disk = peer::disk(layout);
    let initialized =
        disk.exists() && driver::load(&disk).is_ok_and(|old| !old.state.members.is_empty());
    if !(settings.cluster_init || url.is_some() || initialized) {
        let me = Member {
            name: format!("{}-00000000", settings.node.name),
            peer_url: peer::url(settings.node.ip()),
            learner: false,
        };
        found_or_check(settings, layout, layout.sqlite().exists())?;
        return Ok(Found {
            me,
            clustered: false,
            disk: layout.sqlite(),
            joins: None,
        });
    }
    let mut me = member(settings, layout)?;
    let migrates = layout.sqlite().exists() && !initialized;
    let mut joins = None;
    match url {
        Some(url) if !initialized => {
            logline::info("Managed etcd cluster not yet initialized");
            joins = Some(bootstrap::fetch(settings, layout, url).await?);
            me.learner = true;
        }
        Some(_) | None => {
            found_or_check(settings, layout, initialized || migrates)?;
            if migrates {
                peer::migrate(layout, &disk, &me)?;
            }
            logline::info(if initialized {
                "Managed etcd cluster bootstrap already complete and initialized"
            } else {
                "Managed etcd cluster initializing"
            });
        }
    }
    Ok(Found {
        me,
        clustered: true,
        disk,
        joins,
    })
}

/// Makes passwords for a new cluster, or compares those of the old one with the token.
fn found_or_check(settings: &ServerSettings, layout: &Layout, old: bool) -> Result<(), Fatal> {
    if old && bootstrap::passwords(layout)?.is_some() {
        return check_token(settings, layout);
    }
    let server = match settings.node.token.as_deref() {
        None => hex::encode(rand::random::<[u8; 16]>()),
        Some(text) => match Token::parse(text)?.password() {
            // Nobody can know the hash of a CA that is made only now.
            Some(password) if !text.starts_with("K10") => password.to_owned(),
            Some(_) | None => {
                return Err(Fatal::new(
                    "starting kubernetes: preparing server: failed to normalize server token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>",
                ));
            }
        },
    };
    let node = settings
        .agent_token
        .clone()
        .unwrap_or_else(|| server.clone());
    bootstrap::store_passwords(layout, &Passwords { server, node })
}

fn check_token(settings: &ServerSettings, layout: &Layout) -> Result<(), Fatal> {
    let Some(text) = settings.node.token.as_deref() else {
        return Ok(());
    };
    let known = bootstrap::passwords(layout)?;
    let known = known.ok_or_else(|| Fatal::new("cred/passwd is missing"))?;
    if Token::parse(text)?.password() == Some(known.server.as_str()) {
        return Ok(());
    }
    Err(Fatal::new(
        "starting kubernetes: preparing server: bootstrap data already found and encrypted with different token",
    ))
}

async fn open_port(settings: &ServerSettings) -> Result<Vec<tokio::net::TcpListener>, Fatal> {
    if let Some(address) = settings.bind {
        return Ok(vec![
            listener::bind(SocketAddr::new(address, settings.port)).await?,
        ]);
    }
    let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    // One socket for both families where there is IPv6.
    match listener::bind(SocketAddr::new(any[0], settings.port)).await {
        Ok(socket) => Ok(vec![socket]),
        Err(fatal) if fatal.to_string().contains("already in use") => Err(fatal),
        Err(_) => Ok(vec![
            listener::bind(SocketAddr::new(any[1], settings.port)).await?,
        ]),
    }
}

/// Brings the agreement up, and whoever joins into it.
async fn start(
    settings: ServerSettings,
    layout: Layout,
    found: Found,
) -> Result<Arc<Server>, Fatal> {
    let server_ca = pki::load_or_make(&layout.tls("server-ca"), "k3s-server")?;
    let client_ca = pki::load_or_make(&layout.tls("client-ca"), "k3s-client")?;
    let timing = Timing {
        heartbeat: settings.heartbeat,
        election: settings.election,
    };
    let deadline = (settings.election / 2).min(Duration::from_secs(2));
    let mut pair = None;
    let mut client = None;
    if found.clustered {
        let sans = [
            settings.node.ip().to_string(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        let own = peer::pair(&layout, &sans)?;
        client = Some(Arc::new(peer::client(&layout, &own, deadline)?));
        pair = Some(own);
    }
    let mut first = Durable::default();
    if found.joins.is_none() {
        first.ballot = Ballot {
            term: 0,
            revision: 1,
        };
        first.state = State {
            members: BTreeMap::from([(found.me.name.clone(), found.me.clone())]),
            objects: BTreeMap::new(),
            bootstrap: bootstrap::collect(&layout)?,
        };
    }
    let etcd = Etcd::start(
        &found.me.name,
        found.disk.clone(),
        first,
        timing,
        client.clone(),
    )?;
    if let Some(pair) = &pair {
        peer::listen(&layout, pair, settings.node.ip(), etcd.clone()).await?;
    }
    if let (Some(list), Some(client)) = (&found.joins, &client) {
        peer::join(client, list, &found.me, &layout).await?;
    }
    let _ = fs::remove_file(layout.server("db/reset-flag"));
    let passwords = bootstrap::passwords(&layout)?;
    Ok(Arc::new(Server {
        history: History::start(&etcd),
        verifier: Verifier::new(&client_ca.cert)?,
        passwords: passwords.ok_or_else(|| Fatal::new("cred/passwd is missing"))?,
        clustered: found.clustered,
        open: AtomicBool::new(false),
        settings,
        layout,
        etcd,
        server_ca,
        client_ca,
    }))
}

/// The server's own certificate: all names and addresses by which it may be called.
fn serving(server: &Server) -> Result<Arc<rustls::ServerConfig>, Fatal> {
    let settings = &server.settings;
    let domain = &settings.critical.cluster_domain;
    let mut sans: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    .map(str::to_owned)
    .to_vec();
    sans.push(format!("kubernetes.default.svc.{domain}"));
    sans.push(settings.node.name.clone());
    sans.extend(settings.sans.iter().cloned());
    sans.extend(settings.node.ips.iter().map(ToString::to_string));
    sans.push(settings.advertise.to_string());
    sans.extend(
        settings
            .critical
            .service_cidrs
            .first()
            .map(|cidr| settings::nth(cidr, 1)),
    );
    sans.sort();
    sans.dedup();
    let subject = Subject {
        name: "k3s",
        organization: Some("k3s"),
        sans: &sans,
        client: false,
        server: true,
    };
    let pair = pki::issue(&server.server_ca, &subject)?;
    pki::store(&server.layout.tls("serving-kube-apiserver"), &pair)?;
    tls::server(&pair, &server.verifier, false)
}

/// Waits for the agreement, writes the files, opens the API, runs the own agent.
async fn live(server: Arc<Server>) -> Result<(), Fatal> {
    let by = Instant::now() + ETCD_WITHIN;
    while server.etcd.read().await.is_err() {
        if Instant::now() >= by {
            return Err(Fatal::new(
                "Kubelet failed to wait for apiserver ready: timed out waiting for the condition",
            ));
        }
        logline::info("Waiting for etcd server to become available");
    }
    logline::info("ETCD server is now running");
    while !server
        .etcd
        .local()
        .state
        .objects
        .contains_key("/namespaces//kube-system")
    {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    handout::write_tokens(&server)?;
    handout::write_kubeconfigs(&server)?;
    server.open.store(true, Ordering::Release);
    logline::info("Kube API server is now running");
    tokio::spawn(renew(server.clone()));
    logline::info("k3s is up and running");
    notify::ready();
    let mut settings = server.settings.node.clone();
    let host = server.settings.bind.unwrap_or(Ipv4Addr::LOCALHOST.into());
    settings.server = Some(format!(
        "https://{}",
        SocketAddr::new(host, server.settings.port)
    ));
    settings.token = Some(token::full(
        &server.server_ca.cert,
        "node",
        &server.passwords.node,
    ));
    agent::run(settings, server.layout.clone(), role(&server)?).await
}

fn role(server: &Server) -> Result<Role, Fatal> {
    let mut role = Role {
        server: true,
        ..Role::default()
    };
    let label = |name: &str| (format!("node-role.kubernetes.io/{name}"), "true".to_owned());
    role.labels
        .extend([label("control-plane"), label("master")]);
    if server.clustered {
        role.labels.extend([label("etcd")]);
        role.finalizers.push(ETCD_FINALIZER.to_owned());
        let name = peer::name(&server.layout, &server.settings.node.name)?;
        let address = server.settings.node.ip().to_string();
        role.annotations
            .insert("etcd.k3s.cattle.io/node-name".to_owned(), name);
        role.annotations
            .insert("etcd.k3s.cattle.io/node-address".to_owned(), address);
    }
    Ok(role)
}

/// Keeps this server among the API's endpoints.
async fn renew(server: Arc<Server>) {
    let key = server.lease_key();
    let address = server.settings.advertise.to_string();
    loop {
        let mut lease = json!({
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {
                "name": format!("apiserver-{}", server.settings.node.name),
                "namespace": "kube-system",
            },
            "spec": {"holderIdentity": address},
        });
        let known = server.etcd.local().state.objects.get(&key).cloned();
        let command = match known {
            None => controllers::create(&key, lease),
            Some(known) => {
                lease["metadata"] = known["metadata"].clone();
                lease["spec"]["renewTime"] = json!(clock::now_micro());
                Command::Replace {
                    key: key.clone(),
                    object: lease,
                    revision: None,
                }
            }
        };
        let _ = server.etcd.submit(command).await;
        tokio::time::sleep(LEASE_EVERY).await;
    }
}
