//! Changes real values a little, or much.

use crate::roll::Roll;

/// Longer inputs than this come from the corpus alone.
const LONGEST: usize = 1 << 16;

/// Numbers at which something ends, as they lie in memory, and as postcard writes them.
const NUMBERS: &[&[u8]] = &[
    &[0],
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
    b"-1",
    b"9223372036854775808",
    b"1e999",
    b"..",
    b"/",
    b"\n",
    b"\0",
    b"\\",
    b"\"",
    b"\xef\xbf\xbd",
    b"\xf0\x9f",
];

/// One input.
pub fn mutate(corpus: &[Vec<u8>], roll: &mut Roll) -> Vec<u8> {
    let mut input = roll.pick(corpus).clone();
    if roll.once_in(200) {
        input = (0..roll.below(300)).map(|_| roll.number() as u8).collect();
    }
    for _ in 0..=roll.below(6) {
        let at = roll.below(input.len() + 1);
        let length = 1 + short(roll, 32);
        let end = (at + length).min(input.len());
        match roll.below(9) {
            0 if at < input.len() => input[at] = roll.number() as u8,
            1 if at < input.len() => input[at] ^= 1 << roll.below(8),
            2 => drop(input.drain(at..end)),
            3 => drop(input.splice(at..end, roll.pick(NUMBERS).iter().copied())),
            4 => drop(input.splice(at..at, roll.pick(NUMBERS).iter().copied())),
            5 => input.truncate(at),
            6 => {
                let part = input[at..end].repeat(1 + roll.below(64));
                input.splice(at..at, part);
            }
            7 => {
                let other = roll.pick(corpus);
                let from = roll.below(other.len() + 1);
                let to = (from + short(roll, 256)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => input.extend((0..length).map(|_| roll.number() as u8)),
        }
        input.truncate(LONGEST.max(corpus.iter().map(Vec::len).max().unwrap_or(0)));
    }
    input
}

/// Below `most`, and more often small than not.
fn short(roll: &mut Roll, most: usize) -> usize {
    let most = 1 + roll.below(most);
    roll.below(most)
}
