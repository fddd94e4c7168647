//! Blocks: the sums of a basis, and where the same bytes lie in another file.
//!
//! A block has a weak sum, which can be rolled from one byte to the next, and a strong one (BLAKE3, cut short): the whole
//! file's hash is compared at the end in any case.

use crate::protocol::Sums;

/// The bytes that one block's sums take.
pub const SUM: usize = 16;
/// More blocks than this are never told: larger files get larger blocks.
pub const MOST: u64 = 1 << 17;
const LARGEST: u64 = 1 << 24;
/// The most blocks that a source keeps in mind.
pub const KEPT: u64 = 4 * MOST;
/// A search that met so many weak sums without the strong one is given up.
const FALSE_HITS: u32 = 1000;

const M: u64 = 0x9E37_79B9_7F4A_7C15;
const POWERS: [u64; 9] = powers();

const fn powers() -> [u64; 9] {
    let mut all = [1; 9];
    let mut n = 1;
    while n < 9 {
        all[n] = M.wrapping_mul(all[n - 1]);
        n += 1;
    }
    all
}

/// The block size for a basis of so many bytes: the sums take as much room as one block does.
pub fn block_size(bytes: u64) -> u64 {
    let root = bytes.saturating_mul(SUM as u64).isqrt();
    root.max(bytes / MOST).max(64).next_power_of_two().min(LARGEST)
}

/// The weak sum of a block; its upper half travels.
fn weak(bytes: &[u8]) -> u64 {
    let mut sum: u64 = 0;
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        let part = eight
            .iter()
            .zip(POWERS.iter().rev().skip(1))
            .fold(0_u64, |part, (byte, power)| part.wrapping_add(u64::from(*byte).wrapping_mul(*power)));
        sum = sum.wrapping_mul(POWERS[8]).wrapping_add(part);
    }
    eights.remainder().iter().fold(sum, |sum, byte| sum.wrapping_mul(M).wrapping_add(u64::from(*byte)))
}

fn short(weak: u64) -> u32 {
    (weak >> 32) as u32
}

fn strong(bytes: &[u8]) -> [u8; 12] {
    let hash = blake3::hash(bytes);
    let mut cut = [0; 12];
    cut.copy_from_slice(&hash.as_bytes()[..12]);
    cut
}

/// The sums of one block as they travel.
pub fn sum(bytes: &[u8]) -> [u8; SUM] {
    let mut sum = [0; SUM];
    sum[..4].copy_from_slice(&short(weak(bytes)).to_le_bytes());
    sum[4..].copy_from_slice(&strong(bytes));
    sum
}

struct Sum {
    weak: u32,
    strong: [u8; 12],
}

/// One file of the basis, by its blocks.
struct Part {
    first: u64,
    blocks: u64,
}

/// All sums of a basis, in the order in which they were told.
#[derive(Default)]
pub struct Blocks {
    size: u64,
    sums: Vec<Sum>,
    parts: Vec<Part>,
    /// Blocks still to be told.
    open: u64,
    /// The number and the length of a last block that is shorter.
    tail: Option<(u64, u64)>,
    /// Weak sums and block numbers, sorted.
    index: Vec<(u32, u32)>,
    /// One bit for each value of a weak sum's upper bits that occurs.
    filter: Vec<u64>,
    shift: u32,
    /// What leaves the window when a weak sum is rolled.
    leaving: Vec<u64>,
    false_hits: u32,
}

impl Blocks {
    pub fn new() -> Blocks {
        Blocks::default()
    }

    /// Takes in what the receiver tells. Answers whether that was all; `None`: it makes no sense, there is no basis.
    pub fn hear(&mut self, sums: &Sums) -> Option<bool> {
        match sums {
            Sums::Basis { block, size } => {
                let blocks = size.div_ceil(*block.max(&1));
                let told = self.sums.len() as u64;
                // A file without a byte is no part of a basis, and would be one without end.
                let fits = self.open == 0 && self.tail.is_none() && *size > 0 && (64..=LARGEST).contains(block);
                if !fits || (self.size != 0 && self.size != *block) || told + blocks > KEPT {
                    return None;
                }
                self.size = *block;
                self.parts.push(Part { first: told, blocks });
                self.open = blocks;
                self.tail = (size % block != 0).then(|| (told + blocks - 1, size % block));
            }
            Sums::Blocks { sums } => {
                let count = (sums.len() / SUM) as u64;
                if count > self.open || !sums.len().is_multiple_of(SUM) {
                    return None;
                }
                self.open -= count;
                self.sums.extend(sums.chunks_exact(SUM).map(|sum| {
                    let mut told = Sum { weak: 0, strong: [0; 12] };
                    told.weak = u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
                    told.strong.copy_from_slice(&sum[4..]);
                    told
                }));
            }
            Sums::End => {
                if self.open > 0 {
                    return None;
                }
                self.sort();
                return Some(true);
            }
        }
        Some(false)
    }

