//! Asks this node, for every virtual IP that it may hold, whether it is fit to.
//!
//! Decides: what is looked at besides the agreed check (that this node can hold virtual IPs at all,
//! and that its interface has its address), and how often. How many failures count is
//! `ReadinessCount`'s, except where a daemon that has started finds no interface and holds nothing: it
//! says so at once, for what the mesh believes of it is its last life's word. A node is asked at its
//! own overlay address. It tells the mesh when the answer changes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use consensus_core::{
    Command, LeaseProfile, NetworkId, NodeId, Probe, ReadinessCheck, ReadinessCount, VipId,
    limits::TEXT_BYTES_MAX,
};
use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use runtimes_k3s::serving;
use rustix::process::{Pid, Signal, kill_process_group};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{lease::Obstacles, overlay::OverlayStatus, proposer::Proposer};

/// How often a candidate looks at itself, whatever it is asked besides and how seldom.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An interface that outlived the last daemon is found again by then; one that is not there is made.
const FOUND_WITHIN: Duration = Duration::from_millis(500);

/// The task's inputs.
pub(crate) struct Readiness {
    pub(crate) me: NodeId,
    pub(crate) proposer: Proposer,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    /// What keeps this node from holding virtual IPs.
    pub(crate) obstacles: watch::Receiver<Obstacles>,
    /// Where this node's K3s is, which says whether the API of its cluster works here.
    pub(crate) k3s: runtimes_k3s::Paths,
    pub(crate) stop: CancellationToken,
}

/// One virtual IP that this node may hold, and what is asked about it.
#[derive(Clone, PartialEq)]
struct Question {
    vip: VipId,
    network: NetworkId,
    profile: LeaseProfile,
    check: Option<ReadinessCheck>,
}

/// Whether this node is in a network, as far as it was seen.
#[derive(Default)]
struct Place {
    looks: ReadinessCount,
    last: Option<Result<(), String>>,
}

impl Place {
    fn note(&mut self, outcome: Result<(), String>) {
        self.last = Some(outcome.clone());
        self.looks.note(outcome);
    }

    /// Whether it was not there when last looked at.
    fn is_missing(&self) -> bool {
        matches!(self.last, Some(Err(_)))
    }

    /// What it comes to for whoever holds the virtual IP, or does not; none while that is not certain.
    fn verdict(&self, holds: bool) -> Option<Result<(), &str>> {
        match (self.looks.verdict(), &self.last) {
            // It was never there, and nobody is cut off by its saying so.
            (None, Some(Err(reason))) if !holds => Some(Err(reason.as_str())),
            (verdict, _) => verdict,
        }
    }
}

