//! Listeners in other network namespaces, as the keeper hands them over: served like our own, until it says otherwise.
//! Their failures are their own: an agent may be root in its namespace, and must not end us by what it does to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::App;
use crate::dns::serve as dns;
use crate::keeper::listeners::Listeners;

/// How long a listener that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// The loops that serve each namespace, by its cookie. Dropped, they end, and their listeners close.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(Mutex<HashMap<u64, JoinSet<()>>>);

impl Elsewhere {
    fn namespaces(&self) -> MutexGuard<'_, HashMap<u64, JoinSet<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves none of them any more. Connections that are open may end.
    pub(super) fn leave(&self) {
        self.namespaces().clear();
    }

    /// How many namespaces are served.
    pub(super) fn count(&self) -> usize {
        self.namespaces().len()
    }
}

/// Serves a namespace. Listeners that it had before are closed.
pub(super) fn listen(app: &Arc<App>, netns: u64, listeners: Listeners) -> std::io::Result<()> {
    let mut tasks = JoinSet::new();
    for listener in listeners.tcp {
        tasks.spawn(accept(Arc::clone(app), TcpListener::from_std(listener)?, netns));
    }
    for socket in listeners.dns_udp {
        let (socket, desk) = (Arc::new(UdpSocket::from_std(socket)?), Arc::clone(&app.desk));
        tasks.spawn(async move {
            loop {
                let ended = dns::udp(Arc::clone(&socket), netns, Arc::clone(&desk)).await;
                tracing::debug!(?ended, netns, "DNS over UDP failed in an agent's namespace.");
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    for listener in listeners.dns_tcp {
        tasks.spawn(dns::tcp(TcpListener::from_std(listener)?, netns, Arc::clone(&app.desk)));
    }
    app.elsewhere.namespaces().insert(netns, tasks);
    Ok(())
}

/// Serves it no longer. Connections that are open may end.
pub(super) fn unlisten(app: &App, netns: u64) {
    app.elsewhere.namespaces().remove(&netns);
}

async fn accept(app: Arc<App>, listener: TcpListener, netns: u64) {
    loop {
        match app.gate.accept(&listener, netns).await {
            Ok(accepted) => super::serve_one(&app, accepted),
            Err(error) => {
                tracing::debug!(%error, netns, "Cannot accept in an agent's namespace.");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
