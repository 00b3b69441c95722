//! Looks at this host; gives what can and cannot be enforced on it and what to do about it. Refuses nothing and leaves
//! nothing changed: a check reads, and the ways out are tried in a scratch cgroup and network namespace that go again.
//! Never reports as present, or as closed, what it could not see.

pub mod attempts;
pub mod coverage;
pub mod outside;
pub mod vectors;

use coverage::{Cover, Row};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// Say what this kernel and this set-up can enforce, from live probes.
///
/// Needs no daemon, and leaves nothing changed. As root it also tries each known way out of a cgroup: in a scratch cgroup
/// and a network namespace with nothing in it, so nothing is sent. Exits 1 when something is missing, or
/// cannot be told without root, without which nothing can be governed.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON for scripts.
    #[arg(long)]
    pub json: bool,
    /// One attempt, for doctor's own children.
    #[arg(long, hide = true, requires = "place")]
    pub attempt: Option<String>,
    /// Where the attempt finds what it tries to reach.
    #[arg(long, hide = true)]
    pub place: Option<std::path::PathBuf>,
    /// The attempt writes a byte, waits for one, and is moved in between.
    #[arg(long, hide = true)]
    pub wait: bool,
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

/// Where the kernel shows itself. Another root than `/` is for tests.
#[derive(Clone, Debug)]
struct Host<'a> {
    root: &'a Path,
    release: String,
    landlock: u32,
}

/// Probes this host and prints the answer. Gives the exit code: 0, or 1 when something required is missing. `ways` tries
/// the ways out, or says why it cannot.
///
/// # Errors
/// When the answer cannot be written.
pub fn run(
    args: &DoctorArgs,
    hooks: &[Hook],
    ways: impl FnOnce() -> Result<Vec<Row>, String>,
    out: &mut dyn Write,
) -> anyhow::Result<i32> {
    if let (Some(name), Some(place)) = (&args.attempt, &args.place) {
        return Ok(attempts::run(name, place, args.wait));
    }
    let mut checks = probe(hooks);
    let tried = ways();
    checks.extend(summaries(&tried));
    let rows = tried.unwrap_or_else(|_| coverage::untried());
    if args.json {
        let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
        let answer = Answer { enforceable: level(&checks), kernel, checks: &checks, vectors: &rows };
        serde_json::to_writer_pretty(&mut *out, &answer)?;
        writeln!(out)?;
    } else {
        print(&checks, &rows, out)?;
    }
    Ok(i32::from(level(&checks) == "none"))
}

#[derive(Serialize)]
struct Answer<'a> {
    enforceable: &'static str,
    kernel: String,
    checks: &'a [Check],
    vectors: &'a [Row],
}

/// All checks of this host that only look.
#[must_use]
pub fn probe(hooks: &[Hook]) -> Vec<Check> {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let host = Host { root: Path::new("/"), release, landlock: super::spawn::landlock_abi() };
    let mut checks = host.checks();
    let root = nix::unistd::geteuid().is_root();
    checks.extend(hooks.iter().map(|hook| hook.check(root)));
    checks
}

