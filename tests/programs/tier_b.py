"""Attempts to get out of a governed cgroup by what is not a socket of its own.

    tier_b.py UID VECTOR [ARGUMENT...]
    tier_b.py 0 each '[[UID, VECTOR, ARGUMENT...], ...]'

Started as root; becomes UID before the attempt (after what has to be prepared outside). Exit code 0: it got out. 3: it was
refused, and the error's name is printed. Anything else: the attempt itself is broken.

`each` makes one attempt after the other, each in a process of its own that is forked where this one is: Python starts once,
which is what takes most of the time in an emulated machine. A line of JSON for each: its exit code, and what it printed."""

import array
import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
ARCH = {"x86_64": dict(bpf=321, clone3=435, pidfd_open=434, pidfd_getfd=438)}
COMMON = dict(bpf=280, clone3=435, pidfd_open=434, pidfd_getfd=438)
CALLS = ARCH.get(os.uname().machine, COMMON)
UID = int(sys.argv[1])
try:
    # Before 5.11 what an attempt loads counts as its user's locked memory, for a moment also after its end.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (ValueError, PermissionError):
    pass


def call(name, *args):
    result = LIBC.syscall(CALLS[name], *args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def libc(name, *args):
    result = getattr(LIBC, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def drop():
    if UID != 0 and os.getuid() == 0:
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        # A change of user makes the process undumpable: it could not be looked into by its like either.
        LIBC.prctl(4, 1, 0, 0, 0)


def join(cgroup):
    """Into the cgroup, from outside; then no longer root."""
    with open(os.path.join(cgroup, "cgroup.procs"), "w") as procs:
        procs.write("0")
    drop()


def echo(sock):
    sock.settimeout(3)
    sock.sendall(b"canary")
    heard = sock.recv(6)
    if heard != b"canary":
        raise OSError(errno.ECONNRESET, f"the deputy says {heard!r}")


def outsider(work):
    """A process of the same user outside; it lives for as long as this one. Gives what it says first."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        drop()
        # After the change of user, which clears it.
        LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
        work(lambda text: os.write(said, text))
        time.sleep(60)
        os._exit(0)
    os.close(said)
    if not select.select([ready], [], [], 10)[0]:
        raise SystemExit("the outsider says nothing")
    return pid, os.read(ready, 100)


def tcp(port):
    return socket.create_connection(("127.0.0.1", int(port)), timeout=3)


def family(number, kind, protocol):
    drop()
    socket.socket(int(number), int(kind), int(protocol)).close()


def inherited(how, cgroup, port):
    """A socket that was made outside, used inside."""
    if how == "unconnected":
        sock = socket.socket()
    elif how == "accept":
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        where = sock.getsockname()
        def visit(say):
            say(b"here")
            with socket.create_connection(where, timeout=20) as peer:
                echo(peer)
        outsider(visit)
    else:
        sock = tcp(port)
    sock.settimeout(3)
    join(cgroup)
    if how == "send":
        echo(sock)
    elif how == "unconnected":
        sock.connect(("127.0.0.1", int(port)))
        echo(sock)
    elif how == "accept":
        peer, _ = sock.accept()
        peer.sendall(peer.recv(6))
    elif how == "write":
        os.write(sock.fileno(), b"canary")
        if sock.recv(6) != b"canary":
            raise OSError(errno.ECONNRESET, "no echo")
    elif how == "sendfile":
        with open("/proc/self/exe", "rb") as data:
            os.sendfile(sock.fileno(), data.fileno(), 0, 6)
        if len(sock.recv(6)) != 6:
            raise OSError(errno.ECONNRESET, "no echo")
    elif how == "splice":
        out, into = os.pipe()
        os.write(into, b"canary")
        os.splice(out, sock.fileno(), 6)
        if sock.recv(6) != b"canary":
            raise OSError(errno.ECONNRESET, "no echo")
    else:
        raise SystemExit(how)


def passed(cgroup, port):
    """A connected socket comes in over a unix socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
        sock = tcp(port)
        ours.recv(1)
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])
        time.sleep(60)
        os._exit(0)
    join(cgroup)
    theirs.settimeout(5)
    theirs.send(b"g")
    _, control, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
    if not control:
        raise OSError(errno.EPERM, "no descriptor arrived")
    fd = array.array("i")
    fd.frombytes(control[0][2][:4])
    echo(socket.socket(fileno=fd[0]))


