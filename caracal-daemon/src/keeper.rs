//! The privileged process: loads BPF, opens listeners, keeps the CA and ledger keys, serves the control socket.
//! It signs; it never parses a byte of an agent's or an upstream's.

pub mod authority;
pub mod bpf_link;
pub mod btf;
pub mod canary;
pub mod cgroup;
pub mod cgroup_v1;
pub mod child;
pub mod control;
pub mod cookie;
pub mod flows;
pub mod frame;
pub mod govern;
pub mod held;
pub mod kernel;
pub mod keys;
pub mod ledger_key;
pub mod level;
pub mod listeners;
pub mod live;
pub mod lsm;
pub mod namespaces;
pub mod order;
mod parting;
pub mod places;
pub mod predecessors;
pub mod refusals;
pub mod release;
pub mod sandbox;
pub mod serve;
pub mod signing;
pub mod sock_diag;
pub mod sockets;
mod supervise;
pub mod sweep;
pub mod trust;
pub mod truth;
pub mod upgrade;
pub mod vouch;

/// What the data path asks of the keys that the keeper holds. Calls block.
pub trait Signer: Send + Sync + std::fmt::Debug + 'static {
    /// A leaf certificate (DER) for `name`, a DNS name or an IP address, and the P-256 public key `spki` (DER).
    ///
    /// # Errors
    /// When `name` is neither, or the keeper is gone.
    fn issue_leaf(&self, name: &str, spki: &[u8]) -> Result<Vec<u8>, KeeperError>;

    /// The signed checkpoint (C2SP signed note with an ECDSA P-256 and an Ed25519 line) of the tree of `size` leaves
    /// with this `root`. `proof` is the consistency proof (RFC 6962, section 2.1.2) from the largest tree that was signed
    /// before; empty where none was, or that one is asked for again.
    ///
    /// # Errors
    /// `Fork` when `size` is smaller than what was signed before, or equal with another root; `Unproven` when it is larger
    /// and the proof does not hold; or the keeper is gone.
    fn sign_checkpoint(&self, size: u64, root: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError>;

    /// The host key's signature (ECDSA P-256, ASN.1 DER) over the head of the journal's chain.
    ///
    /// # Errors
    /// `HeadFork` when another record was signed at this place; `HeadBehind` when the place lies before one that was, until
    /// [`Signer::prove_chain_head`] has shown that it leads there; or the keeper is gone.
    fn sign_chain_head(&self, sequence: u64, leaf_hash: [u8; 32]) -> Result<Vec<u8>, KeeperError>;

    /// Shows that a record leads to the known place that `HeadBehind` named: with the records behind it up to that one,
    /// in order. Many are shown in parts, the last part first: the record before each part is a known place then.
    ///
    /// # Errors
    /// `HeadFork` when they do not lead there; or the keeper is gone.
    fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError>;
}

/// Why the keeper did not sign.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The name cannot stand in a certificate.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    BadName(String),
    /// Signing would contradict what was signed before.
    #[error("a checkpoint of size {asked} would fork the log: {signed} leaves are signed already")]
    Fork {
        /// The size asked for.
        asked: u64,
        /// The size signed.
        signed: u64,
    },
    /// A larger tree, without the proof that it begins with what was signed.
    #[error("a checkpoint of size {asked} was not proven to begin with the {signed} leaves that are signed already")]
    Unproven {
        /// The size asked for.
        asked: u64,
        /// The size signed: where the proof has to begin.
        signed: u64,
    },
    /// Another record was signed at that place of the host's chain.
    #[error(
        "chain_head_fork: the host's key does not sign record {asked}, because it signed another history. Compare the journal with \
         what was published (`caracald ledger verify`). Where the journal was restored or moved aside, its heads are signed again \
         once it is longer than what was signed before"
    )]
    HeadFork {
        /// The place asked for.
        asked: u64,
    },
    /// A place of the host's chain before one that was signed, and not shown to lead there.
    #[error(
        "chain_head_behind: the host's key does not sign record {asked}: it signed up to record {known}, and the records between \
         were not shown. Where they are missing, `caracald ledger verify` says what the ledger has of them"
    )]
    HeadBehind {
        /// The place asked for.
        asked: u64,
        /// The next known place behind it.
        known: u64,
    },
    /// A key could not be read, made or used.
    #[error("key {path}: {why}")]
    Key {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// A cgroup that is not one, is not there, or cannot be changed.
    #[error("{0}")]
    Cgroup(String),
    /// A port that is taken.
    #[error("{0}")]
    Listen(String),
    /// The kernel or bpffs.
    #[error("{0}")]
    Kernel(String),
    /// Another keeper holds the lock.
    #[error("a keeper of this instance is running (it holds {0}); stop it first, or use it: `caracald status`")]
    Running(String),
    /// Only root can do this.
    #[error("this needs root: run it with sudo")]
    NotRoot,
    /// The keeper said no.
    #[error("{0}")]
    Refused(String),
    /// The keeper process does not answer.
    #[error("the keeper does not answer: {0}")]
    Gone(String),
}
