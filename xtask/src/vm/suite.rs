//! Kernels as Debian ships them: finds the newest of each suite through the machine's own apt, fetches and unpacks it.
//!
//! apt works on a directory of ours below `target/vm/apt`, with the mirror that the machine uses and Debian's archive
//! keys; the machine's own lists and packages are left alone, and nothing here needs root. What was fetched once is kept:
//! a run without a mirror uses it and says so.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    checkout::Checkout,
    progress::{self, Wait},
};

/// A suite of Debian and the kernel series that it is taken for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    /// What people call it: `6.1`, or `newest`.
    pub(crate) series: &'static str,
    /// Debian's name.
    pub(crate) name: &'static str,
    /// Whether it has a suite of security updates beside it.
    security: bool,
}

/// Oldest supported first.
pub(crate) const SUITES: &[Suite] = &[
    Suite { series: "5.10", name: "bullseye", security: true },
    Suite { series: "6.1", name: "bookworm", security: true },
    Suite { series: "6.12", name: "trixie", security: true },
    Suite { series: "newest", name: "sid", security: false },
];

/// The package whose dependencies name the suite's newest kernel. The flavour for virtual machines: a fifth of the size.
const NEWEST: &str = "linux-image-cloud-amd64";
/// Where Debian's own packages keep the keys that its suites are signed with.
const KEYS: &[&str] =
    &["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];
/// The lists are read anew when they are older: a suite gets a kernel every few weeks.
const FRESH: Duration = Duration::from_secs(20 * 60 * 60);
/// Names a mirror where the machine's apt has none of Debian's.
const MIRROR: &str = "CARACAL_DEBIAN_MIRROR";
/// Likewise, of the security suites.
const SECURITY_MIRROR: &str = "CARACAL_DEBIAN_SECURITY_MIRROR";

/// A kernel on disk.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Kernel {
    /// See [`Suite::series`].
    pub(crate) series: String,
    /// See [`Suite::name`].
    pub(crate) suite: String,
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// The packages it was unpacked from.
    pub(crate) packages: Vec<Package>,
    /// Where it is unpacked.
    #[serde(skip)]
    pub(crate) tree: PathBuf,
    /// Not looked up in this run: no mirror could be asked.
    #[serde(skip)]
    pub(crate) kept: bool,
}

/// A package as the suite's index describes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Of the package file, from the signed index; apt refuses another.
    pub(crate) sha256: String,
    #[serde(skip)]
    depends: String,
}

/// apt with lists of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    home: PathBuf,
    configuration: PathBuf,
    /// Why the lists could not be read anew.
    stale: Option<String>,
}

impl Suite {
    /// Whether a person may mean this suite by `word`.
    pub(crate) fn is_called(&self, word: &str) -> bool {
        word == self.series || word == self.name
    }

    fn parts(&self) -> Vec<String> {
        let main = self.name.to_owned();
        if self.security { vec![main, format!("{}-security", self.name)] } else { vec![main] }
    }
}

impl Kernel {
    /// The kernel itself: in /boot, or (from 7.x on) beside its modules.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        let candidates = [
            self.tree.join("boot").join(format!("vmlinuz-{}", self.release)),
            self.tree.join("usr/lib/modules").join(&self.release).join("vmlinuz"),
            self.tree.join("lib/modules").join(&self.release).join("vmlinuz"),
        ];
        let found = candidates.into_iter().find(|path| path.is_file());
        found.with_context(|| format!("there is no kernel in {}", self.tree.display()))
    }

    /// Where its modules are.
    pub(crate) fn modules(&self) -> PathBuf {
        let here = |below: &str| self.tree.join(below).join(&self.release);
        if here("usr/lib/modules").is_dir() { here("usr/lib/modules") } else { here("lib/modules") }
    }

    fn read(home: &Path) -> Option<Self> {
        let text = fs::read(home.join("kernel.json")).ok()?;
        let mut kernel: Self = serde_json::from_slice(&text).ok()?;
        kernel.tree = home.join("tree");
        kernel.image().is_ok().then_some(kernel)
    }
}

