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
        let mut bytes = Vec::new();
        Ok(self.read_into(&mut bytes, path, most).await?.then_some(bytes))
    }

    /// The same, into `bytes` and in place of what is there. False if there are none, or more than `most`.
    ///
    /// # Errors
    /// When nobody can say.
    pub async fn read_into(&mut self, bytes: &mut Vec<u8>, path: &str, most: usize) -> Result<bool, FilesError> {
        bytes.clear();
        match self {
            Files::Folder(dir) => read_file(bytes, dir.join(path), most),
            Files::Http(fetch) => {
                let got = fetch.get(path, most).await?;
                let there = got.is_some();
                *bytes = got.unwrap_or_default();
                Ok(there)
            }
        }
    }
}

fn read_file(bytes: &mut Vec<u8>, path: PathBuf, most: usize) -> Result<bool, FilesError> {
    let length = std::fs::File::open(&path).and_then(|file| file.take(most as u64 + 1).read_to_end(bytes));
    match length {
        Ok(length) => Ok(length <= most),
        // A file in a directory's place, or the other way round, is as good as none.
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::IsADirectory].contains(&error.kind()) =>
        {
            Ok(false)
        }
        Err(error) => Err(FilesError::Io { path, error }),
    }
}
