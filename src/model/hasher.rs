//! Hashing contents piece by piece, where a hole of any size costs nothing.
//!
//! Contents are cut on a fixed grid. A block of the grid that is all zeros is left out of the hash of the bytes and
//! counted as a run instead, be it a hole or zeros that somebody wrote: both sides may hold the same contents with
//! different holes. Without such a block the hash is BLAKE3 of the bytes, and nothing else.

use super::Hash;

/// The size of one block, in bytes. Shorter contents, and a shorter last block, never have a run.
pub const BLOCK: u64 = 64 * 1024;

/// Keeps hashes of contents with runs apart from BLAKE3 of any bytes.
const CONTEXT: &str = "psync 2026-11 contents with blocks of zeros left out";

/// Takes in contents from their beginning to their end.
#[derive(Debug, Clone)]
pub struct Hasher {
    /// What lies outside of runs.
    bytes: blake3::Hasher,
    /// How much came so far.
    size: u64,
    /// How much of the block that is under way was zeros and nothing else; `None`: something else came in it.
    zeros: Option<u64>,
    /// The run that may still grow, in blocks: its first, and the one after its last.
    run: (u64, u64),
    /// The runs before that.
    runs: Option<Box<blake3::Hasher>>,
}

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher::new()
    }
}

impl Hasher {
    pub fn new() -> Hasher {
        Hasher { bytes: blake3::Hasher::new(), size: 0, zeros: Some(0), run: (0, 0), runs: None }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        // What lies from here on up to `at` is no part of a run, and not yet hashed: one call takes it all.
        let mut unhashed = 0;
        let mut at = 0;
        while at < bytes.len() {
            let room = (BLOCK - self.size % BLOCK) as usize;
            let end = bytes.len().min(at + room);
            match self.zeros {
                Some(before) if is_zero(&bytes[at..end]) => {
                    self.bytes.update(&bytes[unhashed..at]);
                    self.zeros = Some(before + (end - at) as u64);
                    unhashed = end;
                }
                Some(before) => {
                    // Nothing of this call waits if some of the block came before it.
                    self.hash_zeros(before);
                    self.zeros = None;
                }
                None => {}
            }
            self.size = self.size.saturating_add((end - at) as u64);
            at = end;
            if self.size.is_multiple_of(BLOCK) {
                self.end_block();
            }
        }
        self.bytes.update(&bytes[unhashed..]);
    }

    /// Takes so many zeros.
    pub fn zeros(&mut self, count: u64) {
        let room = BLOCK - self.size % BLOCK;
        let first = count.min(room);
        self.zeros_in_block(first);
        let rest = count - first;
        let blocks = rest / BLOCK;
        if blocks > 0 {
            // The block before ended just here.
            let at = self.size / BLOCK;
            self.size = self.size.saturating_add(blocks * BLOCK);
            self.add_run(at, at.saturating_add(blocks));
        }
        self.zeros_in_block(rest % BLOCK);
    }

    /// The hash of all that came.
    pub fn finish(mut self) -> Hash {
        if let Some(zeros) = self.zeros.take() {
            self.hash_zeros(zeros);
        }
        self.end_run();
        let bytes = self.bytes.finalize();
        let Some(runs) = self.runs else { return Hash(*bytes.as_bytes()) };
        let mut all = blake3::Hasher::new_derive_key(CONTEXT);
        all.update(bytes.as_bytes()).update(runs.finalize().as_bytes()).update(&self.size.to_le_bytes());
        Hash(*all.finalize().as_bytes())
    }

