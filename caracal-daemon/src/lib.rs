//! The stages of `caracald`, in the order in which a byte meets them.
//!
//! `capture -> tls -> http -> policy -> meter -> budget -> journal -> bus -> ledger, spend`, and [`escrow`] beside them; a stage knows only what
//! stands to its left, plus the ground floor (`config`, `clock`, `address`, `agent`, `event`, `money`, `refusal`, `telemetry`).
//! [`intercept`] tells the story of one connection from top to bottom.

pub mod address;
pub mod agent;
pub mod clock;
pub mod config;
pub mod event;
pub mod money;
pub mod refusal;
pub mod telemetry;

pub mod budget;
pub mod bus;
pub mod capture;
pub mod dns;
pub mod escrow;
pub mod http;
pub mod journal;
pub mod ledger;
pub mod meter;
pub mod policy;
pub mod spend;
pub mod tls;

pub mod intercept;

pub mod keeper;

pub mod app;

pub mod cli;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