/// One check for each level: whether every way out that belongs to it is closed under `attach`.
fn summaries(tried: &Result<Vec<Row>, String>) -> [Check; 2] {
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
            let remedy = if scope == Scope::Full { "see the table; `run` closes more" } else { "a newer kernel" };
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

fn print(checks: &[Check], rows: &[Row], out: &mut dyn Write) -> std::io::Result<()> {
    ways(rows, out)?;
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    table.set_header(["", "check", "needed", "found", "what to do"]);
    for check in checks {
        let state = match check.state {
            State::Yes => "ok",
            State::No => "NO",
            State::Unknown => "?",
        };
        let need = match check.need {
            Need::Required => "always",
            Need::Full => "for full",
            Need::Useful => "useful",
        };
        table.add_row([state, &check.name, need, &check.found, &check.remedy]);
    }
    writeln!(out, "{table}\n")?;
    let says = match level(checks) {
        "full" => {
            "This host can enforce the level full: sockets of every family, and descriptors, unix sockets and deputies as well."
        }
        "network" => {
            "This host can enforce the level network: all that a process's own IP sockets can send. \
             Open under `attach`: AF_PACKET and AF_XDP (for who has CAP_NET_RAW, as many containers do: drop it), AF_VSOCK, \
             descriptors and unix sockets received from outside, deputies."
        }
        // Nothing is known to be missing.
        _ if !checks.iter().any(|check| check.need == Need::Required && check.state == State::No) => {
            "What this host can enforce cannot be told from here: see the lines marked ? that are always needed."
        }
        _ => "This host can enforce nothing yet: see the lines marked NO and ? that are always needed.",
    };
    writeln!(out, "{says}")
}

/// The coverage table: a line for each way out.
fn ways(rows: &[Row], out: &mut dyn Write) -> std::io::Result<()> {
    if rows.iter().all(|row| row.attach == Cover::Unknown) {
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["way out", "class", "attach", "run", "refused by, or would be closed by"]);
    for row in rows {
        let word = |cover| match cover {
            Cover::Covered => "closed",
            Cover::Uncovered => "OPEN",
            Cover::Absent => "-",
            Cover::Unknown => "?",
        };
        let refused = row.refused_by.join(", ");
        let by = row.closer.map_or(refused, |closer| format!("-> {closer}"));
        table.add_row([row.name, &row.class.to_string(), word(row.attach), word(row.run), &by]);
    }
    writeln!(out, "{table}\n")
}

impl Host<'_> {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    fn checks(&self) -> Vec<Check> {
        let mounts = self.read("proc/self/mounts").unwrap_or_default();
        vec![
            self.kernel(),
            cgroup2(&mounts),
            self.bpffs(&mounts),
            self.v1_network(&mounts),
            self.btf(),
            self.bpf_lsm(&mounts),
            self.unprivileged_bpf(),
            self.seccomp(),
            self.landlock(),
            self.user_namespaces(),
        ]
    }

    fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    fn kernel(&self) -> Check {
        let new = self.version().map(|version| version >= (5, 10));
        check("kernel", state(new), Need::Required, &self.release, "Linux 5.10 or later: the oldest that is tried")
    }

    fn bpffs(&self, mounts: &str) -> Check {
        let supported = self.read("proc/filesystems").map(|list| list.split_whitespace().any(|word| word == "bpf"));
        let found = match mounts_of(mounts, "bpf").next() {
            Some((at, _)) => return check("bpffs", State::Yes, Need::Required, &format!("mounted at {at}"), ""),
            None if supported == Some(true) => "not mounted; caracald mounts it when it starts",
            None => "not mounted and not offered by the kernel",
        };
        check("bpffs", state(supported), Need::Required, found, "a kernel with CONFIG_BPF_SYSCALL")
    }

    /// Before 5.15 these controllers take a socket out of its v2 cgroup.
    fn v1_network(&self, mounts: &str) -> Check {
        let mut found = mounts_of(mounts, "cgroup")
            .filter(|(_, options)| options.split(',').any(|o| o == "net_cls" || o == "net_prio"));
        let remedy = "unmount it, or boot with cgroup_no_v1=net_cls,net_prio, or use Linux 5.15 or later";
        match found.next() {
            None => check("net_cls and net_prio", State::Yes, Need::Required, "not mounted", ""),
            Some((at, _)) => {
                let harmless = self.version().map(|version| version >= (5, 15));
                let seen = format!("mounted at {at}{}", if harmless == Some(true) { ", harmless here" } else { "" });
                check("net_cls and net_prio", state(harmless), Need::Required, &seen, remedy)
            }
        }
    }

    fn btf(&self) -> Check {
        let there = self.exists("sys/kernel/btf/vmlinux");
        let seen = if there { "/sys/kernel/btf/vmlinux" } else { "absent" };
        check("BTF", state(Some(there)), Need::Full, seen, "a kernel built with CONFIG_DEBUG_INFO_BTF")
    }

    fn bpf_lsm(&self, mounts: &str) -> Check {
        let remedy = "boot with lsm=...,bpf: your list with bpf added (and CONFIG_BPF_LSM)";
        let at = mounts_of(mounts, "securityfs").next().map_or("/sys/kernel/security", |(at, _)| at);
        match self.read(&format!("{}/lsm", at.trim_start_matches('/'))) {
            Some(list) => {
                let list = list.trim();
                let active = list.split(',').any(|name| name == "bpf");
                check("BPF LSM", state(Some(active)), Need::Full, &format!("active: {list}"), remedy)
            }
            None => {
                let mount = "mount -t securityfs none /sys/kernel/security, then ask again";
                check("BPF LSM", State::Unknown, Need::Full, "securityfs cannot be read", mount)
            }
        }
    }

    fn unprivileged_bpf(&self) -> Check {
        let value = self.read("proc/sys/kernel/unprivileged_bpf_disabled").map(|text| text.trim().to_owned());
        let off = value.as_deref().map(|value| value != "0");
        let found = value.unwrap_or_else(|| "cannot be read".into());
        let remedy = "sysctl kernel.unprivileged_bpf_disabled=1";
        check("unprivileged BPF off", state(off), Need::Useful, &found, remedy)
    }

    fn seccomp(&self) -> Check {
        let actions = self.read("proc/sys/kernel/seccomp/actions_avail");
        let there = actions.as_deref().map(|list| list.split_whitespace().any(|word| word == "errno"));
        let seen = if there == Some(true) { "filters" } else { "no filters" };
        check("seccomp", state(Some(there == Some(true))), Need::Required, seen, "a kernel with CONFIG_SECCOMP_FILTER")
    }

    fn landlock(&self) -> Check {
        let seen = format!("ABI {}", self.landlock);
        let remedy = "Linux 6.12 with landlock in the lsm list; until then `run` refuses ptrace altogether";
        check("Landlock scopes", state(Some(self.landlock >= 6)), Need::Useful, &seen, remedy)
    }

    /// Ordinary users' `run` needs them for private mounts.
    fn user_namespaces(&self) -> Check {
        let off = [
            ("proc/sys/user/max_user_namespaces", "0"),
            ("proc/sys/kernel/unprivileged_userns_clone", "0"),
            ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ];
        let remedy = "allow them for caracald (an AppArmor profile, or the sysctl named)";
        if !self.exists("proc/self/ns/user") {
            return check("user namespaces", State::No, Need::Useful, "not in this kernel", remedy);
        }
        let closed = off.iter().find(|(path, value)| self.read(path).is_some_and(|text| text.trim() == *value));
        match closed {
            Some((path, value)) => {
                let name = path.trim_start_matches("proc/sys/").replace('/', ".");
                check("user namespaces", State::No, Need::Useful, &format!("{name} = {value}"), remedy)
            }
            None => check("user namespaces", State::Yes, Need::Useful, "allowed for ordinary users", ""),
        }
    }
}

fn cgroup2(mounts: &str) -> Check {
    let remedy = "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1";
    match mounts_of(mounts, "cgroup2").next() {
        Some((at, _)) => {
            let kind = if mounts_of(mounts, "cgroup").next().is_some() { "hybrid" } else { "unified" };
            check("cgroup v2", State::Yes, Need::Required, &format!("{kind}, at {at}"), "")
        }
        None => check("cgroup v2", State::No, Need::Required, "not mounted", remedy),
    }
}

/// Mount point and options of each mount of a kind.
fn mounts_of<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ').skip(1);
        let (at, this, options) = (fields.next()?, fields.next()?, fields.next()?);
        (this == kind).then_some((at, options))
    })
}

fn state(found: Option<bool>) -> State {
    match found {
        Some(true) => State::Yes,
        Some(false) => State::No,
        None => State::Unknown,
    }
}

fn check(name: &str, state: State, need: Need, found: &str, remedy: &str) -> Check {
    let remedy = if state == State::Yes { "" } else { remedy };
    Check { name: name.into(), state, need, found: found.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests;
