//! Frames on the sockets between keeper, data path and command line: a length and one JSON value.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame, bytes.
pub const MAX_FRAME: usize = 16 << 20;

/// The most descriptors that one frame carries.
pub const MAX_DESCRIPTORS: usize = 8;

/// Writes one value.
///
/// # Errors
/// When the other side is gone, or the value is longer than [`MAX_FRAME`].
pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    to.write_all(&frame(value)?)
}

/// Writes one value, and descriptors with it (`SCM_RIGHTS`, unix(7)).
///
/// # Errors
/// Those of [`write`].
pub fn write_with<T: Serialize>(to: &mut UnixStream, value: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = frame(value)?;
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let (length, rest) = bytes.split_at(4);
    // They travel with the first byte; four bytes always fit, or nothing does.
    let sent = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(length)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    to.write_all(&length[sent..])?;
    to.write_all(rest)
}

/// Reads one value and the descriptors that came with it, closed on exec.
///
/// # Errors
/// Those of [`read`].
pub fn read_with<T: DeserializeOwned>(from: &mut UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut descriptors = Vec::new();
    let received = {
        let mut into = [IoSliceMut::new(&mut length)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(from.as_raw_fd(), &mut into, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these for us, and nobody else has them.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        message.bytes
    };
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    from.read_exact(&mut length[received..])?;
    Ok((body(length, from)?, descriptors))
}

fn frame<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes is too long")));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Reads one value.
///
/// # Errors
/// When the other side is gone, or speaks nonsense.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    body(length, from)
}

fn body<T: DeserializeOwned>(length: [u8; 4], from: &mut impl Read) -> io::Result<T> {
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
    fn descriptors_travel_with_their_frame_and_no_other() {
        use std::os::fd::AsFd;
        let (mut near, mut far) = UnixStream::pair().expect("a pair");
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().expect("a pair")).collect();
        let sent: Vec<_> = pairs.iter().map(|pair| pair.0.as_fd()).collect();
        write_with(&mut near, &1_u8, &[]).expect("writes");
        write_with(&mut near, &2_u8, &sent).expect("writes");
        write(&mut near, &3_u8).expect("writes");
        let counts: Vec<(u8, usize)> = (0..3)
            .map(|_| read_with::<u8>(&mut far).expect("reads"))
            .map(|(value, descriptors)| (value, descriptors.len()))
            .collect();
        assert_eq!(counts, [(1, 0), (2, 3), (3, 0)]);
        drop(near);
        assert!(read_with::<u8>(&mut far).is_err());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(read::<u8>(&mut bytes.as_slice()).is_err());
    }
}
