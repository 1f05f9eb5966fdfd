//! Claims about the server, on loopback: every address in 127.0.0.0/8 is this machine's.
//!
//! 127.1.1.0/24 are the containers of the network, 127.1.1.1 is the bridge, 127.17.0.0/16 are
//! containers elsewhere, 127.96.0.0/16 are peers. What the test says in a resolver's place, it says
//! when it likes: resolvers are waited for as long as any test runs.

use std::{fs, net::Ipv4Addr};

use consensus_core::NetworkId;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use overlay_core::names::Names;
use tempfile::TempDir;

use super::*;
use crate::{
    capacity::OUTSIDE,
    wire::{Asked, Outcome},
};

/// Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);
const BLUE: NetworkId = NetworkId::from_bytes([1; 16]);
const BRIDGE: &str = "127.1.1.1";
const WEB: &str = "127.1.1.2";
const OUTSIDE_ADDRESS: &str = "192.0.2.7";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(text: &str) -> Outcome {
    Outcome::Addresses([ip(text)].into())
}

fn directory() -> Directory {
    let web: Ipv4Addr = WEB.parse().unwrap();
    let blue = Names {
        network: "blue".into(),
        node: "n1".into(),
        overlay: vec!["127.96.0.0/16".parse().unwrap()],
        subnet: Some("127.1.1.0/24".parse().unwrap()),
        containers: [("web".into(), [web].into())].into(),
        ..Names::default()
    };
    Directory {
        networks: [(BLUE, blue)].into(),
        bystanders: ["127.17.0.0/16".parse().unwrap()].into(),
    }
}

/// A server, and whoever the host has for a resolver.
struct Bench {
    udp: SocketAddr,
    tcp: SocketAddr,
    answerer: Arc<Answerer>,
    resolver: UdpSocket,
    _service: watch::Sender<Service>,
    _folder: TempDir,
}

impl Bench {
    /// The host names these as its resolvers. The test speaks for the last of them.
    async fn new(resolvers: &[&str]) -> Self {
        let last = resolvers.last().unwrap();
        let resolver = UdpSocket::bind((ip(last), 0)).await.unwrap();
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("resolv.conf");
        let lines: Vec<_> = resolvers
            .iter()
            .map(|one| format!("nameserver {one}\n"))
            .collect();
        fs::write(&file, lines.concat()).unwrap();
        let (service, served) = watch::channel(Service {
            directory: Arc::new(directory()),
            listen: [ip(BRIDGE)].into(),
        });
        let resolvers = Resolvers {
            file,
            port: resolver.local_addr().unwrap().port(),
            answers_within: PATIENCE * 2,
        };
        let shared = Shared::new(Answerer::new(served, resolvers));
        let at = SocketAddr::new(ip(BRIDGE), 0);
        let (udp, tcp) = (udp_at(at).unwrap(), tcp_at(at).unwrap());
        let bench = Self {
            udp: udp.local_addr().unwrap(),
            tcp: tcp.local_addr().unwrap(),
            answerer: shared.answerer.clone(),
            resolver,
            _service: service,
            _folder: folder,
        };
        tokio::spawn(shared.clone().serve_udp(Arc::new(udp)));
        tokio::spawn(shared.serve_tcp(tcp));
        bench
    }

    async fn client(&self, source: &str) -> Client {
        let socket = UdpSocket::bind((ip(source), 0)).await.unwrap();
        socket.connect(self.udp).await.unwrap();
        Client { socket }
    }

    /// The next question to the host's resolver, and who asks it.
    async fn passed_on(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 4096];
        let received = self.resolver.recv_from(&mut buffer);
        let (length, from) = soon(received).await.unwrap();
        buffer.truncate(length);
        (buffer, from)
    }

    /// Has the resolver answer its next question, which is to be this one.
    async fn resolves(&self, name: &str, outcome: &Outcome) {
        let (question, from) = self.passed_on().await;
        assert_eq!(Asked::decode(&question).unwrap().name(), name);
        self.says(&question, from, outcome).await;
    }

    async fn says(&self, question: &[u8], to: SocketAddr, outcome: &Outcome) {
        let answer = Asked::decode(question).unwrap().answer(outcome).unwrap();
        self.resolver.send_to(&answer, to).await.unwrap();
    }
}

struct Client {
    socket: UdpSocket,
}

impl Client {
    async fn asks(&self, name: &str, kind: RecordType) {
        self.socket.send(&question(name, kind)).await.unwrap();
    }

