//! A root file system for a machine that lives in memory: programs of this host with their libraries, as a cpio archive
//! (Documentation/driver-api/early-userspace/buffer-format.rst), which needs neither root nor a loop device.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The archive's contents, by path without the leading slash.
#[derive(Debug, Default)]
pub(crate) struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory(u32),
    /// A file of this host.
    Copy(PathBuf),
    Text(Vec<u8>, u32),
    Link(PathBuf),
    /// A character device: major, minor.
    Device(u32, u32),
}

/// Directories that are links into /usr, as on every current distribution.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

impl Image {
    /// An empty root with a console.
    pub(crate) fn new() -> Self {
        let mut image = Self::default();
        for directory in
            ["dev", "proc", "sys", "run", "etc", "root", "var", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"]
        {
            image.directory(Path::new(directory), 0o755);
        }
        image.directory(Path::new("tmp"), 0o1777);
        for name in MERGED {
            image.entries.insert(PathBuf::from(name), Entry::Link(PathBuf::from("usr").join(name)));
        }
        image.entries.insert(PathBuf::from("dev/console"), Entry::Device(5, 1));
        image
    }

    /// A directory and those above it.
    pub(crate) fn directory(&mut self, path: &Path, mode: u32) {
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty())
            && !self.entries.contains_key(above)
        {
            self.directory(above, 0o755);
        }
        self.entries.entry(path.to_owned()).or_insert(Entry::Directory(mode));
    }

    fn put(&mut self, path: &Path, entry: Entry) {
        let path = inside(path);
        if let Some(above) = path.parent() {
            self.directory(above, 0o755);
        }
        self.entries.insert(path, entry);
    }

    /// A file made up here.
    pub(crate) fn text(&mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) {
        self.put(Path::new(path), Entry::Text(bytes.into(), mode));
    }

    /// A file of this host, at `path`.
    pub(crate) fn copy(&mut self, from: &Path, path: &Path) {
        self.put(path, Entry::Copy(from.to_owned()));
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &Path, to: &Path) {
        self.put(path, Entry::Link(to.to_owned()));
    }

    /// A program of this host at its own path, with the libraries that the loader gives it here.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn program(&mut self, path: &Path) -> Result<()> {
        let real = fs::canonicalize(path).with_context(|| path.display().to_string())?;
        if inside(&real) != inside(path) {
            self.link(path, &Path::new("/").join(inside(&real)));
        }
        self.copy(&real, &real);
        self.libraries(&real)
    }

    /// The libraries of a program or of another library.
    ///
    /// # Errors
    /// When one is missing on this host.
    pub(crate) fn libraries(&mut self, of: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(of).stdin(Stdio::null()).output().context("ldd does not start")?;
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(line) = listed.lines().find(|line| line.contains("not found")) {
            bail!("{}: {}", of.display(), line.trim());
        }
        for library in libraries(&listed) {
            let real = fs::canonicalize(&library).with_context(|| library.display().to_string())?;
            self.copy(&real, &library);
        }
        Ok(())
    }

    /// A directory of this host with everything in it, but what `skip` names by its path below it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn tree(&mut self, directory: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<()> {
        self.subtree(directory, directory, skip)
    }

    fn subtree(&mut self, top: &Path, directory: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<()> {
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.strip_prefix(top).is_ok_and(skip) {
                continue;
            }
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_symlink() {
                self.link(&path, &fs::read_link(&path)?);
            } else if kind.is_dir() {
                self.directory(&inside(&path), 0o755);
                self.subtree(top, &path, skip)?;
            } else if kind.is_file() {
                self.copy(&path, &path);
            }
        }
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When a file cannot be read or the archive cannot be written.
    pub(crate) fn write(&self, to: &mut impl Write) -> Result<()> {
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let mut head = Head { number, mode: 0, time: 0, size: 0, device: (0, 0) };
            match entry {
                Entry::Directory(mode) => {
                    head.mode = DIRECTORY | mode;
                    head.write(to, path, io::empty())?;
                }
                Entry::Device(major, minor) => {
                    head.mode = CHARACTER | 0o600;
                    head.device = (*major, *minor);
                    head.write(to, path, io::empty())?;
                }
                Entry::Link(target) => {
                    let text = target.as_os_str().as_encoded_bytes();
                    head.mode = SYMLINK | 0o777;
                    head.size = u32::try_from(text.len())?;
                    head.write(to, path, text)?;
                }
                Entry::Text(bytes, mode) => {
                    head.mode = REGULAR | mode;
                    head.size = u32::try_from(bytes.len())?;
                    head.write(to, path, bytes.as_slice())?;
                }
                Entry::Copy(from) => {
                    let file = File::open(from).with_context(|| from.display().to_string())?;
                    let facts = file.metadata()?;
                    head.mode = REGULAR | (facts.permissions().mode() & 0o777);
                    head.size = u32::try_from(facts.len())
                        .with_context(|| format!("{} does not fit into a cpio archive", from.display()))?;
                    // Python compares it with what its compiled files say.
                    head.time = u32::try_from(facts.mtime()).unwrap_or(0);
                    head.write(to, path, file).with_context(|| from.display().to_string())?;
                }
            }
        }
        let end = Head { number: 0, mode: 0, time: 0, size: 0, device: (0, 0) };
        end.write(to, Path::new("TRAILER!!!"), io::empty())
    }
}

