//! MessagePack with named fields, sealed by a CRC-32 where it is stored.
//!
//! Named, so that a field can be added later. RocksDB checks its own blocks; the seal also covers what passed through memory
//! between here and there, and binds a value to its key.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the checksum before a sealed value.
const SEAL_BYTES: usize = 4;

pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(io::Error::other)
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

pub fn seal<T: Serialize>(key: &[u8], value: &T) -> io::Result<Vec<u8>> {
    let mut sealed = vec![0; SEAL_BYTES];
    rmp_serde::encode::write_named(&mut sealed, value).map_err(io::Error::other)?;
    let sum = checksum(key, &sealed[SEAL_BYTES..]);
    sealed[..SEAL_BYTES].copy_from_slice(&sum);
    Ok(sealed)
}

pub fn unseal<T: DeserializeOwned>(key: &[u8], sealed: &[u8]) -> io::Result<T> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its checksum does not match");
    let (sum, body) = sealed.split_at_checked(SEAL_BYTES).ok_or_else(damaged)?;
    if sum != checksum(key, body) {
        return Err(damaged());
    }
    decode(body)
}

fn checksum(key: &[u8], body: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_and_any_other_key_is_noticed() {
        let sealed = seal(b"key", &vec!["value".to_string(); 3]).unwrap();
        assert!(unseal::<Vec<String>>(b"key", &sealed).is_ok());
        assert!(unseal::<Vec<String>>(b"kez", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<Vec<String>>(b"key", &damaged).is_err(), "bit {bit}");
        }
        assert!(unseal::<Vec<String>>(b"key", &sealed[..2]).is_err());
    }
}
