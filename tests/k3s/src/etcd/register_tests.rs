//! The register's rules, member by member, without a network.

use serde_json::json;

use super::*;

const ELECTION: Duration = Duration::from_secs(1);

fn member(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        peer_url: format!("https://{name}:2380"),
        learner: false,
    }
}

fn cluster(names: &[&str], now: Instant) -> BTreeMap<String, Register> {
    let mut state = State::default();
    for name in names {
        state.members.insert((*name).to_owned(), member(name));
    }
    let ballot = Ballot {
        term: 1,
        revision: 1,
    };
    let durable = Durable {
        term: 1,
        ballot,
        state,
        ..Durable::default()
    };
    let registers = names.iter().map(|name| {
        let register = Register::new((*name).to_owned(), durable.clone(), ELECTION, now, 0.0);
        ((*name).to_owned(), register)
    });
    registers.collect()
}

/// Lets `candidate` ask `voters`; whether it leads.
fn elect(
    all: &mut BTreeMap<String, Register>,
    candidate: &str,
    voters: &[&str],
    now: Instant,
) -> bool {
    for pre in [true, false] {
        let request = all.get_mut(candidate).unwrap().campaign(pre);
        let granted: Vec<String> = voters
            .iter()
            .filter(|name| {
                all.get_mut(**name)
                    .unwrap()
                    .handle_vote(&request, now, 0.0)
                    .granted
            })
            .map(ToString::to_string)
            .collect();
        let register = all.get_mut(candidate).unwrap();
        if !register.is_majority(&granted) {
            return false;
        }
        if !pre {
            return register.lead(request.term, now);
        }
    }
    false
}

/// Delivers the leader's newest message to `peers`, and their answers to it, twice: so that they
/// hear of what was committed.
fn replicate(all: &mut BTreeMap<String, Register>, leader: &str, peers: &[&str], now: Instant) {
    for _ in 0..2 {
        for peer in peers {
            let append = all[leader].append_for(peer).unwrap();
            let answer = all.get_mut(*peer).unwrap().handle_append(append, now, 0.0);
            all.get_mut(leader)
                .unwrap()
                .handle_append_answer(peer, &answer, now);
        }
    }
}

fn create(key: &str) -> Command {
    Command::Create {
        key: key.to_owned(),
        object: json!({"metadata": {"name": "x"}}),
    }
}

fn has(register: &Register, key: &str) -> bool {
    register.committed().1.objects.contains_key(key)
}

#[test]
fn a_majority_commits_and_the_others_hear_of_it() {
    let now = Instant::now();
    let mut all = cluster(&["a-1", "b-1", "c-1"], now);
    assert!(elect(&mut all, "a-1", &["b-1"], now));
    all.get_mut("a-1").unwrap().propose(&create("k")).unwrap();
    assert!(!has(&all["a-1"], "k"), "nobody else has it yet");
    replicate(&mut all, "a-1", &["b-1"], now);
    assert!(has(&all["a-1"], "k") && has(&all["b-1"], "k"));
    assert!(!has(&all["c-1"], "k"));
    replicate(&mut all, "a-1", &["c-1"], now);
    assert!(has(&all["c-1"], "k"));
}

#[test]
fn a_member_that_lacks_what_was_committed_is_not_elected() {
    let now = Instant::now();
    let mut all = cluster(&["a-1", "b-1", "c-1"], now);
    assert!(elect(&mut all, "a-1", &["b-1"], now));
    all.get_mut("a-1").unwrap().propose(&create("k")).unwrap();
    replicate(&mut all, "a-1", &["b-1"], now);
    let later = now + 3 * ELECTION;
    assert!(!elect(&mut all, "c-1", &["b-1"], later));
    assert!(elect(&mut all, "b-1", &["c-1"], later));
    replicate(&mut all, "b-1", &["c-1"], later);
    assert!(has(&all["c-1"], "k"), "what was committed stays");
}

#[test]
fn a_leader_without_a_majority_stops_leading() {
    let now = Instant::now();
    let mut all = cluster(&["a-1", "b-1"], now);
    assert!(elect(&mut all, "a-1", &["b-1"], now));
    replicate(&mut all, "a-1", &["b-1"], now);
    let leader = all.get_mut("a-1").unwrap();
    leader.tick(now + ELECTION / 2, 0.0);
    assert!(leader.leads());
    leader.tick(now + 2 * ELECTION, 0.0);
    assert!(!leader.leads());
    assert!(leader.propose(&create("k")).is_err());
}

#[test]
fn a_member_that_comes_back_does_not_disturb_the_leader() {
    let now = Instant::now();
    let mut all = cluster(&["a-1", "b-1", "c-1"], now);
    assert!(elect(&mut all, "a-1", &["b-1", "c-1"], now));
    replicate(&mut all, "a-1", &["b-1"], now);
    assert!(!elect(&mut all, "c-1", &["a-1", "b-1"], now));
    replicate(&mut all, "a-1", &["b-1", "c-1"], now);
    assert!(all["a-1"].leads());
}

#[test]
fn a_newcomer_learns_before_it_votes() {
    let now = Instant::now();
    let mut all = cluster(&["a-1"], now);
    assert!(elect(&mut all, "a-1", &[], now));
    let newcomer = Member {
        learner: true,
        ..member("b-1")
    };
    all.get_mut("a-1")
        .unwrap()
        .propose(&Command::AddMember(newcomer))
        .unwrap();
    all.insert(
        "b-1".to_owned(),
        Register::new("b-1".to_owned(), Durable::default(), ELECTION, now, 0.0),
    );
    assert!(
        !all.get_mut("b-1").unwrap().tick(now + 9 * ELECTION, 0.0),
        "it may not stand"
    );
    assert_eq!(all["a-1"].ready_learner(), None);
    replicate(&mut all, "a-1", &["b-1"], now);
    let ready = all["a-1"].ready_learner().unwrap();
    all.get_mut("a-1")
        .unwrap()
        .propose(&Command::Promote { name: ready })
        .unwrap();
    assert!(!has(&all["a-1"], "k"));
    all.get_mut("a-1").unwrap().propose(&create("k")).unwrap();
    assert!(!has(&all["a-1"], "k"), "now it counts");
    replicate(&mut all, "a-1", &["b-1"], now);
    assert!(has(&all["a-1"], "k"));
}

#[test]
fn a_removed_member_is_told_so_and_not_elected() {
    let now = Instant::now();
    let mut all = cluster(&["a-1", "b-1", "c-1"], now);
    assert!(elect(&mut all, "a-1", &["b-1"], now));
    replicate(&mut all, "a-1", &["b-1", "c-1"], now);
    let remove = Command::RemoveMember {
        name: "c-1".to_owned(),
    };
    all.get_mut("a-1").unwrap().propose(&remove).unwrap();
    replicate(&mut all, "a-1", &["b-1"], now);
    let request = all.get_mut("c-1").unwrap().campaign(true);
    let answer = all
        .get_mut("b-1")
        .unwrap()
        .handle_vote(&request, now + 3 * ELECTION, 0.0);
    assert!(answer.removed && !answer.granted);
}
