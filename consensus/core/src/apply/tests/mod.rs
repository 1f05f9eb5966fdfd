//! Claims about the state machine, by what an operator would ask about.

mod access_grants;
mod address_plan;
mod admission;
mod authority;
mod certificates;
mod containers;
mod docker;
mod firewalls;
mod golden;
mod limits;
mod networks;
mod operators;
mod random;
mod recovery;
mod refusals;
mod removal;
mod renewal;
mod requests;
mod revocation;
mod roles;
mod rotation;
mod selectors;
mod virtual_ips;
mod virtual_ips_random;
mod wireguard_keys;
mod world;
