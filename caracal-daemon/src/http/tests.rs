use super::framing::{Framed, Wire};
use proptest::prelude::*;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Gives bytes in pieces of the sizes told.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    turn: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.sizes[self.turn % self.sizes.len()];
        self.turn += 1;
        let end = (self.at + size.min(buffer.remaining())).min(self.bytes.len());
        buffer.put_slice(&self.bytes[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

fn read_all(bytes: Vec<u8>, sizes: Vec<usize>, ask: usize) -> (Vec<u8>, Arc<Wire>) {
    let wire = Arc::new(Wire::default());
    let mut framed = Framed::new(Pieces { bytes, at: 0, sizes, turn: 0 }, wire.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut out = Vec::new();
    runtime.block_on(async {
        let mut buffer = vec![0; ask];
        while let Ok(count @ 1..) = framed.read(&mut buffer).await {
            out.extend_from_slice(&buffer[..count]);
        }
    });
    (out, wire)
}

/// Well-formed requests in a pipeline.
fn pipeline(bodies: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (body, chunked) in bodies {
        if *chunked {
            bytes.extend_from_slice(b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            for part in body.chunks(7) {
                bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nX-T: 1\r\n\r\n");
        } else {
            bytes.extend_from_slice(
                format!("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
            );
            bytes.extend_from_slice(body);
        }
    }
    bytes
}

proptest! {
    #[test]
    fn well_formed_requests_pass_unchanged_however_they_arrive(
        bodies in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..400), any::<bool>()), 1..6),
        sizes in proptest::collection::vec(1_usize..300, 1..6),
        ask in 1_usize..500,
    ) {
        let bytes = pipeline(&bodies);
        let (out, wire) = read_all(bytes.clone(), sizes, ask);
        prop_assert_eq!(out, bytes);
        prop_assert!(wire.take_refusal().is_none());
    }

    #[test]
    fn a_refused_head_lets_nothing_behind_it_through(
        bodies in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..100), any::<bool>()), 0..3),
        behind in proptest::collection::vec(any::<u8>(), 0..300),
        sizes in proptest::collection::vec(1_usize..100, 1..4),
    ) {
        let before = pipeline(&bodies);
        let mut bytes = before.clone();
        bytes.extend_from_slice(b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
        bytes.extend_from_slice(&behind);
        let (out, wire) = read_all(bytes, sizes, 64);
        prop_assert!(wire.take_refusal().is_some());
        prop_assert_eq!(&out[..before.len()], &before[..]);
        let rest = String::from_utf8(out[before.len()..].to_vec()).expect("our own request");
        prop_assert!(rest.starts_with("GET / HTTP/1.1\r\nhost: refused\r\n") && rest.ends_with("connection: close\r\n\r\n"));
        prop_assert_eq!(rest.matches("\r\n\r\n").count(), 1);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500), size in 1_usize..50) {
        read_all(bytes, vec![size], 33);
    }
}