impl Readiness {
    /// Runs until cancelled.
    pub(crate) async fn run(self) {
        let this = Arc::new(self);
        let mut view = this.proposer.views.watch();
        let mut asking: BTreeMap<VipId, (Question, AbortHandle)> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            let mine = agreed.virtual_ips.iter();
            let mine = mine.filter(|(_, row)| row.is_candidate(&this.me));
            let questions: BTreeMap<VipId, Question> = mine
                .map(|(vip, row)| {
                    let question = Question {
                        vip: *vip,
                        network: row.network,
                        profile: row.profile,
                        check: row.check.clone(),
                    };
                    (*vip, question)
                })
                .collect();
            let gone = asking.extract_if(.., |vip, (asked, _)| questions.get(vip) != Some(asked));
            gone.for_each(|(_, (_, task))| task.abort());
            for (vip, question) in questions {
                asking.entry(vip).or_insert_with(|| {
                    let task = tasks.spawn(this.clone().ask_on(question.clone()));
                    (question, task)
                });
            }
            while tasks.try_join_next().is_some() {}
            // Both arms only wait.
            tokio::select! {
                () = this.stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn ask_on(self: Arc<Self>, question: Question) {
        let (mut place, mut answers) = (Place::default(), ReadinessCount::new());
        let (mut obstacles, mut overlay) = (self.obstacles.clone(), self.overlay.clone());
        let is_up = |it: &OverlayStatus| it.up.contains_key(&question.network);
        drop(timeout(FOUND_WITHIN, overlay.wait_for(is_up)).await);
        let every = question.check.as_ref().map(ReadinessCheck::interval);
        let mut ticks = interval(every.unwrap_or(LOOK_EVERY));
        let mut looks = interval(LOOK_EVERY);
        for times in [&mut ticks, &mut looks] {
            times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let obstacle = obstacles
                .borrow_and_update()
                .to(question.vip, question.profile)
                .map(str::to_owned);
            let seen = place.verdict(self.holds(question.vip));
            let verdict = verdict(obstacle.as_deref(), seen, &answers);
            if let Some(verdict) = verdict {
                self.tell(&question, verdict).await;
            }
            // All arms only wait.
            tokio::select! {
                _ = ticks.tick() => answers.note(self.outcome(&question).await),
                _ = looks.tick() => place.note(self.own_address(&question).map(drop)),
                // The moment at which the interface is there, and not the next look after it.
                changed = overlay.changed(), if place.is_missing() => {
                    if changed.is_err() {
                        return;
                    }
                    if self.own_address(&question).is_ok() {
                        place.note(Ok(()));
                    }
                }
                changed = obstacles.changed() => if changed.is_err() { return },
            }
        }
    }

    fn holds(&self, vip: VipId) -> bool {
        let view = self.proposer.views.view();
        let row = view.agreed.virtual_ips.get(&vip);
        row.is_some_and(|row| row.is_holder(&self.me))
    }

    /// Tells the mesh, unless it knows.
    async fn tell(&self, question: &Question, verdict: Result<(), &str>) {
        let agreed = self.proposer.views.view().agreed.clone();
        let Some(row) = agreed.virtual_ips.get(&question.vip) else {
            return;
        };
        let known = row.readiness.get(&self.me).map(|known| known.ready);
        // Without a check a candidate is fit that has said nothing.
        let unsaid = question.check.is_none().then_some(true);
        if known.or(unsaid) == Some(verdict.is_ok()) {
            return;
        }
        let mut reason = verdict.err().unwrap_or_default().to_owned();
        while reason.len() > TEXT_BYTES_MAX {
            reason.pop();
        }
        tracing::info!(vip = row.name, ready = verdict.is_ok(), reason, "readiness");
        let command = Command::ReportReadiness {
            vip: question.vip,
            ready: verdict.is_ok(),
            reason,
        };
        if let Err(error) = self.proposer.submit(command).await {
            tracing::debug!(vip = row.name, %error, "readiness is not told yet");
        }
    }

    /// What the agreed check comes to now.
    async fn outcome(&self, question: &Question) -> Result<(), String> {
        let Some(check) = &question.check else {
            return Ok(());
        };
        let own = self.own_address(question)?;
        let asked = async {
            match &check.probe {
                Probe::Runtime => serving(&self.k3s).await,
                probe @ (Probe::Tcp { .. } | Probe::Http { .. } | Probe::Command { .. }) => {
                    ask(probe, own.into()).await
                }
            }
        };
        match timeout(check.timeout(), asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} ms", check.timeout_ms)),
        }
    }

    /// Where this node is in the network, if its interface has that address. The overlay's own look at
    /// it comes seldom.
    fn own_address(&self, question: &Question) -> Result<Ipv6Addr, String> {
        let up = self.overlay.borrow().up.get(&question.network).cloned();
        let own = up.ok_or("its interface is not up")?.ipv6;
        match is_up(own) {
            Ok(true) => Ok(own),
            Ok(false) => Err("its interface is down, or IPv6 is off there".to_owned()),
            Err(error) => Err(format!("its interface is not known: {error}")),
        }
    }
}

/// What it all comes to; none while that is not certain. What stands in the way is no guess, and
/// counts at once.
fn verdict<'a>(
    obstacle: Option<&'a str>,
    place: Option<Result<(), &'a str>>,
    answers: &'a ReadinessCount,
) -> Option<Result<(), &'a str>> {
    if let Some(reason) = obstacle {
        return Some(Err(reason));
    }
    match (place, answers.verdict()) {
        (Some(Err(reason)), _) | (_, Some(Err(reason))) => Some(Err(reason)),
        (Some(Ok(())), Some(Ok(()))) => Some(Ok(())),
        (None, _) | (_, None) => None,
    }
}

/// Whether an interface of this machine that is up has the address. One that is down may have it too.
fn is_up(address: Ipv6Addr) -> std::io::Result<bool> {
    let mut interfaces = if_addrs::get_if_addrs()?.into_iter();
    Ok(interfaces.any(|one| one.ip() == address && one.is_oper_up()))
}

