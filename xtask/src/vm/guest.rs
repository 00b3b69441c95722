//! What stands in a machine's root file system, and what it runs.

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{image::Image, modules, plan::Selection, suite::Kernel};
use crate::{
    checkout::Checkout,
    report,
    test::programs::{self, Program},
};

/// PID 1.
const INIT: &str = include_str!("../../../tests/vm/init");
/// Runs what the machine is for, and turns it off.
const FINISH: &str = include_str!("../../../tests/vm/finish");
/// Everything that nothing else brings.
const BUSYBOX: &str = "/usr/bin/busybox";
/// What the contracts call, from this host.
const PROGRAMS: &[&str] =
    &["bash", "sh", "ip", "curl", "git", "python3", "capsh", "setpriv", "unshare", "nsenter", "setsid"];
/// Parts of Python's library that are large and that no contract imports.
const LEFT_OUT_OF_PYTHON: &[&str] = &[
    "test",
    "idlelib",
    "tkinter",
    "ensurepip",
    "distutils",
    "lib2to3",
    "pydoc_data",
    "dist-packages",
    "site-packages",
    "turtledemo",
    "unittest",
    "venv",
    "xmlrpc",
    "curses",
    "dbm",
    "wsgiref",
    "turtle.py",
];
/// Accounts that programs look up.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// The root file system that all machines share.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    contract: Program,
    tests: Vec<String>,
}

impl Root {
    /// Every test of the contract.
    pub(crate) fn tests(&self) -> &[String] {
        &self.tests
    }
}

/// Builds the root file system that all machines share. It is made anew each time: copying files is quicker than finding
/// out which have changed.
///
/// # Errors
/// When a program or library is missing, or the contracts do not compile.
pub(crate) fn root(checkout: &Checkout, scratch: &Path) -> Result<Root> {
    let contract = contract(checkout)?;
    let mut image = base()?;
    for program in PROGRAMS {
        image.program(&on_path(program)?)?;
    }
    python(&mut image)?;
    git(&mut image)?;
    image.text("/etc/passwd", PASSWD, 0o644);
    image.text("/etc/group", GROUP, 0o644);
    image.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644);
    image.text("/etc/hosts", "127.0.0.1 localhost vm\n::1 localhost\n", 0o644);
    image.text("/etc/resolv.conf", "", 0o644);
    let roots = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if roots.exists() {
        image.copy(roots, roots);
    }
    // At the paths that they have here: the contracts name their programs by them.
    let caracald = checkout.caracald();
    for program in [&caracald, &contract.executable, &beside(checkout, "stand-in"), &beside(checkout, "probe")] {
        image.program(program)?;
    }
    image.link(Path::new("/usr/bin/caracald"), &caracald);
    image.directory(contract.directory.strip_prefix("/").unwrap_or(&contract.directory), 0o755);
    let path = scratch.join("root.cpio");
    write(&image, &path)?;
    let listed = text(Command::new(&contract.executable).args(["--list", "--format", "terse"]))?;
    let tests = listed.lines().filter_map(|line| line.strip_suffix(": test")).map(ToOwned::to_owned).collect();
    Ok(Root { path, contract, tests })
}

/// A root file system that comes up and goes down.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_probe(path: &Path) -> Result<()> {
    write(&base()?, path)
}

/// The shared root file system, and behind it the kernel's modules and what this machine is to run: the kernel unpacks one
/// archive after another. `more` is what only this machine has.
///
/// # Errors
/// When a module is missing, or the file cannot be written.
pub(crate) fn add_to(root: &Root, path: &Path, kernel: &Kernel, script: &str, more: Image) -> Result<()> {
    let modules = modules::collect(&kernel.modules())?;
    let mut image = more;
    let names: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
    image.text("/vm/modules", names, 0o644);
    image.text("/vm/run", script, 0o755);
    for module in modules {
        image.text(&format!("/vm/lib/{}.ko", module.name), module.bytes, 0o644);
    }
    fs::copy(&root.path, path).with_context(|| path.display().to_string())?;
    let mut file = BufWriter::new(File::options().append(true).open(path)?);
    image.write(&mut file)?;
    file.flush().with_context(|| path.display().to_string())
}

fn write(image: &Image, path: &Path) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    image.write(&mut file)?;
    file.flush().with_context(|| path.display().to_string())
}

