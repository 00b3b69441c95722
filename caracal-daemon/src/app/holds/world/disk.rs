//! The journal of the small world: records that the product's own scribe sealed, on a disk that keeps what was synced.

use crate::event::{Draft, Scribe};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A record on the disk: its bytes, and the same in the words of the search.
#[derive(Clone)]
pub(in crate::app::holds) struct Written {
    pub(in crate::app::holds) client: usize,
    /// `None`: the intent.
    pub(in crate::app::holds) cost: Option<u64>,
    pub(in crate::app::holds) bytes: Rc<Vec<u8>>,
}

/// The journal's file. What stands before `synced` outlives a power cut.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) records: Vec<Written>,
    pub(super) synced: usize,
}

/// Seals drafts as the product does, each once.
pub(in crate::app::holds) struct Paper {
    scribe: Scribe,
    made: RefCell<HashMap<String, Rc<Vec<u8>>>>,
    _keys: tempfile::TempDir,
}

impl Paper {
    pub(in crate::app::holds) fn new() -> Paper {
        let keys = tempfile::tempdir().expect("a directory");
        let scribe = Scribe::open("host-1", &keys.path().join("keys")).expect("a scribe");
        Paper { scribe, made: RefCell::default(), _keys: keys }
    }

    pub(in crate::app::holds) fn write(&self, draft: &Draft) -> Written {
        let client = draft.data.call.map_or(0, |call| call.as_u128()) as usize - 1;
        let cost = draft.data.cost.map(|cost| cost.0);
        let mut made = self.made.borrow_mut();
        let bytes = made.entry(format!("{:?}", draft.data)).or_insert_with(|| {
            let mut bytes = Vec::new();
            self.scribe.seal(draft).expect("sealed").place(0, &[0; 32], &mut bytes);
            Rc::new(bytes)
        });
        Written { client, cost, bytes: Rc::clone(bytes) }
    }
}
