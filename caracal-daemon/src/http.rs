//! Takes a plain stream; gives requests with one reading each, and carries answers back as they come.
//! Refuses ambiguous or oversized heads, and hosts that differ from the TLS server name.
//! Never buffers a body that streams, and adds nothing to a request. Next: `policy`.

pub mod body;
pub mod forward;
pub mod framing;
pub mod head;
pub mod listeners;
pub mod pool;
pub mod refuse;
pub mod room;
pub mod serve;
pub mod told;
pub mod upgrade;
pub mod websocket;

#[cfg(test)]
mod tests;
