//! Takes the LSM programs of the object; gives them attached, pinned and proven, one set an instance. A hook that this
//! kernel does not take is named with the reason and left out; whether that is enough is for `level.rs` to say.
//!
//! Layout below the pin directory: `lsm/HOOK`. A link of this kind cannot be updated in place: a restart attaches the new
//! program beside the old one, and only then lets the new pin take the old one's name. Between the two both decide, and
//! the stricter wins.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use aya::programs::{LsmAttachType, Program, ProgramType};
use aya::{Btf, Ebpf};
use caracal_common::house::{ATTRIBUTE, Inode, KIND_BITS};
use caracal_common::layout::{ABSENT, Layout};
use caracal_common::name;
use caracal_common::unix::{NAME_LEN, UnixName, WHOLE_BITS};

use super::KeeperError;
use super::bpf_link::Link;
use super::btf::{self, Types};
use super::kernel::{Shared, chain, kernel, kernel_at_least};

/// One program at its hook.
#[derive(Debug)]
struct Attached {
    hook: &'static str,
    link: Link,
    program: u32,
}

/// A hook that this kernel does not take, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The hook.
    pub hook: &'static str,
    /// Why.
    pub why: String,
}

/// The set of one instance.
#[derive(Debug)]
pub struct Lsm {
    /// Set where `full` is not required, and nothing is attached: whether this kernel offers it, or why not.
    not_required: Option<Result<(), String>>,
    attached: Vec<Attached>,
    missing: Vec<Missing>,
    canary: u32,
    secret: [u8; 8],
}

/// What the programs need to know of this kernel and of this start of the keeper.
#[must_use]
pub fn layout() -> Layout {
    let bytes = fs::read(btf::KERNEL).unwrap_or_default();
    let found = Types::read(&bytes).map_or(Layout::UNKNOWN, |types| btf::layout(&types));
    let random = uuid::Uuid::new_v4().into_bytes();
    let number = |at: usize| random.iter().skip(at).take(4).fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    // Letters: the name of an attribute has no zero.
    let letters = |at: usize| {
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(random.iter().skip(at)).for_each(|(to, byte)| *to = b'a' + byte % 26);
        u32::from_ne_bytes(bytes)
    };
    let helper = kernel_at_least(5, 15) || found.cgroup_ancestor_ids == ABSENT;
    Layout {
        has_ancestor_helper: u32::from(helper),
        // Positive, and no protocol's number.
        canary: number(0) & 0x3fff_ffff | 0x4000_0000,
        secret_low: letters(8),
        secret_high: letters(12),
        ..found
    }
}

/// The hooks that are of use on this kernel.
pub fn hooks() -> impl Iterator<Item = &'static str> {
    let sends_past = !kernel_at_least(6, 5);
    name::LSM.into_iter().filter(move |hook| *hook != "file_permission" || sends_past)
}

/// Loads every program that this kernel takes; the others with the reason.
pub fn load(ebpf: &mut Ebpf, layout: &Layout) -> Vec<Missing> {
    let types = Btf::from_sys_fs();
    let mut missing = Vec::new();
    for hook in hooks() {
        if let Err(why) = load_one(ebpf, layout, hook, types.as_ref()) {
            missing.push(Missing { hook, why });
        }
    }
    missing
}

fn load_one(ebpf: &mut Ebpf, layout: &Layout, hook: &str, types: Result<&Btf, &aya::BtfError>) -> Result<(), String> {
    let types = types.map_err(|error| format!("no type information of the kernel: {error}"))?;
    if let Some((field, _)) = needs(layout, hook).into_iter().find(|(_, at)| *at == ABSENT) {
        return Err(format!("this kernel's types have no {field}"));
    }
    match ebpf.program_mut(&format!("lsm_{hook}")) {
        Some(Program::Lsm(program)) => program.load(hook, types).map_err(|error| {
            let text = chain(&error);
            text.lines().next().unwrap_or_default().to_owned()
        }),
        _ => Err("the program is missing".to_owned()),
    }
}

