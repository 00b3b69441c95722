//! Sockets by which somebody outside acts for whoever asks: container engines, the session's and the host's buses, service
//! managers, key agents, terminal multiplexers. Takes the caller's environment and the `[[unix]]` rules; gives what is to be
//! hidden from the command. Knows such places by name only: a socket elsewhere stays in reach, as does one that is made at
//! such a place later.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::config::UnixRule;

/// Where the host's name caches answer for everybody. They would ask for names that the policy refuses; without them the C
/// library asks our resolver.
const NAME_CACHES: [&str; 4] = [
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/avahi-daemon/socket",
];

/// The host's. A directory that has nothing else in it is hidden whole, so that what is made in it later is hidden too.
const OF_THE_HOST: [&str; 14] = [
    "/run/docker.sock",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/run/buildkit",
    "/run/libvirt",
    "/run/lxd.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/run/dbus",
    "/run/systemd/private",
    "/run/snapd.socket",
    "/run/snapd-snap.socket",
    "/run/screen",
    "/run/screens",
];

/// A user's, below the runtime directory.
const OF_A_USER: [&str; 12] = [
    "bus",
    "dbus-1",
    "systemd",
    "docker.sock",
    "podman",
    "containerd",
    "buildkit",
    "gnupg",
    "keyring",
    "gcr",
    "openssh_agent",
    "ssh-agent.socket",
];

/// The same below the home directory; of these only sockets.
const AT_HOME: [&str; 11] = [
    ".docker/run/docker.sock",
    ".docker/desktop/docker.sock",
    ".colima/default/docker.sock",
    ".1password/agent.sock",
    ".gnupg/S.gpg-agent",
    ".gnupg/S.gpg-agent.extra",
    ".gnupg/S.gpg-agent.browser",
    ".gnupg/S.gpg-agent.ssh",
    ".gnupg/S.dirmngr",
    ".gnupg/S.keyboxd",
    ".gnupg/S.scdaemon",
];

/// Variables that name one: a path, or an address of the form `unix:path=PATH,...` or `unix://PATH`.
const NAMED: [&str; 8] = [
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "CONTAINERD_ADDRESS",
    "BUILDKIT_HOST",
    "TMUX",
];

/// Entries of a directory that are looked at.
const MOST: usize = 1_024;

/// What `run` hides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Deputies {
    /// The host's name caches that no rule gives to the agent: also while it learns, since names are seen only where our
    /// resolver is asked.
    pub(super) caches: Vec<PathBuf>,
    /// The rest that is there and that no rule gives: files and directories.
    pub(super) withheld: Vec<PathBuf>,
}

impl Deputies {
    /// Of this host, for an agent of this name.
    pub(super) fn of(rules: &[UnixRule], agent: &str, environment: &[(OsString, OsString)]) -> Deputies {
        let caches = NAME_CACHES.map(PathBuf::from).into_iter().filter(|path| !given(rules, agent, path));
        let known = known(Path::new("/"), nix::unistd::geteuid().as_raw(), environment);
        let withheld: BTreeSet<PathBuf> = known.values().flat_map(|path| withheld(rules, agent, path)).collect();
        Deputies { caches: caches.collect(), withheld: withheld.into_iter().collect() }
    }

