//! The keeper's word that the kernel runs our programs, asked for by each probe of the data path before it renews the
//! lease. Takes a number; gives it back with yes or no. A keeper that hangs gives nothing, and the lease runs out.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A question is a number, an answer the same number and one byte.
const NUMBER: usize = 8;

/// The data path's side.
#[derive(Debug)]
pub struct Vouch {
    road: tokio::net::UnixStream,
    asked: u64,
    /// Of an answer, what has come so far: a probe may have given up in between.
    partial: Vec<u8>,
}

impl Vouch {
    /// Over this end of the pair; needs a runtime.
    ///
    /// # Errors
    /// When the socket cannot be made one of the runtime's.
    pub fn new(road: UnixStream) -> io::Result<Vouch> {
        road.set_nonblocking(true)?;
        Ok(Vouch { road: tokio::net::UnixStream::from_std(road)?, asked: 0, partial: Vec::new() })
    }

    /// Whether the keeper vouches, now. Can be given up at any point and asked again.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub async fn ask(&mut self) -> io::Result<bool> {
        self.asked += 1;
        // Eight bytes go into the buffer of a unix socket whole or not at all.
        self.road.write_all(&self.asked.to_ne_bytes()).await?;
        loop {
            while self.partial.len() < NUMBER + 1 {
                let mut more = [0; NUMBER + 1];
                let wanted = more.get_mut(self.partial.len()..).unwrap_or_default();
                let read = self.road.read(wanted).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let at = self.partial.len();
                self.partial.extend_from_slice(more.get(at..at + read).unwrap_or_default());
            }
            let answer = std::mem::take(&mut self.partial);
            // Answers to questions that were given up come first.
            if answer.get(..NUMBER) == Some(self.asked.to_ne_bytes().as_slice()) {
                return Ok(answer.get(NUMBER) == Some(&1));
            }
        }
    }
}

/// The keeper's side: answers until the data path closes its end.
pub fn serve(mut road: UnixStream, word: impl Fn() -> bool) {
    let mut question = [0; NUMBER];
    while road.read_exact(&mut question).is_ok() {
        let mut answer = [0; NUMBER + 1];
        answer[..NUMBER].copy_from_slice(&question);
        answer[NUMBER] = u8::from(word());
        if road.write_all(&answer).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_the_next_one() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let (go, wait) = sync_channel::<bool>(4);
        std::thread::spawn(move || serve(far, move || wait.recv().unwrap_or(false)));
        let mut vouch = Vouch::new(near).expect("a road");
        // The keeper hangs, and the probe gives up.
        assert!(tokio::time::timeout(Duration::from_millis(20), vouch.ask()).await.is_err());
        go.send(true).expect("the first answer");
        go.send(false).expect("the second answer");
        assert!(!vouch.ask().await.expect("an answer"), "yes was said to the question before");
        go.send(true).expect("the third answer");
        assert!(vouch.ask().await.expect("an answer"));
        drop(go);
    }
}