def getfd(cgroup, port):
    """A socket is taken from a process outside."""
    def hold(say):
        sock = tcp(port)
        say(str(sock.fileno()).encode())
        time.sleep(60)
    pid, said = outsider(hold)
    join(cgroup)
    handle = call("pidfd_open", pid, 0)
    echo(socket.socket(fileno=call("pidfd_getfd", handle, int(said), 0)))


def listener(kind, name):
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(name)
    if not name.startswith("\0"):
        os.chmod(name, 0o777)
    if kind == socket.SOCK_STREAM:
        server.listen(16)
    return server


def serve_unix(servers):
    """Those outside who listen at unix sockets and repeat what they hear: a process each. Says when they listen."""
    print("ready", flush=True)
    for server in servers[1:]:
        if os.fork() == 0:
            LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
            repeat(server)
    repeat(servers[0])


def repeat(server):
    while server.type == socket.SOCK_STREAM:
        peer, _ = server.accept()
        if os.fork() == 0:
            while data := peer.recv(100):
                peer.sendall(data)
            os._exit(0)
        peer.close()
    while True:
        data, peer = server.recvfrom(100)
        if peer:
            server.sendto(data, peer)


def address(text):
    return "\0" + text[1:] if text.startswith("@") else text


def unix(kind, name):
    drop()
    if kind == "stream":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(3)
        sock.connect(address(name))
        echo(sock)
        return
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(3)
    sock.bind("")
    if kind == "dgram":
        sock.sendto(b"canary", address(name))
    else:
        sock.connect(address(name))
        sock.send(b"canary")
    if sock.recv(6) != b"canary":
        raise OSError(errno.ECONNRESET, "no echo")


def unix_own(cgroup):
    """Between two processes of the agent, by name and by pair: this must pass."""
    join(cgroup)
    name = f"\0own-{os.getpid()}"
    ready, said = os.pipe()
    if os.fork() == 0:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(name)
        server.listen()
        os.write(said, b"r")
        peer, _ = server.accept()
        peer.sendall(peer.recv(6))
        os._exit(0)
    os.read(ready, 1)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(name)
    echo(sock)
    one, other = socket.socketpair()
    with tcp_own() as (mine, listener):
        other.settimeout(3)
        socket.send_fds(one, [b"x"], [mine.fileno()])
        _, fds, _, _ = socket.recv_fds(other, 1, 1)
        if len(fds) != 1:
            raise OSError(errno.EPERM, "an own descriptor did not arrive")


class tcp_own:
    def __enter__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.mine = socket.socket()
        return self.mine, self.listener

    def __exit__(self, *_):
        self.mine.close()
        self.listener.close()


def listen_unbound():
    drop()
    socket.socket().listen()


def move(to):
    drop()
    with open(os.path.join(to, "cgroup.procs"), "w") as procs:
        procs.write(str(os.getpid()))


def move_below(cgroup):
    """Into a directory that the agent makes in its own: this must pass."""
    join(cgroup)
    below = os.path.join(cgroup, f"own-{os.getpid()}")
    os.mkdir(below)
    with open(os.path.join(below, "cgroup.procs"), "w") as procs:
        procs.write("0")
    with open(os.path.join(cgroup, "cgroup.procs"), "w") as procs:
        procs.write("0")
    os.rmdir(below)


def clone_into(to):
    drop()
    directory = os.open(to, os.O_RDONLY | os.O_DIRECTORY)
    args = struct.pack("<11Q", 0x200000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, directory)
    pid = call("clone3", args, len(args))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def outside_process(cgroup):
    pid, _ = outsider(lambda say: say(b"here"))
    join(cgroup)
    return pid