    /// Zeros that lie within the block that is under way.
    fn zeros_in_block(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        match &mut self.zeros {
            Some(zeros) => *zeros += count,
            None => self.hash_zeros(count),
        }
        self.size = self.size.saturating_add(count);
        if self.size.is_multiple_of(BLOCK) {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        let at = self.size / BLOCK;
        if self.zeros.replace(0) == Some(BLOCK) {
            self.add_run(at - 1, at);
        }
    }

    fn add_run(&mut self, from: u64, to: u64) {
        if self.run.1 == from && self.run.0 < self.run.1 {
            self.run.1 = to;
            return;
        }
        self.end_run();
        self.run = (from, to);
    }

    fn end_run(&mut self) {
        let (from, to) = std::mem::take(&mut self.run);
        if from < to {
            self.runs.get_or_insert_default().update(&from.to_le_bytes()).update(&to.to_le_bytes());
        }
    }

    fn hash_zeros(&mut self, mut count: u64) {
        static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        while count > 0 {
            let now = count.min(ZEROS.len() as u64);
            self.bytes.update(&ZEROS[..now as usize]);
            count -= now;
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most contents tell in their first bytes; the others are read in pieces that the compiler makes wide.
    bytes.chunks(256).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the definition says, from the whole contents at once.
    fn plain(contents: &[u8]) -> Hash {
        let blocks = contents.chunks(BLOCK as usize);
        let is_run = |block: &[u8]| block.len() as u64 == BLOCK && block.iter().all(|byte| *byte == 0);
        let (mut bytes, mut runs): (Vec<u8>, Vec<(u64, u64)>) = (vec![], vec![]);
        for (n, block) in (0..).zip(blocks) {
            match (is_run(block), runs.last_mut()) {
                (false, _) => bytes.extend_from_slice(block),
                (true, Some(last)) if last.1 == n => last.1 += 1,
                (true, _) => runs.push((n, n + 1)),
            }
        }
        let bytes = blake3::hash(&bytes);
        if runs.is_empty() {
            return Hash(*bytes.as_bytes());
        }
        let told: Vec<u8> = runs.iter().flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat()).collect();
        let mut all = blake3::Hasher::new_derive_key(CONTEXT);
        all.update(bytes.as_bytes()).update(blake3::hash(&told).as_bytes());
        all.update(&(contents.len() as u64).to_le_bytes());
        Hash(*all.finalize().as_bytes())
    }

    #[derive(Debug, Clone)]
    enum Piece {
        Bytes(Vec<u8>),
        Written(usize),
        Hole(usize),
    }

    fn piece() -> impl Strategy<Value = Piece> {
        let length =
            || prop_oneof![0..200_usize, 0..3 * BLOCK as usize, Just(BLOCK as usize), Just(2 * BLOCK as usize)];
        prop_oneof![
            (length(), any::<u8>()).prop_map(|(length, byte)| Piece::Bytes(vec![byte; length])),
            length().prop_map(Piece::Written),
            length().prop_map(Piece::Hole),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn holes_and_zeros_are_one_and_the_pieces_do_not_matter(pieces in prop::collection::vec(piece(), 0..8)) {
            let mut hasher = Hasher::new();
            let mut contents = Vec::new();
            for piece in &pieces {
                match piece {
                    Piece::Bytes(bytes) => {
                        hasher.update(bytes);
                        contents.extend_from_slice(bytes);
                    }
                    Piece::Written(length) => {
                        hasher.update(&vec![0; *length]);
                        contents.resize(contents.len() + length, 0);
                    }
                    Piece::Hole(length) => {
                        hasher.zeros(*length as u64);
                        contents.resize(contents.len() + length, 0);
                    }
                }
            }
            prop_assert_eq!(hasher.finish(), plain(&contents));
            prop_assert_eq!(Hash::of(&contents), plain(&contents));
        }
    }

    #[test]
    fn contents_without_a_block_of_zeros_have_their_blake3() {
        let mut contents: Vec<u8> = (0..3 * BLOCK + 17).map(|n| (n % 251) as u8).collect();
        // Zeros as long as a block, but across two of them.
        contents[BLOCK as usize / 2..][..BLOCK as usize].fill(0);
        for length in [0, 1, 1000, BLOCK as usize, contents.len()] {
            let blake3 = Hash(*blake3::hash(&contents[..length]).as_bytes());
            let mut pieces = Hasher::new();
            contents[..length].chunks(1001).for_each(|piece| pieces.update(piece));
            assert_eq!((Hash::of(&contents[..length]), pieces.finish()), (blake3, blake3), "{length} bytes");
        }
        let short = vec![0; BLOCK as usize - 1];
        assert_eq!(Hash::of(&short), Hash(*blake3::hash(&short).as_bytes()), "a short last block is no run");
    }

    #[test]
    fn a_hole_of_any_size_costs_nothing_and_counts() {
        let hash = |holes: &[u64]| {
            let mut hasher = Hasher::new();
            for hole in holes {
                hasher.zeros(*hole);
                hasher.update(b"data");
            }
            hasher.finish()
        };
        let tib = 1 << 40;
        let all = [
            hash(&[15 * tib]),
            hash(&[15 * tib + 1]),
            hash(&[15 * tib, 0]),
            hash(&[14 * tib, tib]),
            hash(&[tib, 14 * tib]),
            hash(&[u64::MAX]),
        ];
        for (n, hash) in all.iter().enumerate() {
            assert!(!all[..n].contains(hash), "{n}");
        }
    }
}