fn base() -> Result<Image> {
    let mut image = Image::new();
    image.text("/init", INIT, 0o755);
    image.text("/vm/finish", FINISH, 0o755);
    if !Path::new(BUSYBOX).is_file() {
        bail!("{BUSYBOX} is missing: install busybox-static");
    }
    image.copy(Path::new(BUSYBOX), Path::new(BUSYBOX));
    Ok(image)
}

/// The contract that machines run, compiled here.
fn contract(checkout: &Checkout) -> Result<Program> {
    let selection = ["test", "--no-run", "--test=escape"];
    let compiled = programs::compile(checkout, "compiling the contracts for the machines", &selection)?;
    compiled.into_iter().find(|program| program.name == "escape").context("cargo names no test program `escape`")
}

/// A program that was built with the contracts.
pub(super) fn beside(checkout: &Checkout, name: &str) -> PathBuf {
    checkout.target.join("release").join(name)
}

/// A program of the host, where an ordinary user would find it.
pub(super) fn on_path(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file() && !path.starts_with("/root") && !path.starts_with("/home"))
        .with_context(|| format!("{name} is not on PATH"))
}

fn text(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} does not start"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn python(image: &mut Image) -> Result<()> {
    let say = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let library = PathBuf::from(text(Command::new(on_path("python3")?).args(["-c", say]))?);
    image.tree(&library, &|path| {
        LEFT_OUT_OF_PYTHON.iter().any(|name| path.starts_with(name)) || path.to_string_lossy().starts_with("config-")
    })?;
    let loaded = library.join("lib-dynload");
    for entry in fs::read_dir(&loaded).with_context(|| loaded.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "so") {
            image.libraries(&path)?;
        }
    }
    Ok(())
}

/// git finds its own parts below its directory: links to one program.
fn git(image: &mut Image) -> Result<()> {
    let directory = PathBuf::from(text(Command::new("git").arg("--exec-path"))?);
    image.tree(&directory, &|path| {
        path != Path::new("git") && !fs::symlink_metadata(directory.join(path)).is_ok_and(|file| file.is_symlink())
    })
}

/// `sh` words that cannot be misread.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What the contract and a person in the shell are told.
pub(super) fn prelude(checkout: &Checkout, root: &Root) -> String {
    let variables = [
        ("CARACALD", checkout.caracald().display().to_string()),
        ("CARGO_TARGET_DIR", checkout.target.display().to_string()),
        ("CARACAL_REPORT_DIR", "/out/report".to_owned()),
        ("CARACAL_COMMIT", report::commit(&checkout.root)),
        ("ESCAPE", root.contract.executable.display().to_string()),
    ];
    let exports: String = variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    let directory = quoted(&root.contract.directory.display().to_string());
    format!("set -o pipefail\n{exports}mkdir -p /out/report\ncd {directory}\n")
}

/// Tests that change what every daemon on a machine sees: they come last, one after the other.
const ALONE: &str = "older_cgroups::";

/// `doctor`, as JSON in /out.
pub(crate) fn doctor(checkout: &Checkout, root: &Root) -> String {
    let ask =
        "caracald doctor --json --level full >/out/doctor.json 2>/out/doctor.log\necho $? >/out/doctor.code\ntrue\n";
    prelude(checkout, root) + ask
}

/// `doctor`, then the contract. Its outcome is the script's.
pub(crate) fn proofs(checkout: &Checkout, root: &Root, selection: &Selection) -> String {
    let words: Vec<String> = selection.words.iter().map(|word| quoted(word)).collect();
    let tries = selection.tries.unwrap_or_default();
    let ask = doctor(checkout, root);
    // A short run makes a tenth of the random sequences, too: an emulated machine makes a hundredth of them in a second.
    let sequences = selection.tries.map_or("", |_| " CARACAL_SEQUENCES=400");
    let told = format!("export CARACAL_DOCTOR=/out/doctor.json CARACAL_TRIES={tries}{sequences}");
    let rest = words.join(" ");
    let last = if selection.chooses(ALONE) {
        format!("$ESCAPE --test-threads=1 {ALONE} 2>&1 | tee -a /out/log\n")
    } else {
        String::new()
    };
    format!("{ask}{told}\n$ESCAPE --test-threads=2 --skip {ALONE} {rest} 2>&1 | tee /out/log\n{last}")
}

/// A command whose output is its log.
pub(crate) fn command(checkout: &Checkout, root: &Root, words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("{}{} 2>&1 | tee /out/log\n", prelude(checkout, root), words.join(" "))
}

/// A shell on the console.
pub(crate) fn shell(checkout: &Checkout, root: &Root) -> String {
    prelude(checkout, root) + "bash -i\n"
}
