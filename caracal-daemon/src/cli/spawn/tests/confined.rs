//! What a confined command cannot do: other families, calls that pass hooks by, capabilities, processes outside.

use super::*;

#[test]
fn only_the_families_that_are_governed_exist() {
    passes(&python(
        "import socket as s, errno\n\
         for family, kind, protocol in [(17,3,0),(40,1,0),(31,3,0),(38,5,0),(44,3,0),(16,3,15),(16,3,9),(15,3,2)]:\n\
         \x20   try: s.socket(family, kind, protocol)\n\
         \x20   except OSError as e: assert e.errno == errno.EAFNOSUPPORT, (family, e)\n\
         \x20   else: raise SystemExit(f'family {family} protocol {protocol} opened')\n\
         s.socket(s.AF_INET, s.SOCK_STREAM); s.socket(s.AF_INET6, s.SOCK_DGRAM); s.socket(s.AF_UNIX); s.socketpair()\n\
         s.socket(16, 3, 0)\n\
         try: s.socketpair(s.AF_INET)\n\
         except OSError as e: assert e.errno == errno.EAFNOSUPPORT, e\n\
         else: raise SystemExit('pair')\n\
         s.getaddrinfo('localhost', 80)",
    ));
}

#[test]
fn programs_that_ask_for_addresses_work() {
    passes(&sh("ip -4 addr | grep -q 127.0.0.1"));
    passes(&sh(
        "command -v node >/dev/null || exit 0; node -e 'process.exit(require(\"os\").networkInterfaces().lo ? 0 : 1)'",
    ));
}

#[test]
fn calls_that_pass_hooks_by_are_refused() {
    passes(&python(
        "import ctypes, fcntl, errno, os, platform\n\
         c = ctypes.CDLL(None, use_errno=True)\n\
         def call(*a):\n\
         \x20   r = c.syscall(*a); return errno.errorcode.get(ctypes.get_errno(), 'ok') if r < 0 else 'ok'\n\
         for n in (425, 426, 427): assert call(n, 8, 0) == 'ENOSYS', n\n\
         if platform.machine() == 'x86_64': assert call(0x40000000 + 41, 2, 1, 0) == 'ENOSYS'\n\
         for request in (0x5412, 0x541C):\n\
         \x20   try: fcntl.ioctl(0, request, b'x')\n\
         \x20   except OSError as e: assert e.errno == errno.EPERM, e\n\
         \x20   else: raise SystemExit('injected')\n\
         assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()",
    ));
}

/// request_key can have a helper of the host's look a name up (`dns_resolver`), for the caller and outside of every cgroup of
/// ours: it is refused, whatever it asks for. add_key and keyctl start nobody: an agent's own keyrings work as ever.
#[test]
#[cfg(target_arch = "x86_64")]
fn no_key_is_asked_of_the_hosts_helper() {
    let script = |refused: bool| {
        python(&format!(
            "import ctypes, errno\n\
             c = ctypes.CDLL(None, use_errno=True)\n\
             def call(*a):\n\
             \x20   r = c.syscall(*a); return errno.errorcode.get(ctypes.get_errno(), 'ok') if r < 0 else 'ok'\n\
             add = call(248, b'user', b'caracal', b'x', 1, -1)\n\
             ring = call(250, 0, -1, 1)\n\
             asked = [call(249, kind, b'caracal-absent', info, 0) for kind in (b'dns_resolver', b'user') for info in {}]\n\
             print(add, ring, asked)\n\
             raise SystemExit(not ({} and ('ENOSYS' in (add, ring)) == (add == ring == 'ENOSYS')))",
            // Without a word for the helper none is started, and nothing leaves this host.
            if refused { "(None, b'')" } else { "(None,)" },
            if refused { "asked == ['ENOSYS'] * 4" } else { "'ENOSYS' not in asked" }
        ))
    };
    passes(&script(true));
    // Without the filter the same calls reach the kernel, where it has keys at all.
    let free = |job: &Job| {
        let argv: Vec<&str> = job.argv.iter().map(String::as_str).collect();
        let out = Command::new(argv[0]).args(&argv[1..]).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (reached, said) = free(&script(false));
    assert!(reached || said.starts_with("ENOSYS"), "{said}");
}

/// A 32-bit call has another number for everything: its process ends.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_32_bit_entry_is_closed() {
    // Machine code: mov eax,20 (getpid by the 32-bit table); int 0x80; ret.
    let job = python(
        "import ctypes, mmap\n\
         m = mmap.mmap(-1, 4096, prot=7)\n\
         m.write(bytes([0xb8,20,0,0,0,0xcd,0x80,0xc3]))\n\
         ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
    );
    for user in users() {
        assert_eq!(output(user, &job).0, Some(128 + libc::SIGSYS));
    }
}

#[test]
fn capabilities_are_few() {
    let caps = |user| {
        let (_, text) = output(user, &sh("grep -E '^Cap(Prm|Eff|Bnd|Amb)' /proc/self/status"));
        text.lines()
            .filter_map(|l| l.split_once(":\t").map(|(_, v)| u64::from_str_radix(v, 16).unwrap()))
            .collect::<Vec<_>>()
    };
    if as_root() {
        let [low, high] = capability::mask(capability::ROOT_KEEPS);
        let kept = u64::from(low) | u64::from(high) << 32;
        assert_eq!(caps(User::Root), [kept, kept, kept, 0]);
        assert_eq!(caps(User::Nobody), [0; 4]);
    }
}

/// An agent's own sandbox: a user namespace with mounts of its own.
#[test]
fn user_namespaces_can_be_nested() {
    passes(&sh("unshare -Urm sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && ! umount /sys/fs/cgroup 2>/dev/null'"));
}

/// A process of the same user outside cannot be traced, whose sockets would be free.
#[test]
fn outside_processes_are_out_of_reach() {
    if !as_root() {
        return;
    }
    for user in users() {
        let mut outside = match user {
            User::Root => Command::new("sleep"),
            User::Nobody => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sleep"]);
                command
            }
        };
        let mut outside = outside.arg("60").spawn().unwrap();
        let pid = outside.id();
        let script = format!(
            "import ctypes, os\n\
             c = ctypes.CDLL(None, use_errno=True)\n\
             fd = os.pidfd_open({pid})\n\
             assert c.syscall(438, fd, 0, 0) < 0, 'pidfd_getfd'\n\
             assert c.ptrace(16, {pid}, 0, 0) < 0, 'ptrace'\n\
             try: os.listdir('/proc/{pid}/root/')\n\
             except PermissionError: pass\n\
             else: raise SystemExit('root')"
        );
        let (code, text) = output(user, &python(&script));
        let _ = outside.kill();
        let _ = outside.wait();
        assert_eq!(code, Some(0), "{user:?} {text}");
    }
}

#[test]
fn limits_are_told() {
    for user in users() {
        let mut job = sh("exit 0");
        job.limits = true;
        let (_, text) = output(user, &job);
        assert_eq!(text.contains("root_deputies"), as_root() && user == User::Root, "{text}");
    }
}
