//! Sealing what lies on a disk, so that whoever has the disk, or a copy of what is on it, does not have what it says.
//!
//! The key is kept elsewhere, and is a host's own. What is sealed is bound to its place: at another one it does not open. An older
//! sealed content at the same place does; who may write to the disk is not kept out by this.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};

/// How long a key is, in bytes.
pub const KEY_BYTES: usize = 32;

/// A key to seal with. What it is made of stands for two, derived with HKDF-SHA256: one that seals, one that makes names.
#[derive(Debug, Clone)]
pub struct Key {
    contents: LessSafeKey,
    names: hmac::Key,
}

impl Key {
    /// The key of these bytes, which were drawn at random.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let root = Salt::new(HKDF_SHA256, b"garrison").extract(bytes);
        let derived = "HKDF gives far more than a key's length";
        let contents = UnboundKey::from(root.expand(&[b"contents"], &CHACHA20_POLY1305).expect(derived));
        let names = hmac::Key::from(root.expand(&[b"names"], HMAC_SHA256).expect(derived));
        Self { contents: LessSafeKey::new(contents), names }
    }

    /// `content`, sealed for `place`: nonce, ciphertext and tag, [`NONCE_LEN`] and 16 bytes more than it had.
    ///
    /// ChaCha20-Poly1305 (RFC 8439), which is fast also without instructions of its own. The nonce is random: up to 2³² contents,
    /// one a second for a century, two having the same one is as good as impossible.
    pub fn seal(&self, place: &str, content: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).expect("the kernel has randomness, or waits until it has");
        let mut sealed = Vec::with_capacity(NONCE_LEN + content.len() + CHACHA20_POLY1305.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(content);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.contents.seal_in_place_separate_tag(nonce, Aad::from(place), &mut sealed[NONCE_LEN..]);
        sealed.extend_from_slice(tag.expect("what a node keeps is far below 256 GiB").as_ref());
        sealed
    }

    /// What was sealed for `place`; none if it was not with this key, or is not as it was.
    pub fn open(&self, place: &str, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = Nonce::assume_unique_for_key(*sealed.first_chunk()?);
        let content = self.contents.open_within(nonce, Aad::from(place), &mut sealed, NONCE_LEN..).ok()?.len();
        sealed.truncate(content);
        Some(sealed)
    }

    /// A name for what `text` names, from which nobody without the key can tell, or guess, what that is.
    pub fn name(&self, text: &str) -> [u8; 32] {
        hmac::sign(&self.names, text.as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_at_its_place_as_it_was() {
        let (key, other) = (Key::new(&[1; 32]), Key::new(&[2; 32]));
        for content in [&b""[..], b"a secret"] {
            let sealed = key.seal("here", content);
            assert_eq!(sealed.len(), NONCE_LEN + content.len() + 16);
            assert_ne!(sealed, key.seal("here", content), "the nonce is another one each time");
            assert_eq!(key.open("here", sealed.clone()).as_deref(), Some(content));
            assert_eq!(key.open("there", sealed.clone()), None);
            assert_eq!(other.open("here", sealed.clone()), None);
            for at in 0..sealed.len() {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1;
                assert_eq!(key.open("here", flipped), None, "flipped at {at}");
                assert_eq!(key.open("here", sealed[..at].to_vec()), None, "cut at {at}");
            }
        }
        assert_eq!(key.name("a"), key.name("a"));
        assert_ne!(key.name("a"), key.name("b"));
        assert_ne!(key.name("a"), other.name("a"));
    }
}
