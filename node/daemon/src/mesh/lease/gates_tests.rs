//! Claims about what becomes of orders to the gate.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rustix::io::Errno;

use super::*;

const EPOCH: Epoch = Epoch(3);
const LEASE_US: u64 = 1_200_000;

/// A kernel that refuses to close so often, and opens nothing by itself.
#[derive(Default)]
struct Stubborn {
    refuses: AtomicUsize,
    closed: AtomicUsize,
    ended: AtomicBool,
    orders: Mutex<Vec<u64>>,
}

impl Kernel for Stubborn {
    fn order(&self, order: overlay_gate::GateOrder) -> Result<(), GateError> {
        self.orders.lock().unwrap().push(order.epoch);
        Ok(())
    }

    fn close(self: Arc<Self>, _: Ipv6Addr, _: u64) -> BoxFuture<'static, Result<(), GateError>> {
        if self.ended.load(Ordering::Relaxed) {
            return async { Err(GateError::Ended) }.boxed();
        }
        self.closed.fetch_add(1, Ordering::Relaxed);
        let one_less = |left: usize| left.checked_sub(1);
        let refused = self
            .refuses
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok();
        let outcome = if refused {
            Err(GateError::Refused(Errno::BUSY))
        } else {
            Ok(())
        };
        async move { outcome }.boxed()
    }

    fn forget(&self, _: Ipv6Addr) -> Result<(), GateError> {
        Ok(())
    }
}

/// A gate for one virtual IP, and what is on its other side.
struct Set {
    gates: Gates,
    kernel: Arc<Stubborn>,
    events: mpsc::Sender<GateEvent>,
    status: watch::Sender<BTreeMap<Ipv6Addr, GateStatus>>,
    obstacles: watch::Receiver<Obstacles>,
}

fn vip() -> VipId {
    VipId::from_bytes([7; 16])
}

fn address() -> Ipv6Addr {
    "fd00::a".parse().unwrap()
}

fn set() -> Set {
    let kernel = Arc::new(Stubborn::default());
    let (events, taken) = mpsc::channel(8);
    let (status, said) = watch::channel(BTreeMap::new());
    let (told, obstacles) = watch::channel(Obstacles::default());
    let mut gates = Gates::with(kernel.clone(), GateKind::Nftables, taken, said, told);
    let place = Place {
        name: "web".into(),
        address: address(),
        interface: "shoal-default".into(),
        profile: LeaseProfile::Safe,
    };
    gates.places.insert(vip(), place);
    Set {
        gates,
        kernel,
        events,
        status,
        obstacles,
    }
}

fn order(lease_until_us: u64) -> GateOrder {
    GateOrder {
        vip: vip(),
        epoch: EPOCH,
        lease_until_us,
    }
}

impl Set {
    fn obstacle(&self) -> Option<String> {
        let obstacles = self.obstacles.borrow();
        obstacles.to(vip(), LeaseProfile::Safe).map(str::to_owned)
    }

