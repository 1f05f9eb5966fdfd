//! The gate's two programs for the kernel, put together by hand: an ELF object without a compiler.
//!
//! Decides: the instructions. What the programs decide: a packet to (arriving) or from (leaving) an
//! address that the map knows is dropped from the address's deadline on. The clock is
//! `CLOCK_BOOTTIME` and is read per packet, so that nothing needs to happen for the gate to close.
//!
//! Numbers are those of `linux/bpf.h` and of the ELF specification.

/// Name of the map: address to deadline (nanoseconds of `CLOCK_BOOTTIME`), epoch, and whether that is released.
pub(super) const MAP: &str = "DEADLINES";
/// Names of the programs.
pub(super) const ARRIVING: &str = "gate_arriving";
/// The other one.
pub(super) const LEAVING: &str = "gate_leaving";

/// Where `struct ipv6hdr` has its source and its destination.
const SOURCE: i32 = 8;
const DESTINATION: i32 = 24;

// Operations.
const LOAD_WORD: u8 = 0x61;
const LOAD_DOUBLE: u8 = 0x79;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;
const IF_SAME: u8 = 0x1d;
const IF_EQUAL: u8 = 0x15;
const IF_UNEQUAL: u8 = 0x55;
const IF_GREATER: u8 = 0x2d;
const MAP_ADDRESS: u8 = 0x18;
const EXIT: u8 = 0x95;
const LOOK_UP: i32 = 1;
const LOAD_BYTES_RELATIVE: i32 = 68;
const BOOT_TIME: i32 = 125;
/// htons(ETH_P_IPV6) as a little-endian machine loads it.
const IPV6: i32 = 0xdd86;
const SKB_PROTOCOL: i16 = 16;
const SKB_INGRESS_IFINDEX: i16 = 36;
const SKB_IFINDEX: i16 = 40;
const DROP: i32 = 2;
const NEXT: i32 = -1;

/// One instruction: `struct bpf_insn`.
type Instruction = [u8; 8];

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let [o0, o1] = offset.to_le_bytes();
    let [v0, v1, v2, v3] = value.to_le_bytes();
    [code, (from << 4) | to, o0, o1, v0, v1, v2, v3]
}

/// A program, and where it refers to the map.
struct Program {
    instructions: Vec<Instruction>,
    passes: Vec<usize>,
    map_at: usize,
}

fn program(address_at: i32, leaving: bool) -> Program {
    let mut p = Program {
        instructions: Vec::new(),
        passes: Vec::new(),
        map_at: 0,
    };
    let add = |p: &mut Program, code, to, from, offset, value| {
        p.instructions
            .push(instruction(code, to, from, offset, value));
    };
    let pass_if = |p: &mut Program, code, to, from, value| {
        p.passes.push(p.instructions.len());
        p.instructions.push(instruction(code, to, from, 0, value));
    };
    add(&mut p, MOVE, 6, 1, 0, 0);
    add(&mut p, LOAD_WORD, 1, 6, SKB_PROTOCOL, 0);
    pass_if(&mut p, IF_UNEQUAL, 1, 0, IPV6);
    if leaving {
        // What came in over this interface is only passed on between peers.
        add(&mut p, LOAD_WORD, 1, 6, SKB_INGRESS_IFINDEX, 0);
        add(&mut p, LOAD_WORD, 2, 6, SKB_IFINDEX, 0);
        pass_if(&mut p, IF_SAME, 1, 2, 0);
    }
    add(&mut p, MOVE, 1, 6, 0, 0);
    add(&mut p, SET, 2, 0, 0, address_at);
    add(&mut p, MOVE, 3, 10, 0, 0);
    add(&mut p, ADD, 3, 0, 0, -16);
    add(&mut p, SET, 4, 0, 0, 16);
    add(&mut p, SET, 5, 0, 0, 1);
    add(&mut p, CALL, 0, 0, 0, LOAD_BYTES_RELATIVE);
    pass_if(&mut p, IF_UNEQUAL, 0, 0, 0);
    p.map_at = p.instructions.len() * 8;
    add(&mut p, MAP_ADDRESS, 1, 0, 0, 0);
    add(&mut p, 0, 0, 0, 0, 0);
    add(&mut p, MOVE, 2, 10, 0, 0);
    add(&mut p, ADD, 2, 0, 0, -16);
    add(&mut p, CALL, 0, 0, 0, LOOK_UP);
    pass_if(&mut p, IF_EQUAL, 0, 0, 0);
    add(&mut p, LOAD_DOUBLE, 7, 0, 0, 0);
    add(&mut p, CALL, 0, 0, 0, BOOT_TIME);
    pass_if(&mut p, IF_GREATER, 7, 0, 0);
    add(&mut p, SET, 0, 0, 0, DROP);
    add(&mut p, EXIT, 0, 0, 0, 0);
    let end = p.instructions.len();
    add(&mut p, SET, 0, 0, 0, NEXT);
    add(&mut p, EXIT, 0, 0, 0, 0);
    for at in std::mem::take(&mut p.passes) {
        let over = i16::try_from(end - at - 1).expect("a program has less than 40 instructions");
        p.instructions[at][2..4].copy_from_slice(&over.to_le_bytes());
    }
    p
}

