//! Real children, as root and as an ordinary user. Each test starts this test program again, as the user in question and
//! with its own descriptors, and that one spawns the command and exits with its code: the fork then happens in a
//! process with one thread, as it does in `caracald run`.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio as Pipe};

/// Not a version manager's shim: those live in root's home.
const PYTHON: &str = "/usr/bin/python3";
const ROLE: &str = "CARACAL_SPAWN_TEST";

/// What the driver is to do.
#[derive(serde::Serialize, serde::Deserialize)]
struct Job {
    argv: Vec<String>,
    covers: Vec<(PathBuf, PathBuf)>,
    hide: Vec<PathBuf>,
    /// Print the limits before the command runs.
    limits: bool,
    /// Drop the prepared child instead of releasing it.
    abandon: bool,
}

fn job(argv: &[&str]) -> Job {
    let argv = argv.iter().map(|a| (*a).to_owned()).collect();
    Job { argv, covers: vec![], hide: vec![], limits: false, abandon: false }
}

fn sh(script: &str) -> Job {
    job(&["sh", "-c", script])
}

/// Not a proof by itself: the program that the proofs below start.
#[test]
#[expect(clippy::disallowed_methods, reason = "a child of the test harness must not return into it")]
fn driver() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let job: Job = serde_json::from_slice(role.as_bytes()).unwrap();
    let plan = SpawnPlan {
        argv: job.argv.into_iter().map(Into::into).collect(),
        env: std::env::vars_os().filter(|(name, _)| name != ROLE).collect(),
        covers: job.covers.into_iter().map(|(source, target)| Cover { source, target }).collect(),
        hide: job.hide,
    };
    running::signals().thread_unblock().unwrap();
    let code = match prepare(&plan) {
        Ok(prepared) => {
            if job.limits {
                eprintln!("limits {:?}", prepared.limits().iter().map(Uncovered::code).collect::<Vec<_>>());
            }
            if job.abandon {
                let pid = prepared.pid();
                drop(prepared);
                let gone = nix::sys::signal::kill(pid, None) == Err(nix::Error::ESRCH);
                std::process::exit(if gone { 42 } else { 1 });
            }
            match prepared.release().and_then(|run| run.wait().map_err(|e| SpawnError::System("wait", e))) {
                Ok(status) => exit_code(status),
                Err(e) => report(&e),
            }
        }
        Err(e) => report(&e),
    };
    std::process::exit(code);
}

fn report(e: &SpawnError) -> i32 {
    eprintln!("{}: {e}", e.code());
    e.exit_code()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    Root,
    Nobody,
}

/// The driver as a command that is ready to start. `nobody` cannot read root's build directories: it gets a copy.
fn command(user: User, job: &Job) -> (Command, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("driver");
    let this = std::env::current_exe().unwrap();
    // Not copied by us: a child that another test forks meanwhile would hold the copy open for writing, and what is
    // being written cannot be run.
    if std::fs::hard_link(&this, &program).is_err() {
        assert!(Command::new("cp").arg(&this).arg(&program).status().unwrap().success());
    }
    let mut command = match user {
        User::Root => Command::new(&program),
        User::Nobody => {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
                "--bounding-set=-all",
            ]);
            command.arg(&program);
            command
        }
    };
    command
        .args(["--exact", "cli::spawn::tests::driver", "--nocapture", "--quiet", "--test-threads=1"])
        .env(ROLE, serde_json::to_string(job).unwrap())
        .env("HOME", "/tmp")
        .current_dir("/");
    (command, dir)
}

fn users() -> Vec<User> {
    if nix::unistd::geteuid().is_root() {
        vec![User::Root, User::Nobody]
    } else {
        // Without root only this user can be tried; `cargo xtask test` runs these as root.
        vec![User::Root]
    }
}

