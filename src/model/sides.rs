//! The two sides of a pair, and one value of each.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// One of the two replicas of a pair. The left runs the brain, and wins ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    Left,
    Right,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Left, Side::Right];

    pub fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }

    /// `left` or `right`, as users read it.
    pub fn word(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }
}

/// One value of each side. Only a [`Side`] leads to one of them, so that nobody has to know which comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sides<T>([T; 2]);

impl<T> Sides<T> {
    pub const fn new(left: T, right: T) -> Sides<T> {
        Sides([left, right])
    }

    /// What that makes of each side, the left first.
    pub fn from_fn(make: impl FnMut(Side) -> T) -> Sides<T> {
        Sides(Side::BOTH.map(make))
    }

    /// The same on both.
    pub fn both(value: T) -> Sides<T>
    where
        T: Clone,
    {
        Sides([value.clone(), value])
    }

    /// The left's and the right's.
    pub fn split(self) -> (T, T) {
        let [left, right] = self.0;
        (left, right)
    }

    pub fn as_ref(&self) -> Sides<&T> {
        Sides(self.0.each_ref())
    }

    pub fn as_mut(&mut self) -> Sides<&mut T> {
        Sides(self.0.each_mut())
    }

    pub fn map<U>(self, make: impl FnMut(T) -> U) -> Sides<U> {
        Sides(self.0.map(make))
    }

    /// Each with its side, the left first.
    pub fn iter(&self) -> impl Iterator<Item = (Side, &T)> {
        Side::BOTH.into_iter().zip(&self.0)
    }

    /// The values alone, the left's first.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }

    /// The same, taken out.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.0.into_iter()
    }
}

impl<T> Index<Side> for Sides<T> {
    type Output = T;

    fn index(&self, side: Side) -> &T {
        let [left, right] = &self.0;
        match side {
            Side::Left => left,
            Side::Right => right,
        }
    }
}

impl<T> IndexMut<Side> for Sides<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        let [left, right] = &mut self.0;
        match side {
            Side::Left => left,
            Side::Right => right,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_leads_to_its_own_value() {
        let mut sides = Sides::from_fn(Side::word);
        assert_eq!((sides[Side::Left], sides[Side::Right]), ("left", "right"));
        assert!(sides.iter().all(|(side, word)| side.word() == *word));
        sides[Side::Right] = "mine";
        assert_eq!(sides, Sides::new("left", "mine"));
        assert_eq!(sides.map(str::len).split(), (4, 4));
    }
}