    /// For people: what is withheld.
    pub(super) fn list(&self) -> String {
        self.withheld.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Every known place that is there: where it really is, and what it is called.
fn known(root: &Path, uid: u32, environment: &[(OsString, OsString)]) -> BTreeMap<PathBuf, PathBuf> {
    let variable =
        |wanted: &str| environment.iter().rev().find(|(name, _)| name == wanted).map(|(_, value)| value.as_os_str());
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let mut places: Vec<PathBuf> = OF_THE_HOST.iter().map(|path| below(path)).collect();
    let mut runtimes: Vec<PathBuf> = variable("XDG_RUNTIME_DIR").map(PathBuf::from).into_iter().collect();
    runtimes.push(below(&format!("/run/user/{uid}")));
    // Root reaches everybody's.
    if uid == 0 {
        runtimes.extend(entries(&below("/run/user")));
    }
    places.extend(runtimes.iter().flat_map(|runtime| OF_A_USER.iter().map(|name| runtime.join(name))));
    let temporary = ["TMUX_TMPDIR", "TMPDIR"].map(|name| variable(name).map(PathBuf::from));
    for directory in temporary.into_iter().flatten().chain([below("/tmp")]) {
        places.push(directory.join(format!("tmux-{uid}")));
        // Of ssh-agent and of forwarded ones, in every session of the user's.
        places.extend(entries(&directory).filter(|path| begins(path, b"ssh-")));
    }
    if uid == 0 {
        places.extend(entries(&below("/tmp")).filter(|path| begins(path, b"tmux-")));
    }
    let home = variable("HOME").map(PathBuf::from);
    let mut sockets: Vec<PathBuf> = home.iter().flat_map(|home| AT_HOME.iter().map(|path| home.join(path))).collect();
    if let Some(keys) = variable("GNUPGHOME").map(PathBuf::from) {
        sockets.extend(entries(&keys));
    }
    // Masters of ssh connections that are shared (ControlPath), beside the keys and one directory down.
    if let Some(ssh) = home.map(|home| home.join(".ssh")) {
        let directories: Vec<PathBuf> = entries(&ssh).filter(|path| path.is_dir()).collect();
        sockets.extend(directories.iter().chain([&ssh]).flat_map(|directory| entries(directory)));
    }
    sockets.extend(NAMED.iter().filter_map(|name| socket_of(variable(name)?)));
    let there = places.into_iter().filter(|path| path.is_dir() || is_socket(path));
    let there = there.chain(sockets.into_iter().filter(|path| is_socket(path)));
    there.filter_map(|path| Some((fs::canonicalize(&path).ok()?, path))).collect()
}

/// The path in a variable's value.
fn socket_of(value: &OsStr) -> Option<PathBuf> {
    let bytes = value.as_bytes();
    let bytes =
        ["unix:path=", "unix://"].iter().find_map(|scheme| bytes.strip_prefix(scheme.as_bytes())).unwrap_or(bytes);
    let path = bytes.split(|byte| matches!(byte, b',' | b';')).next()?;
    path.starts_with(b"/").then(|| PathBuf::from(OsStr::from_bytes(path)))
}

/// What is to be hidden for a known place: nothing where a rule names it, itself, or of a directory in which a rule names
/// something the sockets that none names.
fn withheld(rules: &[UnixRule], agent: &str, place: &Path) -> Vec<PathBuf> {
    if !place.is_dir() {
        return if given(rules, agent, place) { Vec::new() } else { vec![place.to_owned()] };
    }
    let names = spellings(place);
    if names.iter().any(|place| rules.iter().any(|rule| rule.names(agent, &format!("{place}/")))) {
        return Vec::new();
    }
    if !names.iter().any(|place| rules.iter().any(|rule| rule.names_below(agent, place))) {
        return vec![place.to_owned()];
    }
    let inside = entries(place).filter(|path| path.is_dir() || is_socket(path));
    inside.flat_map(|path| withheld(rules, agent, &path)).collect()
}

/// Whether a rule names this path, as rules do: by the path that a listener bound.
fn given(rules: &[UnixRule], agent: &str, path: &Path) -> bool {
    spellings(path).iter().any(|path| rules.iter().any(|rule| rule.names(agent, path)))
}

/// A path as it is called and as it really is, and by the older name of `/run`.
fn spellings(path: &Path) -> BTreeSet<String> {
    let real = fs::canonicalize(path).ok();
    let names = real.iter().map(PathBuf::as_path).chain([path]).map(|path| path.to_string_lossy().into_owned());
    let older = |path: &String| path.starts_with("/run/").then(|| format!("/var{path}"));
    names.flat_map(|path| older(&path).into_iter().chain([path])).collect()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().take(MOST).map(|entry| entry.path())
}

fn begins(path: &Path, with: &[u8]) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(with))
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn rules(text: &str) -> Vec<UnixRule> {
        text.lines()
            .map(|sockets| toml::from_str(&format!("agents = [\"a\"]\nsockets = [{sockets}]")).expect("a rule"))
            .collect()
    }

