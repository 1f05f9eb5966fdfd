//! Mutants of an input: what noise, a cut, a liar and a mixer would make of it.
//!
//! Decides: flips of bits, cuts, lengths that promise more than follows (in the encodings that the
//! decoders read: postcard's varints, two and four bytes big-endian, decimal digits), other inputs
//! of the same target behind, inside and instead of parts of it.
//! Invariant: the same name and inputs give the same mutants in the same order.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// Lengths that lie, as they are written: 2^60, 2^32 - 1, 2^20 and 127 as varints; the most that
/// two, four and eight bytes hold; nothing at all.
const LIES: &[&[u8]] = &[
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x40],
    &[0x7f],
    &[0xff; 2],
    &[0xff; 4],
    &[0xff; 8],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0],
];
/// Numbers that a text may claim.
const NUMBERS: &[&str] = &[
    "18446744073709551615",
    "9223372036854775807",
    "4294967295",
    "65536",
    "-1",
    "0",
    "+1",
    "1e308",
];
/// Bits flipped at most in one mutant.
const FLIPS_MAX: usize = 8;

/// Mutants without end.
pub(crate) fn mutants(name: &str, data: &[u8], all: &[&[u8]]) -> impl Iterator<Item = Vec<u8>> {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed(name)));
    std::iter::repeat_with(move || {
        let mut mutant = data.to_vec();
        // Mostly one change: two seldom meet in one decoder's path.
        for _ in 0..=draw.below(5) / 4 {
            draw.change(&mut mutant, all);
        }
        mutant
    })
}

/// FNV-1a: any spread will do, and this one never changes.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

struct Draw(ChaCha8Rng);

impl Draw {
    /// A number below `end`; zero if there is none.
    fn below(&mut self, end: usize) -> usize {
        let end = end.max(1) as u64;
        usize::try_from(self.0.next_u64() % end).unwrap()
    }

    fn change(&mut self, data: &mut Vec<u8>, all: &[&[u8]]) {
        let at = self.below(data.len());
        match self.below(8) {
            0 | 1 => self.flip(data),
            2 => data.truncate(at),
            3 => drop(data.drain(at..data.len().min(at + 1 + self.below(8)))),
            4 => self.lie(data, at),
            5 => self.claim(data, at),
            6 => {
                let other = all[self.below(all.len())];
                let from = self.below(other.len());
                data.truncate(at);
                data.extend_from_slice(&other[from.min(other.len())..]);
            }
            _ => {
                let other = all[self.below(all.len())];
                data.extend_from_slice(other);
            }
        }
    }

    fn flip(&mut self, data: &mut [u8]) {
        for _ in 0..=self.below(FLIPS_MAX) {
            let at = self.below(data.len());
            if let Some(byte) = data.get_mut(at) {
                *byte ^= 1 << self.below(8);
            }
        }
    }

    /// A length that lies, before a byte or instead of some.
    fn lie(&mut self, data: &mut Vec<u8>, at: usize) {
        let lie = LIES[self.below(LIES.len())];
        let end = data.len().min(at + self.below(lie.len() + 1));
        data.splice(at..end, lie.iter().copied());
    }

    /// Another number instead of the digits from here on.
    fn claim(&mut self, data: &mut Vec<u8>, at: usize) {
        let number = NUMBERS[self.below(NUMBERS.len())];
        let digit = data[at..].iter().position(u8::is_ascii_digit);
        let at = digit.map_or(at, |digit| at + digit);
        let digits = data[at..].iter().take_while(|byte| byte.is_ascii_digit());
        let end = at + digits.count();
        data.splice(at..end, number.bytes());
    }
}

#[test]
fn the_same_file_gives_the_same_mutants() {
    let all: [&[u8]; 2] = [b"first", b"second"];
    let draw = || mutants("first", all[0], &all).take(100).collect::<Vec<_>>();
    assert_eq!(draw(), draw());
    let other: Vec<_> = mutants("second", all[0], &all).take(100).collect();
    assert_ne!(draw(), other);
    assert!(draw().iter().any(|mutant| mutant.len() < all[0].len()));
    assert!(draw().iter().any(|mutant| mutant.len() > all[0].len()));
}

#[test]
fn nothing_has_mutants_too() {
    assert_eq!(mutants("", &[], &[&[]]).take(1000).count(), 1000);
}
