//! What a member with a valid certificate can and cannot do to the others.
//!
//! The hostile member speaks over connections of its own, as anybody it likes to name inside its
//! messages, with its own key and with whatever others have signed and it has heard.

#[path = "hostile/accusing.rs"]
mod accusing;
#[path = "hostile/flooding.rs"]
mod flooding;
#[path = "hostile/mesh.rs"]
mod mesh;
#[path = "hostile/posing.rs"]
mod posing;