impl Apt {
    /// Makes the directory and reads the suites' lists where they are old.
    ///
    /// # Errors
    /// When the directory cannot be made; not when no mirror is known or none answers: then what is kept is taken.
    pub(crate) fn open(checkout: &Checkout) -> Result<Self> {
        let home = checkout.target.join("vm");
        let apt = home.join("apt");
        for below in ["state", "cache"] {
            fs::create_dir_all(apt.join(below)).with_context(|| apt.display().to_string())?;
        }
        let configuration = apt.join("apt.conf");
        fs::write(apt.join("status"), "")?;
        fs::write(&configuration, settings(&apt))?;
        let list = apt.join("sources.list");
        let mut apt = Self { home, configuration, stale: None };
        let looked = sources().and_then(|sources| {
            let changed = fs::read_to_string(&list).ok().as_ref() != Some(&sources);
            fs::write(&list, sources)?;
            if changed || !apt.fresh() { apt.update(checkout) } else { Ok(()) }
        });
        apt.stale = looked.err().map(|error| format!("{error:#}"));
        Ok(apt)
    }

    fn stamp(&self) -> PathBuf {
        self.home.join("apt/updated")
    }

    fn fresh(&self) -> bool {
        let age = fs::metadata(self.stamp()).and_then(|file| file.modified()).map(|time| time.elapsed());
        matches!(age, Ok(Ok(age)) if age < FRESH)
    }