fn as_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn output(user: User, job: &Job) -> (Option<i32>, String) {
    let (mut command, _dir) = command(user, job);
    let out: Output = command.stdin(Pipe::null()).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

fn passes(job: &Job) {
    for user in users() {
        let (code, text) = output(user, job);
        assert_eq!(code, Some(0), "{user:?} {:?}\n{text}", job.argv);
    }
}

fn python(script: &str) -> Job {
    job(&[PYTHON, "-c", script])
}

#[test]
fn exit_codes_and_signals_are_the_commands_own() {
    for user in users() {
        assert_eq!(output(user, &sh("exit 7")).0, Some(7));
        assert_eq!(output(user, &sh("kill -TERM $$")).0, Some(128 + 15));
        assert_eq!(output(user, &job(&["no-such-program"])).0, Some(127));
        assert_eq!(output(user, &job(&["/etc/passwd"])).0, Some(126));
        let mut abandoned = sh("exit 0");
        abandoned.abandon = true;
        assert_eq!(output(user, &abandoned).0, Some(42));
    }
}

#[test]
fn a_script_without_an_interpreter_line_runs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let script = dir.path().join("script");
    // Written by another process, for the same reason as in `command`.
    let write = "echo 'test \"$1\" = word && exit 9' >\"$0\" && chmod 755 \"$0\"";
    assert!(Command::new("sh").args(["-c", write]).arg(&script).status().unwrap().success());
    for user in users() {
        assert_eq!(output(user, &job(&[script.to_str().unwrap(), "word"])).0, Some(9));
    }
}

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
fn no_descriptor_but_three_is_inherited() {
    use std::os::unix::process::CommandExt as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let leaked = listener.as_raw_fd();
    for user in users() {
        let (mut command, _dir) =
            command(user, &python("import os; print('open', sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"));
        // SAFETY: dup2 is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                for fd in [9, 3] {
                    if libc::dup2(leaked, fd) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let out = command.stdin(Pipe::null()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("open [0, 1, 2]"), "{user:?} {text}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own socket on loopback")]
fn a_network_socket_on_standard_input_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    for user in users() {
        let (mut command, _dir) = command(user, &sh("exit 0"));
        let out = command.stdin(OwnedFd::from(stream.try_clone().unwrap())).output().unwrap();
        assert_eq!(out.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&out.stderr).contains("stdio_refused"));
    }
}

#[test]
fn unix_sockets_become_pipes_and_every_byte_arrives() {
    use std::io::{Read as _, Write as _};
    for user in users() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        // `sleep` keeps the pipe open behind the command's back: the caller must not wait for it.
        let job = sh("test -p /dev/fd/0 && test -p /dev/fd/1 && read line && echo got $line; \
             head -c 300000 /dev/zero | tr '\\0' x; sleep 5 & exit 3");
        let (mut command, _dir) = command(user, &job);
        let theirs = OwnedFd::from(theirs);
        let mut child =
            command.stdin(theirs.try_clone().unwrap()).stdout(theirs).stderr(Pipe::inherit()).spawn().unwrap();
        drop(command);
        (&ours).write_all(b"word\n").unwrap();
        let mut text = String::new();
        (&ours).read_to_string(&mut text).unwrap();
        assert!(text.contains("got word"), "{user:?} {}", text.len());
        assert_eq!(text.matches('x').count() / 300_000, 1);
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
}

#[test]
fn covered_and_hidden_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("bundle"), "ours").unwrap();
    std::fs::write(path("store"), "theirs").unwrap();
    std::os::unix::fs::symlink(path("store"), path("link")).unwrap();
    std::fs::create_dir(path("control")).unwrap();
    std::fs::write(path("control/socket"), "x").unwrap();
    let p = |name: &str| path(name).display().to_string();
    let script = format!(
        "env -i /bin/sh -c '/bin/grep -qx ours {} && /bin/grep -qx ours {} && test -z \"$(/bin/ls {})\"'",
        p("store"),
        p("link"),
        p("control")
    );
    let mut job = sh(&script);
    job.covers = ["link", "store", "absent"].map(|name| (path("bundle"), path(name))).into();
    job.hide = vec![path("control"), path("absent")];
    passes(&job);
    assert_eq!(std::fs::read_to_string(path("store")).unwrap(), "theirs", "the host keeps its own");
    assert!(path("control/socket").exists());

    job.covers = vec![(path("control/socket"), path("store"))];
    let (code, text) = output(User::Root, &job);
    assert_eq!(code, Some(125));
    assert!(text.contains("cover_hidden"), "{text}");
}

