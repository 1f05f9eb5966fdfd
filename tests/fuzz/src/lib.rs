//! Every decoder of bytes that come from a peer, a program or a disk, as a function of those bytes.
//!
//! Decides: what must hold of a decoder whatever it is given. It never panics; what it accepts
//! survives being encoded and decoded again, and never grows by it; what it refuses it refuses
//! with the reason that the bytes give; and it allocates in proportion to its input, whatever
//! lengths the input claims. The last of these is measured by whoever calls [`Target::run`]: the
//! replay test counts allocations, libFuzzer limits them.
//! Never: judges what a message means.
//!
//! The functions are libFuzzer's targets (`src/bin`, one file a target) and the replay's
//! (`tests/replay`), so that a finding of one is a regression test of the other.

mod agreed;
mod api;
mod certificate;
mod daemon;
mod docker;
mod files;
mod gate;
mod identifiers;
mod log;
mod membership;
mod raft;
mod wireguard;

/// One decoder and its claims.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it is called on the command line and in the corpus.
    pub name: &'static str,
    /// Decodes, and panics when a claim does not hold.
    pub run: fn(&[u8]),
    /// What a run may hold at once.
    pub memory: Memory,
}

/// Bytes that a run may hold at once: so much for nothing and so much for each byte of input.
/// Decoding, encoding and decoding again together.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// For an input of any length.
    pub fixed: u64,
    /// For each byte of input.
    pub per_byte: u64,
}

impl Memory {
    /// What an input of so many bytes may cost.
    pub fn of(self, input_bytes: usize) -> u64 {
        let input_bytes = u64::try_from(input_bytes).unwrap_or(u64::MAX);
        self.fixed
            .saturating_add(self.per_byte.saturating_mul(input_bytes))
    }
}

/// Text, JSON and DER: a byte becomes at most a few words of a value (an empty text is 24 bytes and
/// three characters), which is held, compared and written again. The largest fixed part is the one
/// chunk of 64 KiB that age decrypts at a time.
const TEXT: Memory = Memory {
    fixed: 128 * 1024,
    per_byte: 256,
};

/// postcard: nothing is set aside for a list that the input is too short for; the smallest element
/// (an empty list in a list) takes one byte there and 24 in memory, in a vector that doubles as it
/// grows. The largest fixed part is the mesh that hears a gossip message.
const POSTCARD: Memory = Memory {
    fixed: 128 * 1024,
    per_byte: 256,
};

/// A whole HTTP answer: hyper's own buffers, a runtime and two sockets come before the first byte.
const EXCHANGE: Memory = Memory {
    fixed: 512 * 1024,
    per_byte: 256,
};

/// The files of a simulated disk, which keeps what a program sees and what the drive has; a head is
/// 4 KiB, and a segment that is begun three times that.
const SEGMENTS: Memory = Memory {
    fixed: 128 * 1024,
    per_byte: 256,
};

/// Every target, in alphabetical order.
pub const TARGETS: &[Target] = &[
    target("access_rule", api::access_rule, TEXT),
    target("agreed_applied", agreed::applied, POSTCARD),
    target("agreed_commands", agreed::commands, POSTCARD),
    target("agreed_envelope", agreed::envelope, POSTCARD),
    target("agreed_event", agreed::event, POSTCARD),
    target("agreed_state", agreed::state, POSTCARD),
    target("agreed_view", agreed::view, POSTCARD),
    target("api_endpoint", api::endpoint, TEXT),
    target("api_error", api::error, TEXT),
    target("api_exchange", api::exchange, EXCHANGE),
    target("api_shapes", api::shapes, TEXT),
    target("backup", files::backup, TEXT),
    target("call_frame", gate::call_frame, POSTCARD),
    target("certificate_chain", certificate::chain, TEXT),
    target("certificate_pem", certificate::pem, TEXT),
    target("certificate_request", certificate::request, TEXT),
    target("daemon_json", docker::daemon_json, TEXT),
    target("docker_answers", docker::answers, TEXT),
    target("docker_record", files::docker_record, TEXT),
    target("dockerd_words", docker::words, TEXT),
    target("engine_version", docker::engine_version, TEXT),
    target("frame_stream", gate::frame_stream, POSTCARD),
    target("gate_answer", gate::answer, POSTCARD),
    target("gate_enrol_answer", gate::enrol_answer, POSTCARD),
    target("gate_hello", gate::hello, POSTCARD),
    target("gate_renewed", gate::renewed, POSTCARD),
    target("host_files", docker::host_files, TEXT),
    target("identifiers", identifiers::identifiers, TEXT),
    target("identity_file", files::identity, TEXT),
    target("intermediate_file", daemon::intermediate_file, TEXT),
    target("log_segments", log::segments, SEGMENTS),
    target("membership_message", membership::message, POSTCARD),
    target("mesh_file", daemon::mesh_file, TEXT),
    target("multiaddress", gate::multiaddress, TEXT),
    target("peer_message", daemon::peer_message, POSTCARD),
    target("private_key", certificate::private_key, TEXT),
    target("raft_record", raft::record, POSTCARD),
    target("raft_reply", raft::reply, POSTCARD),
    target("raft_request", raft::request, POSTCARD),
    target("raft_snapshot", raft::snapshot, POSTCARD),
    target("raft_transfer", raft::transfer, POSTCARD),
    target("reach_answer", gate::reach_answer, POSTCARD),
    target("reach_question", gate::reach_question, POSTCARD),
    target("sealed", certificate::sealed, TEXT),
    target("token", daemon::token, POSTCARD),
    target("view_file", daemon::view_file, POSTCARD),
    target("wireguard_files", wireguard::files, TEXT),
    target("wireguard_reply", wireguard::reply, TEXT),
    target("wireguard_request", wireguard::request, TEXT),
];

const fn target(name: &'static str, run: fn(&[u8]), memory: Memory) -> Target {
    Target { name, run, memory }
}

/// Runs the target of that name.
///
/// # Panics
/// When a claim does not hold, which is what fuzzing looks for, or when there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no target {name}"));
    (target.run)(data);
}

/// The input as text. What is no UTF-8 is not refused but mended, so that every input does work.
fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}

/// Parts of an input, each behind two bytes of big-endian length; the end may be cut.
fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (piece, rest) = first_piece(data)?;
        data = rest;
        Some(piece)
    })
}

/// The first such part and what follows it.
fn first_piece(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some(rest.split_at(length.min(rest.len())))
}
