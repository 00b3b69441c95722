//! The command line's end of the control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::exit;
use crate::config::Config;
use crate::keeper::control::{Request, Response};
use crate::keeper::frame;
use crate::keeper::serve::Places;

/// Why the daemon did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("the daemon is not running ({path}: {why}): start it with `sudo caracald attach`")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the daemon went away: {0}")]
    Broken(io::Error),
}

impl ControlError {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ControlError::NotRunning { .. } | ControlError::Broken(_) => exit::UNAVAILABLE,
            ControlError::Refused(why) if why.contains("root") || why.contains("governed process") => {
                exit::NOT_PERMITTED
            }
            ControlError::Refused(_) => 1,
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Control(UnixStream);

impl Control {
    /// Connects to the daemon of this configuration.
    ///
    /// # Errors
    /// When it is not running.
    pub fn connect(config: &Config) -> Result<Control, ControlError> {
        let path = Places::of(config).control;
        UnixStream::connect(&path).map(Control).map_err(|why| ControlError::NotRunning { path, why })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the daemon says no, or went away.
    pub fn ask(&mut self, request: &Request) -> Result<Value, ControlError> {
        frame::write(&mut self.0, request).map_err(ControlError::Broken)?;
        frame::read::<Response>(&mut self.0).map_err(ControlError::Broken)?.map_err(ControlError::Refused)
    }
}