/// As a crash leaves it: the mount is there, over another one, and the file that it shows has no name any more.
#[test]
fn the_mount_of_a_deleted_file_is_taken_away_or_named() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            while umount2(&self.0, MntFlags::MNT_DETACH).is_ok() {}
        }
    }
    if !as_root() {
        return eprintln!("only root can mount, not tried");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["bundle", "store", "one", "another"] {
        std::fs::write(path(name), name).unwrap();
    }
    let mounted = Mounted(path("store"));
    for name in ["one", "another"] {
        mount(Some(&path(name)), &mounted.0, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    std::fs::remove_file(path("another")).unwrap();
    let mut job = sh(&format!("/bin/grep -qx bundle {}", mounted.0.display()));
    job.covers = vec![(path("bundle"), path("store"))];
    let (code, text) = output(User::Root, &job);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(std::fs::read_to_string(&mounted.0).unwrap(), "another", "the host keeps its mounts");
    let (code, text) = output(User::Nobody, &job);
    assert_eq!(code, Some(125), "{text}");
    assert!(text.contains("stale_mount") && text.contains(&format!("sudo umount {}", mounted.0.display())), "{text}");
    drop(mounted);
    for user in users() {
        assert_eq!(output(user, &job).0, Some(0), "{user:?}");
    }
}

/// The store that programs read when their environment was cleared is the bundle, and the host's stays as it was.
#[test]
fn the_system_store_is_the_bundle() {
    let Some(store) = crate::cli::trust::bundle::SYSTEM_BUNDLES.iter().find(|path| Path::new(path).exists()) else {
        return eprintln!("this machine has no system store, not tried");
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(vec!["ca.test".into()]).unwrap().self_signed(&key).unwrap().pem();
    let trust = crate::cli::trust::prepare(&ca, &[], dir.path()).unwrap();
    let before = std::fs::read(store).unwrap();
    let mut job = sh(&format!("env -i /usr/bin/cmp {store} {}", trust.bundle.display()));
    job.covers = Cover::trust(&trust).into_iter().map(|cover| (cover.source, cover.target)).collect();
    passes(&job);
    assert_eq!(std::fs::read(store).unwrap(), before);
    assert_ne!(std::fs::read(&trust.bundle).unwrap(), before);
}

#[test]
fn a_child_that_cannot_be_confined_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("source")).unwrap();
    std::fs::write(dir.path().join("target"), "").unwrap();
    let mark = dir.path().join("ran");
    let mut job = sh(&format!("touch {}", mark.display()));
    // A directory cannot be mounted over a file.
    job.covers = vec![(dir.path().join("source"), dir.path().join("target"))];
    if as_root() {
        let (code, text) = output(User::Root, &job);
        assert_eq!(code, Some(125));
        assert!(text.contains("not_confined: the command was not run"), "{text}");
        assert!(!mark.exists());
    }
}

#[test]
fn cgroups_and_the_kernels_controls_are_read_only() {
    passes(&sh("for f in $(awk '$3 ~ /^cgroup/ {print $2 \"/cgroup.procs\"}' /proc/self/mounts); do \
           (echo $$ > $f) 2>/dev/null && { echo wrote $f; exit 1; }; done; \
         (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && exit 2; \
         mount -t tmpfs none /mnt 2>/dev/null && exit 3; \
         umount /proc/sys 2>/dev/null && exit 4; exit 0"));
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

#[test]
fn limits_are_told() {
    for user in users() {
        let mut job = sh("exit 0");
        job.limits = true;
        let (_, text) = output(user, &job);
        assert_eq!(text.contains("root_deputies"), as_root() && user == User::Root, "{text}");
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
fn a_signal_to_the_caller_reaches_the_command() {
    use std::io::{BufRead as _, BufReader};
    for user in users() {
        let job = sh("trap 'echo caught; exit 5' TERM; trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done");
        let (mut command, _dir) = command(user, &job);
        // The test harness has a thread of its own, which must not take the signal: it starts with it blocked, and the
        // driver's thread unblocks it.
        // SAFETY: sigprocmask is async-signal-safe.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || Ok(running::signals().thread_block()?))
        };
        let mut child = command.stdin(Pipe::null()).stdout(Pipe::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "ready"));
        nix::sys::signal::kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        assert!(lines.any(|line| line == "caught"), "{user:?}");
        assert_eq!(child.wait().unwrap().code(), Some(5));
    }
}

#[test]
fn the_command_ends_with_its_caller() {
    use std::io::Read as _;
    for user in users() {
        let (mut command, _dir) =
            command(user, &job(&[PYTHON, "-c", "print('ready', flush=True)\nimport time; time.sleep(600)"]));
        let mut child = command.stdin(Pipe::null()).stdout(Pipe::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(b"ready") {
            assert_eq!(out.read(&mut byte).unwrap(), 1);
            seen.push(byte[0]);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // The pipe ends only when the command, too, is gone: it would sleep for ten minutes otherwise.
        out.read_to_end(&mut seen).unwrap();
    }
}

#[test]
fn the_terminal_stays_the_commands() {
    for user in users() {
        let (driver, _dir) = command(
            user,
            &python(
                "import os; assert os.isatty(0) and os.isatty(1); assert os.tcgetpgrp(0) == os.getpgrp(); print('tty good')",
            ),
        );
        let mut words = vec![driver.get_program().to_string_lossy().into_owned()];
        words.extend(driver.get_args().map(|a| a.to_string_lossy().into_owned()));
        let envs = driver.get_envs().filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned())));
        let out = Command::new("script")
            .args(["-qec", &words.join(" "), "/dev/null"])
            .envs(envs)
            .current_dir("/")
            .stdin(Pipe::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains("tty good"), "{user:?} {text}");
    }
}
