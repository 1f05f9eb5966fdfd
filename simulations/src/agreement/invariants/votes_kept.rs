//! A server that promised itself to a ballot follows nobody with a lower one afterwards.
//!
//! Decides by answers: one to a request that arrived after the promise was known must keep it, over
//! restarts too. Source: Ongaro and Ousterhout 2014, section 5.2 (one vote a term, persistent).

use std::collections::BTreeMap;

use simulated_raft::simulation::spy::{Ballot, Reply, Request};

/// By server: the ballots it promised itself to, rising, each with the moment from which on that
/// was known.
#[derive(Debug, Default)]
pub struct VotesKept {
    moments: u64,
    promised: BTreeMap<u64, Vec<(Ballot, u64)>>,
}

impl VotesKept {
    /// A request arrives; its moment is to be given back with the answer.
    pub const fn arrives(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// Server `raft_id` answered a request that arrived at `arrived`.
    ///
    /// # Errors
    /// When it had promised itself to a higher ballot before.
    pub fn answered(
        &mut self,
        raft_id: u64,
        request: &Request,
        arrived: u64,
        reply: Reply,
    ) -> Result<(), String> {
        let (Request::Append { ballot, .. } | Request::Vote(ballot)) = *request else {
            return Ok(());
        };
        if reply == Reply::Other {
            return Ok(());
        }
        let now = self.arrives();
        let promises = self.promised.entry(raft_id).or_default();
        let broken = promises
            .iter()
            .rev()
            .take_while(|(promise, _)| *promise > ballot)
            .find(|(_, at)| *at < arrived)
            .copied();
        if promises.last().is_none_or(|(last, _)| *last < ballot) {
            promises.push((ballot, now));
        }
        broken.map_or(Ok(()), |(promise, _)| {
            Err(format!(
                "server {raft_id} followed server {} in term {} after it had promised itself to \
                 server {} in term {}",
                ballot.server, ballot.term, promise.server, promise.term
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ballot(term: u64) -> Ballot {
        Ballot { term, server: 1 }
    }

    #[test]
    fn a_vote_taken_back_is_found_and_an_answer_that_was_under_way_is_not() {
        let mut all = VotesKept::default();
        let early = all.arrives();
        let vote = all.arrives();
        let granted = all.answered(9, &Request::Vote(ballot(3)), vote, Reply::Granted);
        assert_eq!(granted, Ok(()));
        let entries = Vec::new();
        let old = Request::Append {
            ballot: ballot(2),
            entries,
        };
        assert_eq!(all.answered(9, &old, early, Reply::Accepted), Ok(()));
        let late = all.arrives();
        assert_eq!(all.answered(9, &old, late, Reply::Other), Ok(()));
        assert!(all.answered(9, &old, late, Reply::Accepted).is_err());
    }
}
