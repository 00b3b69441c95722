mod bodies;
pub(crate) mod fixture;
mod issues;
mod money;
mod refusals;
mod sockets;
mod traffic;
mod upgrades;
pub(crate) mod world;
