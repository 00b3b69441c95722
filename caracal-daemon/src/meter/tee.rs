//! A copy of an answer on its way to its reader, decoded: plain, or in any encoding that agents take.

use super::body::ZSTD_WINDOW_LOG;
use super::usage::Feed;
use std::fmt;
use std::io::Write;

/// Decodes a copy of the answer into [`Feed`].
pub(super) enum Tee {
    Plain(Box<Feed>),
    Gzip(Box<flate2::write::MultiGzDecoder<Feed>>),
    Zlib(Box<flate2::write::ZlibDecoder<Feed>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Feed>>),
    Brotli(Box<brotli::DecompressorWriter<Feed>>),
    Unread,
}

impl fmt::Debug for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tee::Plain(_) => "Plain",
            Tee::Gzip(_) => "Gzip",
            Tee::Zlib(_) => "Zlib",
            Tee::Zstd(_) => "Zstd",
            Tee::Brotli(_) => "Brotli",
            Tee::Unread => "Unread",
        })
    }
}

impl Tee {
    pub(super) fn new(encoding: &str, feed: Feed) -> Tee {
        match encoding {
            "" | "identity" => Tee::Plain(Box::new(feed)),
            "gzip" | "x-gzip" => Tee::Gzip(Box::new(flate2::write::MultiGzDecoder::new(feed))),
            "deflate" => Tee::Zlib(Box::new(flate2::write::ZlibDecoder::new(feed))),
            "br" => Tee::Brotli(Box::new(brotli::DecompressorWriter::new(feed, 4_096))),
            "zstd" => zstd::stream::write::Decoder::new(feed)
                .and_then(|mut decoder| decoder.window_log_max(ZSTD_WINDOW_LOG).map(|()| Tee::Zstd(Box::new(decoder))))
                .unwrap_or(Tee::Unread),
            _ => Tee::Unread,
        }
    }

    /// A copy that cannot be decoded is not read any further; nothing of that reaches the agent.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let done = match self {
            Tee::Plain(feed) => feed.write_all(bytes),
            Tee::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Tee::Zlib(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Tee::Zstd(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Tee::Brotli(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Tee::Unread => Ok(()),
        };
        if done.is_err() {
            // What was read so far may be whole: keep it.
            *self = match std::mem::replace(self, Tee::Unread).finish() {
                Some(feed) => Tee::Plain(Box::new(feed.full())),
                None => Tee::Unread,
            };
        }
    }

    pub(super) fn get(&self) -> Option<&Feed> {
        match self {
            Tee::Plain(feed) => Some(feed),
            Tee::Gzip(decoder) => Some(decoder.get_ref()),
            Tee::Zlib(decoder) => Some(decoder.get_ref()),
            Tee::Zstd(decoder) => Some(decoder.get_ref()),
            Tee::Brotli(decoder) => Some(decoder.get_ref()),
            Tee::Unread => None,
        }
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut Feed> {
        match self {
            Tee::Plain(feed) => Some(feed),
            Tee::Gzip(decoder) => Some(decoder.get_mut()),
            Tee::Zlib(decoder) => Some(decoder.get_mut()),
            Tee::Zstd(decoder) => Some(decoder.get_mut()),
            Tee::Brotli(decoder) => Some(decoder.get_mut()),
            Tee::Unread => None,
        }
    }

    pub(super) fn finish(self) -> Option<Feed> {
        match self {
            Tee::Plain(feed) => Some(*feed),
            Tee::Gzip(mut decoder) => {
                let _ = decoder.try_finish();
                Some(decoder.get_mut().take())
            }
            Tee::Zlib(mut decoder) => {
                let _ = decoder.try_finish();
                Some(decoder.get_mut().take())
            }
            Tee::Zstd(mut decoder) => {
                let _ = decoder.flush();
                Some(decoder.into_inner())
            }
            Tee::Brotli(mut decoder) => {
                let _ = decoder.close();
                Some(decoder.get_mut().take())
            }
            Tee::Unread => None,
        }
    }
}
