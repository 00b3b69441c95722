//! The judges of the ledger that are written in Go, built below the target directory with a toolchain that is new enough.
//!
//! A distribution's Go is often older than the modules ask for. Any Go can fetch the toolchain that they need, as a module, checked
//! against the checksum database like every other.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::packages::{self, Probe};
use crate::{checkout::Checkout, pins, progress};

/// Builds the judge where its sources have changed; gives its path.
///
/// # Errors
/// When there is no Go and none can be installed, or its modules cannot be fetched.
pub(super) fn judge(checkout: &Checkout) -> Result<PathBuf> {
    let (sources, home) = (checkout.root.join("tests/judges/go"), checkout.tools().join("go"));
    let (program, stamp) = (home.join("bin/judge"), home.join("sources"));
    let wanted = text_of(&sources)?;
    if program.is_file() && fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(program);
    }
    fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let go = toolchain(checkout, &home)?;
    let mut build = command(&go, &home);
    build.args(["build", "-trimpath", "-o"]).arg(&program).arg(".").current_dir(&sources);
    progress::quietly("fetching and building the ledger's judges in Go", &mut build, &checkout.log("go-build"))?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(program)
}

/// All that the program is built from.
fn text_of(sources: &Path) -> Result<String> {
    let read = fs::read_dir(sources).with_context(|| sources.display().to_string())?;
    let mut files = read.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut text = format!("{}\n", pins::GO);
    for file in files {
        text.push_str(&fs::read_to_string(&file).with_context(|| file.display().to_string())?);
    }
    Ok(text)
}

/// A `go` that is new enough.
fn toolchain(checkout: &Checkout, home: &Path) -> Result<PathBuf> {
    let found = places().find(|go| go.is_file());
    let go = match found {
        Some(go) => go,
        None => {
            packages::install(checkout, "to build the ledger's judges", &[("golang-go", Probe::Program("go"))])?;
            places().find(|go| go.is_file()).context("golang-go brings no go")?
        }
    };
    if version(&go, home)? >= numbers(pins::GO) {
        return Ok(go);
    }
    let architecture = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("Go {} or newer is needed, and there is no toolchain of Go's for {other}", pins::GO),
    };
    let module = format!("golang.org/toolchain@v0.0.1-go{}.linux-{architecture}", pins::GO);
    let newer = home.join("mod").join(&module);
    if !newer.join("bin/go").is_file() {
        let mut fetch = command(&go, home);
        // Outside of a module: an old Go reads no newer go.mod.
        fetch.args(["mod", "download"]).arg(&module).current_dir(home);
        progress::quietly(&format!("fetching Go {}", pins::GO), &mut fetch, &checkout.log("go-toolchain"))?;
    }
    // Files of a module are kept without the right to be run.
    for directory in ["bin".to_owned(), format!("pkg/tool/linux_{architecture}")] {
        let directory = newer.join(directory);
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(newer.join("bin/go"))
}

/// Where a Go may be. The archive of go.dev is unpacked to /usr/local/go.
fn places() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path).chain(["/usr/local/go/bin".into()]).collect();
    directories.into_iter().map(|directory| directory.join("go"))
}

fn version(go: &Path, home: &Path) -> Result<Vec<u32>> {
    let output = command(go, home).args(["env", "GOVERSION"]).output().context("go does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(numbers(text.trim().trim_start_matches("go")))
}

/// `1.26.8` as numbers; what is no number ends it.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Go with all of its files below `home`. Nothing but the toolchain that is called, and no C compiler.
fn command(go: &Path, home: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .env("GOPATH", home)
        .env("GOMODCACHE", home.join("mod"))
        .env("GOCACHE", home.join("cache"))
        .env("GOFLAGS", "-modcacherw")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .env_remove("GOROOT");
    command
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.26.8") > numbers("1.26.0") && numbers("1.26.10") > numbers("1.26.8"));
        assert!(numbers("1.19.8") < numbers("1.26.0") && numbers("1.27rc1") < numbers("1.26.0"));
    }
}
