//! Whether a proposed overlay prefix collides with where this host routes packets today.
//!
//! Decides: which existing route stands in the way. Ignored are the overlay's own interface,
//! default routes in either of their usual forms (a more specific route wins over them), and the
//! host's own addresses (the local table), whose prefixes the other tables show.

use overlay_core::peers::Cidr;
use rtnetlink::packet_route::route::RouteType;

use crate::link::{LOCAL_TABLE, LinkError, Links, destination, route_link, table};

/// VPNs write a default route as two halves, 0.0.0.0/1 and 128.0.0.0/1.
const DEFAULT_ROUTE_BITS_MAX: u8 = 1;

/// A route of this host that has addresses in common with a proposed prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoveringRoute {
    /// Where the route leads.
    pub prefix: Cidr,
    /// The interface that it leaves by; `None` for a route that drops packets.
    pub interface: Option<String>,
}

/// Why a prefix cannot be the overlay's.
#[derive(Debug, thiserror::Error)]
pub enum PrefixOverlapError {
    /// The host routes some of it elsewhere.
    #[error("the prefix {proposed} overlaps this host's route {} via {}", route.prefix,
        route.interface.as_deref().unwrap_or("no interface"))]
    Overlaps {
        /// The overlay's prefix.
        proposed: Cidr,
        /// The route in the way.
        route: CoveringRoute,
    },
    /// The routes cannot be read.
    #[error("this host's routes cannot be listed")]
    Unreadable(#[source] LinkError),
}

impl PrefixOverlapError {
    /// Stable name of the failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Overlaps { .. } => "PrefixOverlapError",
            Self::Unreadable(error) => error.code(),
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Overlaps { .. } => {
                "choose another IPv4 prefix for the network, or remove the route from this host"
            }
            Self::Unreadable(error) => error.hint(),
        }
    }
}

/// The widest route of this host, not on `own_interface`, that overlaps `proposed`.
pub async fn covering_route(
    proposed: Cidr,
    own_interface: &str,
) -> Result<Option<CoveringRoute>, LinkError> {
    let links = Links::open()?;
    let own = links.find(own_interface).await?.map(|link| link.index);
    let routes = links.all_routes().await?;
    let candidates = routes
        .iter()
        .filter(|route| table(route) != LOCAL_TABLE && delivers(route.header.kind))
        .filter(|route| own.is_none() || route_link(route) != own)
        .filter_map(|route| Some((destination(route)?, route_link(route))));
    let Some((prefix, index)) = widest_overlap(proposed, candidates) else {
        return Ok(None);
    };
    let interface = match index {
        Some(index) => links.name(index).await,
        None => None,
    };
    Ok(Some(CoveringRoute { prefix, interface }))
}

/// Fails, naming the route, when [`covering_route`] finds one.
pub async fn check_overlap(proposed: Cidr, own_interface: &str) -> Result<(), PrefixOverlapError> {
    match covering_route(proposed, own_interface).await {
        Ok(None) => Ok(()),
        Ok(Some(route)) => Err(PrefixOverlapError::Overlaps { proposed, route }),
        Err(error) => Err(PrefixOverlapError::Unreadable(error)),
    }
}

/// Route types that take packets for themselves, be it to drop them.
fn delivers(kind: RouteType) -> bool {
    matches!(
        kind,
        RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    )
}

fn widest_overlap(
    proposed: Cidr,
    routes: impl Iterator<Item = (Cidr, Option<u32>)>,
) -> Option<(Cidr, Option<u32>)> {
    routes
        .filter(|(prefix, _)| prefix.length() > DEFAULT_ROUTE_BITS_MAX)
        .filter(|(prefix, _)| prefix.overlaps(&proposed))
        .min_by_key(|(prefix, index)| (prefix.length(), *prefix, *index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_covers_or_lies_within_the_prefix_is_found() {
        for route in ["10.0.0.0/8", "10.90.0.0/16", "10.90.4.0/24"] {
            let found = find("10.90.0.0/16", &["192.168.0.0/16", route]);
            assert_eq!(found, Some(cidr(route)));
        }
    }

    #[test]
    fn default_routes_and_other_networks_are_no_obstacle() {
        let routes = [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "10.91.0.0/16",
            "::/0",
        ];
        assert_eq!(find("10.90.0.0/16", &routes), None);
    }

    #[test]
    fn the_widest_route_is_named() {
        let found = find("10.90.0.0/16", &["10.90.1.0/24", "10.0.0.0/8"]);
        assert_eq!(found, Some(cidr("10.0.0.0/8")));
    }

    fn find(proposed: &str, routes: &[&str]) -> Option<Cidr> {
        let routes = routes.iter().map(|text| (cidr(text), Some(2)));
        widest_overlap(cidr(proposed), routes).map(|(prefix, _)| prefix)
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }
}