async fn ask(probe: &Probe, address: IpAddr) -> Result<(), String> {
    match probe {
        Probe::Tcp { port } => connect(address, *port).await.map(drop),
        Probe::Http { port, path, tls } => {
            let stream = connect(address, *port).await?;
            let host = SocketAddr::new(address, *port).to_string();
            if *tls {
                let connector = TlsConnector::from(Arc::new(believing_anybody()));
                let name = ServerName::IpAddress(address.into());
                let stream = connector.connect(name, stream).await;
                get(stream.map_err(|error| error.to_string())?, &host, path).await
            } else {
                get(stream, &host, path).await
            }
        }
        Probe::Command { argv } => run(argv).await,
        // It is not asked at an address.
        Probe::Runtime => Err("no runtime is asked".to_owned()),
    }
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, String> {
    let connected = TcpStream::connect((address, port)).await;
    connected.map_err(|error| error.to_string())
}

async fn get<S>(stream: S, host: &str, path: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| error.to_string();
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(failed)?;
    let request = Request::get(path)
        .header(hyper::header::HOST, host)
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    // The connection is driven only as long as the answer's head is waited for.
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // What came before the end is there, or never will be.
        _ = connection => answer.await,
    };
    let status = answer.map_err(failed)?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("it answered {status}"))
    }
}

/// Given up half-way, it ends the program with whatever that has started.
async fn run(argv: &[String]) -> Result<(), String> {
    let (program, arguments) = argv.split_first().ok_or("no program is named")?;
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Err(format!("the program did not start: {error}")),
    };
    let mut group = Group::of(&child);
    let ended = child.wait().await;
    group.forget();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the program ended with {status}")),
        Err(error) => Err(format!("the program's end is not known: {error}")),
    }
}

/// A program that has not been waited for, so that its number is nobody else's, and those that it
/// has started. Killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// It has ended by itself.
    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // All of them may have ended just now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// A node asks itself: whose name is on the certificate says nothing about whether it is ready.
