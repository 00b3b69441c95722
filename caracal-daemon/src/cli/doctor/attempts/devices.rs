//! By a device: a tunnel, a disk, or whatever has a number.

use super::{Done, Place};
use crate::cli::doctor::outside;
use nix::sys::stat::{Mode, SFlag, mknod};
use std::fs;
use std::io;

pub(super) fn tun(_: &Place) -> Done {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    outside::claim_tunnel(&device)
}

/// Opens a character device by its numbers, to read: nothing is read.
pub(super) fn character(place: &Place, numbers: &str) -> Done {
    open_device(place, SFlag::S_IFCHR, numbers)
}

fn open_device(place: &Place, kind: SFlag, numbers: &str) -> Done {
    let mut words = numbers.trim().split(':').filter_map(|word| word.parse::<u64>().ok());
    let (Some(major), Some(minor)) = (words.next(), words.next()) else {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
    };
    let node = place.dir.join(format!("node-{}", std::process::id()));
    mknod(&node, kind, Mode::S_IRUSR, nix::sys::stat::makedev(major, minor))?;
    let opened = fs::File::open(&node);
    fs::remove_file(&node)?;
    opened.map(drop)
}

/// A disk that is neither a process's memory nor its file: any that opens, as a host may keep some from everybody.
pub(super) fn disk(place: &Place) -> Done {
    let own = |name: &str| ["loop", "ram"].iter().any(|kind| name.starts_with(kind));
    let mut refused = io::Error::from_raw_os_error(libc::ENODEV);
    for entry in fs::read_dir("/sys/class/block")?.flatten() {
        if !own(&entry.file_name().to_string_lossy()) {
            match open_device(place, SFlag::S_IFBLK, &fs::read_to_string(entry.path().join("dev"))?) {
                Ok(()) => return Ok(()),
                Err(error) => refused = error,
            }
        }
    }
    Err(refused)
}
