//! The host's own certificate store, on the operator's word (`attach --trust-system`). Adds the local CA to every bundle
//! of the host, and lays it where the distribution keeps local certificates, so that its tool keeps it when it makes the
//! bundles anew. The tool itself is not run for that: it puts other things in order too, which no removal would undo.
//! Keeps a copy of every bundle first. A removal gives back the same bytes where nobody changed them since; otherwise it
//! has the tool make them anew, and takes out the CA where that has not.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::contains;
use crate::cli::trust::bundle::SYSTEM_BUNDLES;

/// The distributions' ways: where a local certificate goes, and the tool.
const WAYS: [(&str, &[&str]); 3] = [
    ("/usr/local/share/ca-certificates", &["update-ca-certificates"]), // Debian, Ubuntu, Alpine
    ("/etc/pki/ca-trust/source/anchors", &["update-ca-trust", "extract"]), // RHEL, Fedora
    ("/etc/pki/trust/anchors", &["update-ca-certificates"]),           // SUSE
];
/// Where tools are; never the caller's PATH.
const TOOLS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What was added, as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Added {
    /// The attached cgroups that need it.
    pub cgroups: BTreeSet<u64>,
    /// The CA, PEM.
    ca: String,
    /// The certificate's file.
    certificate: Option<PathBuf>,
    /// The tool and its arguments.
    tool: Vec<String>,
    /// Bundles, and their copies.
    bundles: Vec<Bundle>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bundle {
    /// Which, no link.
    path: PathBuf,
    /// Its copy in the keeper's directory.
    copy: String,
    /// SHA-256 of what it was made into; empty until then.
    made: String,
}

impl Added {
    /// What will be added on this host; nothing yet.
    #[must_use]
    pub fn plan(instance: &str) -> Added {
        let way = WAYS.iter().find_map(|(anchors, command)| {
            let (name, arguments) = command.split_first()?;
            let tool = TOOLS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())?;
            Path::new(anchors).is_dir().then(|| {
                let tool =
                    std::iter::once(tool.display().to_string()).chain(arguments.iter().map(|word| (*word).to_owned()));
                (Path::new(anchors).join(format!("caracal-{instance}.crt")), tool.collect())
            })
        });
        let (certificate, tool) = way.map_or((None, Vec::new()), |(path, tool)| (Some(path), tool));
        let mut seen = BTreeSet::new();
        let paths = SYSTEM_BUNDLES.iter().filter_map(|path| fs::canonicalize(path).ok());
        let bundles = paths.filter(|path| path.is_file() && seen.insert(path.clone())).enumerate();
        let bundles =
            bundles.map(|(number, path)| Bundle { path, copy: format!("bundle-{number}"), made: String::new() });
        Added { cgroups: BTreeSet::new(), ca: String::new(), certificate, tool, bundles: bundles.collect() }
    }

    /// Whether this is done, and with this CA.
    #[must_use]
    pub fn certificate_is(&self, ca: &str) -> bool {
        let holds = |path: &Path| fs::read(path).is_ok_and(|bytes| contains(&bytes, ca.as_bytes()));
        !self.bundles.is_empty() && self.bundles.iter().all(|bundle| !bundle.made.is_empty() && holds(&bundle.path))
    }

    /// Adds it; `write_down` is called with what is about to be true.
    ///
    /// # Errors
    /// When a file cannot be written. What was done until then is written down.
    pub fn add(&mut self, ca: &str, copies: &Path, mut write_down: impl FnMut(&Added)) -> io::Result<String> {
        if self.certificate_is(ca) {
            return Ok("the host's store has the CA already".to_owned());
        }
        if self.bundles.is_empty() {
            return Err(io::Error::other("this host has no certificate bundle at a place that we know"));
        }
        ca.clone_into(&mut self.ca);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(copies)?;
        for bundle in &self.bundles {
            fs::copy(&bundle.path, copies.join(&bundle.copy))?;
        }
        write_down(self);
        if let Some(path) = &self.certificate {
            replace(path, format!("{ca}\n").as_bytes(), None)?;
        }
        for bundle in &mut self.bundles {
            let mut bytes = fs::read(&bundle.path)?;
            if !contains(&bytes, ca.as_bytes()) {
                if !bytes.ends_with(b"\n") {
                    bytes.push(b'\n');
                }
                bytes.extend(format!("{ca}\n").bytes());
                replace(&bundle.path, &bytes, Some(&bundle.path))?;
            }
            bundle.made = digest(&bytes);
        }
        write_down(self);
        Ok(format!(
            "the host's store has the CA: every program of the host trusts it until the detach ({})",
            self.where_it_is()
        ))
    }

    fn where_it_is(&self) -> String {
        let path = self.certificate.as_ref().or_else(|| self.bundles.first().map(|bundle| &bundle.path));
        path.map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// Takes it out again.
    ///
    /// # Errors
    /// When a file cannot be written; it can be tried again.
    pub fn remove(&self, copies: &Path) -> io::Result<()> {
        let untouched: Vec<bool> = self
            .bundles
            .iter()
            .map(|bundle| fs::read(&bundle.path).is_ok_and(|bytes| digest(&bytes) == bundle.made))
            .collect();
        let ca = format!("{}\n", self.ca);
        if let Some(path) = &self.certificate {
            remove_links(path)?;
            if path.exists() {
                fs::remove_file(path)?;
            }
            // Begun and not ended, nothing of the tool's is there yet.
            if self.bundles.iter().zip(&untouched).any(|(bundle, untouched)| !untouched && !bundle.made.is_empty()) {
                self.run_tool();
            }
        }
        for (bundle, untouched) in self.bundles.iter().zip(untouched) {
            let copy = copies.join(&bundle.copy);
            let Ok(old) = fs::read(&copy) else { continue };
            let now = fs::read(&bundle.path).unwrap_or_default();
            // The owner and mode are those that the file has now: the tool's, or the ones that were kept.
            if untouched && now != old {
                replace(&bundle.path, &old, Some(&bundle.path))?;
            } else if let (false, Some(rest)) = (untouched, without(&now, ca.as_bytes())) {
                replace(&bundle.path, &rest, Some(&bundle.path))?;
            }
            fs::remove_file(&copy)?;
        }
        Ok(())
    }

    /// The distribution's tool; without it, or when it fails, the bundles are written by us.
    fn run_tool(&self) {
        let Some((tool, arguments)) = self.tool.split_first() else { return };
        let path = std::env::join_paths(TOOLS).unwrap_or_default();
        let ran = Command::new(tool)
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match ran {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!(tool, %status, "The host's tool for certificates fails."),
            Err(error) => tracing::warn!(tool, %error, "The host's tool for certificates does not run."),
        }
    }
}

/// The links that the tool made in the hashed directory: Debian's leaves them behind when a local certificate goes.
fn remove_links(certificate: &Path) -> io::Result<()> {
    let directory = Path::new("/etc/ssl/certs");
    let Some(name) = certificate.file_stem().and_then(OsStr::to_str) else { return Ok(()) };
    let first = directory.join(format!("{name}.pem"));
    if fs::read_link(&first).is_ok_and(|target| target == certificate) {
        for entry in fs::read_dir(directory)?.flatten() {
            if fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == OsStr::new(&format!("{name}.pem")))
            {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_file(first)?;
    }
    Ok(())
}

/// Replaces a file in one step; with `like`, with that file's owner and mode.
fn replace(path: &Path, bytes: &[u8], like: Option<&Path>) -> io::Result<()> {
    use std::io::Write;
    let fresh = path.with_extension("caracal-new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
    file.write_all(bytes)?;
    let (mode, owner) = match like.map(fs::metadata).transpose()? {
        Some(facts) => (facts.mode() & 0o7777, Some((facts.uid(), facts.gid()))),
        None => (0o644, None),
    };
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(&fresh, Some(uid), Some(gid))?;
    }
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// `bytes` without the certificate; `None` when it is not in them.
fn without(bytes: &[u8], ca: &[u8]) -> Option<Vec<u8>> {
    let at = bytes.windows(ca.len().max(1)).position(|window| window == ca)?;
    let (before, rest) = bytes.split_at_checked(at)?;
    Some([before, rest.get(ca.len()..)?].concat())
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(directory: &Path) -> Added {
        let bundle = Bundle { path: directory.join("bundle"), copy: "copy".into(), made: String::new() };
        Added {
            cgroups: BTreeSet::from([1]),
            ca: String::new(),
            certificate: Some(directory.join("caracal-test.crt")),
            tool: vec![],
            bundles: vec![bundle],
        }
    }

    #[test]
    fn the_same_bytes_come_back_and_what_others_added_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, copies) = (tmp.path().join("bundle"), tmp.path().join("copies"));
        for others in ["", "another root\n"] {
            fs::write(&path, "one root").unwrap();
            let mut host = added(tmp.path());
            let mut written = 0;
            host.add("our root", &copies, |_| written += 1).unwrap();
            assert_eq!(written, 2, "before and after");
            assert_eq!(fs::read_to_string(&path).unwrap(), "one root\nour root\n");
            assert!(host.certificate_is("our root") && !host.certificate_is("their root"));
            let now = fs::read_to_string(&path).unwrap() + others;
            fs::write(&path, now).unwrap();
            host.remove(&copies).unwrap();
            let left = if others.is_empty() { "one root".to_owned() } else { format!("one root\n{others}") };
            assert_eq!(fs::read_to_string(&path).unwrap(), left);
            assert!(!tmp.path().join("caracal-test.crt").exists());
        }
    }

    #[test]
    fn what_was_begun_and_not_ended_is_undone() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, copies) = (tmp.path().join("bundle"), tmp.path().join("copies"));
        fs::write(&path, "one root").unwrap();
        let mut host = added(tmp.path());
        let mut begun = None;
        host.add("our root", &copies, |now| begun = begun.take().or(Some(now.clone()))).unwrap();
        // As if the keeper had been killed before it wrote down what it made.
        begun.unwrap().remove(&copies).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one root\n");
    }
}
