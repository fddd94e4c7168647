//! Frames that came broken are asked for again, so that a line that flips a bit now and then costs a moment and not the
//! session. Messages are numbered in their frames' heads from 1 on, in the order in which they are written.

use std::collections::VecDeque;

use super::LinkError;
use super::codec;
use super::frame::{HEADER, Kind};

/// Bytes of frames that are kept after they were written: more than is on its way on any line but a very long one.
const KEPT: usize = 4 << 20;
/// The same frame is asked for so often. Then the line is no line.
const ASKS: u32 = 8;
/// When so many bytes of others came after the question, that has most likely not arrived: more than is on its way on most
/// lines, and less than is kept, so that there is an answer to the next one.
const PASSED: usize = KEPT / 4;

/// What was written last, for whoever did not get it.
#[derive(Debug, Default)]
pub struct Sent {
    kept: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The number of the last one.
    last: u32,
}

impl Sent {
    /// Gives a message its number. Other frames have none.
    pub fn number(&mut self, frame: &mut [u8]) {
        if frame.get(4) != Some(&(Kind::Message as u8)) {
            return;
        }
        self.last = after(self.last);
        frame[HEADER - 4..HEADER].copy_from_slice(&self.last.to_le_bytes());
        codec::bind(&mut frame[HEADER..], self.last);
    }

    /// Keeps a numbered frame as it was written.
    pub fn keep(&mut self, frame: Vec<u8>) {
        if !matches!(frame.get(4), Some(kind) if [Kind::Message as u8, Kind::Packed as u8].contains(kind)) {
            return;
        }
        self.bytes += frame.len();
        self.kept.push_back(frame);
        while self.bytes > KEPT
            && self.kept.len() > 1
            && let Some(old) = self.kept.pop_front()
        {
            self.bytes -= old.len();
        }
    }

    /// The frames from this number on; `None` if it is kept no more. A broken copy of what was taken already makes the other
    /// side ask for what was not written yet: there is nothing to be sent then.
    pub fn since(&self, number: u32) -> Option<impl Iterator<Item = &Vec<u8>>> {
        let found = self.kept.iter().position(|frame| frame[HEADER - 4..HEADER] == number.to_le_bytes());
        let to_come = (number == after(self.last)).then_some(self.kept.len());
        Some(self.kept.iter().skip(found.or(to_come)?))
    }

    /// What a ping tells: the number of the last message.
    pub fn last(&self) -> u32 {
        self.last
    }
}

/// What is to be done with a message that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    Take,
    /// It was taken before, or comes once more after the one that is missing.
    Pass,
    /// Ask for this one, and all after it, again.
    Ask(u32),
}

/// Which message is to come next.
#[derive(Debug)]
pub struct Heard {
    next: u32,
    /// How often it was asked for.
    asks: u32,
    /// Bytes of others that came since.
    passed: usize,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard { next: 1, asks: 0, passed: 0 }
    }
}

impl Heard {
    /// A message of so many bytes with this number came; `whole`: as it was sent.
    ///
    /// # Errors
    /// [`LinkError::Broken`] if the same one comes broken again and again.
    pub fn arrived(&mut self, number: u32, bytes: usize, whole: bool) -> Result<Arrived, LinkError> {
        match (number == self.next, whole) {
            (true, true) => {
                self.next = after(self.next);
                self.asks = 0;
                Ok(Arrived::Take)
            }
            // Taken before.
            (false, true) if self.next.wrapping_sub(number) < u32::MAX / 2 => Ok(Arrived::Pass),
            // What follows a broken frame is on its way already: asking once is enough.
            (false, _) if self.asks > 0 && self.passed < PASSED => {
                self.passed += HEADER + bytes;
                Ok(Arrived::Pass)
            }
            _ => self.ask(),
        }
    }

    /// The other side has written nothing for a while; its last message had this number.
    pub fn rests(&mut self, last: u32) -> Result<Arrived, LinkError> {
        if self.next != after(last) {
            return self.ask();
        }
        // Nothing is missing, whatever was asked for.
        self.asks = 0;
        Ok(Arrived::Pass)
    }

