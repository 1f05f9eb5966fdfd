//! Decoders of what peers, operators and the data directory say, for the fuzz targets alone.
//!
//! Decides nothing and is no part of the interface. What was decoded is given back as the bytes
//! that it is encoded to, so that its type stays private.

use std::collections::BTreeMap;

use consensus_core::{LogIndex, MeshId, RootFingerprint, State, WallMs};
use node_api::ApiError;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    authority, backup,
    data_dir::Membership,
    mesh::{
        peer_wire::{self, EnrolAnswer, GateRequest, PeerAnswer, PeerRequest, Push, Subscribe},
        views::View,
    },
    token::Token,
};

/// A request of another daemon.
pub fn request(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    again::<PeerRequest>(bytes)
}

/// Another daemon's answer.
pub fn answer(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    again::<PeerAnswer>(bytes)
}

/// A request that came through the gate.
pub fn gate_request(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    again::<GateRequest>(bytes)
}

/// What a joiner gets back.
pub fn admission(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    again::<EnrolAnswer>(bytes)
}

/// What a subscriber knows already.
pub fn subscribe(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    again::<Subscribe>(bytes)
}

/// What a server pushes.
pub fn push(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    again::<Push>(bytes)
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    peer_wire::decode::<T>(bytes).map(|message| peer_wire::encode(&message))
}

/// The text of a bootstrap token.
pub fn token(text: &str) -> Option<String> {
    Token::decode(text).ok().map(|token| token.encode())
}

/// A token's text around these bytes, with the check that belongs to them.
pub fn token_around(body: &[u8]) -> String {
    Token::text(body)
}

/// An opened backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The replicated state.
    pub state: State,
    /// The root keys by their fingerprints, PKCS#8.
    pub root_keys: BTreeMap<[u8; 32], Vec<u8>>,
}

/// A backup's plaintext.
pub fn backup(plain: &[u8]) -> Result<Backup, ApiError> {
    backup::read(plain).map(opened)
}

/// A backup file.
pub fn backup_file(file: &[u8], identity: &str) -> Result<Backup, ApiError> {
    backup::open(file, identity).map(opened)
}

fn opened(backup: backup::Backup) -> Backup {
    let keys = backup.root_keys.iter();
    Backup {
        state: backup.state,
        root_keys: keys
            .map(|(root, key)| (*root.as_bytes(), key.to_vec()))
            .collect(),
    }
}

/// The plaintext that a backup is written as; none of a state without a mesh.
pub fn backup_again(backup: &Backup) -> Option<Vec<u8>> {
    let keys = backup.root_keys.clone();
    let plain = backup::write(&backup.state, keys, WallMs(0)).ok()?;
    Some(plain.to_vec())
}

/// What a member comes back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returning {
    /// Its mesh.
    pub mesh: MeshId,
    /// The roots that it trusts.
    pub roots: Vec<RootFingerprint>,
    /// Length of what it shows of itself.
    pub chain: usize,
    /// `mesh.json` as it was, and as it is from now on.
    pub written: [Vec<u8>; 2],
}

/// `mesh.json` at a start of the daemon.
pub fn membership(text: &[u8]) -> Result<Returning, String> {
    let mut membership = Membership::decode(text)?;
    let before = membership.encode();
    let returning = membership.start_again()?;
    let roots = returning.roots.iter();
    Ok(Returning {
        mesh: returning.mesh,
        roots: roots.map(|der| RootFingerprint::of(der)).collect(),
        chain: returning.chain.len(),
        written: [before, membership.encode()],
    })
}

/// `view.bin`: its revision, and the bytes that it is written as.
pub fn view(bytes: &[u8]) -> Option<(LogIndex, Vec<u8>)> {
    View::decode(bytes).map(|view| (view.revision, view.encode()))
}

/// `intermediate.key`, and the bytes that it is written as; nothing if it is cut.
pub fn intermediate(bytes: &[u8]) -> Result<Option<Vec<u8>>, ApiError> {
    let parts = authority::split_intermediate(bytes)?;
    Ok(parts.map(|(key, certificate)| authority::join_intermediate(&key, &certificate).to_vec()))
}