    fn sort(&mut self) {
        let whole = self.tail.map_or(self.sums.len(), |(tail, _)| tail as usize);
        self.index = self.sums[..whole].iter().zip(0..).map(|(sum, n)| (sum.weak, n)).collect();
        self.index.sort_unstable();
        // Equal blocks (zeros) are found by the first of them.
        let sums = &self.sums;
        self.index.dedup_by(|b, a| a.0 == b.0 && sums[a.1 as usize].strong == sums[b.1 as usize].strong);
        let bits = (self.index.len().max(1).ilog2() + 4).clamp(10, 20);
        self.shift = 64 - bits;
        self.filter = vec![0; 1 << (bits - 6)];
        for (weak, _) in &self.index {
            let at = u64::from(*weak) << 32 >> self.shift;
            self.filter[(at >> 6) as usize] |= 1 << (at & 63);
        }
        let power = (0..self.size).fold(1_u64, |power, _| power.wrapping_mul(M));
        self.leaving = (0..256).map(|byte| power.wrapping_mul(byte)).collect();
    }

    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Bytes in a block.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number and the length of a last block that is shorter than the others.
    pub fn tail(&self) -> Option<(u64, u64)> {
        self.tail
    }

    /// Whether this block has these contents.
    pub fn is(&self, block: u64, bytes: &[u8]) -> bool {
        let length = self.tail.filter(|(tail, _)| *tail == block).map_or(self.size, |(_, length)| length);
        bytes.len() as u64 == length && self.sums.get(block as usize).is_some_and(|sum| sum.strong == strong(bytes))
    }

    /// A block with these contents: the one that follows the last match, or one that lies at the same place of its file.
    pub fn expected(&self, bytes: &[u8], offset: u64, next: Option<u64>) -> Option<u64> {
        let same_place = self.parts.iter().filter(|_| offset.is_multiple_of(self.size)).filter_map(|part| {
            let block = offset / self.size;
            (block < part.blocks).then_some(part.first + block)
        });
        let found = strong(bytes);
        let is = |block: &u64| self.sums.get(*block as usize).is_some_and(|sum| sum.strong == found);
        next.into_iter().chain(same_place).find(is)
    }

    /// The first place in the window at which a block begins, and which. The window is a block and the positions to look at.
    pub fn search(&mut self, window: &[u8]) -> Option<(usize, u64)> {
        let size = self.size as usize;
        if window.len() < size || self.index.is_empty() || self.has_given_up() {
            return None;
        }
        let mut sum = weak(&window[..size]);
        let mut at = 0;
        loop {
            if self.may_have(sum) {
                if let Some(block) = self.lookup(short(sum), &window[at..at + size]) {
                    return Some((at, block));
                }
                if self.has_given_up() {
                    return None;
                }
            }
            let coming = *window.get(at + size)?;
            let leaving = self.leaving[usize::from(window[at])];
            sum = sum.wrapping_mul(M).wrapping_add(u64::from(coming)).wrapping_sub(leaving);
            at += 1;
        }
    }

    /// Contents that are made to look alike must not cost a strong sum at each byte.
    pub(super) fn has_given_up(&self) -> bool {
        self.false_hits >= FALSE_HITS
    }

    fn may_have(&self, weak: u64) -> bool {
        let at = weak >> self.shift;
        self.filter[(at >> 6) as usize] & (1 << (at & 63)) != 0
    }

    fn lookup(&mut self, weak: u32, bytes: &[u8]) -> Option<u64> {
        let first = self.index.partition_point(|(sum, _)| *sum < weak);
        let mut same = self.index[first..].iter().take_while(|(sum, _)| *sum == weak).peekable();
        same.peek()?;
        let found = strong(bytes);
        let block = same.find(|(_, block)| self.sums[*block as usize].strong == found).map(|(_, block)| *block);
        if block.is_none() {
            self.false_hits += 1;
        }
        block.map(u64::from)
    }
}
