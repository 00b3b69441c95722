//! Which network namespaces have our listeners, and the program that tells a namespace's cookie on older kernels.

use std::os::fd::BorrowedFd;

use aya::maps::{Array, HashMap, MapError};
use caracal_common::name;

use super::{Kernel, chain, kernel, load};
use crate::keeper::KeeperError;

impl Kernel {
    /// Says that the namespace with this cookie has our listeners.
    ///
    /// # Errors
    /// When the map is full.
    pub fn admit_namespace(&mut self, cookie: u64) -> Result<(), KeeperError> {
        let mut map: HashMap<_, u64, u8> = self.typed(name::NAMESPACES)?;
        map.insert(cookie, 1, 0).map_err(|error| kernel(format!("cannot admit a namespace: {}", chain(&error))))
    }

    /// Says that the namespace with this cookie has our listeners no longer.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn withdraw_namespace(&mut self, cookie: u64) -> Result<(), KeeperError> {
        let mut map: HashMap<_, u64, u8> = self.typed(name::NAMESPACES)?;
        match map.remove(&cookie) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(kernel(format!("cannot withdraw a namespace: {}", chain(&error)))),
        }
    }

    /// Says that the namespace with this cookie has our listeners, and no other.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn keep_namespace(&mut self, cookie: u64) -> Result<(), KeeperError> {
        let map: HashMap<_, u64, u8> = self.typed(name::NAMESPACES)?;
        let others: Vec<u64> = map.keys().filter_map(Result::ok).filter(|other| *other != cookie).collect();
        others.into_iter().try_for_each(|other| self.withdraw_namespace(other))?;
        self.admit_namespace(cookie)
    }

    /// The program that tells cookies, loaded.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn cookie_program(&mut self) -> Result<BorrowedFd<'_>, KeeperError> {
        let program =
            self.ebpf.program_mut(name::NETNS_COOKIE).ok_or_else(|| kernel("a program is missing".to_owned()))?;
        if program.fd().is_err() {
            load(program).map_err(|error| kernel(chain(&error)))?;
        }
        self.program(name::NETNS_COOKIE).map_err(|error| kernel(error.to_string()))
    }

    /// What that program saw last, 0 if nothing; forgotten from now on.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn take_cookie(&mut self) -> Result<u64, KeeperError> {
        let mut map: Array<_, u64> = self.typed(name::COOKIE)?;
        let cookie = map.get(&0, 0).map_err(|error| kernel(chain(&error)))?;
        map.set(0, 0, 0).map_err(|error| kernel(chain(&error)))?;
        Ok(cookie)
    }
}
