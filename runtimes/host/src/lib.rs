//! What every runtime needs of its host: files that are remembered, programs that are found and
//! run, processes that are told apart and outlive shoald.
//!
//! Decides nothing about a runtime. Never: touches a process that it has not identified just before,
//! nor removes a file that its manifest does not list.

pub mod ending;
pub mod exec;
pub mod files;
pub mod journal;
pub mod mounts;
pub mod process;
pub mod programs;
pub mod said;
pub mod spawn;
pub mod trees;
pub mod units;
