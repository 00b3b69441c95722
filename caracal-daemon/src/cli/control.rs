//! The command line's end of the control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::exit;
use crate::config::Config;
use crate::keeper::control::{Refused, Request, Response};
use crate::keeper::frame;
use crate::keeper::serve::Places;

/// How long an answer is waited for. The longest is an attach's: the keeper alone waits two minutes for the host's certificate tool.
const PATIENCE: Duration = Duration::from_secs(300);

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
    #[error("{}", .0.why())]
    Refused(Refused),
    /// The connection broke.
    #[error("the daemon went away: {0}")]
    Broken(io::Error),
    /// It is there and says nothing.
    #[error(
        "the daemon does not answer: its log may say why. A door that hangs is shut; `systemctl restart caracald` starts it anew, \
         and what is governed stays governed"
    )]
    Silent,
}

impl ControlError {
    fn of(error: io::Error) -> ControlError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ControlError::Silent,
            _ => ControlError::Broken(error),
        }
    }
}

impl ControlError {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ControlError::NotRunning { .. } | ControlError::Broken(_) | ControlError::Silent => exit::UNAVAILABLE,
            ControlError::Refused(Refused::NotPermitted { .. }) => exit::NOT_PERMITTED,
            ControlError::Refused(Refused::No(_)) => 1,
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Control(UnixStream);

impl Control {
    /// Connects to the daemon of this configuration; waits five minutes for each of its answers.
    ///
    /// # Errors
    /// When it is not running.
    pub fn connect(config: &Config) -> Result<Control, ControlError> {
        Control::patient(config, PATIENCE)
    }

    /// Likewise, with another patience.
    ///
    /// # Errors
    /// Those of [`Control::connect`].
    pub fn patient(config: &Config, patience: Duration) -> Result<Control, ControlError> {
        let path = Places::of(config).control;
        let stream = UnixStream::connect(&path).map_err(|why| ControlError::NotRunning { path, why })?;
        stream.set_read_timeout(Some(patience)).map_err(ControlError::Broken)?;
        stream.set_write_timeout(Some(patience)).map_err(ControlError::Broken)?;
        Ok(Control(stream))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the daemon says no, went away, or does not answer.
    pub fn ask(&mut self, request: &Request) -> Result<Value, ControlError> {
        frame::write(&mut self.0, request).map_err(ControlError::of)?;
        frame::read::<Response>(&mut self.0).map_err(ControlError::of)?.map_err(ControlError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_by_the_kind_of_no_and_not_by_its_words() {
        let heard = |sent: Response| {
            let (mut near, far) = UnixStream::pair().expect("a connection");
            frame::write(&mut near, &sent).expect("sent");
            // The request fits the socket's buffer: nobody needs to read it.
            Control(far).ask(&Request::Status).expect_err("a no")
        };
        let attach = "process 7 in /a.slice is root in the host's mount namespace".to_owned();
        let error = heard(Err(Refused::No(attach.clone())));
        assert_eq!((error.exit_code(), error.to_string()), (1, attach));
        let governed = "a governed process may not use the control socket".to_owned();
        let error = heard(Err(Refused::NotPermitted { not_permitted: governed.clone() }));
        assert_eq!((error.exit_code(), error.to_string()), (exit::NOT_PERMITTED, governed));
        // One that hangs.
        let (near, far) = UnixStream::pair().expect("a connection");
        far.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let silent = Control(far).ask(&Request::Status).expect_err("no answer");
        assert!(matches!(silent, ControlError::Silent), "{silent}");
        drop(near);
        // What a daemon of before says of everything.
        let (mut near, far) = UnixStream::pair().expect("a connection");
        frame::write(&mut near, &Err::<Value, _>("no".to_owned())).expect("sent");
        assert_eq!(Control(far).ask(&Request::Status).expect_err("a no").exit_code(), 1);
    }
}
