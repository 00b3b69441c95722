//! A machine that systemd boots, with the units that ship: an agent's service starts behind the door, or not at all.
//!
//! systemd is this host's, with the few targets that it needs to come up; nothing of the host's own services runs.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::{
    guest::{self, Root},
    image::Image,
    outcome::Outcome,
};
use crate::checkout::Checkout;

const PROGRAM: &str = "/usr/lib/systemd/systemd";
/// What PID 1 starts by itself, if it has it: from version 255 on services are started by the first.
const PARTS: &[&str] = &["/usr/lib/systemd/systemd-executor", "/usr/lib/systemd/systemd-shutdown"];
const UNITS: &str = "/usr/lib/systemd/system";
/// The host's units that others refer to. None of them starts a program.
const TARGETS: &[&str] = &[
    "sysinit.target",
    "basic.target",
    "multi-user.target",
    "network.target",
    "local-fs.target",
    "local-fs-pre.target",
    "swap.target",
    "slices.target",
    "sockets.target",
    "timers.target",
    "paths.target",
    "shutdown.target",
    "umount.target",
    "final.target",
    "rescue.target",
    "emergency.target",
];
const OURS: &str = "/etc/systemd/system";
/// Governs the slice that agents' services are in, as the drop-in says.
const CONFIGURATION: &str =
    "[upstream]\nnameservers = [\"127.0.0.1\"]\n\n[[agent]]\nname = \"agents\"\ncgroup = \"/agents.slice\"\n";

/// Everything that such a machine has beside the others.
///
/// # Errors
/// When this host has no systemd.
pub(super) fn files(checkout: &Checkout) -> Result<Image> {
    let mut image = Image::default();
    image.program(Path::new(PROGRAM)).context("install systemd")?;
    image.program(&guest::on_path("systemctl")?)?;
    for part in PARTS.iter().map(Path::new).filter(|part| part.is_file()) {
        image.program(part)?;
    }
    for target in TARGETS {
        let from = Path::new(UNITS).join(target);
        image.copy(&from, &from);
    }
    let shipped = |name: &str| {
        let path = checkout.root.join("systemd").join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let mut unit = |name: &str, text: String| image.text(&format!("{OURS}/{name}"), text, 0o644);
    unit("caracald.service", shipped("caracald.service")?);
    for agent in ["agent", "late"] {
        unit(&format!("{agent}.service"), service(agent));
        unit(&format!("{agent}.service.d/caracal.conf"), shipped("caracal-agent.conf")?);
    }
    // What an agent's service is without the drop-in.
    unit("free.service", service("free"));
    unit(
        "proof.service",
        "[Unit]\nWants=multi-user.target\nAfter=multi-user.target agent.service free.service\n\
         [Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/vm/finish\nStandardOutput=tty\nTTYPath=/dev/console\n"
            .to_owned(),
    );
    let link = |image: &mut Image, from: &str, to: &str| {
        image.link(&Path::new(OURS).join(from), &Path::new(OURS).join(to));
    };
    link(&mut image, "default.target", "proof.target");
    image.text(&format!("{OURS}/proof.target"), "[Unit]\nRequires=proof.service\n", 0o644);
    for enabled in ["caracald.service", "agent.service", "free.service"] {
        link(&mut image, &format!("multi-user.target.wants/{enabled}"), enabled);
    }
    image.text("/etc/systemd/system.conf", "[Manager]\nDefaultStandardOutput=tty\nDefaultTimeoutStartSec=600\n", 0o644);
    image.text("/etc/caracal/caracal.toml", CONFIGURATION, 0o644);
    image.text("/vm/agent", agent(checkout), 0o755);
    Ok(image)
}

fn service(name: &str) -> String {
    format!("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/vm/agent {name}\n")
}

/// What each of the services does: says where it is and since when, and tries a way out.
fn agent(checkout: &Checkout) -> String {
    let probe = guest::quoted(&guest::beside(checkout, "probe").display().to_string());
    format!(
        "#!/usr/bin/bash\ncut -d ' ' -f 1 /proc/uptime >\"/out/$1.at\"\ngrep ^0:: /proc/self/cgroup >\"/out/$1.cgroup\"\n\
         ip route replace local 203.0.113.0/24 dev lo\n{probe} udp 203.0.113.10:4433 >\"/out/$1.said\" 2>&1\necho $? >\"/out/$1.code\"\ntrue\n"
    )
}

/// What is looked at once the machine is up. The first fault ends it.
pub(super) fn script(checkout: &Checkout, root: &Root) -> String {
    const CHECKS: &str = r#"
wrong() { echo "wrong: $*"; systemctl --no-pager status caracald agent free late; exit 1; }
code() { cat "/out/$1.code" 2>/dev/null; }
checks() {
    systemctl is-active --quiet caracald || wrong "caracald is not up"
    grep -q ^sent /out/free.said || wrong "without the drop-in a datagram leaves: $(cat /out/free.said)"
    [ "$(code agent)" = 3 ] || wrong "an agent's service is refused: $(cat /out/agent.said)"
    grep -q /agents.slice/agent.service /out/agent.cgroup || wrong "it is in $(cat /out/agent.cgroup)"
    ready=$(systemctl show -P ActiveEnterTimestampMonotonic caracald)
    began=$(systemctl show -P ExecMainStartTimestampMonotonic agent)
    [ "$ready" -gt 0 ] && [ "$began" -ge "$ready" ] || wrong "the agent began at $began us, the door stood at $ready us"
    caracald status --json >/out/status.json || wrong "status fails"
    echo "at boot: the door at $ready us, the agent at $began us"

    systemctl stop caracald || wrong "caracald does not stop"
    mkdir /sys/fs/cgroup/agents.slice/hand
    (echo $BASHPID >/sys/fs/cgroup/agents.slice/hand/cgroup.procs; exec /vm/agent stopped)
    [ "$(code stopped)" = 3 ] || wrong "with the daemon stopped the pins refuse: $(cat /out/stopped.said)"
    echo "stopped: its pins refuse"

    cp /etc/caracal/caracal.toml /tmp/good
    echo 'no such key = 1' >/etc/caracal/caracal.toml
    systemctl start late && wrong "an agent's service starts without a daemon"
    [ ! -e /out/late.at ] || wrong "its program ran"
    echo "no daemon: no agent"

    cp /tmp/good /etc/caracal/caracal.toml
    systemctl stop caracald; systemctl reset-failed
    systemctl start late || wrong "with the daemon back, the service starts"
    [ "$(code late)" = 3 ] || wrong "and is refused: $(cat /out/late.said)"
    echo "the daemon is back: the agent starts behind the door"
}
checks 2>&1 | tee /out/log
"#;
    guest::prelude(checkout, root) + CHECKS
}

/// What the machine said, into the case; why that is not good enough, if it is not.
pub(super) fn judge(outcome: &Outcome, more: &mut Map<String, Value>) -> Option<String> {
    let lines: Vec<&str> = outcome.log.lines().collect();
    more.insert("seen".into(), json!(lines));
    let agents = lines.iter().any(|line| line.starts_with("the daemon is back"));
    match outcome.code {
        Some(0) if agents => None,
        Some(0) => Some(format!("it ended early: {}", lines.join(" | "))),
        code => Some(format!("it ended with {code:?}: {}", lines.join(" | "))),
    }
}
