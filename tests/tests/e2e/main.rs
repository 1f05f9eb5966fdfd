//! End to end: real processes in network namespaces, real WireGuard, real dockerd.
//!
//! One module per claim area; each test builds its own lab and leaves nothing behind. Needs root
//! and says so loudly where it has none.

mod lab;
mod mesh;
