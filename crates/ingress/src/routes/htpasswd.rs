//! Users of basic authentication, from the Secret that an Ingress names: htpasswd lines, or a key a user.
//!
//! bcrypt, Apache's MD5 (`$apr1$`) and `{SHA}` are understood. A line of another kind is a fault, and its user cannot come in.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use sha1::Sha1;

/// The users of one Secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Users {
    hashes: BTreeMap<String, Hash>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hash {
    Bcrypt(String),
    Apr1 { salt: String, digest: String },
    Sha1([u8; 20]),
}

/// What a client showed, from its Authorization header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    /// Reads `Basic …` (RFC 7617).
    pub fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        let (scheme, encoded) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Credentials { user: user.to_owned(), password: password.to_owned() })
    }
}

impl Users {
    /// Reads an htpasswd file; the second part tells of lines that are left out.
    pub fn file(text: &str) -> (Self, Vec<String>) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pairs = lines.enumerate().map(|(number, line)| line.split_once(':').ok_or(number + 1));
        let (mut users, mut faults) = (Users::default(), Vec::new());
        for pair in pairs {
            match pair {
                Ok((user, hash)) => users.add(user, hash, &mut faults),
                Err(number) => faults.push(format!("line {number} is not `user:hash`")),
            }
        }
        (users, faults)
    }

    /// Reads a hash for each user.
    pub fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> (Self, Vec<String>) {
        let (mut users, mut faults) = (Users::default(), Vec::new());
        for (user, hash) in pairs {
            users.add(user, hash.trim(), &mut faults);
        }
        (users, faults)
    }

    fn add(&mut self, user: &str, hash: &str, faults: &mut Vec<String>) {
        match Hash::parse(hash) {
            Some(hash) => drop(self.hashes.insert(user.to_owned(), hash)),
            None => faults.push(format!("the hash of user `{user}` is not bcrypt, apr1 or SHA")),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether these are a user and its password. Slow on purpose for bcrypt: not for a thread that serves others.
    pub fn admit(&self, shown: &Credentials) -> bool {
        self.hashes.get(&shown.user).is_some_and(|hash| hash.verify(&shown.password))
    }
}

impl Hash {
    fn parse(text: &str) -> Option<Self> {
        if ["$2a$", "$2b$", "$2y$", "$2x$"].iter().any(|prefix| text.starts_with(prefix)) {
            return Some(Hash::Bcrypt(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("$apr1$") {
            let (salt, digest) = rest.split_once('$')?;
            let salt = salt.chars().take(8).collect();
            return Some(Hash::Apr1 { salt, digest: digest.to_owned() });
        }
        let digest = STANDARD.decode(text.strip_prefix("{SHA}")?).ok()?;
        Some(Hash::Sha1(digest.try_into().ok()?))
    }

    fn verify(&self, password: &str) -> bool {
        match self {
            Hash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Hash::Apr1 { salt, digest } => same(apr1(password, salt).as_bytes(), digest.as_bytes()),
            Hash::Sha1(digest) => same(&Sha1::digest(password.as_bytes()), digest),
        }
    }
}

/// Compares without telling by its time where the difference is.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Apache's variant of the MD5 crypt: a thousand rounds over password and salt.
fn apr1(password: &str, salt: &str) -> String {
    let (password, salt) = (password.as_bytes(), salt.as_bytes());
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(b"$apr1$").chain_update(salt);
    for block in password.chunks(16) {
        outer.update(&inner[..block.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        next.update(if round & 1 == 1 { password } else { &digest[..] });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if round & 1 == 1 { &digest[..] } else { password });
        digest = next.finalize();
    }
    encode(&digest)
}

/// Its own order of bytes and its own alphabet.
fn encode(digest: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(22);
    let mut push = |mut value: u32, digits: usize| {
        for _ in 0..digits {
            text.push(char::from(ALPHABET[(value & 0x3f) as usize]));
            value >>= 6;
        }
    };
    for [high, middle, low] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        let byte = |index: usize| u32::from(digest[index]);
        push(byte(high) << 16 | byte(middle) << 8 | byte(low), 4);
    }
    push(u32::from(digest[11]), 2);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: password.into() }
    }

    #[test]
    fn each_kind_of_hash_is_verified() {
        // The second line by `openssl passwd -apr1 -salt abcdefgh`, the third by `openssl dgst -sha1 -binary | base64`.
        let bcrypt = bcrypt::hash("secret", 4).unwrap();
        let file = format!(
            "# users\nann:{bcrypt}\nbob:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\ncat:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"
        );
        let (users, faults) = Users::file(&file);
        assert_eq!(faults, Vec::<String>::new());
        assert!(users.admit(&shown("ann", "secret")) && !users.admit(&shown("ann", "Secret")));
        assert!(users.admit(&shown("bob", "secret")));
        assert_eq!(apr1("a much longer password than sixteen", "xyz"), "0Oxkg6Mx1XYzpHgDNzsQY/");
        assert!(users.admit(&shown("cat", "secret")) && !users.admit(&shown("cat", "")));
        assert!(!users.admit(&shown("bob", "wrong")) && !users.admit(&shown("eve", "secret")));
    }

    #[test]
    fn other_lines_are_told_and_admit_nobody() {
        let (users, faults) = Users::file("ann:plain\nno colon\n");
        assert!(users.is_empty());
        assert_eq!(faults, ["the hash of user `ann` is not bcrypt, apr1 or SHA", "line 2 is not `user:hash`"]);
        assert!(!users.admit(&shown("ann", "plain")));
    }

    #[test]
    fn the_header_is_read() {
        assert_eq!(Credentials::parse(b"Basic YW5uOnNlOmNyZXQ="), Some(shown("ann", "se:cret")));
        for bad in [&b"Bearer x"[..], b"Basic", b"Basic !!", b"Basic YW5u", b"\xff"] {
            assert_eq!(Credentials::parse(bad), None);
        }
    }
}
