pub(crate) mod fixture;
mod money;
mod refusals;
mod traffic;
pub(crate) mod world;
