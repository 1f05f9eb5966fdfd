//! Which server's controllers lead, and the end of one that cannot say so any more.
//!
//! Follows client-go's `tools/leaderelection` with the controller manager's times. In K3s that one is part
//! of the server's process, and ends it: a server that has the lease and cannot renew it in time ends, one
//! that only wants it waits. Times are this server's own: a lease is as old as it has not been seen to change.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{create, nodes::Health, replace, text};
use crate::{apiserver::objects, clock, etcd::state::Command, logline, server::Server};

/// Who has it and does not renew it for so long loses it to whoever asks first.
const LEASE: Duration = Duration::from_secs(15);
/// Who cannot renew it for so long leads no more.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Between one try and the next.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// For one try, as client-go has it: half of the time in which it is to be renewed.
const TRY_WITHIN: Duration = Duration::from_secs(5);
const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-controller-manager";
const KEY: &str = "coordination.k8s.io/leases/kube-system/kube-controller-manager";

/// Returns when this server had the lease and could not renew it. Without etcd there is no other server, and
/// K3s has no lease.
pub(crate) async fn until_lost(server: &Server) {
    if !server.clustered {
        return std::future::pending().await;
    }
    // K3s starts its controllers once its API answers.
    while !server.is_open() {
        sleep(RETRY_EVERY).await;
    }
    // One that was started again is another one.
    let me = format!("{}_{}", server.settings.node.name, objects::uid());
    let mut seen = Health::default();
    hold(async || take(server, &me, &mut seen).await).await;
}

/// Takes the lease, however long that takes, and keeps it for as long as it can.
async fn hold(mut takes: impl AsyncFnMut() -> bool) {
    while !in_time(TRY_WITHIN, takes()).await {
        sleep(RETRY_EVERY).await;
    }
    logline::info(format!("successfully acquired lease {NAMESPACE}/{NAME}"));
    loop {
        sleep(RETRY_EVERY).await;
        // From the first try on: a process that stood still before it has lost no time.
        let since = Instant::now();
        let left = || RENEW_WITHIN.saturating_sub(since.elapsed());
        while !in_time(TRY_WITHIN.min(left()), takes()).await {
            if left().is_zero() {
                return;
            }
            sleep(RETRY_EVERY.min(left())).await;
        }
    }
}

async fn in_time(within: Duration, takes: impl Future<Output = bool>) -> bool {
    timeout(within, takes).await.unwrap_or(false)
}

/// One try to have the lease from now on. What was not agreed in time may have its effect later, and is this
/// server's own at the next try.
async fn take(server: &Server, me: &str, seen: &mut Health) -> bool {
    let Ok(newest) = server.etcd.read().await else {
        return false;
    };
    let known = newest.state.objects.get(KEY);
    let silent = known.map_or(Duration::ZERO, |lease| {
        seen.age(KEY, text(lease, &["spec", "renewTime"]))
    });
    match claim(known, me, silent) {
        Some(command) => server.etcd.submit(command).await.is_ok(),
        None => false,
    }
}

/// What makes the lease this server's, or keeps it; none while it is another one's.
fn claim(known: Option<&Value>, me: &str, silent: Duration) -> Option<Command> {
    let now = clock::now_micro();
    let Some(known) = known else {
        let lease = json!({
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "holderIdentity": me,
                "leaseDurationSeconds": LEASE.as_secs(),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        });
        return Some(create(KEY, lease));
    };
    let mut lease = known.clone();
    if text(known, &["spec", "holderIdentity"]) != me {
        if silent < LEASE {
            return None;
        }
        let moved = known["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
        lease["spec"]["holderIdentity"] = json!(me);
        lease["spec"]["acquireTime"] = json!(now);
        lease["spec"]["leaseTransitions"] = json!(moved + 1);
    }
    lease["spec"]["renewTime"] = json!(now);
    Some(replace(KEY, lease))
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    /// Seconds after which the lead is lost, if it is, where etcd has no majority from one second to the
    /// other. A try waits for one.
    async fn lost_after(from: u64, until: u64) -> Option<u64> {
        let start = Instant::now();
        let away = start + Duration::from_secs(from)..start + Duration::from_secs(until);
        let takes = async || {
            if away.contains(&Instant::now()) {
                sleep_until(away.end).await;
            }
            true
        };
        let lost = timeout(Duration::from_secs(600), hold(takes)).await;
        lost.ok().map(|()| start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn who_leads_and_cannot_say_so_for_ten_seconds_leads_no_more() {
        // Renewed every two seconds, the last time two before it is away.
        assert_eq!(lost_after(30, 31).await, None);
        assert_eq!(lost_after(30, 39).await, None);
        assert_eq!(lost_after(30, 41).await, Some(40));
        assert_eq!(lost_after(30, 900).await, Some(40));
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_led_waits() {
        assert_eq!(lost_after(0, 300).await, None);
        assert_eq!(lost_after(0, 900).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leads_and_is_refused_every_time_leads_no_more() {
        let start = Instant::now();
        hold(async || start.elapsed() < Duration::from_secs(30)).await;
        assert_eq!(start.elapsed().as_secs(), 40);
    }

    #[test]
    fn the_lease_of_another_is_taken_only_once_it_is_silent() {
        let Some(Command::Create { object, .. }) = claim(None, "a_1", Duration::ZERO) else {
            panic!("nobody has it");
        };
        let almost = LEASE - Duration::from_millis(1);
        for other in ["b_1", "a_2"] {
            assert!(claim(Some(&object), other, almost).is_none(), "{other}");
        }
        for (who, silent, moved) in [("a_1", almost, 0), ("b_1", LEASE, 1)] {
            let claimed = claim(Some(&object), who, silent);
            let Some(Command::Replace { object, .. }) = claimed else {
                panic!("{who} may have it: {claimed:?}");
            };
            assert_eq!(object["spec"]["holderIdentity"], who);
            assert_eq!(object["spec"]["leaseTransitions"], moved);
        }
    }
}
