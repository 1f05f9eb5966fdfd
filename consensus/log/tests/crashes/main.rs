//! Claims about power cuts, full and broken disks, and rot.
//!
//! `SHOAL_POWER_CUTS` and `SHOAL_SEED` choose how many cuts and which ones; a failure prints both.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on fails and says what it saw"
)]

mod model;

use std::{env, io, sync::Arc};

use consensus_log::{
    Damage, Disk as _, Log, OpenError, Record,
    simulation::{Fault, FaultKind, Random, SimDisk},
};

use crate::model::{Model, OPTIONS, OWNER, open, read};

/// Power cuts of one run, unless the environment says otherwise.
const POWER_CUTS: u64 = 1000;
/// Power cuts that one log lives through.
const CUTS_PER_LOG: u64 = 10;
/// Steps between two power cuts, at most.
const STEPS_MAX: u64 = 60;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |value| value.parse().expect("it is a number"))
}

/// Runs a claim for one seed; if it fails, says how to see that again.
fn replayable<T>(name: &str, seed: u64, claim: impl FnOnce() -> T + std::panic::UnwindSafe) -> T {
    std::panic::catch_unwind(claim).unwrap_or_else(|panic| {
        eprintln!(
            "replay: SHOAL_SEED={seed} SHOAL_POWER_CUTS={CUTS_PER_LOG} \
             cargo test -p consensus-log --test crashes {name}"
        );
        std::panic::resume_unwind(panic)
    })
}

/// Opens what a power cut left, with further power cuts while it is being opened.
fn reopen(disk: &SimDisk, random: &mut Random) -> Log {
    while random.chance(40) {
        disk.plan(Fault {
            call: disk.calls() + 1 + random.below(20),
            kind: FaultKind::Broken,
            lasting: true,
        });
        match open(disk) {
            // It was done before the fault.
            Ok(_) => {}
            Err(OpenError::Io(_)) => {}
            Err(other) => panic!("a power cut was taken for something else: {other:?}"),
        }
        disk.repair();
        disk.power_cut(random);
    }
    open(disk).expect("a power cut is no damage")
}

/// One log through several power cuts. Gives how many entries it had agreed on.
fn power_cuts(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let disk = SimDisk::new();
    let mut model = Model::new();
    for _ in 0..CUTS_PER_LOG {
        let mut log = reopen(&disk, &mut random);
        model.found(&log).unwrap();
        if random.chance(50) {
            // In the middle of some call.
            disk.plan(Fault {
                call: disk.calls() + 1 + random.below(STEPS_MAX),
                kind: FaultKind::Broken,
                lasting: true,
            });
        }
        for _ in 0..random.below(STEPS_MAX) {
            if model.step(&mut log, &mut random).is_err() {
                break;
            }
        }
        disk.repair();
        disk.power_cut(&mut random);
    }
    model.found(&reopen(&disk, &mut random)).unwrap();
    model.now().committed.map_or(0, |last| last + 1)
}

