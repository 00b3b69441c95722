//! Debian packages, found by what they bring rather than by name, so that another distribution's will do as well.

use std::{
    borrow::Cow,
    env,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail};

use crate::{checkout::Checkout, progress, root};

/// A Debian package and how to see that what it brings is there.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) probe: Probe,
}

/// How to see that something is installed.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    /// A program on PATH or in an `sbin`.
    Program(&'static str),
    /// A file or directory.
    Path(Cow<'static, str>),
    /// A command that succeeds.
    Succeeds(&'static [&'static str]),
}

/// A server of PostgreSQL, in the distribution's version: 15 or newer.
const POSTGRES: (&str, Probe) = ("postgresql", Probe::Succeeds(&["sh", "-c", "ls /usr/lib/postgresql/*/bin/postgres"]));

/// Java 17 or newer, whichever the distribution has, with a compiler: a test runs a program from its source.
const JAVA: (&str, Probe) = ("default-jdk-headless", Probe::Program("javac"));

/// For the C code in our dependencies (aws-lc, SQLite, zstd, librdkafka with OpenSSL and zlib).
pub(crate) const BUILD: &[(&str, Probe)] = &[
    ("gcc", Probe::Program("cc")),
    ("g++", Probe::Program("c++")),
    ("make", Probe::Program("make")),
    ("cmake", Probe::Program("cmake")),
    ("pkg-config", Probe::Program("pkg-config")),
    ("libssl-dev", Probe::Succeeds(&["pkg-config", "--exists", "openssl"])),
    ("zlib1g-dev", Probe::Succeeds(&["pkg-config", "--exists", "zlib"])),
];

/// Kafka, PostgreSQL and Redis, as the contracts of the shared plane run them.
pub(crate) const SERVICES: &[(&str, Probe)] = &[
    JAVA,
    ("maven", Probe::Program("mvn")),
    POSTGRES,
    ("redis-server", Probe::Program("redis-server")),
    ("util-linux", Probe::Program("setpriv")),
];

/// What the unit tests start: a vault of shared budgets, the view of all hosts' spend, and programs that must trust the CA.
pub(crate) const UNIT: &[(&str, Probe)] = &[
    ("ca-certificates", Probe::Path(Cow::Borrowed("/etc/ssl/certs/ca-certificates.crt"))),
    ("curl", Probe::Program("curl")),
    ("git", Probe::Program("git")),
    ("openssl", Probe::Program("openssl")),
    ("nodejs", Probe::Program("node")),
    ("python3-requests", Probe::Succeeds(&["/usr/bin/python3", "-c", "import requests"])),
    JAVA,
    POSTGRES,
    ("redis-server", Probe::Program("redis-server")),
    ("util-linux", Probe::Program("setpriv")),
];

/// What the contracts call.
pub(crate) const TEST: &[(&str, Probe)] = &[
    ("curl", Probe::Program("curl")),
    ("git", Probe::Program("git")),
    ("iproute2", Probe::Program("ip")),
    ("systemd", Probe::Program("systemd-analyze")),
    ("nghttp2-client", Probe::Program("h2load")),
    ("libcap2-bin", Probe::Program("capsh")),
    ("util-linux", Probe::Program("unshare")),
    // Real containers: runc, because crun takes no hybrid hosts; the bridge plugin translates addresses with iptables.
    ("podman", Probe::Program("podman")),
    ("runc", Probe::Program("runc")),
    ("containernetworking-plugins", Probe::Path(Cow::Borrowed("/usr/lib/cni/bridge"))),
    ("iptables", Probe::Program("iptables")),
    ("busybox-static", Probe::Succeeds(&["sh", "-c", "! ldd /bin/busybox"])),
    ("python3-venv", Probe::Succeeds(&["/usr/bin/python3", "-c", "import ensurepip, venv"])),
    ("nodejs", Probe::Program("node")),
    ("npm", Probe::Program("npm")),
    // What policies of legitimate traffic allow.
    ("openssh-server", Probe::Program("sshd")),
    ("openssh-client", Probe::Program("ssh")),
    POSTGRES,
    ("postgresql-client", Probe::Program("psql")),
    ("musl-tools", Probe::Program("musl-gcc")),
    ("nscd", Probe::Program("nscd")),
    // Reads the units that ship.
    ("systemd", Probe::Program("systemd-analyze")),
    ("golang-go", Probe::Program("go")),
];

/// What the demo plays with.
pub(crate) const DEMO: &[(&str, Probe)] =
    &[("curl", Probe::Program("curl")), ("iproute2", Probe::Program("ip")), ("util-linux", Probe::Program("setpriv"))];

