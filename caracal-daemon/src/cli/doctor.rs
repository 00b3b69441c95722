//! Looks at this host; gives what can and cannot be enforced on it and what to do about it. Refuses nothing and leaves
//! nothing changed: a check reads, and the ways out are tried in a scratch cgroup and network namespace that go again.
//! Never reports as present, or as closed, what it could not see.

pub mod attempts;
pub mod coverage;
mod descriptors;
mod host;
pub mod outside;
mod print;
pub mod vectors;
pub mod zygote;

use crate::config::Require;
use crate::keeper::level::NEVER;
use coverage::{Cover, Row};
use host::Host;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// Say what this kernel and this set-up can enforce, from live probes.
///
/// Needs no daemon, and leaves nothing changed. As root it also tries each known way out of a cgroup: in a scratch cgroup
/// and a network namespace with nothing in it, so nothing is sent. They are tried at the level that the configuration
/// requires, so that what is printed is what would be in force. Exits 1 when something is missing, or cannot be told without
/// root, without which that level is not reached: a daemon that requires it does not start here.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON for scripts.
    #[arg(long)]
    pub json: bool,
    /// Try at this level, whatever the configuration requires.
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<Require>,
    /// Attempts that doctor's own child makes, one after another.
    #[arg(long, hide = true, requires = "place")]
    pub attempt: Vec<String>,
    /// Attempts are named on standard input.
    #[arg(long, hide = true, requires = "place", conflicts_with = "attempt")]
    pub attempts: bool,
    /// Where the attempt finds what it tries to reach.
    #[arg(long, hide = true)]
    pub place: Option<std::path::PathBuf>,
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There.
    Yes,
    /// Not there.
    No,
    /// Cannot be told from here.
    Unknown,
}

/// How much depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Nothing can be governed without it.
    Required,
    /// The level `full` needs it; without it the level is `network`.
    Full,
    /// Something works less well without it.
    Useful,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: String,
    /// Found or not.
    pub state: State,
    /// What depends on it.
    pub need: Need,
    /// What was seen, for people.
    pub found: String,
    /// What to do when it is not there. Empty when nothing needs to be done.
    pub remedy: String,
}

/// Whether the kernel takes one of our programs: the keeper tries them and hands the result in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Hook {
    /// The program's name.
    pub name: String,
    /// Whether the level `network` needs it.
    pub required: bool,
    /// Why the kernel does not take it; none when it does.
    pub error: Option<String>,
}

impl Hook {
    /// The line about it. Who may not load programs does not see what the kernel takes.
    fn check(&self, root: bool) -> Check {
        let need = if self.required { Need::Required } else { Need::Full };
        let (state, remedy) = match &self.error {
            None => (State::Yes, ""),
            Some(_) if !root => (State::Unknown, AS_ROOT),
            Some(why) if why.contains("Operation not permitted") => (State::Unknown, IN_THE_HOST),
            Some(_) => (State::No, "a newer kernel, or one built with this hook"),
        };
        let found = self.error.as_deref().unwrap_or("the kernel takes it");
        check(&format!("hook {}", self.name), state, need, found, remedy)
    }
}

const AS_ROOT: &str = "ask as root: sudo caracald doctor";
const IN_THE_HOST: &str = "ask as root of the host: in a container it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";

/// What is asked of this host.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The level that is to be reached.
    pub level: Require,
    /// The one that the ways out are tried at: lower where the kernel does not take all programs of the other.
    pub tried: Require,
    /// Connections that are to be served at once.
    pub connections: usize,
}

/// Makes the attempts that doctor's own children are told to; says whether any were.
///
/// # Errors
/// When whoever named them is gone, or nothing can be forked or written.
pub fn attempted(args: &DoctorArgs) -> std::io::Result<bool> {
    match &args.place {
        Some(place) if args.attempts => zygote::run(place).map(|()| true),
        Some(place) if !args.attempt.is_empty() => zygote::all(&args.attempt, place).map(|()| true),
        _ => Ok(false),
    }
}

