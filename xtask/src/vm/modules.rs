//! Kernel modules for a machine without udev and modprobe: which to load, in which order, unpacked.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// What the contracts stand on. Without these nothing can be shown.
const NEEDED: &[&str] = &["veth"];

/// What some attempts need: a family that the kernel does not know proves nothing about the hook that refuses it. Loaded
/// where the kernel has them; a newer one may have dropped some.
const USEFUL: &[&str] = &[
    "crc32c_generic", // by name alone, for sctp and rxrpc: no module depends on them
    "pcbc",
    "fcrypt",
    "dummy", // a card without a cable
    "tun",   // devices that are ways out
    "vhost_net",
    "vhost_vsock",
    "vfio",
    "ppp_generic", // this and the next three: only in a kernel for any hardware
    "pppoe",
    "can_bcm",
    "rxrpc",
    "zram",
    "inet_diag", // lists and destroys sockets
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "sctp", // socket families and protocols
    "dccp",
    "dccp_ipv4",
    "dccp_ipv6",
    "l2tp_ip",
    "l2tp_ip6",
    "vsock",
    "vsock_loopback",
    "tipc",
    "rds",
    "smc",
    "af_alg",
    "algif_hash",
    "overlay", // containers' file systems
    "bridge",
];

/// A module, ready for `insmod`.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The modules to load, each behind those that it needs.
///
/// # Errors
/// When one that is needed is not there, or cannot be unpacked.
pub(crate) fn collect(directory: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    list(directory, &mut files)?;
    let mut modules = Vec::new();
    for name in NEEDED {
        if !files.contains_key(*name) {
            bail!("the module {name} is not in {}", directory.display());
        }
        add(name, &files, &mut modules)?;
    }
    for name in USEFUL.iter().filter(|name| files.contains_key(**name)) {
        add(name, &files, &mut modules)?;
    }
    Ok(modules)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, modules: &mut Vec<Module>) -> Result<()> {
    if modules.iter().any(|module| module.name == name) {
        return Ok(());
    }
    // Built in, or a soft dependency that this flavour has not.
    let Some(file) = files.get(name) else { return Ok(()) };
    let bytes = unpacked(file)?;
    for needed in depends(&bytes) {
        add(&needed, files, modules)?;
    }
    modules.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

fn list(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            list(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(module_name) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `nf-nat.ko.xz` is the module `nf_nat`.
fn module_name(file: &str) -> Option<String> {
    let (stem, ending) = file.split_once(".ko")?;
    matches!(ending, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

fn unpacked(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| file.display().to_string()),
    };
    let output = Command::new(program).arg("-dc").arg(file).stdin(Stdio::null()).output().context(program)?;
    if !output.status.success() {
        bail!("{program} -dc {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// The `depends=` line of a module's `.modinfo`: strings that end with a zero byte (`MODULE_INFO` in linux/module.h).
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|bytes| bytes == key) else { return Vec::new() };
    let rest = module.get(at + key.len()..).unwrap_or_default();
    let line = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dependencies_are_read() {
        assert_eq!(module_name("nf-nat.ko.xz").as_deref(), Some("nf_nat"));
        assert_eq!(module_name("veth.ko").as_deref(), Some("veth"));
        assert_eq!(module_name("modules.order"), None);
        assert_eq!(depends(b"x\0license=GPL\0depends=crc32c,ip6-udp\0name=a\0"), ["crc32c", "ip6_udp"]);
        assert!(depends(b"x\0depends=\0").is_empty());
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let directory = std::env::temp_dir().join(format!("caracal-modules-{}", std::process::id()));
        fs::create_dir_all(directory.join("net")).unwrap();
        fs::write(directory.join("net/veth.ko"), b"\0depends=base-a\0").unwrap();
        fs::write(directory.join("base-a.ko"), b"\0depends=\0").unwrap();
        let modules = collect(&directory).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["base_a", "veth"]);
        fs::remove_file(directory.join("net/veth.ko")).unwrap();
        assert!(collect(&directory).is_err());
        fs::remove_dir_all(directory).unwrap();
    }
}
