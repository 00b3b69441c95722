//! `probe`: attempts to get bytes out, and what became of them.
//!
//! ```text
//! probe KIND ...                                     one attempt: see single.rs
//! probe catalogue PRIVILEGE PHASE DIR START [NAME..] the attempts of the catalogue that begin there: see runner.rs
//! probe with-sockets PRIVILEGE PHASE DIR HOW CMD..   opens sockets, is moved into the cgroup when HOW is `join`, becomes CMD
//! probe destinations SEED COUNT OPEN                 connections, and where they arrive: see destinations.rs
//! probe sequences SEED FIRST COUNT [CGROUP]          random system calls: see sequences.rs
//! probe set-uid PRIVILEGE PHASE                      what a set-uid program would do
//! probe outside DIR                                  the accomplice that nobody governs: see outside.rs
//! probe detach FILE..                                opens pinned BPF links and detaches them
//! ```

#![expect(clippy::disallowed_methods, reason = "what connects here is what is tried")]

mod destinations;
mod outside;
mod raw;
mod runner;
mod sequences;
mod single;
mod vectors;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["catalogue", privilege, phase, dir, start, names @ ..] => runner::run(privilege, phase, dir, start, names),
        ["with-sockets", privilege, phase, dir, how, command @ ..] => {
            runner::with_sockets(privilege, phase, dir, how, command)
        }
        ["destinations", seed, count, open] => match (seed.parse(), count.parse(), open.parse()) {
            (Ok(seed), Ok(count), Ok(open)) => destinations::run(seed, count, open),
            _ => ExitCode::from(2),
        },
        ["sequences", seed, first, count, cgroup @ ..] => match (seed.parse(), first.parse(), count.parse()) {
            (Ok(seed), Ok(first), Ok(count)) => sequences::run(seed, first, count, cgroup.first().copied()),
            _ => ExitCode::from(2),
        },
        ["set-uid", privilege, phase] => runner::set_uid(privilege, phase),
        ["outside", dir] => outside::run(std::path::Path::new(dir)),
        ["detach", files @ ..] => vectors::house::detach_files(files),
        words => single::run(words),
    }
}