/// Probes this host and prints the answer. Gives the exit code: 0, or 1 when the level that is asked for is not reached. `ways`
/// tries the ways out, or says why it cannot.
///
/// # Errors
/// When the answer cannot be written.
pub fn run(
    args: &DoctorArgs,
    hooks: &[Hook],
    asked: &Asked,
    ways: impl FnOnce() -> Result<Vec<Row>, String>,
    out: &mut dyn Write,
) -> anyhow::Result<i32> {
    let mut checks = probe(hooks);
    checks.push(descriptors::look(asked.connections));
    let tried = ways();
    checks.extend(summaries(&tried, asked.tried));
    let rows = tried.unwrap_or_else(|_| coverage::untried());
    if args.json {
        let never = NEVER.iter().map(|&(code, means)| Never { code, means }).collect();
        let (enforceable, tried_at) = (level(&checks), asked.tried.name());
        let answer = Answer { enforceable, tried_at, kernel: release(), checks: &checks, vectors: &rows, never };
        serde_json::to_writer_pretty(&mut *out, &answer)?;
        writeln!(out)?;
    } else {
        print::answer(&checks, &rows, asked, out)?;
    }
    let reached = match level(&checks) {
        "none" => false,
        "network" => asked.level == Require::Network,
        _ => true,
    };
    Ok(i32::from(!reached))
}

#[derive(Serialize)]
struct Answer<'a> {
    enforceable: &'static str,
    /// The level at which the ways out were tried. Below `full` more than `enforceable` says may be possible.
    tried_at: &'static str,
    kernel: String,
    checks: &'a [Check],
    vectors: &'a [Row],
    never: Vec<Never>,
}

/// What no level covers, on any kernel.
#[derive(Serialize)]
struct Never {
    code: &'static str,
    means: &'static str,
}

/// All checks of this host that only look.
#[must_use]
pub fn probe(hooks: &[Hook]) -> Vec<Check> {
    let host = Host { root: Path::new("/"), release: release(), landlock: super::spawn::landlock_abi() };
    let mut checks = host.checks();
    let root = nix::unistd::geteuid().is_root();
    checks.extend(hooks.iter().map(|hook| hook.check(root)));
    checks
}

/// What `uname -r` says.
fn release() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// One check for each level: whether every way out that belongs to it is closed under `attach`.
fn summaries(tried: &Result<Vec<Row>, String>, at: Require) -> [Check; 2] {
    use vectors::Scope;
    [("ways out by own sockets", Scope::Network, Need::Required), ("ways out by others", Scope::Full, Need::Full)].map(
        |(name, scope, need)| {
            let rows = match tried {
                Ok(rows) => rows,
                Err(why) => return check(name, State::Unknown, need, why, AS_ROOT),
            };
            let of: Vec<&Row> = rows.iter().filter(|row| row.scope == scope).collect();
            let count = |cover| of.iter().filter(|row| row.attach == cover).count();
            let named = |cover| of.iter().filter(|row| row.attach == cover).map(|row| row.name).collect::<Vec<_>>();
            let (closed, open) = (count(Cover::Covered), named(Cover::Uncovered));
            let unknown = named(Cover::Unknown);
            let mut found =
                format!("{closed} refused, {} open, {} not in this kernel", open.len(), count(Cover::Absent));
            if !unknown.is_empty() {
                found = format!("{found}; could not be tried: {}", unknown.join(", "));
            }
            let state = match (open.is_empty(), unknown.is_empty() && closed > 0) {
                (true, true) => State::Yes,
                (false, _) => State::No,
                (true, false) => State::Unknown,
            };
            let remedy = match (scope, at) {
                (Scope::Full, Require::Network) => {
                    "tried at the level network: `caracald doctor --level full` tries them where the kernel takes its programs; \
                     `run` closes more"
                }
                (Scope::Full, Require::Full) => "see the table; `run` closes more",
                _ => "a newer kernel",
            };
            check(name, state, need, &found, remedy)
        },
    )
}

/// `full`, `network` or `none`: the highest level whose checks all hold. What is unknown does not hold.
#[must_use]
pub fn level(checks: &[Check]) -> &'static str {
    let lacks = |need| checks.iter().any(|check| check.need == need && check.state != State::Yes);
    match (lacks(Need::Required), lacks(Need::Full)) {
        (true, _) => "none",
        (false, true) => "network",
        (false, false) => "full",
    }
}

fn check(name: &str, state: State, need: Need, found: &str, remedy: &str) -> Check {
    let remedy = if state == State::Yes { "" } else { remedy };
    Check { name: name.into(), state, need, found: found.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests;
