//! Runs seeds of the linearizability tests: any number of them, or one again.
//!
//! `--seeds 10000` runs the first so many, `--from 200` begins later, `--seed 17` runs one and
//! tells what happened in it, `--bug SyncLies` plants a bug. Ends with an error if a rule was
//! broken.

#![expect(clippy::print_stdout, reason = "a program for people who look at runs")]

#[path = "../tests/linearizability/harness/mod.rs"]
mod harness;

use std::{process::ExitCode, time::Instant};

use harness::{
    bugs::Bug,
    judge::Counts,
    run::{run, run_telling},
};

/// What was asked for.
struct Wish {
    seed: Option<u64>,
    from: u64,
    seeds: u64,
    bug: Option<Bug>,
}

fn wish(mut words: impl Iterator<Item = String>) -> Result<Wish, String> {
    let mut wish = Wish {
        seed: None,
        from: 0,
        seeds: 200,
        bug: None,
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| error.to_string());
        match word.as_str() {
            "--seed" => wish.seed = Some(number()?),
            "--from" => wish.from = number()?,
            "--seeds" => wish.seeds = number()?,
            "--bug" => wish.bug = Some(value.parse()?),
            _ => {
                return Err(format!(
                    "{word} is not known: --seed, --seeds, --from, --bug are"
                ));
            }
        }
    }
    Ok(wish)
}

fn main() -> ExitCode {
    let wish = match wish(std::env::args().skip(1)) {
        Ok(wish) => wish,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let failed = match wish.seed {
        Some(seed) => one(seed, wish.bug),
        None => many(&wish),
    };
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn one(seed: u64, bug: Option<Bug>) -> bool {
    let outcome = run_telling(seed, bug, true);
    for event in &outcome.events {
        println!("{event}");
    }
    println!(
        "{:#?}\ntrace {:x?}\n{outcome}",
        outcome.counts, outcome.trace
    );
    !outcome.violations.is_empty()
}

fn many(wish: &Wish) -> bool {
    let begun = Instant::now();
    let mut counts = Counts::new();
    let mut failed = 0;
    for seed in wish.from..wish.from + wish.seeds {
        let outcome = run(seed, wish.bug);
        for (what, times) in &outcome.counts {
            *counts.entry(what).or_default() += times;
        }
        if !outcome.violations.is_empty() {
            failed += 1;
            println!("{outcome}");
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{counts:#?}\n{} seeds in {seconds:.1} s, {failed} failed",
        wish.seeds
    );
    failed > 0
}
