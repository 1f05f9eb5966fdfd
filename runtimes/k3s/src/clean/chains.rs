//! Rules of Kubernetes in iptables.
//!
//! Decides: which chains and rules are K3s's. Only these are deleted, each by name: what others add
//! meanwhile stays, as it would not if all rules were put back as they were read. Never: touches a
//! chain of another user of CNI.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use runtimes_host::{exec, programs};

use super::ANSWER_WITHIN;

/// What begins the names of chains that only Kubernetes and flannel make.
const PREFIXES: [&str; 2] = ["KUBE-", "FLANNEL-"];
/// What begins the names of CNI's, which others use too.
const CNI: &str = "CNI-";
/// CNI's that are not of one pod (containernetworking/plugins: `portmap`). Those of its `firewall`, which
/// K3s does not use, bear nobody's mark: they stay, with the rules of an admin that are in them.
const CNI_SHARED: &str = "CNI-HOSTPORT-";
/// How CNI's plugins say whose a rule is: this is what K3s calls its network (k3s-io/k3s,
/// `pkg/agent/flannel`).
const MARK: &str = "name: \"cbr0\"";
/// A table that changes between being read and being written to is read again.
const ROUNDS: u32 = 3;
/// Whoever else changes rules holds the lock for milliseconds.
const LOCK_SECONDS: &str = "--wait=5";

/// Removes them from both families' tables. What stays is told in the log: it stops nobody.
pub(super) async fn remove(data_dir: &Path) {
    for family in ["iptables", "ip6tables"] {
        let program = |what: &str| find(&format!("{family}-{what}"), data_dir);
        let Some((save, restore)) = program("save").zip(program("restore")) else {
            continue;
        };
        for round in 1..=ROUNDS {
            match remove_once(&save, &restore).await {
                Ok(()) => break,
                Err(error) if round == ROUNDS => {
                    tracing::warn!(%error, family, "rules of Kubernetes stay");
                }
                Err(_) => {}
            }
        }
    }
}

/// The host's own, else those that K3s brought.
fn find(name: &str, data_dir: &Path) -> Option<PathBuf> {
    let bundled = data_dir.join("data/current/bin/aux").join(name);
    programs::find(name).or_else(|| bundled.is_file().then_some(bundled))
}

async fn remove_once(save: &Path, restore: &Path) -> Result<(), exec::ExecError> {
    let saved = exec::run::<&str>(save, &[], &[], ANSWER_WITHIN).await?;
    // One transaction each: a table that cannot be changed keeps no other as it is.
    let mut done = Ok(());
    for table in tables(&saved.stdout) {
        let Some(removal) = table.removal() else {
            continue;
        };
        let arguments = ["--noflush", LOCK_SECONDS];
        let fed = exec::feed(restore, &arguments, removal.as_bytes(), ANSWER_WITHIN).await;
        done = done.and(fed);
    }
    done
}

/// A table as `iptables-save` prints it.
#[derive(Debug, Default)]
struct Table<'a> {
    name: &'a str,
    chains: Vec<&'a str>,
    rules: Vec<Rule<'a>>,
}

#[derive(Debug)]
struct Rule<'a> {
    /// Without its `-A`.
    line: &'a str,
    chain: &'a str,
    target: Option<String>,
    /// Whether it says that it is of K3s's network.
    marked: bool,
}

fn tables(saved: &str) -> Vec<Table<'_>> {
    let mut tables: Vec<Table<'_>> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table {
                name,
                ..Table::default()
            });
        } else if let Some(table) = tables.last_mut() {
            if let Some(chain) = line.strip_prefix(':') {
                table.chains.extend(chain.split(' ').next());
            } else if let Some(rule) = line.strip_prefix("-A ") {
                table.rules.push(Rule::read(rule));
            }
        }
    }
    tables
}

impl<'a> Rule<'a> {
    fn read(line: &'a str) -> Self {
        let words = words(line);
        let jump = words.iter().position(|word| word == "-j" || word == "-g");
        let comments = words.windows(2).filter(|pair| pair[0] == "--comment");
        Self {
            line,
            chain: line.split(' ').next().unwrap_or_default(),
            target: jump.and_then(|at| words.get(at + 1).cloned()),
            marked: comments.into_iter().any(|pair| pair[1].contains(MARK)),
        }
    }
}

/// A rule's words: one with blanks is in quotes, with a backslash before those inside.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => (quoted, any) = (!quoted, true),
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => word.push(other),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

