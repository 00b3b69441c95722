//! What a command inherits: three descriptors, none of them a network socket.

use super::*;

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
