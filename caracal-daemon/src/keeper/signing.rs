//! The road from the data path to the keys: requests on a socket pair, answered by the keeper one at a time.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{KeeperError, Signer, frame};

/// What the data path asks.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Leaf {
        name: String,
        spki: Vec<u8>,
    },
    Checkpoint {
        size: u64,
        root: [u8; 32],
        proof: Vec<[u8; 32]>,
    },
    ChainHead {
        sequence: u64,
        leaf_hash: [u8; 32],
    },
    /// Records that lead to a known place, as they are.
    Chain {
        known: u64,
        records: Vec<Box<RawValue>>,
    },
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Bytes(Vec<u8>),
    Note(String),
    Refused(String),
    /// An error of its own: the ledger asks with size 0 to learn what was signed before.
    Fork {
        asked: u64,
        signed: u64,
    },
    /// Likewise: where the proof has to begin.
    Unproven {
        asked: u64,
        signed: u64,
    },
    /// The publisher shows what lies between.
    HeadBehind {
        asked: u64,
        known: u64,
    },
    HeadFork {
        asked: u64,
    },
    Proven,
}

/// The data path's side: keys that live in another process.
#[derive(Debug)]
pub struct RemoteSigner(Mutex<UnixStream>);

impl RemoteSigner {
    /// Over this end of the pair.
    #[must_use]
    pub fn new(stream: UnixStream) -> RemoteSigner {
        RemoteSigner(Mutex::new(stream))
    }

    fn ask(&self, request: &Request) -> Result<Answer, KeeperError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |error: io::Error| KeeperError::Gone(error.to_string());
        frame::write(&mut *stream, request).map_err(gone)?;
        match frame::read(&mut *stream).map_err(gone)? {
            Answer::Refused(why) => Err(KeeperError::Refused(why)),
            Answer::Fork { asked, signed } => Err(KeeperError::Fork { asked, signed }),
            Answer::Unproven { asked, signed } => Err(KeeperError::Unproven { asked, signed }),
            Answer::HeadBehind { asked, known } => Err(KeeperError::HeadBehind { asked, known }),
            Answer::HeadFork { asked } => Err(KeeperError::HeadFork { asked }),
            answer => Ok(answer),
        }
    }
}

impl Signer for RemoteSigner {
    fn issue_leaf(&self, name: &str, spki: &[u8]) -> Result<Vec<u8>, KeeperError> {
        match self.ask(&Request::Leaf { name: name.to_owned(), spki: spki.to_vec() })? {
            Answer::Bytes(bytes) => Ok(bytes),
            _ => Err(KeeperError::Gone("it answered another question".to_owned())),
        }
    }

    fn sign_checkpoint(&self, size: u64, root: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError> {
        match self.ask(&Request::Checkpoint { size, root, proof: proof.to_vec() })? {
            Answer::Note(note) => Ok(note),
            _ => Err(KeeperError::Gone("it answered another question".to_owned())),
        }
    }

    fn sign_chain_head(&self, sequence: u64, leaf_hash: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        match self.ask(&Request::ChainHead { sequence, leaf_hash })? {
            Answer::Bytes(bytes) => Ok(bytes),
            _ => Err(KeeperError::Gone("it answered another question".to_owned())),
        }
    }

    fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        // What is no JSON is no record.
        let raw = |record: &&[u8]| serde_json::from_slice(record).map_err(|_| KeeperError::HeadFork { asked: known });
        let records = records.iter().map(raw).collect::<Result<_, _>>()?;
        match self.ask(&Request::Chain { known, records })? {
            Answer::Proven => Ok(()),
            _ => Err(KeeperError::Gone("it answered another question".to_owned())),
        }
    }
}

/// Reads a frame as each side of this road does, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_any(bytes: &[u8]) {
    let _ = frame::read::<Request>(&mut &*bytes);
    let _ = frame::read::<Answer>(&mut &*bytes);
}