impl Table<'_> {
    /// What takes K3s's chains out of the table, and the rules that lead there; none if there is nothing.
    fn removal(&self) -> Option<String> {
        let chains = self.chains_to_go();
        let leads = |rule: &&Rule<'_>| {
            let target = rule.target.as_deref();
            !chains.contains(rule.chain)
                && (rule.marked || target.is_some_and(|target| chains.contains(target)))
        };
        let rules = self.rules.iter().filter(leads);
        let rules: Vec<String> = rules.map(|rule| format!("-D {}\n", rule.line)).collect();
        if rules.is_empty() && chains.is_empty() {
            return None;
        }
        let each = |command: &str| -> String {
            let lines = chains.iter().map(|chain| format!("{command} {chain}\n"));
            lines.collect()
        };
        // A chain that another one leads to cannot be deleted: all are emptied before.
        let (rules, emptied, deleted) = (rules.concat(), each("-F"), each("-X"));
        Some(format!("*{}\n{rules}{emptied}{deleted}COMMIT\n", self.name))
    }

    fn chains_to_go(&self) -> BTreeSet<&str> {
        let named = |chain: &str| PREFIXES.iter().any(|prefix| chain.starts_with(prefix));
        let (cni, others): (Vec<&str>, Vec<&str>) =
            self.chains.iter().partition(|chain| chain.starts_with(CNI));
        let (shared, of_pods): (Vec<&str>, Vec<&str>) = cni
            .into_iter()
            .partition(|chain| chain.starts_with(CNI_SHARED));
        let (ours, foreign): (Vec<&str>, Vec<&str>) =
            of_pods.into_iter().partition(|chain| self.is_marked(chain));
        let mut all: BTreeSet<&str> = others.into_iter().filter(|chain| named(chain)).collect();
        all.extend(ours);
        if foreign.is_empty() {
            all.extend(shared);
        }
        all
    }

    /// Whether a rule in it, or one that leads there, says whose it is.
    fn is_marked(&self, chain: &str) -> bool {
        let of_it = |rule: &&Rule<'_>| rule.chain == chain || rule.target.as_deref() == Some(chain);
        self.rules.iter().filter(of_it).any(|rule| rule.marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-aaaa - [0:0]
:CNI-ours - [0:0]
:DOCKER - [0:0]
:FLANNEL-POSTRTG - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -m comment --comment "not to KUBE-SERVICES, nor -j KUBE-SERVICES" -j DOCKER
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A POSTROUTING -s 10.42.0.5/32 -m comment --comment "name: \"cbr0\" id: \"d8e\"" -j CNI-ours
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cbr0\" id: \"d8e\"" -m multiport --dports 80 -j CNI-DN-aaaa
-A CNI-DN-aaaa -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.42.0.5:80
-A DOCKER -i docker0 -j RETURN
-A KUBE-SERVICES -j KUBE-POSTROUTING
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -j ACCEPT
COMMIT
"#;

    fn removals(saved: &str) -> Vec<String> {
        let tables = tables(saved);
        tables.iter().filter_map(Table::removal).collect()
    }

    #[test]
    fn only_what_is_kubernetess_is_named() {
        let expected = r#"*nat
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-D POSTROUTING -s 10.42.0.5/32 -m comment --comment "name: \"cbr0\" id: \"d8e\"" -j CNI-ours
-F CNI-DN-aaaa
-F CNI-HOSTPORT-DNAT
-F CNI-ours
-F FLANNEL-POSTRTG
-F KUBE-POSTROUTING
-F KUBE-SERVICES
-X CNI-DN-aaaa
-X CNI-HOSTPORT-DNAT
-X CNI-ours
-X FLANNEL-POSTRTG
-X KUBE-POSTROUTING
-X KUBE-SERVICES
COMMIT
"#;
        assert_eq!(removals(SAVED), [expected]);
        assert!(removals("*nat\n:DOCKER - [0:0]\nCOMMIT\n").is_empty());
    }

    #[test]
    fn what_another_user_of_cni_has_stays_with_what_both_use() {
        let theirs = ":CNI-theirs - [0:0]\n-A POSTROUTING -m comment --comment \"name: \\\"podman\\\" id: \\\"1\\\"\" -j CNI-theirs\nCOMMIT\n*filter";
        let saved = SAVED.replacen("COMMIT\n*filter", theirs, 1);
        let removals = removals(&saved);
        let removal = removals.first().unwrap();
        assert!(!removal.contains("CNI-theirs"), "{removal}");
        assert!(!removal.contains("-X CNI-HOSTPORT-DNAT"), "{removal}");
        // Of what both use only the rule goes that leads to a pod of K3s.
        assert!(removal.contains("-D CNI-HOSTPORT-DNAT -p tcp"), "{removal}");
        assert!(removal.contains("-X CNI-DN-aaaa"), "{removal}");
    }

    #[test]
    fn a_word_in_quotes_is_one() {
        let line = r#"-m comment --comment "a \"b\" c" -j X"#;
        assert_eq!(
            words(line),
            ["-m", "comment", "--comment", "a \"b\" c", "-j", "X"]
        );
    }

    #[test]
    fn the_programs_that_k3s_brought_are_found_where_the_host_has_none() {
        let root = tempfile::tempdir().unwrap();
        let bundled = root.path().join("data/current/bin/aux");
        std::fs::create_dir_all(&bundled).unwrap();
        std::fs::write(bundled.join("no-such-tables-save"), "").unwrap();
        let found = find("no-such-tables-save", root.path());
        assert_eq!(found, Some(bundled.join("no-such-tables-save")));
        assert_eq!(find("no-such-tables-restore", root.path()), None);
    }
}
