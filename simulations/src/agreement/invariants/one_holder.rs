//! An epoch of a virtual IP has one holder, on every server and for ever, and only its holder opens.
//!
//! Decides by what servers apply: whatever a state says once of an epoch all others must say. Source:
//! the header of `consensus_core`'s virtual IPs.

use std::collections::BTreeMap;

use consensus_core::{Epoch, NodeId, VipId};

/// By virtual IP and epoch: who was given it.
#[derive(Debug, Default)]
pub struct OneHolder {
    holders: BTreeMap<(VipId, Epoch), Option<NodeId>>,
}

impl OneHolder {
    /// A server's state says who holds an epoch; gives whether that is new.
    ///
    /// # Errors
    /// When another state said something else.
    pub fn assigned(
        &mut self,
        vip: VipId,
        epoch: Epoch,
        holder: Option<&NodeId>,
    ) -> Result<bool, String> {
        match self.holders.get(&(vip, epoch)) {
            None => {
                self.holders.insert((vip, epoch), holder.cloned());
                Ok(true)
            }
            Some(first) if first.as_ref() == holder => Ok(false),
            Some(first) => Err(format!(
                "epoch {epoch} is held by {}, and was by {}",
                called(holder),
                called(first.as_ref())
            )),
        }
    }

    /// A server opens its gate.
    ///
    /// # Errors
    /// When no state ever gave it that epoch.
    pub fn opened(&self, vip: VipId, epoch: Epoch, by: &NodeId) -> Result<(), String> {
        match self.holders.get(&(vip, epoch)) {
            Some(Some(holder)) if holder == by => Ok(()),
            Some(_) | None => Err(format!(
                "{} opens its gate in epoch {epoch}, which it was never given",
                by.short()
            )),
        }
    }
}

fn called(node: Option<&NodeId>) -> &str {
    node.map_or("nobody", |node| node.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::node_id;

    const VIP: VipId = VipId::from_bytes([1; 16]);

    #[test]
    fn a_second_holder_and_a_gate_of_nobodys_are_found() {
        let mut all = OneHolder::default();
        let (one, two) = (node_id(1), node_id(2));
        assert_eq!(all.assigned(VIP, Epoch(1), Some(&one)), Ok(true));
        assert_eq!(all.assigned(VIP, Epoch(1), Some(&one)), Ok(false));
        assert_eq!(all.opened(VIP, Epoch(1), &one), Ok(()));
        assert!(all.opened(VIP, Epoch(1), &two).is_err());
        assert!(all.opened(VIP, Epoch(2), &two).is_err());
        assert!(all.assigned(VIP, Epoch(1), Some(&two)).is_err());
        assert!(all.assigned(VIP, Epoch(1), None).is_err());
    }
}