/// The fields that a hook's program reads.
fn needs(at: &Layout, hook: &str) -> Vec<(&'static str, u32)> {
    let helper = at.has_ancestor_helper == 1;
    let mut needs = if helper {
        Vec::new()
    } else {
        vec![
            ("task_struct.cgroups", at.task_cgroups),
            ("css_set.dfl_cgrp", at.css_set_cgroup),
            ("cgroup.level", at.cgroup_level),
            ("cgroup.ancestor_ids", at.cgroup_ancestor_ids),
        ]
    };
    let owner = [
        ("cgroup.kn", at.cgroup_node),
        ("cgroup.self", at.cgroup_self),
        ("cgroup.self.parent", at.cgroup_parent),
        ("kernfs_node.id", at.node_id),
    ];
    let socket = [
        ("socket.sk", at.socket_sock),
        ("sock.sk_cgrp_data", at.sock_cgroup),
        ("sock.skc_family", at.sock_family),
        ("sock.sk_protocol", at.sock_protocol),
        ("sock.skc_num", at.sock_port),
    ];
    let file = [
        ("file.f_inode", at.file_inode),
        ("file.private_data", at.file_private),
        ("file.f_path.dentry", at.file_dentry),
        ("file.f_mode", at.file_mode),
        ("inode.i_mode", at.inode_mode),
    ];
    let inode = [
        ("dentry.d_inode", at.dentry_inode),
        ("dentry.d_parent", at.dentry_parent),
        ("inode.i_sb", at.inode_super),
        ("inode.i_ino", at.inode_number),
        ("super_block.s_dev", at.super_device),
        ("super_block.s_magic", at.super_magic),
    ];
    let task = [("task_struct.cgroups", at.task_cgroups), ("css_set.dfl_cgrp", at.css_set_cgroup)];
    match hook {
        "bpf" | "capable" | "socket_create" => {}
        "ptrace_access_check" | "task_kill" => needs.extend(owner.into_iter().chain(task)),
        "file_receive" | "file_permission" => needs.extend(owner.into_iter().chain(socket).chain(file)),
        "unix_stream_connect" | "unix_may_send" => {
            let name = [
                ("unix_sock.addr", at.unix_address),
                ("unix_address.len", at.unix_length),
                ("unix_address.name", at.unix_name),
            ];
            needs.extend(owner.into_iter().chain(socket).chain(name));
        }
        "inode_permission" => {
            needs.extend(inode);
            needs.extend([
                ("inode.i_private", at.inode_private),
                ("kernfs_node.id", at.node_id),
                ("kernfs_node.parent", at.node_parent),
            ]);
        }
        "file_open" => {
            let process = [
                ("dentry.d_name", at.dentry_name),
                ("proc_inode.vfs_inode", at.proc_inode),
                ("proc_inode.pid", at.proc_pid),
                ("pid.tasks", at.pid_tasks),
                ("task_struct.pid_links", at.task_pid_links),
            ];
            needs.extend(inode.into_iter().chain(file).chain(owner).chain(task).chain(process));
        }
        "inode_setattr" => {
            needs.extend(inode);
            needs.push(("argument of inode_setattr", at.setattr_dentry));
        }
        "sb_umount" => {
            needs.extend(inode);
            needs.extend([("vfsmount.mnt_sb", at.mount_super), ("vfsmount.mnt_root", at.mount_root)]);
        }
        "inode_getxattr" | "inode_link" | "inode_rename" | "inode_unlink" => needs.extend(inode),
        _ => needs.extend(owner.into_iter().chain(socket)),
    }
    needs
}