/// The keeper's side: answers until the data path closes its end.
pub fn serve(mut stream: UnixStream, keys: &Arc<dyn Signer>) {
    while let Ok(request) = frame::read::<Request>(&mut stream) {
        let answer = match request {
            Request::Leaf { name, spki } => keys.issue_leaf(&name, &spki).map(Answer::Bytes),
            Request::Checkpoint { size, root, proof } => keys.sign_checkpoint(size, root, &proof).map(Answer::Note),
            Request::ChainHead { sequence, leaf_hash } => keys.sign_chain_head(sequence, leaf_hash).map(Answer::Bytes),
            Request::Chain { known, records } => {
                let records: Vec<&[u8]> = records.iter().map(|record| record.get().as_bytes()).collect();
                keys.prove_chain_head(known, &records).map(|()| Answer::Proven)
            }
        };
        let answer = answer.unwrap_or_else(|error| match error {
            KeeperError::Fork { asked, signed } => Answer::Fork { asked, signed },
            KeeperError::Unproven { asked, signed } => Answer::Unproven { asked, signed },
            KeeperError::HeadBehind { asked, known } => Answer::HeadBehind { asked, known },
            KeeperError::HeadFork { asked } => Answer::HeadFork { asked },
            error => Answer::Refused(error.to_string()),
        });
        if frame::write(&mut stream, &answer).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Signed(u64);

    impl Signer for Signed {
        fn issue_leaf(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeeperError> {
            Err(KeeperError::Refused("no".to_owned()))
        }

        fn sign_checkpoint(&self, asked: u64, _: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError> {
            let signed = self.0;
            match (asked < signed, proof) {
                (true, _) => Err(KeeperError::Fork { asked, signed }),
                (false, [[7, ..], [8, ..]]) => Ok(asked.to_string()),
                (false, _) => Err(KeeperError::Unproven { asked, signed }),
            }
        }

        fn sign_chain_head(&self, asked: u64, leaf: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
            match (asked, leaf[0]) {
                (1, 0) => Ok(vec![7]),
                (1, _) => Err(KeeperError::HeadFork { asked }),
                _ => Err(KeeperError::HeadBehind { asked, known: 1 }),
            }
        }

        fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
            // To the last blank as they were.
            if records == [br#"{"a": 1}"#.as_slice(), b"[ ]"] {
                Ok(())
            } else {
                Err(KeeperError::HeadFork { asked: known })
            }
        }
    }

    #[test]
    fn what_was_signed_before_is_learnt_over_the_road() {
        let (near, far) = UnixStream::pair().expect("a pair");
        let keys: Arc<dyn Signer> = Arc::new(Signed(8));
        let keeper = std::thread::spawn(move || serve(far, &keys));
        let signer = RemoteSigner::new(near);
        assert!(matches!(signer.sign_checkpoint(0, [0; 32], &[]), Err(KeeperError::Fork { asked: 0, signed: 8 })));
        assert!(matches!(signer.sign_checkpoint(9, [0; 32], &[]), Err(KeeperError::Unproven { asked: 9, signed: 8 })));
        assert_eq!(signer.sign_checkpoint(9, [0; 32], &[[7; 32], [8; 32]]).ok().as_deref(), Some("9"));
        assert!(matches!(signer.issue_leaf("a.test", &[]), Err(KeeperError::Refused(_))));
        assert_eq!(signer.sign_chain_head(1, [0; 32]).ok(), Some(vec![7]));
        assert!(matches!(signer.sign_chain_head(1, [1; 32]), Err(KeeperError::HeadFork { asked: 1 })));
        assert!(matches!(signer.sign_chain_head(0, [0; 32]), Err(KeeperError::HeadBehind { asked: 0, known: 1 })));
        signer.prove_chain_head(1, &[br#"{"a": 1}"#, b"[ ]"]).expect("shown");
        for wrong in [&[br#"{"a":1}"#.as_slice(), b"[ ]"][..], &[b"no JSON".as_slice()]] {
            assert!(matches!(signer.prove_chain_head(1, wrong), Err(KeeperError::HeadFork { asked: 1 })));
        }
        drop(signer);
        keeper.join().expect("the keeper ends");
    }
}
