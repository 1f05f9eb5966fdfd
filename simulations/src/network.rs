//! Which messages arrive, and when.
//!
//! Decides: delay and loss per directed link. A cut link loses everything, also what is under way
//! when the cut comes. A message over a stream that loses packets would be late rather than lost;
//! here it is lost, which is harder to live with.
//!
//! A link's own delay is computed from the seed, not remembered: a mesh of ten thousand has a
//! hundred million of them. What a fault does to links is one mark on each node of either side, so
//! a message costs two loads and an AND however many faults there are.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::{
    random::{Span, as_micros, mix},
    scenario::{Link, Scenario, Topology},
};

/// Marks on a node's links at once.
pub(crate) const MARKS_MAX: usize = 64;

/// What a marked link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing passes.
    Cut,
    /// So many of a million are lost.
    Loss(u32),
    /// Each takes longer.
    Delay(Span),
}

/// An effect under way, or over.
#[derive(Debug, Clone, Copy)]
struct Mark {
    effect: Effect,
    /// The fault that did it.
    fault: usize,
    since_us: u64,
    /// Messages and dials that it lost or delayed.
    hits: u64,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    /// It arrives after so many microseconds.
    Arrives(u64),
}

/// All directed links.
#[derive(Debug)]
pub(crate) struct Network {
    seed: u64,
    region: Vec<u8>,
    /// What links are like, by the regions of both ends.
    links: Vec<Vec<Link>>,
    marks: Vec<Option<Mark>>,
    /// Per node, the marks on what it sends.
    out: Vec<u64>,
    /// Per node, the marks on what it is sent.
    into: Vec<u64>,
    /// When the last cut that was on any link ended, by its two sides.
    mended: Vec<(u64, Vec<bool>, Vec<bool>)>,
}

/// Ended cuts that are remembered, for as long as it matters whether a link was just mended.
const MENDED_MAX: usize = 64;

