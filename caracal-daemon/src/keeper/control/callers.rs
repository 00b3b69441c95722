//! Takes accepted control connections; gives each a place, so many of one user's and so many in all.
//! Refuses the others in words. The last places are for who administers: no user's agents are in the way of those.

use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};

use super::{Refused, Response};
use crate::keeper::frame;

/// Connections at once.
const MOST: usize = 256;
/// Those of one user who does not administer.
const MOST_OF_ONE: usize = 64;
/// Those that only root and the admin group get.
const KEPT: usize = 16;
/// Refused connections that are not closed yet.
const MOST_REFUSED: usize = 32;

/// Who has how many connections.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<u32, usize>>);

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    callers: Arc<Callers>,
    uid: u32,
}

impl Callers {
    fn take(self: &Arc<Callers>, uid: u32, admin: bool) -> Result<Place, String> {
        let mut counts = self.counts();
        let (all, own) = (counts.values().sum::<usize>(), counts.get(&uid).copied().unwrap_or(0));
        if !admin && own >= MOST_OF_ONE {
            return Err(format!(
                "the daemon serves {MOST_OF_ONE} callers of one user at once, and has as many of yours; each `caracald run` is one for as long as it runs"
            ));
        }
        let most = if admin { MOST } else { MOST - KEPT };
        if all >= most {
            return Err(format!("the daemon serves {most} callers at once, and has as many: try again"));
        }
        counts.insert(uid, own + 1);
        Ok(Place { callers: Arc::clone(self), uid })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.callers.counts();
        if let Some(own) = counts.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// Where connections come in.
#[derive(Debug, Default)]
pub(super) struct Entrance {
    callers: Arc<Callers>,
    /// Closed at once, one whose request is not written yet would fail on that and not read why: so each stays until others
    /// were refused after it.
    refused: VecDeque<UnixStream>,
}

impl Entrance {
    /// The connection and its place; `None` where it was told that there is none. `admin` tells of a process and its user
    /// whether it administers.
    pub(super) fn admit(
        &mut self,
        mut stream: UnixStream,
        admin: impl Fn(u32, u32) -> bool,
    ) -> Option<(UnixStream, Place)> {
        let peer = getsockopt(&stream.as_fd(), sockopt::PeerCredentials).ok()?;
        let (uid, pid) = (peer.uid(), u32::try_from(peer.pid()).unwrap_or(0));
        match self.callers.take(uid, admin(pid, uid)) {
            Ok(place) => Some((stream, place)),
            Err(why) => {
                tracing::warn!(uid, pid, why, "A control connection is refused.");
                // It fits an empty socket's buffer; nobody waits here for a caller that filled it.
                stream.set_write_timeout(Some(Duration::from_millis(1))).ok()?;
                frame::write(&mut stream, &Response::Err(Refused::No(why))).ok()?;
                stream.shutdown(Shutdown::Write).ok()?;
                self.refused.truncate(MOST_REFUSED - 1);
                self.refused.push_front(stream);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::control::Request;

    #[test]
    fn a_user_has_a_share_and_the_last_places_are_for_who_administers() {
        let callers = Arc::new(Callers::default());
        let user = |uid: u32| (0..).map_while(|_| callers.take(uid, false).ok()).collect::<Vec<_>>();
        let mut held = vec![user(1_000)];
        assert_eq!(held[0].len(), MOST_OF_ONE);
        held.extend((1_001..1_010).map(user));
        assert_eq!(held.iter().map(Vec::len).sum::<usize>(), MOST - KEPT);
        assert!(callers.take(2_000, false).is_err_and(|why| why.contains("240 callers at once")));
        // Root and the admin group still are served, by whatever user.
        let admins: Vec<Place> =
            (0..KEPT).filter_map(|n| callers.take(if n % 2 == 0 { 0 } else { 1_000 }, true).ok()).collect();
        assert_eq!(admins.len(), KEPT);
        assert!(callers.take(0, true).is_err(), "there is an end for them, too");
        drop((held, admins));
        assert!(callers.counts().is_empty(), "nothing is left behind");
        assert_eq!((0..).map_while(|_| callers.take(0, true).ok()).collect::<Vec<_>>().len(), MOST);
    }

    #[test]
    fn who_is_refused_reads_why() {
        let mut entrance = Entrance::default();
        let connect = |entrance: &mut Entrance, admin: bool| {
            let (near, far) = UnixStream::pair().expect("a connection");
            (far, entrance.admit(near, |_, _| admin))
        };
        let served: Vec<_> = (0..MOST_OF_ONE).map(|_| connect(&mut entrance, false)).collect();
        assert!(served.iter().all(|(_, served)| served.is_some()));
        for _ in 0..MOST_REFUSED {
            let (mut far, refused) = connect(&mut entrance, false);
            assert!(refused.is_none());
            frame::write(&mut far, &Request::Status).expect("it can be asked");
            let said = frame::read::<Response>(&mut far).expect("an answer").expect_err("a no");
            assert!(said.why().contains("64 callers of one user"), "{said:?}");
        }
        assert!(entrance.refused.len() <= MOST_REFUSED);
        assert!(connect(&mut entrance, true).1.is_some(), "who administers is not counted with the user");
        drop(served);
        assert!(connect(&mut entrance, false).1.is_some());
    }
}