fn believing_anybody() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(algorithms.supported_schemes())))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::Ipv6Addr};

    use rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[test]
    fn what_stands_in_the_way_counts_at_once_and_everything_else_when_it_is_certain() {
        let count = |outcomes: &[Result<(), &str>]| {
            let mut count = ReadinessCount::new();
            for outcome in outcomes {
                count.note(outcome.map_err(str::to_owned));
            }
            count
        };
        let verdict = |obstacle, place: &ReadinessCount, answers| {
            verdict(obstacle, place.verdict(), answers).map(|it| it.map_err(str::to_owned))
        };
        let refused_for = |reason: &str| Some(Err(reason.to_owned()));
        let (new, good) = (count(&[]), count(&[Ok(())]));
        let (down, refused) = (count(&[Err("down"); 2]), count(&[Err("refused"); 2]));
        assert_eq!(verdict(None, &new, &good), None);
        assert_eq!(verdict(None, &good, &new), None);
        assert_eq!(verdict(None, &good, &good), Some(Ok(())));
        assert_eq!(verdict(None, &good, &refused), refused_for("refused"));
        assert_eq!(verdict(None, &down, &new), refused_for("down"));
        for seen in [&new, &good] {
            let told = verdict(Some("no gate"), seen, seen);
            assert_eq!(told, refused_for("no gate"));
        }
        let once = count(&[Ok(()), Err("down")]);
        assert_eq!(verdict(None, &once, &good), Some(Ok(())));
    }

    #[test]
    fn an_interface_that_was_never_seen_counts_at_once_unless_the_node_holds_and_then_as_ever() {
        let mut place = Place::default();
        assert_eq!(place.verdict(false), None);
        place.note(Err("not up".into()));
        assert!(place.is_missing());
        assert_eq!(place.verdict(false), Some(Err("not up")));
        assert_eq!(place.verdict(true), None, "it may be looking for it yet");
        place.note(Ok(()));
        assert!(!place.is_missing());
        place.note(Err("down".into()));
        for holds in [false, true] {
            assert_eq!(place.verdict(holds), Some(Ok(())), "once is no reason");
        }
        place.note(Err("down".into()));
        for holds in [false, true] {
            assert_eq!(place.verdict(holds), Some(Err("down")));
        }
    }

    #[test]
    fn only_an_address_of_an_interface_that_is_up_is_there() {
        assert!(is_up(Ipv6Addr::LOCALHOST).unwrap());
        assert!(!is_up("fd12::b".parse().unwrap()).unwrap());
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_all_that_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        // Open for writing as long as one of the program's children lives.
        let fifo = folder.path().join("alive");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let script = folder.path().join("check");
        let text = format!("(echo up; sleep 600) > {} &\nwait\n", fifo.display());
        std::fs::write(&script, text).unwrap();
        let script = script.display().to_string();
        let probe = Probe::Command {
            argv: vec!["/bin/sh".into(), script],
        };
        let asking = tokio::spawn(async move { ask(&probe, HERE).await });
        let up = tokio::task::spawn_blocking(move || {
            let mut reader = std::fs::File::open(fifo).unwrap();
            reader.read_exact(&mut [0; 3]).map(|()| reader)
        });
        let mut reader = up.await.unwrap().unwrap();
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        // The end of file comes when nobody has it open for writing any more.
        let end = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
        let end = timeout(Duration::from_secs(60), end).await;
        assert_eq!(end.unwrap().unwrap().unwrap(), 0);
    }

    const HERE: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

    async fn listening() -> (TcpListener, u16) {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn a_port_that_takes_connections_is_ready_and_a_closed_one_says_why_not() {
        let (listener, port) = listening().await;
        ask(&Probe::Tcp { port }, HERE).await.unwrap();
        drop(listener);
        let reason = ask(&Probe::Tcp { port }, HERE).await.unwrap_err();
        assert!(reason.contains("refused"), "{reason}");
    }

    #[tokio::test]
    async fn only_a_status_of_success_is_ready() {
        for (head, ready) in [
            ("HTTP/1.1 200 OK", true),
            ("HTTP/1.1 204 No Content", true),
            ("HTTP/1.1 503 Service Unavailable", false),
            ("HTTP/1.1 302 Found", false),
            ("nonsense", false),
        ] {
            let (listener, port) = listening().await;
            let answer = format!("{head}\r\nContent-Length: 0\r\n\r\n");
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            };
            let path = "/readyz".to_owned();
            let probe = Probe::Http {
                port,
                path,
                tls: false,
            };
            let ((), outcome) = tokio::join!(server, ask(&probe, HERE));
            assert_eq!(outcome.is_ok(), ready, "{head}: {outcome:?}");
        }
    }

    /// Takes TLS connections as somebody whom nobody knows.
    fn acceptor() -> TlsAcceptor {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["somebody.else".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    #[tokio::test]
    async fn over_tls_the_status_counts_too_and_the_certificate_does_not() {
        for (head, ready) in [
            ("HTTP/1.1 200 OK", true),
            ("HTTP/1.1 500 Internal Server Error", false),
        ] {
            let (listener, port) = listening().await;
            let answer = format!("{head}\r\nContent-Length: 0\r\n\r\n");
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor().accept(stream).await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            };
            let path = "/readyz".to_owned();
            let probe = Probe::Http {
                port,
                path,
                tls: true,
            };
            let ((), outcome) = tokio::join!(server, ask(&probe, HERE));
            let said = outcome.as_ref().err().cloned().unwrap_or_default();
            assert_eq!(outcome.is_ok(), ready, "{head}: {said}");
            assert_eq!(said.contains("500"), !ready, "{said}");
        }
    }

    #[tokio::test]
    async fn what_does_not_speak_tls_is_not_ready_over_it() {
        let (listener, port) = listening().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let path = "/readyz".to_owned();
        let probe = Probe::Http {
            port,
            path,
            tls: true,
        };
        let (_stream, outcome) = tokio::join!(server, ask(&probe, HERE));
        outcome.unwrap_err();
    }

    #[tokio::test]
    async fn a_program_is_ready_when_it_ends_well() {
        let command = |argv: &[&str]| Probe::Command {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        };
        ask(&command(&["/bin/true"]), HERE).await.unwrap();
        let reason = ask(&command(&["/bin/false"]), HERE).await.unwrap_err();
        assert!(reason.contains("exit status: 1"), "{reason}");
        let reason = ask(&command(&["/nowhere/to/be/found"]), HERE).await;
        assert!(reason.unwrap_err().contains("did not start"));
    }
}