def trace(cgroup):
    pid = outside_process(cgroup)
    libc("ptrace", 0x4206, pid, 0, 0)


def memory(cgroup):
    pid = outside_process(cgroup)
    with open(f"/proc/{pid}/mem", "r+b"):
        pass


def shown(name, cgroup):
    """What procfs shows of a process."""
    pid = outside_process(cgroup)
    with open(f"/proc/{pid}/{name.replace('PID', str(pid))}", "rb") as file:
        file.read(1)


def signal_outside(cgroup):
    pid = outside_process(cgroup)
    os.kill(pid, signal.SIGCONT)


def own_process(cgroup):
    """Trace and signal one of the agent's own: this must pass."""
    join(cgroup)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    libc("ptrace", 0x4206, pid, 0, 0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def bpf():
    drop()
    attr = struct.pack("<IIII", 2, 4, 4, 1) + bytes(112)
    os.close(call("bpf", 0, attr, len(attr)))


def read(path):
    drop()
    with open(path, "rb") as file:
        file.read(1)


def write(path):
    drop()
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def create(path):
    drop()
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)


def unlink(path):
    drop()
    os.unlink(path)


def rename(path):
    drop()
    os.rename(path, path + "-moved")


def link(path, to):
    drop()
    os.link(path, to)


def chmod(path):
    drop()
    os.chmod(path, os.stat(path).st_mode & 0o7777)


def truncate(path):
    drop()
    os.truncate(path, os.stat(path).st_size)


def by_handle(path):
    """Opens a file without walking to it: CAP_DAC_READ_SEARCH."""
    drop()
    handle = struct.pack("<Ii", 120, 0) + bytes(120)
    handle = ctypes.create_string_buffer(handle)
    mount = ctypes.c_int()
    libc("name_to_handle_at", -100, path.encode(), handle, ctypes.byref(mount), 0)
    root = os.open(os.path.dirname(os.path.dirname(path)), os.O_RDONLY)
    os.close(libc("open_by_handle_at", root, handle, os.O_RDONLY))


def umount(path):
    drop()
    libc("umount2", path.encode(), 2)


def kill(pid, number):
    drop()
    os.kill(int(pid), int(number))


def trace_of(pid):
    drop()
    libc("ptrace", 0x4206, int(pid), 0, 0)


def many():
    """What every program does all day: this must pass."""
    drop()
    for _ in range(200):
        with open("/proc/self/status", "rb") as file:
            file.read()
        one, other = socket.socketpair()
        one.send(b"x")
        other.recv(1)
    os.kill(os.getpid(), 0)


VECTORS = {name: work for name, work in list(globals().items()) if callable(work)}

# Seconds that one attempt may take.
LIMIT = 30


def attempt(name, args):
    """Gives the exit code."""
    try:
        VECTORS[name](*args)
    except OSError as error:
        print(errno.errorcode.get(error.errno, error.errno), error)
        return 3
    print("done")
    return 0


def forked(uid, name, args):
    """One attempt in a process of its own: its exit code, and what it printed."""
    global UID
    said = os.memfd_create("said")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(LIMIT)
            os.dup2(said, 1)
            os.dup2(said, 2)
            UID = uid
            code = attempt(name, args)
        except SystemExit as end:
            print(end)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    os.lseek(said, 0, os.SEEK_SET)
    text = os.read(said, 1 << 16).decode(errors="replace")
    os.close(said)
    return os.waitstatus_to_exitcode(status), text


if __name__ == "__main__":
    name, *rest = sys.argv[2:]
    if name == "serve":
        pairs = zip(rest[::2], rest[1::2])
        serve_unix([listener(getattr(socket, f"SOCK_{kind.upper()}"), address(name)) for kind, name in pairs])
    elif name == "each":
        for uid, vector, *args in json.loads(rest[0]):
            print(json.dumps(forked(uid, vector, args)), flush=True)
    else:
        sys.exit(attempt(name, rest))
