//! Conflicts under way: whose version is to lose its name, until that side says what became of it.
//!
//! A conflict is told when its loser has its new name, since before that the action may be refused and the name be taken. But
//! the answer can be lost with the link. Then the rows tell that both sides exchange at the next session's beginning: an action
//! that is in the loser's archive was done, and one that is not never will be, and its number is given anew.

use std::collections::BTreeMap;

use crate::model::{Generation, RelPath, Side};
use crate::protocol::Reply;

/// Conflicts that are kept in mind; of more the oldest are forgotten.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Losing(BTreeMap<Generation, (Side, RelPath)>);

impl Losing {
    /// An action begins that takes its name from this side's version.
    pub fn begins(&mut self, generation: Generation, loser: Side, path: &RelPath) {
        if self.0.len() >= MOST {
            self.0.pop_first();
        }
        self.0.insert(generation, (loser, path.clone()));
    }

    /// Its side has said what became of it.
    pub fn is_told(&mut self, generation: Generation) {
        self.0.remove(&generation);
    }

    /// A side says something: the conflicts that are over without an answer, as its rows tell.
    pub fn heard(&mut self, side: Side, reply: &Reply) -> Vec<(Generation, RelPath)> {
        match reply {
            Reply::Rows { rows } => {
                let of_side = |generation: &Generation| self.0.get(generation).is_some_and(|(loser, _)| *loser == side);
                let done: Vec<Generation> = rows.iter().map(|row| row.generation).filter(of_side).collect();
                let told = |generation| self.0.remove(&generation).map(|(_, path)| (generation, path));
                done.into_iter().filter_map(told).collect()
            }
            Reply::RowsEnd => {
                self.0.retain(|_, (loser, _)| *loser != side);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::AncestorRow;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    fn rows(generations: &[Generation]) -> Reply {
        let row = |generation: &Generation| AncestorRow {
            node: *generation,
            parent: 1,
            path: path("by now elsewhere"),
            generation: *generation,
            entry: None,
            joint: false,
        };
        Reply::Rows { rows: generations.iter().map(row).collect() }
    }

    #[test]
    fn what_was_done_without_an_answer_is_told_once_by_the_losers_rows() {
        let mut losing = Losing::default();
        for (generation, loser, at) in [
            (17, Side::Left, "answered"),
            (18, Side::Right, "done"),
            (19, Side::Right, "not done"),
            (20, Side::Left, "other"),
        ] {
            losing.begins(generation, loser, &path(at));
        }
        losing.is_told(17);
        // The link breaks, and both sides say what they have.
        assert_eq!(losing.heard(Side::Left, &rows(&[17, 18, 19])), [], "answered, or the other side's to say");
        assert_eq!(losing.heard(Side::Right, &rows(&[16, 18, 20])), [(18, path("done"))]);
        assert_eq!(losing.heard(Side::Right, &Reply::RowsEnd), []);
        assert_eq!(losing.heard(Side::Left, &rows(&[20])), [(20, path("other"))]);
        assert_eq!(losing.heard(Side::Left, &Reply::RowsEnd), []);
        // The numbers of what was never done are given anew.
        assert_eq!(losing.heard(Side::Right, &rows(&[18, 19])), []);
    }
}