    /// A host below a directory; the listeners live as long as it is looked at.
    fn host(root: &Path, sockets: &[&str]) -> Vec<UnixListener> {
        let listen = |path: &&str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            UnixListener::bind(path).expect("a listener")
        };
        sockets.iter().map(listen).collect()
    }

    #[test]
    fn known_places_are_found_by_their_own_names() {
        let root = tempfile::tempdir().expect("a directory");
        let _listeners = host(
            root.path(),
            &[
                "run/docker.sock",
                "run/dbus/system_bus_socket",
                "run/user/7/bus",
                "run/user/7/systemd/private",
                "run/user/8/bus",
                "tmp/tmux-7/default",
                "tmp/ssh-abc/agent.1",
                "home/.gnupg/S.gpg-agent",
                "home/.ssh/cm/host",
                "elsewhere/agent",
                "elsewhere/bus",
            ],
        );
        fs::write(root.path().join("run/snapd.socket"), "no socket").expect("a file");
        fs::write(root.path().join("home/.ssh/id"), "a key").expect("a file");
        let at = |path: &str| root.path().join(path);
        let pair = |name: &str, value: String| (OsString::from(name), OsString::from(value));
        let environment = [
            pair("HOME", at("home").display().to_string()),
            pair("SSH_AUTH_SOCK", at("elsewhere/agent").display().to_string()),
            pair("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={},guid=1", at("elsewhere/bus").display())),
            pair("DOCKER_HOST", "tcp://127.0.0.1:2375".to_owned()),
            pair("TMUX", format!("{},12,0", at("tmp/tmux-7/default").display())),
        ];
        let of = |uid| -> Vec<String> {
            let real = root.path().canonicalize().expect("its own name");
            let short = |path: PathBuf| path.strip_prefix(&real).expect("below").display().to_string();
            known(root.path(), uid, &environment).into_keys().map(short).collect()
        };
        let everybodys = ["run/dbus", "run/docker.sock"];
        let own = ["run/user/7/bus", "run/user/7/systemd"];
        let last = ["tmp/ssh-abc", "tmp/tmux-7", "tmp/tmux-7/default"];
        let at_home = ["elsewhere/agent", "elsewhere/bus", "home/.gnupg/S.gpg-agent", "home/.ssh/cm/host"];
        assert_eq!(of(7), [&at_home[..], &everybodys, &own, &last].concat());
        assert!(of(0).contains(&"run/user/8/bus".to_owned()), "root reaches everybody's");
    }

    #[test]
    fn a_rule_gives_one_back_and_nothing_beside_it() {
        let root = tempfile::tempdir().expect("a directory");
        let _listeners = host(root.path(), &["d/one", "d/two", "d/below/three", "single"]);
        let at = |path: &str| root.path().join(path).display().to_string();
        let of = |text: &str, agent: &str, place: &str| -> BTreeSet<String> {
            let paths = withheld(&rules(text), agent, &root.path().join(place));
            paths.iter().map(|path| path.strip_prefix(root.path()).expect("below").display().to_string()).collect()
        };
        let set = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(of("", "a", "d"), set(&["d"]), "without a rule a directory goes whole");
        assert_eq!(of(&format!("\"{}\"", at("d/one")), "a", "d"), set(&["d/two", "d/below"]));
        assert_eq!(of(&format!("\"{}*\"", at("d/below/")), "a", "d"), set(&["d/one", "d/two"]));
        assert_eq!(of(&format!("\"{}*\"", at("d/")), "a", "d"), set(&[]));
        assert_eq!(of(&format!("\"{}*\"", at("d/")), "b", "d"), set(&["d"]), "another agent's rule");
        assert_eq!(of(&format!("\"{}\"", at("single")), "a", "single"), set(&[]));
        assert_eq!(of(&format!("\"{}\"", at("d/one")), "a", "single"), set(&["single"]));
        let older = rules("\"/var/run/docker.sock\"");
        assert!(given(&older, "a", Path::new("/run/docker.sock")), "as a listener may have bound it");
    }

    #[test]
    fn what_a_variable_names_is_withheld_unless_a_rule_gives_it() {
        let root = tempfile::tempdir().expect("a directory");
        let _listeners = host(root.path(), &["agent"]);
        let path = root.path().join("agent");
        let environment = [("SSH_AUTH_SOCK".into(), path.clone().into_os_string())];
        let of = |rules: &[UnixRule]| Deputies::of(rules, "a", &environment);
        let plain = of(&[]);
        assert!(plain.withheld.contains(&path) && plain.list().contains("/agent"), "{plain:?}");
        assert!(plain.caches.contains(&PathBuf::from("/run/nscd/socket")), "{plain:?}");
        assert!(!of(&rules(&format!("\"{}\"", path.display()))).withheld.contains(&path));
        assert!(!of(&rules("\"/run/nscd/*\"")).caches.contains(&PathBuf::from("/run/nscd/socket")));
    }
}
