//! From its start to its end a command behaves as if nobody stood between: codes, signals, terminal.

use super::*;

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
