//! What apt is told: where Debian's suites are, who signs them, and to work on a directory of ours.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::SUITES;

/// Where Debian's own packages keep the keys that its suites are signed with.
const KEYS: &[&str] =
    &["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];
/// Names a mirror where the machine's apt has none of Debian's.
const MIRROR: &str = "CARACAL_DEBIAN_MIRROR";
/// Likewise, of the security suites.
const SECURITY_MIRROR: &str = "CARACAL_DEBIAN_SECURITY_MIRROR";

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

/// The text of a `sources.list` with every suite.
///
/// # Errors
/// When no mirror or no key of Debian's is known.
pub(super) fn sources() -> Result<String> {
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

/// The text of an `apt.conf` that works on the directory `apt` alone.
pub(super) fn settings(apt: &Path) -> String {
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
