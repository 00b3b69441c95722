//! The road from the data path to the kernel's flows, for kernels that let a process without rights read no map at all,
//! not even one that it was handed (before Linux 5.19). Takes a source; gives the flow that the kernel wrote down for it.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use caracal_common::flow::{Flow, Source};

use crate::capture::flows::{lookup, remove};

/// How long the keeper may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which flow, and whether it is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A connection's, which stays.
    Connection = 1,
    /// A connection's, which is taken out.
    Take = 2,
    /// A query's.
    Query = 3,
}

const KEY: usize = size_of::<Source>();
const VALUE: usize = size_of::<Flow>();

/// The data path's side.
#[derive(Debug)]
pub struct RemoteFlows(Mutex<UnixStream>);

impl RemoteFlows {
    /// Over this end of the pair.
    ///
    /// # Errors
    /// When the socket takes no time limit.
    pub fn new(stream: UnixStream) -> io::Result<RemoteFlows> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(RemoteFlows(Mutex::new(stream)))
    }

    /// The flow of `source`. `None` is a refusal: there is none, or the keeper does not answer.
    #[must_use]
    pub fn ask(&self, question: Question, source: &Source) -> Option<Flow> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut request = [0; 1 + KEY];
        request[0] = question as u8;
        request[1..].copy_from_slice(&bytes_of_source(source));
        let mut answer = [0; 1 + VALUE];
        let exchanged = stream.write_all(&request).and_then(|()| stream.read_exact(&mut answer));
        if exchanged.is_err() {
            // An answer that comes late would be taken for the next one's.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return None;
        }
        let (found, flow) = answer.split_first()?;
        (*found == 1).then(|| flow.try_into().ok().map(flow_of)).flatten()
    }
}

/// The keeper's side: answers until the data path closes its end.
pub fn serve(mut stream: UnixStream, connections: &OwnedFd, queries: &OwnedFd) {
    let mut request = [0; 1 + KEY];
    while stream.read_exact(&mut request).is_ok() {
        let Ok(key) = <[u8; KEY]>::try_from(&request[1..]) else { return };
        let source = source_of(key);
        let found = match request[0] {
            3 => lookup(queries, &source).ok(),
            _ => lookup(connections, &source).ok(),
        };
        if request[0] == Question::Take as u8 && found.is_some() {
            remove(connections, &source);
        }
        let mut answer = [0; 1 + VALUE];
        if let Some(flow) = found {
            answer[0] = 1;
            answer[1..].copy_from_slice(&bytes_of_flow(&flow));
        }
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn bytes_of_source(source: &Source) -> [u8; KEY] {
    // SAFETY: integers and byte arrays without padding, as long as said.
    unsafe { std::mem::transmute(*source) }
}

fn source_of(bytes: [u8; KEY]) -> Source {
    // SAFETY: any bytes are a Source.
    unsafe { std::mem::transmute(bytes) }
}

fn bytes_of_flow(flow: &Flow) -> [u8; VALUE] {
    // SAFETY: integers and byte arrays without padding, as long as said.
    unsafe { std::mem::transmute(*flow) }
}

fn flow_of(bytes: [u8; VALUE]) -> Flow {
    // SAFETY: any bytes are a Flow.
    unsafe { std::mem::transmute(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use made::{fill, map};

    /// Maps like the kernel programs', made with the bare system call.
    mod made {
        use super::*;
        use std::os::fd::{AsRawFd, FromRawFd};

        pub(super) fn map() -> OwnedFd {
            // `BPF_MAP_CREATE` of a hash: type, key size, value size, entries (linux/bpf.h).
            let mut attr = [0_u32; 32];
            attr[..4].copy_from_slice(&[1, KEY as u32, VALUE as u32, 8]);
            // SAFETY: the attributes are as long as said.
            let fd = unsafe { libc::syscall(libc::SYS_bpf, 0, attr.as_ptr(), size_of_val(&attr)) };
            assert!(fd >= 0, "a map: {}; is this root?", io::Error::last_os_error());
            // SAFETY: new, and nobody else's.
            unsafe { OwnedFd::from_raw_fd(fd as i32) }
        }

        pub(super) fn fill(map: &OwnedFd, source: &Source, flow: &Flow) {
            let mut attr = [0_u64; 16];
            attr[0] = map.as_raw_fd() as u64;
            attr[1] = std::ptr::from_ref(source) as u64;
            attr[2] = std::ptr::from_ref(flow) as u64;
            // SAFETY: key and value are as long as the map's.
            let done = unsafe { libc::syscall(libc::SYS_bpf, 2, attr.as_ptr(), size_of_val(&attr)) };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
        }
    }

    /// Needs root.
    #[test]
    fn flows_are_found_taken_and_told_apart_over_the_road() {
        let (connections, queries) = (map(), map());
        let source = Source { netns: 7, port: 40_000, ..Source::default() };
        let connection = Flow { agent: 1, port: 443, ..Flow::default() };
        fill(&connections, &source, &connection);
        fill(&queries, &source, &Flow { agent: 2, port: 53, ..Flow::default() });
        let (near, far) = UnixStream::pair().expect("a pair");
        let keeper = std::thread::spawn(move || serve(far, &connections, &queries));
        let flows = RemoteFlows::new(near).expect("a road");
        assert_eq!(flows.ask(Question::Query, &source).map(|flow| flow.agent), Some(2));
        assert_eq!(flows.ask(Question::Connection, &source), Some(connection));
        assert_eq!(flows.ask(Question::Take, &source), Some(connection));
        assert_eq!(flows.ask(Question::Take, &source), None);
        assert_eq!(flows.ask(Question::Query, &Source { netns: 8, ..source }), None);
        drop(flows);
        keeper.join().expect("the keeper ends");
    }
}
