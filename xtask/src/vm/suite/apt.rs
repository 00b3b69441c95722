//! apt with lists of its own: takes a suite, gives its newest kernel, fetched and unpacked. Touches nothing outside of
//! `target/vm`; where no mirror answers it takes what an earlier run fetched, and says so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Kernel, Package, Suite,
    sources::{settings, sources},
};
use crate::{
    checkout::Checkout,
    progress::{self, Wait},
};

/// The lists are read anew when they are older: a suite gets a kernel every few weeks.
const FRESH: Duration = Duration::from_secs(20 * 60 * 60);

/// apt with lists of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    home: PathBuf,
    configuration: PathBuf,
    /// Why the lists could not be read anew.
    stale: Option<String>,
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
        self.home.join("apt").join(suite.noted())
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
        let newest = suite.flavour.package();
        let listed = self.ask(&["madison", newest])?;
        let version = version_in(&listed, &suite.parts())
            .with_context(|| format!("{} has no {newest}: is it still on the mirror?", suite.name))?;
        let meta = self.package(newest, &version)?;
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
            bail!("{newest} {version} depends on no kernel: {}", meta.depends);
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
            .filter(|(_, kernel)| kernel.suite == suite.name && suite.flavour.has(&kernel.release))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::suite::SUITES;

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
    fn one_suite_has_the_modules_that_kernels_for_virtual_machines_lack() {
        let of = |release: &str| -> Vec<&str> {
            SUITES.iter().filter(|suite| suite.flavour.has(release)).map(|suite| suite.series).collect()
        };
        assert_eq!(of("6.1.0-57-amd64"), ["6.1"]);
        assert_eq!(of("6.1.0-57-cloud-amd64").len(), SUITES.len() - 1);
        let mut notes: Vec<_> = SUITES.iter().map(|suite| (suite.noted(), suite.flavour.package())).collect();
        notes.sort();
        assert_eq!(notes.first(), Some(&("bookworm-any".to_owned(), "linux-image-amd64")));
        assert!(notes.iter().skip(1).all(|(_, package)| *package == "linux-image-cloud-amd64"));
    }

    #[test]
    fn dependencies_are_found_by_what_they_are() {
        let depends = "dracut | initramfs-tools, linux-base-7 (= 1), linux-binary-7 (= 1), linux-modules-7 (= 1)";
        assert_eq!(names(depends, "linux-binary-"), ["linux-binary-7"]);
        assert!(names(depends, "linux-image-").is_empty());
    }
}