    fn update(&self, checkout: &Checkout) -> Result<()> {
        let mut command = self.command("apt-get");
        command.arg("update");
        progress::quietly("reading which kernels Debian's suites have", &mut command, &checkout.log("vm-apt"))?;
        fs::write(self.stamp(), "").context("the stamp of the package lists")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("-c").arg(&self.configuration).stdin(Stdio::null());
        command
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.command("apt-cache").args(words).output().context("apt-cache does not start")?;
        if !output.status.success() {
            bail!("apt-cache {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The suite's newest kernel, fetched and unpacked; one of an earlier run where no mirror can be asked.
    ///
    /// # Errors
    /// When there is neither.
    pub(crate) fn kernel(&self, checkout: &Checkout, suite: &Suite) -> Result<Kernel> {
        if let Some(kernel) = self.resolved(suite) {
            return Ok(kernel);
        }
        let fetched = match &self.stale {
            None => self.newest(suite).and_then(|packages| self.fetch(checkout, suite, packages)).and_then(|kernel| {
                fs::write(self.resolution(suite), &kernel.release).context("the note of what was looked up")?;
                Ok(kernel)
            }),
            Some(why) => Err(anyhow::anyhow!("{why}")),
        };
        fetched.or_else(|error| {
            let mut kernel = self.kept(suite).ok_or(error)?;
            kernel.kept = true;
            Ok(kernel)
        })
    }

    /// Where it is noted which kernel these lists name.
    fn resolution(&self, suite: &Suite) -> PathBuf {
        self.home.join("apt").join(suite.name)
    }

    /// What was looked up in these lists already: apt takes seconds for each question.
    fn resolved(&self, suite: &Suite) -> Option<Kernel> {
        let when = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
        if when(self.resolution(suite))? < when(self.stamp())? {
            return None;
        }
        let release = fs::read_to_string(self.resolution(suite)).ok()?;
        Kernel::read(&self.kernels().join(release.trim()))
    }

    /// What the suite's newest kernel consists of.
    fn newest(&self, suite: &Suite) -> Result<Vec<Package>> {
        let wait = Wait::start(format!("asking apt for the newest kernel of {}", suite.name));
        let listed = self.ask(&["madison", NEWEST])?;
        let version = version_in(&listed, &suite.parts())
            .with_context(|| format!("{} has no {NEWEST}: is it still on the mirror?", suite.name))?;
        let meta = self.package(NEWEST, &version)?;
        let mut packages = Vec::new();
        let mut wanted = names(&meta.depends, "linux-image-");
        while let Some(name) = wanted.pop() {
            let package = self.package(&name, &version)?;
            // From 7.x on the package is empty and names those that hold the kernel and its modules.
            wanted.extend(names(&package.depends, "linux-binary-"));
            wanted.extend(names(&package.depends, "linux-modules-"));
            packages.push(package);
        }
        if packages.is_empty() {
            bail!("{NEWEST} {version} depends on no kernel: {}", meta.depends);
        }
        wait.done();
        Ok(packages)
    }

    fn package(&self, name: &str, version: &str) -> Result<Package> {
        let text = self.ask(&["show", &format!("{name}={version}")])?;
        let field = |key: &str| {
            let prefix = format!("{key}: ");
            text.lines().find_map(|line| line.strip_prefix(prefix.as_str())).map(ToOwned::to_owned)
        };
        Ok(Package {
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: field("SHA256").with_context(|| format!("{name} {version} has no checksum in its index"))?,
            depends: field("Depends").unwrap_or_default(),
        })
    }

    fn kernels(&self) -> PathBuf {
        self.home.join("kernels")
    }

    fn fetch(&self, checkout: &Checkout, suite: &Suite, packages: Vec<Package>) -> Result<Kernel> {
        let release = packages
            .iter()
            .find_map(|package| package.name.strip_prefix("linux-image-"))
            .context("no package is named after the kernel's release")?
            .to_owned();
        let home = self.kernels().join(&release);
        let same = |kept: &Kernel| {
            let sums = |packages: &[Package]| packages.iter().map(|package| package.sha256.clone()).collect::<Vec<_>>();
            sums(&kept.packages) == sums(&packages)
        };
        if let Some(kept) = Kernel::read(&home).filter(same) {
            return Ok(kept);
        }
        if home.exists() {
            fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
        }
        let (tree, debs) = (home.join("tree"), home.join("debs"));
        fs::create_dir_all(&tree)?;
        fs::create_dir_all(&debs)?;
        let mut download = self.command("apt-get");
        download.arg("download").current_dir(&debs);
        download.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
        let log = checkout.log(&format!("vm-fetch-{}", suite.series));
        progress::quietly(&format!("fetching Linux {release} of Debian {}", suite.name), &mut download, &log)?;
        for file in fs::read_dir(&debs)? {
            let file = file?.path();
            let status = Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree).status().context("dpkg-deb")?;
            if !status.success() {
                bail!("dpkg-deb -x {}: {status}", file.display());
            }
        }
        fs::remove_dir_all(&debs)?;
        let kernel = Kernel {
            series: suite.series.to_owned(),
            suite: suite.name.to_owned(),
            release,
            packages,
            tree,
            kept: false,
        };
        kernel.image()?;
        // Last: a half-unpacked kernel is fetched again.
        fs::write(home.join("kernel.json"), serde_json::to_string_pretty(&kernel)? + "\n")?;
        Ok(kernel)
    }

    /// The kernel of this suite that an earlier run fetched last.
    fn kept(&self, suite: &Suite) -> Option<Kernel> {
        let homes = fs::read_dir(self.kernels()).ok()?.flatten().map(|entry| entry.path());
        let when = |home: &Path| fs::metadata(home.join("kernel.json")).and_then(|file| file.modified()).ok();
        let mut kernels: Vec<_> = homes
            .filter_map(|home| Some((when(&home)?, Kernel::read(&home)?)))
            .filter(|(_, kernel)| kernel.suite == suite.name)
            .collect();
        kernels.sort_by_key(|(when, _)| *when);
        kernels.pop().map(|(_, kernel)| kernel)
    }
}

/// The newest version among the lines of `apt-cache madison` that come from one of these suites; apt sorts them.
fn version_in(madison: &str, suites: &[String]) -> Option<String> {
    madison.lines().find_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (_, version, origin) = (columns.next()?, columns.next()?, columns.next()?);
        let suite = origin.split_whitespace().nth(1)?.split_once('/')?.0;
        suites.iter().any(|wanted| wanted == suite).then(|| version.to_owned())
    })
}

