//! `shoal vip drill`.

use node_api::{
    Answer, Route,
    types::{DrillPeer, DrillRequest, DrillView},
};

use super::{One, show::milliseconds};
use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    table::{or_nothing, table},
    values,
};

/// Move it while every peer watches, and tell how long nobody answered
///
/// Every node of its network that is heard of sends echo requests to the address, some two hundred
/// a second, before, during and after the move. The answer tells each one's longest time without an
/// answer. Refused where nobody else may take the address, and by a daemon that is no server's.
///
/// With --kill the holder's daemon is killed, and nobody is asked to let go: the lease has to run
/// out, as when a host's daemon dies. That daemon stays dead until systemd or you start it again.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Drill {
    #[command(flatten)]
    vip: One,
    /// To this one [default: the first one that is ready]
    #[arg(long, value_name = "NODE", value_parser = values::name, conflicts_with = "kill")]
    to: Option<String>,
    /// Kill the holder's daemon
    #[arg(long)]
    kill: bool,
    #[command(flatten)]
    yes: Yes,
}

impl Drill {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let mut route = self.vip.part("drill");
        if self.kill {
            let what = "killing a daemon";
            self.yes.or_ask(context.terminal, what, &self.question())?;
            route = Route::to(&["vips", &self.vip.name, "drill", "kill"]);
        }
        let request = DrillRequest { to: self.to };
        let answer: Answer<DrillView> = context.client.post(&route, &request).await?;
        if context.terminal.json() {
            context.terminal.document(&answer.body)?;
        } else {
            context.terminal.text(&words(&answer.value))?;
            context.terminal.warnings(&answer.value.warnings)?;
        }
        Ok(match answer.value.moved {
            true => Exit::Done,
            false => Exit::Failed,
        })
    }

    fn question(&self) -> String {
        format!(
            "Kill the daemon of whoever holds {}? Nobody answers at its address until the lease has \
             run out, and that daemon stays dead until systemd or you start it again.",
            self.vip.name
        )
    }
}

fn words(drill: &DrillView) -> String {
    let took = milliseconds(drill.took_us);
    let (name, from) = (&drill.vip, &drill.from);
    let how = match drill.killed {
        true => format!("The daemon of {from} was killed"),
        false => format!("{from} was asked to let go"),
    };
    let then = match &drill.to {
        Some(to) => format!("{to} has {name} since, after {took}"),
        None => format!("{name} has not moved in {took}"),
    };
    let outage = match drill.outage_us {
        Some(us) => {
            let every = milliseconds(drill.every_us);
            format!(
                "Longest outage that a peer saw: {}, probing every {every}",
                milliseconds(us)
            )
        }
        None => "No peer saw it".into(),
    };
    let rows = drill.peers.iter().map(row);
    let headings = ["PEER", "OUTAGE", "SENT", "ANSWERS", "PAUSED", "NOTE"];
    let peers = table(&headings, rows);
    let mut text = format!("{how}; {then}.\n{outage}.\n\n{}", peers.trim_fmt());
    if drill.killed {
        text += &format!("\n\nThe daemon of {from} is dead until it is started again.");
    }
    text
}

fn row(peer: &DrillPeer) -> Vec<String> {
    let looked = peer.outage_us.is_some();
    let count = |number: u64| or_nothing(looked.then_some(number).as_ref());
    vec![
        peer.node.clone(),
        or_nothing(peer.outage_us.map(milliseconds).as_ref()),
        count(peer.sent),
        count(peer.answers),
        or_nothing(peer.pause_us.map(milliseconds).as_ref()),
        or_nothing(peer.reason.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn drilled() -> DrillView {
        let saw = |node: &str, outage_us| DrillPeer {
            node: node.into(),
            outage_us: Some(outage_us),
            sent: 312,
            answers: 301,
            pause_us: Some(6_120),
            answering: true,
            reason: None,
        };
        let blind = DrillPeer {
            node: "n4".into(),
            outage_us: None,
            sent: 0,
            answers: 0,
            pause_us: None,
            answering: false,
            reason: Some("not heard of".into()),
        };
        DrillView {
            vip: "web".into(),
            address: "fd00::a".parse().unwrap(),
            killed: false,
            moved: true,
            from: "n1".into(),
            to: Some("n2".into()),
            epoch: Some(4),
            took_us: 31_480,
            outage_us: Some(24_210),
            every_us: 5_000,
            peers: vec![saw("n3", 24_210), saw("n1", 18_000), blind],
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_drill_is_told_as_every_peer_saw_it() {
        insta::assert_snapshot!(words(&drilled()), @r"
        n1 was asked to let go; n2 has web since, after 31.4 ms.
        Longest outage that a peer saw: 24.2 ms, probing every 5.0 ms.

        PEER  OUTAGE   SENT  ANSWERS  PAUSED  NOTE
        n3    24.2 ms  312   301      6.1 ms  -
        n1    18.0 ms  312   301      6.1 ms  -
        n4    -        -     -        -       not heard of
        ");
    }

    #[test]
    fn a_death_that_moved_nothing_says_so_and_what_is_left_to_do() {
        let mut dead = drilled();
        dead.killed = true;
        (dead.moved, dead.to, dead.epoch) = (false, None, None);
        (dead.outage_us, dead.peers) = (None, Vec::new());
        insta::assert_snapshot!(words(&dead), @r"
        The daemon of n1 was killed; web has not moved in 31.4 ms.
        No peer saw it.

        PEER  OUTAGE  SENT  ANSWERS  PAUSED  NOTE

        The daemon of n1 is dead until it is started again.
        ");
    }

    #[test]
    fn a_killed_holder_has_no_say_in_who_is_next() {
        let accepts = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for good in [
            "shoal vip drill web",
            "shoal vip drill web --to b",
            "shoal vip drill web --kill --yes",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "shoal vip drill",
            "shoal vip drill web --kill --to b",
            "shoal vip drill web b",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