/// The object: a relocatable ELF file with two programs, one map and the licence.
pub(super) fn object(addresses_max: u32) -> Vec<u8> {
    let arriving = program(DESTINATION, false);
    let leaving = program(SOURCE, true);
    let mut names = Names(vec![0]);
    let code = |p: &Program| p.instructions.concat();
    // BPF_MAP_TYPE_HASH, an address to three numbers, pinned by its name.
    let map: Vec<u8> = [1, 16, 24, addresses_max, 0, 0, 1]
        .iter()
        .flat_map(|n: &u32| n.to_le_bytes())
        .collect();
    let map_bytes = long(map.len());
    // Symbols: none, the map (in section 5), the programs.
    let symbols = [
        symbol(0, 0, 0, 0),
        symbol(names.add(MAP), 0x11, 5, map_bytes),
        symbol(names.add(ARRIVING), 0x12, 1, long(code(&arriving).len())),
        symbol(names.add(LEAVING), 0x12, 3, long(code(&leaving).len())),
    ]
    .concat();
    let mut sections = vec![
        names.program("classifier/a", code(&arriving)),
        names.relocation(".relclassifier/a", 1, &arriving),
        names.program("classifier/l", code(&leaving)),
        names.relocation(".relclassifier/l", 3, &leaving),
        names.data("maps", map),
        names.data("license", b"Dual MIT/GPL\0".to_vec()),
        Section {
            name: names.add(".symtab"),
            kind: 2,
            flags: 0,
            link: 8,
            info: 1,
            entry: 24,
            data: symbols,
        },
    ];
    let strings = names.add(".strtab");
    sections.push(Section {
        name: strings,
        kind: 3,
        flags: 0,
        link: 0,
        info: 0,
        entry: 0,
        data: names.0,
    });
    assemble(&sections)
}

/// The file's texts, one after the other.
struct Names(Vec<u8>);

impl Names {
    fn add(&mut self, name: &str) -> u32 {
        let at = u32::try_from(self.0.len()).expect("there are nine names");
        self.0.extend(name.as_bytes());
        self.0.push(0);
        at
    }

    fn plain(&mut self, name: &str, flags: u64, data: Vec<u8>) -> Section {
        Section {
            name: self.add(name),
            kind: 1,
            flags,
            link: 0,
            info: 0,
            entry: 0,
            data,
        }
    }

    fn program(&mut self, name: &str, code: Vec<u8>) -> Section {
        self.plain(name, 6, code)
    }

    fn data(&mut self, name: &str, data: Vec<u8>) -> Section {
        self.plain(name, 3, data)
    }

    /// Where a program, the section `of`, names the map: an R_BPF_64_64 to symbol 1.
    fn relocation(&mut self, name: &str, of: u32, program: &Program) -> Section {
        let entry = [
            long(program.map_at).to_le_bytes(),
            ((1_u64 << 32) | 1).to_le_bytes(),
        ];
        Section {
            name: self.add(name),
            kind: 9,
            flags: 0,
            link: 7,
            info: of,
            entry: 16,
            data: entry.concat(),
        }
    }
}

struct Section {
    name: u32,
    kind: u32,
    flags: u64,
    link: u32,
    info: u32,
    entry: u64,
    data: Vec<u8>,
}

fn symbol(name: u32, info: u8, section: u16, size: u64) -> Vec<u8> {
    let mut s = name.to_le_bytes().to_vec();
    s.extend([info, 0]);
    s.extend(section.to_le_bytes());
    s.extend(0_u64.to_le_bytes());
    s.extend(size.to_le_bytes());
    s
}

fn assemble(sections: &[Section]) -> Vec<u8> {
    let mut file = vec![0_u8; 64];
    let mut headers = vec![0_u8; 64];
    for section in sections {
        file.resize(file.len().next_multiple_of(8), 0);
        let offset = long(file.len());
        file.extend(&section.data);
        headers.extend(section.name.to_le_bytes());
        headers.extend(section.kind.to_le_bytes());
        headers.extend(section.flags.to_le_bytes());
        headers.extend(0_u64.to_le_bytes());
        headers.extend(offset.to_le_bytes());
        headers.extend(long(section.data.len()).to_le_bytes());
        headers.extend(section.link.to_le_bytes());
        headers.extend(section.info.to_le_bytes());
        headers.extend(8_u64.to_le_bytes());
        headers.extend(section.entry.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(8), 0);
    let table = long(file.len());
    file.extend(headers);
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_REL, EM_BPF, version 1.
    file[16..18].copy_from_slice(&1_u16.to_le_bytes());
    file[18..20].copy_from_slice(&247_u16.to_le_bytes());
    file[20..24].copy_from_slice(&1_u32.to_le_bytes());
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[52..54].copy_from_slice(&64_u16.to_le_bytes());
    file[58..60].copy_from_slice(&64_u16.to_le_bytes());
    let count = u16::try_from(sections.len() + 1).expect("there are nine sections");
    file[60..62].copy_from_slice(&count.to_le_bytes());
    file[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    file
}

fn long(length: usize) -> u64 {
    u64::try_from(length).expect("lengths have at most 64 bits")
}
