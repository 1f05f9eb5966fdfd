//! One process at most leads under a ballot.
//!
//! Decides by who sends entries or heartbeats. openraft orders ballots by term and then by server,
//! so two servers may lead in one term, one after the other; what Raft promises of a term holds for
//! a ballot here. A process that starts again is another one: it must be elected anew.
//! Source: Ongaro and Ousterhout 2014, figure 3, election safety.

use std::collections::BTreeMap;

use simulated_raft::simulation::spy::Ballot;

/// By ballot: the process that leads under it.
#[derive(Debug, Default)]
pub struct OneLeader {
    leaders: BTreeMap<Ballot, u64>,
}

impl OneLeader {
    /// A process speaks as a leader; gives whether it is the first time under this ballot.
    ///
    /// # Errors
    /// When another process did under the same ballot.
    pub fn leads(&mut self, ballot: Ballot, process: u64) -> Result<bool, String> {
        let is_new = !self.leaders.contains_key(&ballot);
        let leader = *self.leaders.entry(ballot).or_insert(process);
        if leader != process {
            let (server, term) = (ballot.server, ballot.term);
            return Err(format!(
                "process {process} leads as server {server} in term {term}, and process {leader} did"
            ));
        }
        Ok(is_new)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.leaders.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_under_the_same_ballot_is_found() {
        let mut all = OneLeader::default();
        let ballot = Ballot { term: 2, server: 1 };
        assert_eq!(all.leads(ballot, 4), Ok(true));
        assert_eq!(all.leads(ballot, 4), Ok(false));
        assert!(all.leads(ballot, 5).is_err());
        assert_eq!(all.leads(Ballot { term: 3, server: 1 }, 5), Ok(true));
        assert_eq!(all.count(), 2);
    }
}
