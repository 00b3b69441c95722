//! (stage cli)

pub mod events;
pub mod ledger;
pub mod spend;

/// Runs `work` to its end on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