#[test]
fn what_was_synced_survives_every_power_cut() {
    let cuts = from_environment("SHOAL_POWER_CUTS", POWER_CUTS);
    let first = from_environment("SHOAL_SEED", 0);
    let mut committed = 0;
    for seed in first..first + cuts.div_ceil(CUTS_PER_LOG) {
        committed += replayable("what_was_synced", seed, || power_cuts(seed));
    }
    // A workload that does nothing would lose nothing.
    assert!(committed > cuts / CUTS_PER_LOG, "only {committed} entries");
    println!("{cuts} power cuts, {committed} entries agreed, 0 lost");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out_by_these_tests() {
    let caught = (0..20).filter(|seed| {
        let run = std::panic::catch_unwind(|| {
            let mut random = Random::new(*seed);
            let disk = SimDisk::new();
            let mut model = Model::new();
            disk.set_lying(true);
            let mut log = open(&disk).unwrap();
            for _ in 0..STEPS_MAX {
                model.step(&mut log, &mut random).unwrap();
            }
            disk.power_cut(&mut random);
            model.found(&open(&disk).unwrap()).unwrap();
        });
        run.is_err()
    });
    assert!(caught.count() >= 10);
}

/// What a failed log must do: refuse everything from then on.
fn assert_refuses(log: &mut Log) {
    log.append(&[Record::Vote(b"12345678")]).unwrap_err();
    log.sync().unwrap_err();
    log.release().unwrap_err();
}

/// A workload that always makes the same calls, until one fails.
fn workload(disk: &SimDisk, model: &mut Model, seed: u64) -> Result<(), OpenError> {
    let mut random = Random::new(seed);
    for _ in 0..2 {
        let mut log = open(disk)?;
        model.found(&log)?;
        for _ in 0..90 {
            let before = disk.faulted();
            match model.step(&mut log, &mut random) {
                Ok(()) => {}
                // What is made in advance may be refused without harm.
                Err(_) if !before && log.append(&[]).is_ok() => {}
                Err(error) => {
                    assert_refuses(&mut log);
                    return Err(OpenError::Io(error));
                }
            }
        }
    }
    Ok(())
}

/// The claim about one failing call, with or without a power cut after it.
fn one_failure(seed: u64, fault: Fault, cut: bool) {
    let mut random = Random::new(fault.call);
    let disk = SimDisk::new();
    disk.plan(fault);
    let mut model = Model::new();
    match workload(&disk, &mut model, seed) {
        Ok(()) => {}
        Err(OpenError::Io(_)) => assert!(disk.faulted(), "an error without a cause"),
        Err(other) => panic!("a failure was taken for something else: {other:?}"),
    }
    disk.repair();
    if cut {
        disk.power_cut(&mut random);
    }
    // The process comes back, goes on, and then the power goes.
    for _ in 0..2 {
        let mut log = open(&disk).expect("a failure is no damage");
        model.found(&log).unwrap();
        for _ in 0..20 {
            model.step(&mut log, &mut random).unwrap();
        }
        disk.power_cut(&mut random);
    }
    model.found(&open(&disk).unwrap()).unwrap();
}

#[test]
fn whichever_call_fails_nothing_acknowledged_is_lost() {
    let seed = 7;
    let disk = SimDisk::new();
    workload(&disk, &mut Model::new(), seed).unwrap();
    let calls = disk.calls();
    let mut runs = 0;
    for call in 1..=calls {
        for kind in [FaultKind::Broken, FaultKind::Full] {
            for (lasting, cut) in [(false, false), (false, true), (true, false), (true, true)] {
                let fault = Fault {
                    call,
                    kind,
                    lasting,
                };
                if std::panic::catch_unwind(|| one_failure(seed, fault, cut)).is_err() {
                    panic!("with {fault:?}, power cut {cut}");
                }
                runs += 1;
            }
        }
    }
    println!("{calls} calls, each failing in 8 ways: {runs} runs");
}

#[test]
fn a_full_disk_is_reported_and_the_log_goes_on_when_there_is_room() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    disk.plan(Fault {
        call: disk.calls() + 1,
        kind: FaultKind::Full,
        lasting: true,
    });
    let mut kept = 0;
    let error = loop {
        let bytes = [3; 1000];
        let entry = Record::Entry {
            index: kept,
            bytes: &bytes,
        };
        if let Err(error) = log.append(&[entry]).and_then(|()| log.sync()) {
            break error;
        }
        kept += 1;
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(kept > 5, "what was reserved can be used");
    assert_refuses(&mut log);
    drop(log);
    disk.repair();
    let mut log = open(&disk).unwrap();
    assert_eq!(log.bounds(), (0, kept));
    let entry = Record::Entry {
        index: kept,
        bytes: b"more",
    };
    log.append(&[entry]).and_then(|()| log.sync()).unwrap();
}

/// A log of several segments, everything synced, its last frame a single vote.
fn sound_log(seed: u64) -> (SimDisk, Log) {
    let mut random = Random::new(seed);
    let disk = SimDisk::new();
    let mut model = Model::new();
    let mut log = open(&disk).unwrap();
    for _ in 0..150 {
        model.step(&mut log, &mut random).unwrap();
    }
    log.sync().unwrap();
    log.append(&[Record::Vote(&u64::MAX.to_le_bytes())])
        .unwrap();
    log.sync().unwrap();
    (disk, log)
}

#[test]
fn a_flipped_bit_is_damage_or_means_nothing() {
    let mut damaged = 0;
    for seed in 0..400 {
        let (disk, log) = sound_log(seed % 8);
        let whole = read(&log).unwrap();
        drop(log);
        let mut random = Random::new(seed);
        let mut names = disk.list().unwrap();
        names.retain(|name| name.starts_with("log-"));
        let name = &names[usize::try_from(random.below(names.len().try_into().unwrap())).unwrap()];
        let bytes = u64::try_from(OPTIONS.segment_bytes).unwrap();
        let byte = usize::try_from(random.below(bytes)).unwrap();
        disk.flip(name, byte, u32::try_from(random.below(8)).unwrap());
        match open(&disk) {
            Err(OpenError::Damaged(_)) => damaged += 1,
            Err(OpenError::OtherOwner { .. }) => panic!("a checksum did not hold"),
            Err(OpenError::Io(error)) => panic!("{error}"),
            // Beyond the frames, or in the last one: that one cannot be told from a torn write.
            Ok(log) => {
                let mut found = read(&log).unwrap();
                if found.vote != u64::MAX {
                    found.vote = u64::MAX;
                }
                assert_eq!(found, whole, "seed {seed}");
            }
        }
    }
    assert!(damaged > 100, "{damaged} of 400 were damage");
}

#[test]
fn a_missing_segment_is_damage() {
    let (disk, log) = sound_log(3);
    drop(log);
    let mut names = disk.list().unwrap();
    names.retain(|name| name.starts_with("log-"));
    assert!(names.len() > 2, "{names:?}");
    disk.remove(&names[1]).unwrap();
    let damage = open(&disk).unwrap_err();
    assert!(
        matches!(damage, OpenError::Damaged(Damage::Segment { .. })),
        "{damage:?}"
    );
    // The oldest one is missed too, though no number tells.
    let (disk, log) = sound_log(3);
    let needed = log.bounds().0 < log.bounds().1;
    drop(log);
    disk.remove(&names[0]).unwrap();
    let damage = open(&disk).unwrap_err();
    assert!(
        needed && matches!(damage, OpenError::Damaged(Damage::Entries { .. })),
        "{damage:?}"
    );
}

#[test]
fn a_damaged_log_is_not_touched() {
    let (disk, log) = sound_log(5);
    drop(log);
    let names = disk.list().unwrap();
    disk.flip(&names[0], 4200, 1);
    let contents = |disk: &SimDisk| {
        let names = disk.list().unwrap();
        names
            .iter()
            .map(|name| disk.contents(name))
            .collect::<Vec<_>>()
    };
    let before = contents(&disk);
    assert!(matches!(open(&disk), Err(OpenError::Damaged(_))));
    assert_eq!(disk.list().unwrap(), names);
    assert_eq!(contents(&disk), before);
}

#[test]
fn another_owners_log_is_refused() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    let refused = Log::open(Arc::new(disk), OPTIONS, b"server 2").unwrap_err();
    assert!(matches!(refused, OpenError::OtherOwner { found } if found == OWNER));
}

