//! SSH and git over SSH, by a `tcp` rule that names the host: the client looks it up, and what it was told is what the rule
//! is about. The server speaks first, and its key is its own.

use crate::{Server, case, directory, file, own, recorded, refused};
use std::path::PathBuf;
use support::daemon::Daemon;
use support::netns::Run;
use support::scene::Scene;

const RULES: &str = "[[allow]]\nhosts = [\"ssh.example\"]\nports = [22]\nmode = \"tcp\"\n";

/// A server with one repository, and a client's configuration that trusts its key and no other.
fn server(scene: &Scene) -> Server {
    let dir = scene.net.files().join("ssh");
    std::fs::create_dir(&dir).expect("a directory");
    let make = "cd \"$0\" && ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f agent && \
                git init -q -b main work && cd work && head -c 3000000 /dev/urandom > large && git add . && \
                git -c user.name=x -c user.email=x@example.com commit -q -m one && cd .. && \
                git clone -q --bare work demo.git && (sha256sum < work/large) > sum";
    // No file of the host's configuration decides how git makes it.
    let run = scene.net.b.run("sh").args(["-c", make]).arg(&dir).env("HOME", &dir).env("GIT_CONFIG_NOSYSTEM", "1");
    let _ran = run.ran().ok();
    let home = directory(scene, ".ssh");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a key");
    let key = file(&home, "id_ed25519", &read("agent"));
    only_its_owner_reads(&key);
    let _known = file(&home, "known_hosts", &format!("ssh.example {}", read("host.pub")));
    let _config = file(
        &home,
        "config",
        "Host *\n  User root\n  StrictHostKeyChecking yes\n  ConnectTimeout 20\n  PasswordAuthentication no\n",
    );
    own(&home);
    std::fs::copy(dir.join("agent.pub"), dir.join("authorized_keys")).expect("a key");
    let settings = format!(
        "HostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n",
        dir.display()
    );
    let settings = scene.file("sshd_config", &settings);
    // In that host's own mounts: where sshd shuts itself in.
    let _made = scene.net.b.shell("mount -t tmpfs none /run && mkdir -m 755 /run/sshd").expect("/run/sshd");
    let run = scene.net.b.run(support::programs::host("sshd")).args(["-D", "-e", "-f"]).arg(settings);
    Server::start(scene, "sshd", run, &[22])
}

fn only_its_owner_reads(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// ssh reads no `HOME`: it asks the user database where its files are.
fn options(scene: &Scene) -> [String; 4] {
    let home = scene.home.path().join(".ssh");
    [
        "-F".to_owned(),
        home.join("config").display().to_string(),
        format!("-oUserKnownHostsFile={}", home.join("known_hosts").display()),
        format!("-oIdentityFile={}", home.join("id_ed25519").display()),
    ]
}

fn ssh(scene: &Scene, daemon: &Daemon<'_>, family: &str) -> Run {
    daemon.run("ssh").arg(family).args(options(scene))
}

fn repository(scene: &Scene) -> PathBuf {
    scene.net.files().join("ssh/demo.git")
}

#[test]
fn ssh_and_git_pass_by_a_rule_that_names_the_host() {
    case("ssh and git over ssh by a tcp rule", RULES, server, |scene, daemon, _| {
        // Both families; bytes both ways.
        for family in ["-4", "-6"] {
            let ran = ssh(scene, daemon, family).args(["ssh.example", "seq 200000"]).ran().ok();
            let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
            assert!(ran.stdout == expected, "{family}: {} bytes: {}", ran.stdout.len(), ran.stderr);
        }
        let command = format!("ssh {}", options(scene).join(" "));
        let url = format!("root@ssh.example:{}", repository(scene).display());
        let run = daemon.run("git").args(["clone", "-q", url.as_str(), "cloned"]).env("GIT_SSH_COMMAND", &command);
        let _ran = run.ran().ok();
        let sum = scene.agent("sh").args(["-c", "sha256sum < cloned/large"]).ran().ok();
        let expected = std::fs::read_to_string(scene.net.files().join("ssh/sum")).expect("a sum");
        assert_eq!(sum.stdout, expected);
        // And back: a push.
        let push = "cd cloned && git -c user.name=x -c user.email=x@example.com commit -q --allow-empty -m two && \
                    git push -q origin HEAD:refs/heads/two";
        let _ran = daemon.run("sh").args(["-c", push]).env("GIT_SSH_COMMAND", &command).ran().ok();
        let log = scene.net.b.run("git").args(["--git-dir"]).arg(repository(scene)).args(["log", "--oneline", "two"]);
        assert_eq!(log.ran().ok().stdout.lines().count(), 2);
        recorded(daemon, "connect", "ssh.example", 22);
    });
}

#[test]
fn ssh_to_any_other_place_is_refused() {
    case("ssh to a host, port or address that no rule names", RULES, server, |scene, daemon, _| {
        // The same server by another name, by its address alone, and by a name that only another agent looked up.
        let number = scene.address("ssh.example").to_string();
        for host in ["other.example", number.as_str()] {
            let run = ssh(scene, daemon, "-4").args(["-oStrictHostKeyChecking=no", host, "true"]);
            let ran = run.ran();
            assert_eq!(ran.code, Some(255), "{host}: {}", ran.screen());
        }
        let asked = |name: &str| scene.log("query").iter().filter(|line| line["name"] == name).count();
        assert_eq!(asked("other.example"), 0, "a refused name was asked for");
        refused(daemon, "protocol_unknown", &number);
        // The control: with the look-up it is allowed, and another port is not.
        let _ran = ssh(scene, daemon, "-4").args(["ssh.example", "true"]).ran().ok();
        let ran = ssh(scene, daemon, "-4").args(["-p", "2222", "ssh.example", "true"]).ran();
        assert_eq!(ran.code, Some(255), "{}", ran.screen());
    });
}
