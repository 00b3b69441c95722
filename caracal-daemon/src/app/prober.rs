//! The probe that renews the lease: the keeper's word that the kernel runs our programs, a connection through our own
//! listener, a decision, a round trip through the journal's writer. A stage that hangs stops it; a stage that honestly fails does not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::App;
use crate::agent::{Agent, CgroupId};
use crate::capture::lease::{INTERVAL, TERM};
use crate::clock::monotonic_ns;
use crate::keeper::vouch::Vouch;
use crate::policy::{Action, Ask};

/// When the keeper is asked again that did not vouch.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Renews the lease, for as long as the data path works and is not stopping.
pub(super) async fn renew(app: Arc<App>, listener: SocketAddr, mut vouch: Vouch) {
    let mut vouched = true;
    let mut every = tokio::time::interval(INTERVAL);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !app.stopping.load(Ordering::Acquire) {
        every.tick().await;
        let asked_at = monotonic_ns();
        let word = async {
            if !vouch.ask().await? {
                return Ok(false);
            }
            probe(&app, listener).await.map(|()| true)
        };
        match tokio::time::timeout(TERM, word).await {
            Ok(Ok(false)) => {
                app.lease.close();
                if std::mem::replace(&mut vouched, false) {
                    tracing::error!(
                        "The keeper does not vouch for the kernel; the door is shut. `caracald status` says why."
                    );
                }
                // It costs nothing to ask, and a keeper that was only late vouches a moment later.
                tokio::time::sleep(ASK_AGAIN).await;
                every.reset_immediately();
            }
            Ok(Ok(true)) if !app.stopping.load(Ordering::Acquire) => {
                vouched = true;
                app.lease.renew(asked_at);
            }
            Ok(Ok(true)) => {}
            Ok(Err(error)) => tracing::error!(%error, "The probe failed; the lease is not renewed."),
            Err(_) => tracing::error!("The probe hangs; the lease is not renewed."),
        }
    }
    if !app.handing_over.load(Ordering::Acquire) {
        app.lease.close();
    }
}

/// One round trip. This dials our own listener on loopback, and nothing else in the process but `tls::dial` dials.
#[expect(clippy::disallowed_methods, reason = "it dials our own listener on loopback: that is what is tried")]
async fn probe(app: &App, listener: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(listener.ip(), 0))?;
    let from = socket.local_addr()?;
    app.gate.probes.expect(from);
    let connected = socket.connect(listener).await;
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            app.gate.probes.forget(from);
            return Err(error);
        }
    };
    // A reset at the end: no TIME_WAIT, five times a second.
    stream.set_zero_linger()?;
    let mut answer = [0u8; 1];
    stream.read_exact(&mut answer).await.map(drop)
}

/// The other end: through policy and journal, then one byte.
pub(super) async fn answer(app: Arc<App>, mut stream: TcpStream) {
    let agent = Agent { name: "caracal-probe".into(), cgroup: CgroupId(0), path: String::new(), uid: 0, learn: false };
    let ask = Ask { method: Some("GET"), path: Some("/"), ..Ask::new(&agent, Action::Request, "probe.invalid", 443) };
    // The answer does not matter, that there is one does.
    let _decision = app.stages.policy.current().decide(&ask);
    // An honest error comes from a writer that is alive: requests are refused and told why.
    if let Err(error) = app.stages.journal.probe().await {
        tracing::warn!(%error, "The journal takes no records; requests are refused.");
    }
    let _ = stream.write_all(b".").await;
}
