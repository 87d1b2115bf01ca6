//! Names that follow from content: the hash of a pod template and the suffixes of generated names, in Kubernetes' alphabet.

use std::hash::Hasher;

/// No vowels and no look-alikes, so that no suffix spells a word.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a with 32 bits: stable over releases and machines, unlike the standard library's hasher.
#[derive(Debug)]
pub struct Fnv(u32);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0x811c_9dc5)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        u64::from(self.0)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

/// A number as upstream encodes it into names: its decimal digits, each as a letter of the alphabet.
pub fn safe_encode(number: u64) -> String {
    number.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// Five characters, as a generated name ends.
pub fn suffix(mut number: u64) -> String {
    let base = ALPHABET.len() as u64;
    let mut letters = String::new();
    for _ in 0..5 {
        // The remainder is below the alphabet's length, so it fits.
        let index = usize::try_from(number % base).unwrap_or_default();
        letters.push(char::from(ALPHABET[index]));
        number /= base;
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_holds_no_vowel() {
        let text = safe_encode(1_234_567_890);
        assert_eq!(text.len(), 10);
        assert!(!text.chars().any(|letter| "aeiou013".contains(letter)), "{text}");
    }

    #[test]
    fn suffixes_of_different_numbers_differ() {
        assert_ne!(suffix(1), suffix(2));
        assert_eq!(suffix(7).len(), 5);
    }
}