struct Head {
    number: u32,
    mode: u32,
    time: u32,
    size: u32,
    device: (u32, u32),
}

impl Head {
    /// Header, name and contents, each filled up to four bytes.
    fn write(&self, to: &mut impl Write, path: &Path, mut contents: impl io::Read) -> Result<()> {
        let name = path.as_os_str().as_encoded_bytes();
        let length = u32::try_from(name.len() + 1)?;
        let (major, minor) = self.device;
        // Inode, mode, uid, gid, links, time, size, device (2), special device (2), length of the name, checksum.
        let fields = [self.number, self.mode, 0, 0, 1, self.time, self.size, 0, 0, major, minor, length, 0];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        to.write_all(head.as_bytes())?;
        to.write_all(name)?;
        to.write_all(&[0])?;
        fill(to, head.len() + name.len() + 1)?;
        let written = io::copy(&mut contents, to)?;
        if written != u64::from(self.size) {
            bail!("{} changed while it was read", path.display());
        }
        fill(to, usize::try_from(written)?)
    }
}

fn fill(to: &mut impl Write, length: usize) -> Result<()> {
    let missing = length.next_multiple_of(4) - length;
    Ok(to.write_all([0; 4].get(..missing).unwrap_or_default())?)
}

/// Where a path of this host is in the archive: without the leading slash, and below /usr where that is a link.
fn inside(path: &Path) -> PathBuf {
    let parts: Vec<&std::ffi::OsStr> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part),
            _ => None,
        })
        .collect();
    let merged = parts.first().is_some_and(|first| MERGED.iter().any(|name| first == name)) && parts.len() > 1;
    let start = if merged { PathBuf::from("usr") } else { PathBuf::new() };
    parts.iter().fold(start, |path, part| path.join(part))
}

/// The files in what `ldd` prints: `libc.so.6 => /lib/libc.so.6 (0x...)`, or the loader alone.
fn libraries(ldd: &str) -> BTreeSet<PathBuf> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_below_usr() {
        assert_eq!(inside(Path::new("/lib/x/libc.so.6")), Path::new("usr/lib/x/libc.so.6"));
        assert_eq!(inside(Path::new("/work/probe")), Path::new("work/probe"));
        assert_eq!(inside(Path::new("/lib")), Path::new("lib"));
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)\n";
        let found: Vec<_> = libraries(text).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/lib/libc.so.6"), PathBuf::from("/lib64/ld-linux.so.2")]);
    }

    #[test]
    fn an_archive_is_filled_up_to_four_bytes_everywhere() {
        let mut image = Image::default();
        image.text("/a/b", "12345", 0o644);
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3, "{text}");
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        assert!(text.contains("12345") && text.contains("TRAILER!!!"));
    }
}