    async fn is_told(&self) -> Message {
        let mut buffer = vec![0; 4096];
        let length = soon(self.socket.recv(&mut buffer)).await.unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn finds(&self, name: &str, expected: &str) {
        self.asks(name, RecordType::A).await;
        assert_eq!(found(&self.is_told().await), [ip(expected)], "{name}");
    }

    async fn fails(&self, name: &str) {
        self.asks(name, RecordType::A).await;
        let code = self.is_told().await.metadata.response_code;
        assert_eq!(code, ResponseCode::ServFail, "{name}");
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_labels(name.split('.').map(str::as_bytes)).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message.to_vec().unwrap()
}

fn found(message: &Message) -> Vec<IpAddr> {
    let addresses = message.answers.iter();
    addresses
        .filter_map(|record| record.data.ip_addr())
        .collect()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let ended = timeout(PATIENCE, future).await;
    ended.expect("it takes no more than an instant")
}

async fn over_tcp(stream: &mut TcpStream, question: &[u8]) -> Message {
    write_message(stream, question).await.unwrap();
    let answer = soon(read_message(stream, 65_535)).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

async fn connection(bench: &Bench, source: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip(source), 0)).unwrap();
    socket.connect(bench.tcp).await.unwrap()
}

#[tokio::test]
async fn a_container_that_asks_a_dead_outside_without_end_holds_up_nobody() {
    let bench = Bench::new(&["127.9.9.9"]).await;
    let greedy = bench.client("127.1.1.66").await;
    for n in 0..OUTSIDE.source() {
        let name = format!("n{n}.example.org");
        greedy.asks(&name, RecordType::A).await;
        // The resolver hears it, and says nothing.
        bench.passed_on().await;
    }
    // Further questions fail at once, its own names are found, and so is everything by others.
    for n in 0..3 {
        greedy.fails(&format!("more{n}.example.org")).await;
        greedy.finds("web.blue.shoal.internal", WEB).await;
    }
    for source in ["127.1.1.67", "127.17.0.3"] {
        let other = bench.client(source).await;
        other.asks("example.org", RecordType::A).await;
        let outside = addresses(OUTSIDE_ADDRESS);
        bench.resolves("example.org", &outside).await;
        assert_eq!(found(&other.is_told().await), [ip(OUTSIDE_ADDRESS)]);
    }
}

#[tokio::test]
async fn a_question_that_the_hosts_resolver_sends_back_fails_at_once() {
    // The host asks a forwarder of its own, which asks this server; or one in a container does.
    for (resolver, comes_back_from) in [("127.9.9.9", BRIDGE), ("127.1.1.5", "127.1.1.5")] {
        let bench = Bench::new(&[resolver]).await;
        let container = bench.client("127.1.1.66").await;
        container.asks("example.org", RecordType::A).await;
        let (asked, from) = bench.passed_on().await;
        let forwarder = bench.client(comes_back_from).await;
        forwarder.fails("Example.ORG").await;
        bench.says(&asked, from, &Outcome::Failed).await;
        let told = container.is_told().await;
        assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
        // What is not being asked is no circle: the machine's own programs may ask here.
        forwarder.asks("example.org", RecordType::A).await;
        bench
            .resolves("example.org", &addresses(OUTSIDE_ADDRESS))
            .await;
        assert_eq!(found(&forwarder.is_told().await), [ip(OUTSIDE_ADDRESS)]);
    }
}

#[tokio::test]
async fn the_server_is_no_resolver_of_its_own() {
    let bench = Bench::new(&[BRIDGE, "127.9.9.9"]).await;
    let container = bench.client("127.1.1.66").await;
    container.asks("example.org", RecordType::A).await;
    let outside = addresses(OUTSIDE_ADDRESS);
    bench.resolves("example.org", &outside).await;
    assert_eq!(found(&container.is_told().await), [ip(OUTSIDE_ADDRESS)]);

    let alone = Bench::new(&[BRIDGE]).await;
    let container = alone.client("127.1.1.66").await;
    container.fails("example.org").await;
}

#[tokio::test]
async fn a_resolver_that_fails_is_no_last_word_while_there_is_another() {
    let bench = Bench::new(&["127.9.9.8", "127.9.9.9"]).await;
    let port = bench.resolver.local_addr().unwrap().port();
    let first = UdpSocket::bind((ip("127.9.9.8"), port)).await.unwrap();
    let container = bench.client("127.1.1.66").await;
    for (second, expected) in [
        (addresses(OUTSIDE_ADDRESS), ResponseCode::NoError),
        (Outcome::NoSuchName, ResponseCode::NXDomain),
        // If none knows, the first one's word is passed on.
        (Outcome::Failed, ResponseCode::Refused),
    ] {
        container.asks("example.org", RecordType::A).await;
        let mut buffer = vec![0; 4096];
        let (length, from) = soon(first.recv_from(&mut buffer)).await.unwrap();
        let asked = Asked::decode(&buffer[..length]).unwrap();
        let refusal = asked.answer(&Outcome::Refused).unwrap();
        first.send_to(&refusal, from).await.unwrap();
        bench.resolves("example.org", &second).await;
        let told = container.is_told().await;
        assert_eq!(told.metadata.response_code, expected, "{second:?}");
    }
}

#[tokio::test]
async fn a_container_without_ipv6_exists_whichever_way_it_is_asked_for() {
    let bench = Bench::new(&["127.9.9.9"]).await;
    let client = bench.client("127.1.1.66").await;
    let mut stream = connection(&bench, "127.1.1.66").await;
    for name in [
        "web",
        "WEB.blue.shoal.internal",
        "web.n1.blue.shoal.internal",
    ] {
        for (kind, expected) in [(RecordType::A, &[ip(WEB)][..]), (RecordType::AAAA, &[])] {
            client.asks(name, kind).await;
            let by_tcp = over_tcp(&mut stream, &question(name, kind)).await;
            for told in [client.is_told().await, by_tcp] {
                assert_eq!(told.metadata.response_code, ResponseCode::NoError, "{name}");
                assert!(!told.metadata.truncation);
                assert_eq!(found(&told), expected, "{name} {kind}");
                // An answer without an address says how long that holds (RFC 2308).
                assert_eq!(told.authorities.len(), usize::from(expected.is_empty()));
            }
        }
    }
    client
        .asks("db.blue.shoal.internal", RecordType::AAAA)
        .await;
    let told = client.is_told().await;
    assert_eq!(told.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn an_answer_from_outside_that_is_cut_short_is_had_whole_by_a_connection() {
    let bench = Bench::new(&["127.9.9.9"]).await;
    let at = bench.resolver.local_addr().unwrap();
    let listener = TcpListener::bind(at).await.unwrap();
    let client = bench.client("127.1.1.66").await;
    client.asks("example.org", RecordType::A).await;
    let (asked, from) = bench.passed_on().await;
    let mut cut = Message::from_vec(&asked).unwrap();
    cut.metadata.message_type = MessageType::Response;
    cut.metadata.truncation = true;
    bench
        .resolver
        .send_to(&cut.to_vec().unwrap(), from)
        .await
        .unwrap();
    assert!(client.is_told().await.metadata.truncation);

    let large = "x".repeat(200);
    let resolver = async {
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        let mut answer = soon(read_message(&mut stream, 4096)).await.unwrap();
        // Four records of some text each: more than any datagram was promised to carry.
        answer[2] |= 0x80;
        answer[7] = 4;
        for _ in 0..4 {
            answer.extend([0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 1, 0, 201, 200]);
            answer.extend(large.as_bytes());
        }
        write_message(&mut stream, &answer).await.unwrap();
    };
    let mut stream = connection(&bench, "127.1.1.66").await;
    let question = question("example.org", RecordType::TXT);
    let ((), told) = tokio::join!(resolver, over_tcp(&mut stream, &question));
    assert_eq!((told.metadata.id, told.answers.len()), (7, 4));
}

#[tokio::test]
async fn one_containers_connections_leave_room_for_anothers() {
    let bench = Bench::new(&["127.9.9.9"]).await;
    let question = question("web", RecordType::A);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS.source() {
        let mut stream = connection(&bench, "127.1.1.66").await;
        assert_eq!(found(&over_tcp(&mut stream, &question).await), [ip(WEB)]);
        held.push(stream);
    }
    let mut further = connection(&bench, "127.1.1.66").await;
    let told = soon(read_message(&mut further, 65_535)).await;
    assert!(told.is_err(), "it is closed");
    let mut other = connection(&bench, "127.1.1.67").await;
    assert_eq!(found(&over_tcp(&mut other, &question).await), [ip(WEB)]);
}

#[tokio::test]
async fn strangers_and_what_is_no_question_are_met_with_silence() {
    let bench = Bench::new(&["127.9.9.9"]).await;
    let asked = question("web.blue.shoal.internal", RecordType::A);
    let reply = |message: &[u8], source| bench.answerer.reply(message, ip(source), Transport::Udp);
    assert!(matches!(reply(&asked, "192.0.2.1"), Reply::Silence));
    assert!(matches!(reply(&asked[..20], WEB), Reply::Silence));
    assert!(matches!(reply(&asked, WEB), Reply::Message(_)));
    // A peer has other resolvers for the outside, and is told so.
    let peer = bench.client("127.96.0.2").await;
    peer.asks("example.org", RecordType::A).await;
    let told = peer.is_told().await;
    assert_eq!(told.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn it_says_where_it_listens_before_the_bridge_is_there_and_where_another_is_in_its_place() {
    let other = std::net::UdpSocket::bind((ip("127.1.1.1"), 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let nowhere = ip("192.0.2.1");
    let (service, served) = watch::channel(Service {
        listen: [ip(BRIDGE), nowhere].into(),
        ..Service::default()
    });
    let (listening, mut told) = watch::channel(Listening::default());
    let stop = CancellationToken::new();
    let server = Server {
        service: served.clone(),
        listening,
        stop: stop.clone(),
    };
    let shared = Shared::new(Answerer::new(served, Resolvers::default()));
    let task = tokio::spawn(server.serve(shared, port));
    let changed = |told: &Listening| *told != Listening::default();
    let first = soon(told.wait_for(changed)).await.unwrap().clone();
    assert_eq!(first.at, [nowhere].into(), "{first:?}");
    let reason = &first.failed[&ip(BRIDGE)];
    assert!(reason.contains("another program"), "{reason}");
    drop(other);
    soon(told.wait_for(|told| told.failed.is_empty()))
        .await
        .unwrap();
    service.send_modify(|service| {
        service.listen.remove(&nowhere);
    });
    let only = [ip(BRIDGE)].into();
    soon(told.wait_for(|told| told.at == only)).await.unwrap();
    stop.cancel();
    soon(task).await.unwrap();
}