impl Lsm {
    /// Attaches what was loaded and pins it below `pins`, in the place of an earlier keeper's.
    pub fn attach(ebpf: &Ebpf, layout: &Layout, pins: &Path, missing: Vec<Missing>) -> Lsm {
        let mut lsm = Lsm { not_required: None, attached: Vec::new(), missing, canary: layout.canary, secret: [0; 8] };
        let secret = [layout.secret_low.to_ne_bytes(), layout.secret_high.to_ne_bytes()];
        lsm.secret.copy_from_slice(secret.as_flattened());
        let pins = pins.join("lsm");
        for hook in hooks() {
            if lsm.missing.iter().any(|missing| missing.hook == hook) {
                continue;
            }
            match attach_one(ebpf, hook, &pins) {
                Ok(attached) => lsm.attached.push(attached),
                Err(error) => lsm.missing.push(Missing { hook, why: format!("cannot attach: {error}") }),
            }
        }
        // What a keeper left that died between two names, or of another version.
        for entry in fs::read_dir(&pins).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(|pin| name::LSM.contains(&pin)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        lsm
    }

    /// Nothing, since the level `full` is not required. What an earlier keeper attached for it is taken off.
    ///
    /// # Errors
    /// When its pins below `pins` cannot be removed.
    pub fn not_required(pins: &Path) -> Result<Lsm, KeeperError> {
        let pins = pins.join("lsm");
        match fs::remove_dir_all(&pins) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(kernel(format!("cannot remove the pins at {}: {error}", pins.display())));
            }
            _ => {}
        }
        let not_required = Some(offered());
        Ok(Lsm { not_required, attached: Vec::new(), missing: Vec::new(), canary: 0, secret: [0; 8] })
    }

    /// The hooks that this kernel does not take.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Asks the kernel now: is our program at each hook, and does it run? A kernel whose list of active modules has no
    /// `bpf` attaches the programs and never calls them.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn prove(&self) -> Result<(), String> {
        match &self.not_required {
            Some(Ok(())) => {
                return Err("require = \"network\" is configured; this kernel takes BPF LSM programs, so require = \
                            \"full\" would enforce more (`caracald doctor` tries each)"
                    .to_owned());
            }
            Some(Err(why)) => {
                return Err(format!("require = \"network\" is configured; this kernel could no more: {why}"));
            }
            None => {}
        }
        if let Some(Missing { hook, why }) = self.missing.first() {
            return Err(format!("{hook}: {why}"));
        }
        for Attached { hook, link, program } in &self.attached {
            match link.program_id() {
                Ok(id) if id == *program => {}
                Ok(_) => return Err(format!("{hook}: another program is in our link")),
                Err(error) => return Err(format!("{hook}: {error}")),
            }
        }
        canary(self.canary)
    }

    /// The first pin of ours that is not there.
    #[must_use]
    pub fn unpinned(&self, pins: &Path) -> Option<PathBuf> {
        self.attached.iter().map(|one| pins.join("lsm").join(one.hook)).find(|pin| !pin.exists())
    }

    /// Pins again what lost its pin.
    ///
    /// # Errors
    /// When a pin cannot be made.
    pub fn pin_again(&self, pins: &Path) -> io::Result<()> {
        let pins = pins.join("lsm");
        for one in &self.attached {
            if !pins.join(one.hook).exists() {
                fs::create_dir_all(&pins)?;
                one.link.pin(&pins.join(one.hook))?;
            }
        }
        Ok(())
    }

    /// Enrols the daemon's property: paths and their kinds. What an earlier keeper enrolled and is property no longer is
    /// forgotten.
    ///
    /// # Errors
    /// When something was not enrolled.
    pub(super) fn enrol(
        &self,
        house: &mut HashMap<&mut MapData, Shared<Inode>, u32>,
        property: &[(PathBuf, u32)],
    ) -> io::Result<()> {
        let before = house.keys().filter_map(Result::ok).count();
        for (path, kind) in property {
            let path = CString::new(path.as_os_str().as_bytes())?;
            let mut name = ATTRIBUTE.as_bytes().to_vec();
            name.extend(self.secret);
            name.extend(kind.to_string().into_bytes());
            let name = CString::new(name)?;
            // SAFETY: two C strings, and no buffer: only the length is asked. There is no such attribute: the hook is the point.
            unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
        }
        let start = self.canary << KIND_BITS;
        let entries: Vec<(Shared<Inode>, u32)> = house.iter().filter_map(Result::ok).collect();
        let (ours, old): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(_, kind)| kind >> KIND_BITS << KIND_BITS == start);
        if ours.is_empty() && !property.is_empty() {
            return Err(io::Error::other(format!("nothing of the daemon's own files was enrolled ({before} before)")));
        }
        for (inode, _) in old {
            let _ = house.remove(&inode);
        }
        Ok(())
    }
}

/// Whether this kernel offers the level `full`, as far as can be told without loading any of our programs: `bpf` is an
/// active module, and the kernel takes a trivial program of the kind.
fn offered() -> Result<(), String> {
    let active = fs::read_to_string("/sys/kernel/security/lsm")
        .map_err(|error| format!("/sys/kernel/security/lsm cannot be read: {error}"))?;
    if !active.trim().split(',').any(|name| name == "bpf") {
        return Err("`bpf` is not in its list of active modules (boot with lsm=...,bpf)".to_owned());
    }
    match aya::sys::is_program_supported(ProgramType::Lsm(LsmAttachType::Mac)) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it takes no BPF LSM programs".to_owned()),
        Err(error) => Err(format!("it takes no BPF LSM programs: {}", chain(&error))),
    }
}

