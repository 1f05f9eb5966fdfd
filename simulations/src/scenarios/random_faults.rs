//! Whatever a seed brings, then peace: a phase in which only safety is asked for, and one in which
//! the mesh must come together.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CALM, Scenario};
use crate::Fault;

/// How long faults strike.
const STORM: Duration = Duration::from_secs(30);
/// Faults in that time.
const FAULTS: usize = 15;
/// After the storm everything must be agreed by then: a suspicion that was opened in its last
/// moment may need the longest time to be refuted or to run out.
const PEACE: Duration = Duration::from_secs(45);

/// Crashes, kills, restarts, cuts, stalls and loss at random; then all is mended and started.
pub fn random_faults(nodes: usize, seed: u64) -> Scenario {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5707_u64);
    let storm_ms = u64::try_from(STORM.as_millis()).unwrap_or(u64::MAX);
    let mut faults: Vec<_> = (0..FAULTS)
        .map(|_| {
            let at = CALM + Duration::from_millis(rng.random_range(0..storm_ms));
            (at, draw(nodes, &mut rng))
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    let peace_at = CALM + STORM;
    faults.push((peace_at, Fault::MendAll));
    faults.push((peace_at, Fault::LosePermille(0)));
    faults.extend((0..nodes).map(|node| (peace_at, Fault::Restart(node))));
    Scenario::new("random_faults", nodes, faults, peace_at + PEACE)
}

fn draw(nodes: usize, rng: &mut ChaCha8Rng) -> Fault {
    let node = rng.random_range(0..nodes);
    let group = |rng: &mut ChaCha8Rng| -> Vec<usize> {
        (0..nodes).filter(|_| rng.random_bool(0.4)).collect()
    };
    match rng.random_range(0..9) {
        0 => Fault::Crash(node),
        1 => Fault::Kill(node),
        2 | 3 => Fault::Restart(node),
        4 => Fault::Stall(node, Duration::from_millis(rng.random_range(100..8000))),
        5 => Fault::CutOneWay(group(rng), group(rng)),
        6 => Fault::CutBothWays(group(rng), group(rng)),
        7 => Fault::MendAll,
        _ => Fault::LosePermille(rng.random_range(0..200)),
    }
}