impl Network {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let Topology {
            regions,
            link,
            between,
        } = &scenario.topology;
        let mut links = vec![vec![*link; regions.len()]; regions.len()];
        for ((one, two), link) in between {
            links[*one][*two] = *link;
            links[*two][*one] = *link;
        }
        Self {
            seed: mix(seed ^ 0x1145),
            region: scenario.region_of_each(),
            links,
            marks: vec![None; MARKS_MAX],
            out: vec![0; scenario.nodes],
            into: vec![0; scenario.nodes],
            mended: Vec::new(),
        }
    }

    pub(crate) fn region_of(&self, node: usize) -> usize {
        usize::from(self.region[node])
    }

    /// Puts an effect on all links from the first to the second; gives its place.
    pub(crate) fn mark(
        &mut self,
        from: &[usize],
        to: &[usize],
        effect: Effect,
        fault: usize,
        since_us: u64,
    ) -> Option<usize> {
        let place = self.marks.iter().position(Option::is_none)?;
        self.marks[place] = Some(Mark {
            effect,
            fault,
            since_us,
            hits: 0,
        });
        for node in from {
            self.out[*node] |= 1 << place;
        }
        for node in to {
            self.into[*node] |= 1 << place;
        }
        Some(place)
    }

    /// Takes an effect away; gives the fault that did it and what it hit.
    pub(crate) fn unmark(&mut self, place: usize, now_us: u64) -> Option<(usize, u64)> {
        let mark = self.marks[place].take()?;
        if mark.effect == Effect::Cut {
            let side = |marks: &[u64]| {
                marks
                    .iter()
                    .map(|marks| marks & (1 << place) != 0)
                    .collect()
            };
            self.mended
                .push((now_us, side(&self.out), side(&self.into)));
            if self.mended.len() > MENDED_MAX {
                self.mended.remove(0);
            }
        }
        for marks in self.out.iter_mut().chain(&mut self.into) {
            *marks &= !(1 << place);
        }
        Some((mark.fault, mark.hits))
    }

    fn is_cut(mark: &Option<Mark>) -> bool {
        mark.as_ref().is_some_and(|mark| mark.effect == Effect::Cut)
    }

    fn on(&self, from: usize, to: usize) -> u64 {
        self.out[from] & self.into[to]
    }

    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        let on = self.on(from, to);
        on == 0 || !places(on).any(|place| Self::is_cut(&self.marks[place]))
    }

    /// Whether messages pass in both directions.
    pub(crate) fn is_open_both_ways(&self, a: usize, b: usize) -> bool {
        self.is_open(a, b) && self.is_open(b, a)
    }

    /// Since when at least one direction is cut.
    pub(crate) fn broken_since(&self, a: usize, b: usize) -> Option<u64> {
        let on = self.on(a, b) | self.on(b, a);
        places(on)
            .filter_map(|place| self.marks[place])
            .filter(|mark| mark.effect == Effect::Cut)
            .map(|mark| mark.since_us)
            .min()
    }

    /// When a cut between the two last ended, if that is remembered.
    pub(crate) fn mended_at(&self, a: usize, b: usize) -> Option<u64> {
        let between = |(_, out, into): &&(u64, Vec<bool>, Vec<bool>)| {
            (out[a] && into[b]) || (out[b] && into[a])
        };
        let last = self.mended.iter().filter(between).map(|(at, _, _)| *at);
        last.max()
    }

    /// Something did not get through because of a cut: the cut did hit something.
    pub(crate) fn count_cut(&mut self, from: usize, to: usize) {
        for place in places(self.on(from, to)) {
            if let Some(mark) = self.marks[place].as_mut()
                && mark.effect == Effect::Cut
            {
                mark.hits += 1;
            }
        }
    }

    /// What becomes of a message that is sent now.
    pub(crate) fn fate(&mut self, from: usize, to: usize, rng: &mut ChaCha8Rng) -> Fate {
        let link = &self.links[usize::from(self.region[from])][usize::from(self.region[to])];
        let key = self.seed ^ (from as u64) << 32 ^ to as u64;
        let mut delay_us = link.latency.fixed(key) + link.jitter.draw(rng);
        let lost = link.loss_ppm > 0 && rng.random_range(0..1_000_000) < link.loss_ppm;
        let on = self.on(from, to);
        if on == 0 {
            return if lost {
                Fate::Lost
            } else {
                Fate::Arrives(delay_us)
            };
        }
        let mut lost = lost;
        for place in places(on) {
            let Some(mark) = self.marks[place].as_mut() else {
                continue;
            };
            match mark.effect {
                Effect::Cut => {
                    lost = true;
                    mark.hits += 1;
                }
                Effect::Loss(ppm) => {
                    if rng.random_range(0..1_000_000) < ppm {
                        lost = true;
                        mark.hits += 1;
                    }
                }
                Effect::Delay(by) => {
                    delay_us += as_micros(by.draw(rng));
                    mark.hits += 1;
                }
            }
        }
        if lost {
            Fate::Lost
        } else {
            Fate::Arrives(delay_us)
        }
    }

    /// How long one message takes that is not lost.
    pub(crate) fn delay(&self, from: usize, to: usize, rng: &mut ChaCha8Rng) -> Duration {
        let link = &self.links[usize::from(self.region[from])][usize::from(self.region[to])];
        let key = self.seed ^ (from as u64) << 32 ^ to as u64;
        let added: u64 = places(self.on(from, to))
            .filter_map(|place| match self.marks[place]?.effect {
                Effect::Delay(by) => Some(as_micros(by.draw(rng))),
                Effect::Cut | Effect::Loss(_) => None,
            })
            .sum();
        Duration::from_micros(link.latency.fixed(key) + link.jitter.draw(rng) + added)
    }
}

fn places(mut marks: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (marks != 0).then(|| {
            let place = marks.trailing_zeros();
            marks &= marks - 1;
            place as usize
        })
    })
}
