pub(crate) mod fixture;
mod issues;
mod money;
mod refusals;
mod traffic;
pub(crate) mod world;
