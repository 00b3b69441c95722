//! Frames on the sockets between keeper, data path and command line: a length and one JSON value.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame, bytes.
pub const MAX_FRAME: usize = 16 << 20;

/// Writes one value.
///
/// # Errors
/// When the other side is gone, or the value is longer than [`MAX_FRAME`].
pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes is too long")));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&bytes)
}

/// Reads one value.
///
/// # Errors
/// When the other side is gone, or speaks nonsense.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes is too long")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives() {
        let mut bytes = Vec::new();
        write(&mut bytes, &("x", 7)).expect("writes");
        let back: (String, u8) = read(&mut bytes.as_slice()).expect("reads");
        assert_eq!(back, ("x".to_owned(), 7));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(read::<u8>(&mut bytes.as_slice()).is_err());
    }
}