/// The packages of a `Depends:` line that start with `prefix`.
fn names(depends: &str, prefix: &str) -> Vec<String> {
    let first = |one: &str| one.split_whitespace().next().map(ToOwned::to_owned);
    depends.split(',').filter_map(first).filter(|name| name.starts_with(prefix)).collect()
}

/// The mirrors of Debian and of its security updates: what the machine's apt uses.
fn mirrors() -> (Option<String>, Option<String>) {
    let format = "$(LABEL)|$(REPO_URI)";
    let listed = Command::new("apt-get")
        .args(["indextargets", "Created-By: Packages", "--format", format])
        .stdin(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let find = |label: &str, variable: &str| {
        env::var(variable).ok().or_else(|| {
            listed
                .lines()
                .filter_map(|line| line.split_once('|'))
                .find(|(its, _)| *its == label)
                .map(|(_, uri)| uri.to_owned())
        })
    };
    (find("Debian", MIRROR), find("Debian-Security", SECURITY_MIRROR))
}

fn sources() -> Result<String> {
    let (main, security) = mirrors();
    let main = main.with_context(|| {
        format!("this machine's apt knows no mirror of Debian; name one in {MIRROR} (and {SECURITY_MIRROR})")
    })?;
    let keys = KEYS
        .iter()
        .find(|path| Path::new(path).is_file())
        .with_context(|| format!("Debian's archive keys are missing: {}", KEYS.join(" or ")))?;
    let mut text = String::new();
    for suite in SUITES {
        for part in suite.parts() {
            let mirror = if part == suite.name { Some(&main) } else { security.as_ref() };
            if let Some(mirror) = mirror {
                text.push_str(&format!("deb [signed-by={keys} arch=amd64] {mirror} {part} main\n"));
            }
        }
    }
    Ok(text)
}

fn settings(apt: &Path) -> String {
    let at = apt.display();
    // Archived suites have indexes whose date has run out, and move from one name to the next (stable, oldstable);
    // their signatures hold all the same. As root, apt would fetch as a user who may not write here.
    format!(
        "Dir::Etc::sourcelist \"{at}/sources.list\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::State \"{at}/state/\";\n\
         Dir::State::status \"{at}/status\";\n\
         Dir::Cache \"{at}/cache/\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::AllowReleaseInfoChange::Suite \"true\";\n\
         Acquire::Check-Valid-Until \"false\";\n\
         Acquire::Retries \"3\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Sandbox::User \"root\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = "\
linux-image-cloud-amd64 |   7.2.13-1 | http://m/debian sid/main amd64 Packages
linux-image-cloud-amd64 | 6.12.118-1 | http://m/debian-security trixie-security/main amd64 Packages
linux-image-cloud-amd64 | 6.12.117-1 | http://m/debian trixie/main amd64 Packages
";

    #[test]
    fn the_newest_of_a_suite_may_be_a_security_update() {
        let suites = |name: &str| SUITES.iter().find(|suite| suite.name == name).unwrap().parts();
        assert_eq!(version_in(MADISON, &suites("trixie")).as_deref(), Some("6.12.118-1"));
        assert_eq!(version_in(MADISON, &suites("sid")).as_deref(), Some("7.2.13-1"));
        assert_eq!(version_in(MADISON, &suites("bullseye")), None);
    }

    #[test]
    fn dependencies_are_found_by_what_they_are() {
        let depends = "dracut | initramfs-tools, linux-base-7 (= 1), linux-binary-7 (= 1), linux-modules-7 (= 1)";
        assert_eq!(names(depends, "linux-binary-"), ["linux-binary-7"]);
        assert!(names(depends, "linux-image-").is_empty());
    }
}
