//! Sets of completion indexes as a Job's status writes them: `1,3-5,7`.
//!
//! A Job may have a hundred thousand indexes, and most of a set are runs: it is kept as ordered, disjoint intervals.

use std::collections::BTreeSet;
use std::fmt;

/// A set of indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what a status says of a Job with so many completions. What lies beyond them does not count any more.
    pub fn parse(text: &str, completions: i32) -> Indexes {
        let mut intervals = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>()) else { continue };
            if first <= last && first < completions {
                intervals.push((first, last.min(completions - 1)));
            }
        }
        Indexes::joined(intervals)
    }

    fn joined(mut intervals: Vec<(i32, i32)>) -> Indexes {
        intervals.sort_unstable();
        let mut joined: Vec<(i32, i32)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                Some(_) | None => joined.push((first, last)),
            }
        }
        Indexes(joined)
    }

    pub fn contains(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).is_some_and(|before| self.0[before].1 >= index)
    }

    /// How many there are.
    pub fn total(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    #[must_use]
    pub fn with(&self, more: &BTreeSet<i32>) -> Indexes {
        let singles = more.iter().map(|index| (*index, *index));
        Indexes::joined(self.0.iter().copied().chain(singles).collect())
    }

    #[must_use]
    pub fn and(&self, other: &Indexes) -> Indexes {
        Indexes::joined(self.0.iter().chain(&other.0).copied().collect())
    }

    /// How many of `wanted` are in the set.
    pub fn shared(&self, wanted: &Indexes) -> i32 {
        let overlap = |(a, b): &(i32, i32)| -> i32 {
            self.0.iter().map(|(first, last)| (last.min(b) - first.max(a) + 1).max(0)).sum()
        };
        wanted.0.iter().map(overlap).sum()
    }

    /// The lowest indexes below `completions` that are not in the set.
    pub fn missing(&self, completions: i32) -> impl Iterator<Item = i32> {
        let starts = std::iter::once(0).chain(self.0.iter().map(|(_, last)| last.saturating_add(1)));
        let ends = self.0.iter().map(|(first, _)| *first).chain(std::iter::once(completions));
        let gaps: Vec<_> = starts.zip(ends).map(|(start, end)| start..end.min(completions)).collect();
        gaps.into_iter().flatten()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_written_short() {
        let set = Indexes::default().with(&BTreeSet::from([0, 2, 3, 5, 6, 7, 9]));
        assert_eq!(set.to_string(), "0,2,3,5-7,9");
        assert_eq!(Indexes::parse("0,2,3,5-7,9", 7).to_string(), "0,2,3,5,6");
        assert_eq!(Indexes::parse("", 7), Indexes::default());
        assert_eq!(Indexes::parse("x,1-,4-2,1", 7).to_string(), "1");
    }

    proptest! {
        #[test]
        fn it_is_a_set(a in prop::collection::btree_set(0..40, 0..20), b in prop::collection::btree_set(0..40, 0..20)) {
            let set = Indexes::default().with(&a);
            prop_assert_eq!(&Indexes::parse(&set.to_string(), 40), &set);
            prop_assert_eq!(set.total(), i32::try_from(a.len()).unwrap());
            prop_assert!((0..40).all(|index| set.contains(index) == a.contains(&index)));
            let missing: BTreeSet<i32> = set.missing(40).collect();
            prop_assert!((0..40).all(|index| missing.contains(&index) != a.contains(&index)));
            let other = Indexes::default().with(&b);
            prop_assert_eq!(set.and(&other), set.with(&b));
            prop_assert_eq!(set.shared(&other), i32::try_from(a.intersection(&b).count()).unwrap());
        }
    }
}