fn attach_one(ebpf: &Ebpf, hook: &'static str, pins: &Path) -> io::Result<Attached> {
    let program = ebpf.program(&format!("lsm_{hook}")).ok_or_else(|| io::Error::other("the program is missing"))?;
    let link = Link::create_lsm(program.fd().map_err(io::Error::other)?.as_fd())?;
    fs::create_dir_all(pins)?;
    let fresh = pins.join(format!("new-{hook}"));
    let _ = fs::remove_file(&fresh);
    link.pin(&fresh)?;
    fs::rename(&fresh, pins.join(hook))?;
    let program = program.info().map_err(io::Error::other)?.id();
    Ok(Attached { hook, link, program })
}

/// Whether the program of `socket_create` answers: it alone gives this error.
fn canary(number: u32) -> Result<(), String> {
    let number = libc::c_int::try_from(number).unwrap_or(0);
    // SAFETY: takes integers; a descriptor is not given, since no protocol has this number.
    let made = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, number) };
    let error = io::Error::last_os_error();
    if made < 0 && error.raw_os_error() == Some(libc::ENOANO) {
        return Ok(());
    }
    Err("the kernel does not run LSM programs: `bpf` is not in its list of active modules (boot with lsm=...,bpf)"
        .to_owned())
}

/// Tries every program on this kernel with the maps of `ebpf`, and whether they run; none stays attached.
pub fn try_all(ebpf: &mut Ebpf, layout: &Layout) -> Vec<(&'static str, Option<String>)> {
    let missing = load(ebpf, layout);
    let runs = ebpf
        .program("lsm_socket_create")
        .ok_or_else(|| "missing".to_owned())
        .and_then(|program| program.fd().map_err(|error| chain(&error)).map(|fd| fd.as_fd()))
        .and_then(|program| Link::create_lsm(program).map_err(|error| format!("cannot attach: {error}")))
        .and_then(|_link| canary(layout.canary));
    let tried = |hook| {
        let found = missing.iter().find(|missing| missing.hook == hook).map(|missing| missing.why.clone());
        (hook, found.or_else(|| runs.clone().err()))
    };
    hooks().map(tried).collect()
}

/// What a rule for unix sockets says: a path, `@NAME` for an abstract one; `*` at the end for all that begin so.
fn key(agent: u64, socket: &str) -> Key<Shared<UnixName>> {
    let (text, whole) = socket.strip_suffix('*').map_or((socket, true), |start| (start, false));
    let mut bytes = text.as_bytes().to_vec();
    if let Some(first) = bytes.first_mut().filter(|first| **first == b'@') {
        *first = 0;
    }
    let mut name = [0; NAME_LEN];
    let length = bytes.len().min(NAME_LEN);
    name.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
    let bits = if whole { WHOLE_BITS } else { 8 * (8 + u32::try_from(length).unwrap_or(0)) };
    Key::new(bits, Shared(UnixName { agent, name }))
}

/// Lets the agent with this cgroup id reach these unix sockets outside of it, and no others.
///
/// # Errors
/// When the map is full.
pub(super) fn allow_unix<'a>(
    rules: &mut LpmTrie<&mut MapData, Shared<UnixName>, u8>,
    agent: u64,
    sockets: impl Iterator<Item = &'a str>,
) -> Result<(), KeeperError> {
    let wanted: Vec<Key<Shared<UnixName>>> = sockets.map(|socket| key(agent, socket)).collect();
    for key in &wanted {
        rules
            .insert(key, 1, 0)
            .map_err(|error| kernel(format!("cannot allow another unix socket: {}", chain(&error))))?;
    }
    let parts = |key: &Key<Shared<UnixName>>| (key.prefix_len(), key.data().0);
    let old: Vec<_> = rules.keys().filter_map(Result::ok).filter(|key| key.data().0.agent == agent).collect();
    for key in old.iter().filter(|old| !wanted.iter().any(|key| parts(key) == parts(old))) {
        let _ = rules.remove(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_rules() {
        let bits = |socket: &str| key(7, socket).prefix_len();
        assert_eq!(bits("/run/nscd/socket"), WHOLE_BITS);
        assert_eq!(bits("/run/systemd/*"), 8 * (8 + 13));
        assert_eq!(bits("*"), 64);
        let abstract_one = key(7, "@/tmp/.X11-unix/X0").data().0;
        assert_eq!(&abstract_one.name[..5], b"\0/tmp");
        assert_eq!(abstract_one.agent, 7);
    }
}
