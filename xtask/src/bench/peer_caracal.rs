//! caracald with everything on: policy, hold, durable intent, outcome record and ledger.
//!
//! An instance of its own: its state, sockets and pins belong to this run and go with it. The load runs as an ordinary
//! user behind `caracald run`, like any agent.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    PeerName, crypto,
    peer::{Peer, provider},
    scene::{Scene, Server},
};
use crate::hosts::{AS_NOBODY, NAME_SERVER};

pub(super) fn start(scene: &Scene, caracald: &Path) -> Result<Peer> {
    // Readable for every user: a checkout in somebody's home need not be.
    let caracald = scene.hosts.copy(caracald)?;
    let config = configuration(scene)?;
    let mut command = scene.program(&caracald);
    command.arg("--config").arg(&config).arg("attach");
    let log = fs::File::create(scene.files().join("caracal.log"))?;
    command.stderr(log.try_clone()?);
    let server = Server::start("caracald", &mut command)
        .map_err(|error| error.context(last_lines(&scene.files().join("caracal.log"))))?;
    let before_load = AS_NOBODY
        .into_iter()
        .map(Into::into)
        .chain([caracald.into(), "--config".into(), config.into()])
        .chain(["run", "--agent", "bench", "--"].into_iter().map(Into::into))
        .collect();
    Ok(Peer {
        name: PeerName::Caracal,
        // The real address: the kernel redirects it.
        address: provider()?,
        tunnel: false,
        plain: false,
        // What `caracald run` puts into the environment.
        trust: None,
        before_load,
        servers: vec![server],
    })
}

/// How many reloads are timed.
const RELOADS: usize = 21;

/// How long an operator waits for `policy reload`, milliseconds: half of all took no longer. The start of the command is in it,
/// and the daemon reads the whole price book anew.
pub(super) fn reload_ms(scene: &Scene, peer: &Peer) -> Result<f64> {
    let at = peer.before_load.iter().position(|word| word == "--config").context("the daemon has no configuration")?;
    let words = at.checked_sub(1).and_then(|program| peer.before_load.get(program..at + 2));
    let Some([program, option, config]) = words else { bail!("the daemon's command is another") };
    let mut times = Vec::with_capacity(RELOADS);
    for _ in 0..RELOADS {
        let began = Instant::now();
        let ran = scene.program(Path::new(program)).arg(option).arg(config).args(["policy", "reload"]).output()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(ran.status.success(), "policy reload: {}", String::from_utf8_lossy(&ran.stderr));
    }
    times.sort_by(f64::total_cmp);
    times.get(RELOADS / 2).copied().context("nothing was timed")
}

/// One priced host, one budget that never runs out.
fn configuration(scene: &Scene) -> Result<PathBuf> {
    let home = scene.files().join("caracal");
    fs::create_dir_all(&home)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755))?;
    let text = format!(
        "instance = \"bench{}\"\nstate_dir = \"{}/state\"\nruntime_dir = \"{}/run\"\n\n\
         [upstream]\nnameservers = [\"{NAME_SERVER}\"]\nroots = [\"{}\"]\n\n\
         [[allow]]\nhosts = [\"{}\"]\nports = [443]\n\n\
         [[budget]]\nname = \"bench\"\nlimit = \"100000 USD\"\nwindow = \"day\"\n",
        process::id(),
        home.display(),
        home.display(),
        scene.files().join("provider/ca.pem").display(),
        crypto::HOST,
    );
    scene.hosts.file("caracal.toml", &text)
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
