//! Compression of frames on a slow line.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::config::Compress;

use super::LinkError;
use super::frame::{HEADER, Head, Kind, MAX_PAYLOAD};

/// A line that takes fewer bytes per second is slow: compressing is quicker than waiting.
const SLOW: u64 = 40 << 20;
/// On a line slower than this a better compression is worth its time.
const VERY_SLOW: u64 = 4 << 20;
/// Shorter payloads are not worth it.
const SHORT: usize = 256;
/// After a payload that did not get smaller so many are passed over, at first and at most.
const PASSES: (u32, u32) = (2, 64);

/// Compresses frames where it pays.
pub struct Packer {
    mode: Compress,
    fast: Option<Compressor<'static>>,
    small: Option<Compressor<'static>>,
    buffer: Vec<u8>,
    /// Frames still to be passed over, and how many the next time.
    pass: u32,
    passes: u32,
}

impl Packer {
    pub fn new(mode: Compress) -> Packer {
        Packer { mode, fast: None, small: None, buffer: Vec::new(), pass: 0, passes: PASSES.0 }
    }

    /// The frame as it goes onto the line. `rate`: bytes per second that the line takes, if known.
    pub fn pack(&mut self, frame: Vec<u8>, rate: Option<u64>) -> Vec<u8> {
        let wanted = match self.mode {
            Compress::None => false,
            Compress::Zstd => true,
            Compress::Auto => rate.is_some_and(|rate| rate < SLOW),
        };
        if !wanted || frame.len() < HEADER + SHORT || frame[4] != Kind::Message as u8 {
            return frame;
        }
        if self.pass > 0 {
            self.pass -= 1;
            return frame;
        }
        let packed = self.compress(&frame, rate.is_some_and(|rate| rate < VERY_SLOW));
        // A failure of the compressor costs nothing but its help.
        match packed.ok().flatten() {
            Some(packed) => {
                self.passes = PASSES.0;
                packed
            }
            None => {
                self.pass = self.passes;
                self.passes = (self.passes * 2).min(PASSES.1);
                frame
            }
        }
    }

    /// The packed frame; `None` if it is hardly smaller.
    fn compress(&mut self, frame: &[u8], small: bool) -> io::Result<Option<Vec<u8>>> {
        let (level, slot) = if small { (3, &mut self.small) } else { (1, &mut self.fast) };
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(level)?),
        };
        let plain = &frame[HEADER..];
        self.buffer.clear();
        self.buffer.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        compressor.compress_to_buffer(plain, &mut self.buffer)?;
        let length = 4 + self.buffer.len();
        if length + length / 16 >= plain.len() {
            return Ok(None);
        }
        let mut number = [0; 4];
        number.copy_from_slice(&frame[HEADER - 4..HEADER]);
        let head = Head { length, kind: Kind::Packed, stream: u32::from_le_bytes(number) };
        let mut packed = Vec::with_capacity(HEADER + length);
        packed.extend_from_slice(&head.encode().map_err(io::Error::other)?);
        // At most MAX_PAYLOAD, so it fits.
        packed.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        packed.extend_from_slice(&self.buffer);
        Ok(Some(packed))
    }
}

/// Undoes what the other side's [`Packer`] did.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<Decompressor<'static>>,
    plain: Vec<u8>,
}

impl Unpacker {
    /// The payload that was packed: `length u32 LE` of the plain payload, then zstd. Never more than a frame may hold.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<&[u8], LinkError> {
        let broken = |what: &str| LinkError::Malformed(format!("a packed frame: {what}"));
        let (length, packed) = packed.split_first_chunk::<4>().ok_or_else(|| broken("too short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_PAYLOAD {
            return Err(LinkError::TooLong(length));
        }
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            None => self.zstd.insert(Decompressor::new().map_err(LinkError::io("start zstd"))?),
        };
        self.plain.clear();
        self.plain.reserve_exact(length);
        let got = zstd.decompress_to_buffer(packed, &mut self.plain).map_err(|e| broken(&e.to_string()))?;
        match got == length {
            true => Ok(&self.plain),
            false => Err(broken("another length than it says")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let head = Head { length: payload.len(), kind: Kind::Message, stream: 0 };
        [&head.encode().unwrap()[..], payload].concat()
    }

    /// Bytes that no compressor makes smaller.
    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn is_packed(frame: &[u8]) -> bool {
        frame[4] == Kind::Packed as u8
    }

    #[test]
    fn what_is_packed_comes_back_whatever_its_length() {
        let mut unpacker = Unpacker::default();
        for rate in [None, Some(1000)] {
            let mut packer = Packer::new(Compress::Zstd);
            for length in [SHORT, 1000, 131_072, MAX_PAYLOAD] {
                let plain: Vec<u8> = (0..length).map(|n| (n / 50) as u8).collect();
                let packed = packer.pack(frame(&plain), rate);
                assert!(is_packed(&packed) && packed.len() < length / 2 + HEADER, "{length}: {}", packed.len());
                assert_eq!(unpacker.unpack(&packed[HEADER..]).unwrap(), plain);
            }
        }
    }

    #[test]
    fn the_mode_the_line_and_the_payload_decide() {
        let text = frame(&[b'x'; 1000]);
        for (mode, rate, want) in [
            (Compress::None, Some(1), false),
            (Compress::Auto, None, false),
            (Compress::Auto, Some(SLOW), false),
            (Compress::Auto, Some(SLOW - 1), true),
            (Compress::Zstd, None, true),
            (Compress::Zstd, Some(u64::MAX), true),
        ] {
            assert_eq!(is_packed(&Packer::new(mode).pack(text.clone(), rate)), want, "{mode:?} {rate:?}");
        }
        let mut packer = Packer::new(Compress::Zstd);
        assert!(!is_packed(&packer.pack(frame(&[b'x'; SHORT - 1]), None)));
        assert!(!is_packed(&packer.pack(frame(&noise(100_000)), None)));
        // After noise some are passed over, and then it is tried again.
        let tried: Vec<bool> = (0..4).map(|_| is_packed(&packer.pack(text.clone(), None))).collect();
        assert_eq!(tried, [false, false, true, true]);
    }

    #[test]
    fn broken_and_greedy_frames_are_refused() {
        let mut packer = Packer::new(Compress::Zstd);
        let packed = packer.pack(frame(&[b'x'; 1000]), None)[HEADER..].to_vec();
        let mut unpacker = Unpacker::default();
        for cut in 0..packed.len() {
            assert!(unpacker.unpack(&packed[..cut]).is_err(), "{cut}");
        }
        for length in [999_u32, 1001, u32::MAX] {
            let mut lying = packed.clone();
            lying[..4].copy_from_slice(&length.to_le_bytes());
            assert!(unpacker.unpack(&lying).is_err(), "{length}");
        }
        // A bomb: what it would become is not what it says.
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(unpacker.unpack(&[&1000_u32.to_le_bytes()[..], &bomb].concat()).is_err());
        assert!(unpacker.plain.capacity() < 2 * MAX_PAYLOAD);
        assert_eq!(unpacker.unpack(&packed).unwrap().len(), 1000);
    }
}
