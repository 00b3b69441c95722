//! squid with ssl_bump and one worker, as a forward proxy: what a company has today.
//!
//! It looks at the handshake, makes a certificate for the name, decrypts, and forwards; it decides nothing about money
//! and writes no access log.

use std::{
    fs,
    os::unix::fs::chown,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    PeerName, crypto,
    peer::Peer,
    scene::{Scene, Server},
};
use crate::hosts::PROVIDER;

const ADDRESS: &str = "127.0.0.1:8444";
const CERTGEN: &str = "/usr/lib/squid/security_file_certgen";
/// How long squid may take until it listens.
const READY: Duration = Duration::from_secs(20);

pub(super) fn start(scene: &Scene) -> Result<Peer> {
    let home = scene.files().join("squid");
    let (user, group) = squid_user()?;
    let made = Command::new(CERTGEN)
        .args(["-c", "-s"])
        .arg(home.join("certificates"))
        .args(["-M", "4MB"])
        .output()
        .with_context(|| format!("{CERTGEN} does not start; Debian's squid-openssl brings it"))?;
    if !made.status.success() {
        bail!("{CERTGEN}: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    fs::write(home.join("hosts"), format!("{PROVIDER} {}\n", crypto::HOST))?;
    let config = home.join("squid.conf");
    fs::write(&config, configuration(&home, scene))?;
    give(&home, user, group)?;
    let child = scene
        .program("squid")
        .args(["-N", "-n", "caracalbench", "-f"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("squid does not start")?;
    let mut server = Server::adopt(child);
    scene.wait_until_listening(&mut server, ADDRESS, READY, &home.join("cache.log"))?;
    Ok(Peer {
        name: PeerName::Squid,
        address: ADDRESS.parse()?,
        tunnel: true,
        plain: false,
        trust: Some(home.join("ca.pem")),
        before_load: Vec::new(),
        servers: vec![server],
    })
}

fn configuration(home: &Path, scene: &Scene) -> String {
    let home = home.display();
    let trust = scene.files().join("provider/ca.pem");
    format!(
        "http_port {ADDRESS} ssl-bump tls-cert={home}/ca.pem tls-key={home}/ca.key generate-host-certificates=on \
         dynamic_cert_mem_cache_size=4MB\n\
         sslcrtd_program {CERTGEN} -s {home}/certificates -M 4MB\n\
         acl start at_step SslBump1\n\
         ssl_bump peek start\n\
         ssl_bump bump all\n\
         tls_outgoing_options cafile={}\n\
         hosts_file {home}/hosts\n\
         http_access allow all\n\
         cache deny all\n\
         access_log none\n\
         cache_log {home}/cache.log\n\
         cache_store_log none\n\
         pid_filename {home}/squid.pid\n\
         coredump_dir {home}\n\
         logfile_rotate 0\n\
         via off\n\
         forwarded_for transparent\n\
         workers 1\n\
         shutdown_lifetime 0 seconds\n",
        trust.display()
    )
}

/// Debian's squid runs as `proxy`.
fn squid_user() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("proxy:")).context("there is no user `proxy` for squid")?;
    let mut fields = line.split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok()).context("the user `proxy` has no number");
    Ok((number()?, number()?))
}

fn give(path: &Path, user: u32, group: u32) -> Result<()> {
    chown(path, Some(user), Some(group)).with_context(|| path.display().to_string())?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user, group)?;
        }
    }
    Ok(())
}
