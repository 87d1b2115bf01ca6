//! Which of `size` places are taken: a bit each. Pure; chance comes in as an argument.

/// Places 0 to `size`, of which the first `band` are the last to be given out unasked: people ask for those by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    size: u32,
    band: u32,
    taken: u32,
}

/// Upstream's static band: a share of the range, within bounds; none in ranges too small to share.
pub(crate) fn band(size: u32, step: u32, least: u32, most: u32) -> u32 {
    if size <= least { 0 } else { (size / step).clamp(least, most) }
}

impl Bitmap {
    pub(crate) fn new(size: u32, band: u32) -> Self {
        Bitmap { words: vec![0; size.div_ceil(64) as usize], size, band: band.min(size), taken: 0 }
    }

    pub(crate) fn has(&self, place: u32) -> bool {
        self.words.get((place / 64) as usize).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    /// The places that are taken, in order.
    pub(crate) fn taken(&self) -> impl Iterator<Item = u32> {
        (0..self.size).filter(|place| self.has(*place))
    }

    /// Takes a place; false when it is taken already or outside.
    pub(crate) fn take(&mut self, place: u32) -> bool {
        if place >= self.size || self.has(place) {
            return false;
        }
        self.words[(place / 64) as usize] |= 1 << (place % 64);
        self.taken += 1;
        true
    }

    /// Gives a place back; giving back a free one is nothing.
    pub(crate) fn free(&mut self, place: u32) {
        if place < self.size && self.has(place) {
            self.words[(place / 64) as usize] &= !(1 << (place % 64));
            self.taken -= 1;
        }
    }

    /// Takes a free place above the band, starting the search at a place that `chance` picks; then below it. Nothing when full.
    pub(crate) fn take_any(&mut self, chance: u32) -> Option<u32> {
        if self.taken >= self.size {
            return None;
        }
        let found = self.search(self.band, self.size, chance).or_else(|| self.search(0, self.band, chance))?;
        self.take(found).then_some(found)
    }

    /// The first free place in `[low, high)`, from somewhere within it and around.
    fn search(&self, low: u32, high: u32, chance: u32) -> Option<u32> {
        let width = high.checked_sub(low).filter(|width| *width > 0)?;
        let start = low + chance % width;
        self.first_free(start, high).or_else(|| self.first_free(low, start))
    }

    fn first_free(&self, low: u32, high: u32) -> Option<u32> {
        let mut place = low;
        while place < high {
            let word = self.words[(place / 64) as usize] >> (place % 64);
            // Ones shifted in from above would look free, so only what is left of the word counts.
            let free = word.trailing_ones();
            if free < 64 - place % 64 {
                return Some(place + free).filter(|found| *found < high);
            }
            place += 64 - place % 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bands_are_upstreams() {
        assert_eq!(band(65_534, 16, 16, 256), 256);
        assert_eq!(band(254, 16, 16, 256), 16);
        assert_eq!(band(14, 16, 16, 256), 0);
        assert_eq!(band(2768, 32, 16, 128), 86);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(size in 1u32..200, band in 0u32..50, steps in prop::collection::vec((0u8..3, any::<u32>()), 0..300)) {
            let mut bits = Bitmap::new(size, band);
            let mut set = BTreeSet::new();
            for (step, number) in steps {
                match step {
                    0 => {
                        let place = number % (size + 3);
                        prop_assert_eq!(bits.take(place), place < size && set.insert(place));
                    }
                    1 => {
                        bits.free(number % size);
                        set.remove(&(number % size));
                    }
                    _ => match bits.take_any(number) {
                        Some(place) => {
                            let above_full = (band.min(size)..size).all(|place| set.contains(&place));
                            prop_assert!(place >= band || above_full);
                            prop_assert!(set.insert(place));
                        }
                        None => prop_assert_eq!(set.len(), size as usize),
                    },
                }
            }
            for place in 0..size {
                prop_assert_eq!(bits.has(place), set.contains(&place));
            }
        }
    }
}
