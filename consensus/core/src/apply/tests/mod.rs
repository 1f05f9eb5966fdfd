//! Claims about the state machine, by what an operator would ask about.

mod admission;
mod certificates;
mod docker;
mod golden;
mod networks;
mod random;
mod refusals;
mod removal;
mod requests;
mod roles;
mod selectors;
mod world;
