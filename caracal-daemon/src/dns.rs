//! Takes names from agents and from the dialer; gives addresses.
//! Refuses a name that the policy refuses, at once and without asking anybody.
//! Never dials an address that an agent resolved elsewhere: `tls::dial` asks `resolve` and nothing else. Next: `tls`.

pub mod answer;
pub mod pins;
pub mod resolve;
pub mod serve;

#[cfg(test)]
mod tests;
