//! Where the static files of a log are read: a folder, or a base URL. Takes a path of the format; gives bytes, never more than
//! were asked for. Believes nothing of them.

use super::fetch::Fetch;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

/// Why a file could not be read. That there is none is an answer, and no error.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The folder.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        error: std::io::Error,
    },
    /// The address is not one that can be read.
    #[error("{0}: a log's address begins with http:// or https:// and ends where `checkpoint` is to be added")]
    Address(String),
    /// The server.
    #[error("{url}: {why}")]
    Http {
        /// Where.
        url: String,
        /// What.
        why: String,
    },
}

/// A log's files.
#[derive(Debug)]
pub enum Files {
    /// Below this directory.
    Folder(PathBuf),
    /// Below this address.
    Http(Box<Fetch>),
}

impl Files {
    /// The bytes at `path`; `None` if there are none, or more than `most`.
    ///
    /// # Errors
    /// When nobody can say.
    pub async fn read(&mut self, path: &str, most: usize) -> Result<Option<Vec<u8>>, FilesError> {
        match self {
            Files::Folder(dir) => read_file(dir.join(path), most),
            Files::Http(fetch) => fetch.get(path, most).await,
        }
    }
}

fn read_file(path: PathBuf, most: usize) -> Result<Option<Vec<u8>>, FilesError> {
    let read = || {
        let mut bytes = Vec::new();
        let length = std::fs::File::open(&path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
        std::io::Result::Ok((length <= most).then_some(bytes))
    };
    match read() {
        Ok(bytes) => Ok(bytes),
        // A file in a directory's place, or the other way round, is as good as none.
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::IsADirectory].contains(&error.kind()) =>
        {
            Ok(None)
        }
        Err(error) => Err(FilesError::Io { path, error }),
    }
}