#[test]
fn what_was_cut_off_does_not_come_back_behind_what_replaces_it() {
    let entry = |index, bytes: &'static [u8]| [Record::Entry { index, bytes }];
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    log.append(&entry(0, b"kept")).unwrap();
    log.sync().unwrap();
    log.append(&entry(1, b"lost")).unwrap();
    log.append(&entry(2, b"late")).unwrap();
    drop(log);
    // The drive wrote the third frame but not all of the second.
    let name = "log-00000000000000000001";
    let at = disk
        .contents(name)
        .windows(4)
        .position(|part| part == b"lost");
    disk.flip(name, at.unwrap(), 0);
    let mut log = open(&disk).unwrap();
    assert_eq!(log.bounds(), (0, 1));
    log.append(&entry(1, b"next")).unwrap();
    log.sync().unwrap();
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(log.bounds(), (0, 2));
    assert_eq!(log.reader().read(1).unwrap().unwrap(), b"next");
}

#[test]
fn purged_segments_are_used_again_and_no_room_is_lost() {
    let disk = SimDisk::new();
    let mut log = open(&disk).unwrap();
    for index in 0..2000 {
        let bytes = [7; 100];
        log.append(&[Record::Entry {
            index,
            bytes: &bytes,
        }])
        .unwrap();
        log.sync().unwrap();
        if index % 50 == 49 {
            let bytes = b"purge";
            log.append(&[Record::Purge {
                upto: index - 10,
                bytes,
            }])
            .unwrap();
            log.release().unwrap();
        }
        log.prepare().unwrap();
    }
    let names = disk.list().unwrap();
    assert!(names.len() <= 4, "{names:?}");
    assert!(names[0].as_str() > "log-00000000000000000015", "{names:?}");
    assert_eq!(log.bounds(), (1990, 2000));
    drop(log);
    assert_eq!(open(&disk).unwrap().bounds(), (1990, 2000));
}

#[test]
fn readers_read_while_the_log_is_written() {
    let dir = tempfile::TempDir::new().unwrap();
    let disk = Arc::new(consensus_log::RealDisk::new(dir.path()));
    let mut log = Log::open(disk.clone(), OPTIONS, OWNER).unwrap();
    let reader = log.reader();
    let reading = std::thread::spawn(move || {
        let mut next = 0;
        while next < 3000 {
            match reader.read(next).unwrap() {
                Some(bytes) => {
                    assert_eq!(bytes, model::content(next));
                    next += 1;
                }
                None => std::thread::yield_now(),
            }
        }
    });
    for index in 0..3000 {
        let bytes = model::content(index);
        log.append(&[Record::Entry {
            index,
            bytes: &bytes,
        }])
        .unwrap();
    }
    log.sync().unwrap();
    reading.join().unwrap();
    drop(log);
    let log = Log::open(disk, OPTIONS, OWNER).unwrap();
    assert_eq!(log.bounds(), (0, 3000));
    assert_eq!(
        log.reader().read(2999).unwrap().unwrap(),
        model::content(2999)
    );
}
