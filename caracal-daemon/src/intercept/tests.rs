mod fixture;
mod money;
mod refusals;
mod traffic;
mod world;
