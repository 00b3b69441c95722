//! `stand-in`: the real providers' host names on this machine, offline.
//!
//! ```text
//! stand-in --root-out FILE --bill FILE [--log FILE] [--listen ADDR]... [--dns ADDR]...
//!          [--keys-out DIR] [--sites DIR] [--proxy ADDR:PORT] [--answer-v4 ADDR] [--answer-v6 ADDR] [--tls-port N] [--http-port N] [--dns-port N]
//!
//! --root-out FILE   writes the test root certificate (PEM) there; clients must trust it
//! --bill FILE       appends one JSON line for each paid call: what this provider bills, by its own prices
//! --log FILE        appends one JSON line for each request, look-up, and start and end of a paid call
//! --keys-out DIR    writes client.pem and client.key there: what `client-certificate.example` wants to see; and
//!                   NAME.pem and NAME.key of the names that other programs serve
//! --sites DIR       a file DIR/HOST/PATH is what HOST serves at PATH
//! --proxy ADDR:PORT an HTTP proxy, whose tunnels end at these hosts
//! --listen ADDR     address for HTTPS and HTTP, repeatable           (0.0.0.0 and ::)
//! --dns ADDR        address for the name server, repeatable          (203.0.113.53 and 2001:db8:ca::53)
//! --answer-v4 ADDR  the A record of the first known name, counting up (203.0.113.10)
//! --answer-v6 ADDR  the AAAA record likewise                          (2001:db8:ca::10)
//! ```
//! Prints `ready` when everything listens, and runs until it is killed. Prompts steer it with `[[words]]`: see
//! `directive.rs`. Without `--answer-v6 none` every name has an AAAA record.

use anyhow::{Context as _, Result, bail};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use support::stand_in::{World, bill, git, names, proxy, root, serve};

struct Args {
    root_out: PathBuf,
    bill: PathBuf,
    log: PathBuf,
    keys_out: Option<PathBuf>,
    sites: Option<PathBuf>,
    proxy: Option<SocketAddr>,
    listen: Vec<IpAddr>,
    dns: Vec<IpAddr>,
    answer_v4: Ipv4Addr,
    answer_v6: Option<Ipv6Addr>,
    tls_port: u16,
    http_port: u16,
    dns_port: u16,
}

fn args() -> Result<Args> {
    let mut out = Args {
        root_out: PathBuf::new(),
        bill: PathBuf::new(),
        log: PathBuf::from("/dev/null"),
        keys_out: None,
        sites: None,
        proxy: None,
        listen: Vec::new(),
        dns: Vec::new(),
        answer_v4: names::FIRST_V4,
        answer_v6: Some("2001:db8:ca::10".parse()?),
        tls_port: 443,
        http_port: 80,
        dns_port: 53,
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--root-out" => out.root_out = value.into(),
            "--bill" => out.bill = value.into(),
            "--log" => out.log = value.into(),
            "--keys-out" => out.keys_out = Some(value.into()),
            "--sites" => out.sites = Some(value.into()),
            "--proxy" => out.proxy = Some(value.parse()?),
            "--listen" => out.listen.push(value.parse()?),
            "--dns" => out.dns.push(value.parse()?),
            "--answer-v4" => out.answer_v4 = value.parse()?,
            "--answer-v6" => out.answer_v6 = if value == "none" { None } else { Some(value.parse()?) },
            "--tls-port" => out.tls_port = value.parse()?,
            "--http-port" => out.http_port = value.parse()?,
            "--dns-port" => out.dns_port = value.parse()?,
            _ => bail!("unknown option {flag}; the file's first lines list them"),
        }
    }
    if out.root_out.as_os_str().is_empty() || out.bill.as_os_str().is_empty() {
        bail!("--root-out FILE and --bill FILE are needed");
    }
    if out.listen.is_empty() {
        out.listen = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    }
    if out.dns.is_empty() {
        out.dns = vec!["203.0.113.53".parse()?, "2001:db8:ca::53".parse()?];
    }
    Ok(out)
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = args()?;
    let scratch = tempfile::tempdir()?;
    let repository = git::repository(scratch.path())?;
    let root = root::Root::new()?;
    std::fs::write(&args.root_out, root.pem()).with_context(|| format!("writing {}", args.root_out.display()))?;
    if let Some(dir) = &args.keys_out {
        let (certificate, key) = root.client()?;
        std::fs::write(dir.join("client.pem"), certificate)?;
        std::fs::write(dir.join("client.key"), key)?;
        for name in root::ELSEWHERE {
            let (certificate, key) = root.server_of(name)?;
            std::fs::write(dir.join(format!("{name}.pem")), certificate)?;
            std::fs::write(dir.join(format!("{name}.key")), key)?;
        }
    }
    let log = bill::Lines::append(&args.log)?;
    let bill = bill::Bill::new(bill::Lines::append(&args.bill)?);
    let world = Arc::new(World::new(bill, log, root, repository, args.sites.clone()));
    let zone = Arc::new(names::Zone::new(args.answer_v4, args.answer_v6));
    for address in &args.dns {
        names::serve(Arc::clone(&world), Arc::clone(&zone), (*address, args.dns_port).into()).await?;
    }
    for address in &args.listen {
        serve::tls(Arc::clone(&world), (*address, args.tls_port).into()).await?;
        serve::plain(Arc::clone(&world), (*address, args.http_port).into()).await?;
    }
    if let Some(address) = args.proxy {
        proxy::serve(Arc::clone(&world), address, args.tls_port).await?;
    }
    println!("ready");
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    stop.recv().await;
    Ok(())
}