    fn ask(&mut self) -> Result<Arrived, LinkError> {
        self.asks += 1;
        self.passed = 0;
        match self.asks > ASKS {
            true => Err(LinkError::Broken),
            false => Ok(Arrived::Ask(self.next)),
        }
    }
}

/// The number that follows. 0 is none.
fn after(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(1)
}

/// A number in a frame that has no checksum: twice, once turned round.
pub fn write_number(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&(!number).to_le_bytes());
    bytes
}

/// The number, if it is whole.
pub fn read_number(payload: &[u8]) -> Option<u32> {
    let number = u32::from_le_bytes(payload.first_chunk::<4>().copied()?);
    (payload == write_number(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Reply;

    fn frame(sent: &mut Sent) -> Vec<u8> {
        let mut frame = codec::encode(&Reply::RowsEnd).unwrap();
        sent.number(&mut frame);
        frame
    }

    #[test]
    fn what_is_missing_is_asked_for_once_and_taken_when_it_comes() {
        let mut heard = Heard::default();
        let story = [
            (1, true, Arrived::Take),
            (2, false, Arrived::Ask(2)),
            (3, true, Arrived::Pass),
            (4, false, Arrived::Pass),
            (2, true, Arrived::Take),
            (3, true, Arrived::Take),
            // Taken before.
            (2, true, Arrived::Pass),
            // One is missing.
            (5, true, Arrived::Ask(4)),
            (6, true, Arrived::Pass),
            (4, true, Arrived::Take),
        ];
        for (number, whole, expected) in story {
            assert_eq!(heard.arrived(number, 100, whole).unwrap(), expected, "{number}");
        }
        assert_eq!(heard.rests(4).unwrap(), Arrived::Pass);
        // The last one never came, nor did the question.
        assert_eq!(heard.rests(5).unwrap(), Arrived::Ask(5));
        assert_eq!(heard.rests(5).unwrap(), Arrived::Ask(5));
        for _ in 0..ASKS - 2 {
            heard.arrived(5, 100, false).unwrap();
        }
        assert!(matches!(heard.arrived(5, 100, false), Err(LinkError::Broken)));
    }

    #[test]
    fn however_many_small_messages_follow_a_broken_one_it_is_waited_for() {
        let mut heard = Heard::default();
        assert_eq!(heard.arrived(1, 20, false).unwrap(), Arrived::Ask(1));
        let asked = (2..60_000).filter(|n| heard.arrived(*n, 20, true).unwrap() != Arrived::Pass).count();
        assert_eq!(asked, 1);
        assert_eq!(heard.arrived(1, 20, true).unwrap(), Arrived::Take);
        // Pings that come broken where nothing is missing do not add up.
        for _ in 0..100 {
            heard.arrived(0, 8, false).unwrap();
            assert_eq!(heard.rests(1).unwrap(), Arrived::Pass);
        }
    }

    #[test]
    fn the_last_frames_are_kept() {
        let mut sent = Sent::default();
        for _ in 0..3 {
            let frame = frame(&mut sent);
            sent.keep(frame);
        }
        let again = |sent: &Sent, number| sent.since(number).map(Iterator::count);
        assert_eq!((again(&sent, 1), again(&sent, 3), again(&sent, 5)), (Some(3), Some(1), None));
        // What comes next was not written yet: it will be.
        assert_eq!((again(&sent, 4), again(&Sent::default(), 1)), (Some(0), Some(0)));
        let mut large = frame(&mut sent);
        large.resize(KEPT, 0);
        sent.keep(large);
        assert_eq!((again(&sent, 3), again(&sent, 4)), (None, Some(1)));
    }

    #[test]
    fn numbers_come_back_whole_or_not_at_all() {
        for number in [0, 1, 255, u32::MAX] {
            let mut bytes = write_number(number);
            assert_eq!(read_number(&bytes), Some(number));
            bytes[5] ^= 4;
            assert_eq!((read_number(&bytes), read_number(&bytes[..7])), (None, None));
        }
    }
}