/// What boots other kernels, and what stands in their root file system.
pub(crate) const VM: &[(&str, Probe)] = &[
    ("qemu-system-x86", Probe::Program("qemu-system-x86_64")),
    ("busybox-static", Probe::Succeeds(&["sh", "-c", "test -x /usr/bin/busybox && ! ldd /usr/bin/busybox"])),
    ("debian-archive-keyring", Probe::Path(Cow::Borrowed("/usr/share/keyrings/debian-archive-keyring.gpg"))),
    // Modules come packed, by one or the other.
    ("xz-utils", Probe::Program("xz")),
    ("zstd", Probe::Program("zstd")),
    ("ca-certificates", Probe::Path(Cow::Borrowed("/etc/ssl/certs/ca-certificates.crt"))),
    ("curl", Probe::Program("curl")),
    ("git", Probe::Program("git")),
    ("iproute2", Probe::Program("ip")),
    ("libcap2-bin", Probe::Program("capsh")),
    ("util-linux", Probe::Program("unshare")),
    // PID 1 of a machine; this host need not run it.
    ("systemd", Probe::Program("systemctl")),
    // With its whole library: the contracts' programs need more than python3-minimal has.
    ("python3", Probe::Succeeds(&["/usr/bin/python3", "-c", "import ctypes, json, select, socket, ssl"])),
];

/// What reads vagrant/Vagrantfile: 16 MB.
pub(crate) const VAGRANT: &[(&str, Probe)] = &[("vagrant", Probe::Program("vagrant"))];

/// A Python that can make environments.
pub(crate) const PYTHON: &[(&str, Probe)] =
    &[("python3-venv", Probe::Succeeds(&["/usr/bin/python3", "-c", "import ensurepip, venv"]))];

/// squid with TLS.
pub(crate) const SQUID: &[(&str, Probe)] =
    &[("squid-openssl", Probe::Path(Cow::Borrowed("/usr/lib/squid/security_file_certgen")))];

/// What the benchmark's namespaces are made with.
pub(crate) const BENCH: &[(&str, Probe)] =
    &[("iproute2", Probe::Program("ip")), ("util-linux", Probe::Program("nsenter"))];

/// One `apt-get update` per call of xtask is enough.
static UPDATED: AtomicBool = AtomicBool::new(false);

impl Package {
    pub(crate) fn new(name: impl Into<String>, probe: Probe) -> Self {
        Self { name: name.into(), probe }
    }
}

impl Probe {
    pub(crate) fn finds(&self) -> bool {
        match self {
            Self::Program(name) => on_path(name),
            Self::Path(path) => Path::new(path.as_ref()).exists(),
            Self::Succeeds(words) => succeeds(words),
        }
    }
}

/// A cargo for the agent's user, who may run none below a home directory. Debian 12's own knows no sparse registries.
///
/// # Errors
/// Like [`install`].
pub(crate) fn install_cargo(checkout: &Checkout) -> Result<()> {
    let probe = Probe::Path(Cow::Borrowed("/usr/bin/cargo"));
    if probe.finds() {
        return Ok(());
    }
    let name = if available(checkout, "cargo-web") { "cargo-web" } else { "cargo" };
    install(checkout, "to test", &[(name, probe)])
}

/// Installs those of `wanted` whose probe finds nothing.
///
/// # Errors
/// When apt-get is missing or fails; the text names the packages.
pub(crate) fn install(checkout: &Checkout, why: &str, wanted: &[(&str, Probe)]) -> Result<()> {
    let wanted: Vec<Package> = wanted.iter().map(|(name, probe)| Package::new(*name, probe.clone())).collect();
    install_all(checkout, why, &wanted)
}

/// Like [`install`], for names that are made up on the way.
///
/// # Errors
/// Like [`install`].
pub(crate) fn install_all(checkout: &Checkout, why: &str, wanted: &[Package]) -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    for package in wanted {
        if !missing.contains(&package.name.as_str()) && !package.probe.finds() {
            missing.push(&package.name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !on_path("apt-get") {
        bail!("needed {why}: what Debian calls {names}. There is no apt-get here: install it by hand, then try again");
    }
    root::ask(&format!("to install Debian packages {why}: {names}"))?;
    update(checkout)?;
    let mut install = apt();
    // --no-remove: a person's own compiler is never thrown out for ours.
    install.args(["install", "-y", "--no-remove", "--no-install-recommends"]).args(&missing);
    progress::quietly(&format!("installing {names}"), &mut install, &checkout.log("apt-install"))?;
    if let Some(package) = wanted.iter().find(|package| !package.probe.finds()) {
        bail!("{} is installed, but what it should bring is not there: {:?}", package.name, package.probe);
    }
    Ok(())
}

/// Whether apt could install a package of this name.
pub(crate) fn available(checkout: &Checkout, name: &str) -> bool {
    if !on_path("apt-cache") || update(checkout).is_err() {
        return false;
    }
    Command::new("apt-cache").args(["policy", name]).env("LC_ALL", "C").output().is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)"))
    })
}

/// Whether dpkg has a package of this name installed.
pub(crate) fn installed(name: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", name])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// Looks along PATH and where administrators' programs are kept.
pub(crate) fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/local/sbin".into()])
        .any(|directory| directory.join(name).is_file())
}

fn update(checkout: &Checkout) -> Result<()> {
    if UPDATED.load(Ordering::Relaxed) {
        return Ok(());
    }
    root::ask("to read the list of Debian packages anew")?;
    let mut update = apt();
    update.arg("update");
    progress::quietly("reading the list of Debian packages", &mut update, &checkout.log("apt-update"))?;
    UPDATED.store(true, Ordering::Relaxed);
    Ok(())
}

fn apt() -> Command {
    let mut command = root::command("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

fn succeeds(words: &[&str]) -> bool {
    let Some((program, arguments)) = words.split_first() else {
        return false;
    };
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
