//! (stage cli)

pub mod doctor;
pub mod spawn;
pub mod trust;