    /// As long as a lease is renewed and the kernel does what it does.
    async fn renews_for(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.gates.order(order(LEASE_US));
            let _ = tokio::time::timeout(Duration::from_millis(100), self.gates.news()).await;
        }
    }

    fn is_of(&mut self, profile: LeaseProfile) {
        let place = self.gates.places.get_mut(&vip());
        place.expect("it has a place").profile = profile;
    }

    fn opens(&self, open: bool) {
        let status = GateStatus {
            interface: None,
            epoch: EPOCH.0,
            open,
            since_us: 1,
        };
        let all = BTreeMap::from([(address(), status)]);
        self.status.send_replace(all);
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_to_shut_is_repeated_until_the_kernel_has_followed_it() {
    let mut set = set();
    set.kernel.refuses.store(3, Ordering::Relaxed);
    let begun = Instant::now();
    set.gates.order(order(0));
    // One that is being carried out is not given twice.
    set.gates.order(order(0));
    assert_eq!(set.gates.news().await, GateNews::Shut(vip(), EPOCH));
    assert_eq!(set.kernel.closed.load(Ordering::Relaxed), 4);
    assert!(begun.elapsed() >= SHUT_AGAIN * 3);
    set.gates.order(order(0));
    assert_eq!(set.gates.news().await, GateNews::Shut(vip(), EPOCH));
}

#[tokio::test(start_paused = true)]
async fn what_a_gate_that_is_gone_had_opened_counts_as_shut_when_all_of_it_has_run_out() {
    let mut set = set();
    set.opens(true);
    assert_eq!(set.gates.news().await, GateNews::Changed);
    assert!(set.gates.is_open(vip(), EPOCH) && set.obstacle().is_none());
    set.kernel.ended.store(true, Ordering::Relaxed);
    // The thread, and with it who told how things are, is no more.
    drop(std::mem::replace(
        &mut set.status,
        watch::channel(BTreeMap::new()).0,
    ));
    assert_eq!(set.gates.news().await, GateNews::Gone);
    assert!(set.gates.is_gone() && !set.gates.is_open(vip(), EPOCH));
    assert_eq!(set.obstacle().as_deref(), Some(ENDED));
    let gone = Instant::now();
    set.gates.order(order(LEASE_US));
    set.gates.order(order(0));
    assert_eq!(set.gates.news().await, GateNews::Shut(vip(), EPOCH));
    assert!(gone.elapsed() >= kinds::RUN_OUT, "{:?}", gone.elapsed());
    assert_eq!(set.kernel.orders.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_ends_while_it_is_to_shut_is_noticed_by_that() {
    let mut set = set();
    set.kernel.ended.store(true, Ordering::Relaxed);
    set.gates.order(order(0));
    assert_eq!(set.gates.news().await, GateNews::Gone);
    assert_eq!(set.gates.news().await, GateNews::Shut(vip(), EPOCH));
    assert_eq!(set.kernel.closed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_open_under_a_longer_lease_counts_as_shut_when_that_has_ended() {
    let mut set = set();
    set.is_of(LeaseProfile::Slow);
    set.kernel.ended.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    set.gates.order(order(0));
    assert_eq!(set.gates.news().await, GateNews::Gone);
    assert_eq!(set.gates.news().await, GateNews::Shut(vip(), EPOCH));
    let lease = Duration::from_micros(LeaseProfile::Slow.timing().lease_us);
    assert!(begun.elapsed() > lease, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn renewals_of_a_slow_lease_of_which_some_are_lost_are_of_one_lease() {
    let mut set = set();
    set.is_of(LeaseProfile::Slow);
    let lost = Duration::from_micros(3 * LeaseProfile::Slow.timing().renew_every_us);
    for _ in 0..3 {
        set.gates.order(order(LEASE_US));
        let _ = tokio::time::timeout(lost, set.gates.news()).await;
    }
    assert!(set.obstacle().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_does_not_open_though_the_lease_runs_is_an_obstacle_until_it_opens() {
    let mut set = set();
    set.renews_for(OPENS_WITHIN - Duration::from_millis(200))
        .await;
    assert_eq!(set.obstacle(), None);
    let refused = GateEvent::Refused {
        address: address(),
        epoch: EPOCH.0,
        at_us: 1,
        why: overlay_gate::RefusedWhy::Kernel(Errno::NOMEM),
    };
    set.events.send(refused).await.unwrap();
    set.renews_for(Duration::from_millis(400)).await;
    let reason = set.obstacle().expect("it did not open for two seconds");
    assert!(
        reason.starts_with("its gate does not open: the kernel refused"),
        "{reason}"
    );
    set.opens(true);
    set.renews_for(Duration::from_millis(100)).await;
    assert_eq!(set.obstacle(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_comes_and_goes_is_no_gate_that_does_not_open() {
    let mut set = set();
    for _ in 0..5 {
        set.renews_for(Duration::from_millis(500)).await;
        let quiet = kinds::SAME_LEASE + Duration::from_millis(10);
        let _ = tokio::time::timeout(quiet, set.gates.news()).await;
    }
    assert_eq!(set.obstacle(), None);
}

#[tokio::test(start_paused = true)]
async fn who_could_not_open_an_address_says_so_for_a_while_after_it_was_taken_away() {
    let mut set = set();
    set.renews_for(OPENS_WITHIN + Duration::from_millis(200))
        .await;
    assert!(set.obstacle().is_some());
    set.gates.order(order(0));
    assert_eq!(set.gates.news().await, GateNews::Shut(vip(), EPOCH));
    assert!(set.obstacle().is_some());
    let over = tokio::time::timeout(REFUSAL_KEPT * 2, set.gates.news()).await;
    assert!(over.is_err() && set.obstacle().is_none());
}

#[tokio::test(start_paused = true)]
async fn rules_that_the_kernel_does_not_take_back_are_an_obstacle_while_they_are_missing() {
    let mut set = set();
    let (at_us, errno) = (1, Errno::PERM);
    let missing = GateEvent::RulesMissing { at_us, errno };
    for (event, stands_in_the_way) in [(missing, true), (GateEvent::RulesRestored { at_us }, false)]
    {
        set.events.send(event).await.unwrap();
        let _ = tokio::time::timeout(SHUT_AGAIN, set.gates.news()).await;
        assert_eq!(set.obstacle().is_some(), stands_in_the_way);
    }
}
