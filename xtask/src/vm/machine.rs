//! One virtual machine: QEMU with a kernel, a root file system in memory and two serial ports, no network and no disk.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

const QEMU: &str = "qemu-system-x86_64";
/// More than the largest root file system and its unpacked copy need.
pub(crate) const MEMORY_MIB: u32 = 2048;
/// How long a machine may take to come up and go down when the host's virtualisation works: a second is usual.
const PROBE: Duration = Duration::from_secs(12);
const GLANCE: Duration = Duration::from_millis(50);

/// Who runs the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Accelerator {
    /// The processor, by /dev/kvm.
    Kvm,
    /// QEMU translates them: ten times slower, works anywhere.
    Tcg,
}

/// What the machine's first serial port is.
#[derive(Clone, Debug)]
pub(crate) enum Console {
    /// A file.
    Log(PathBuf),
    /// This terminal.
    Terminal,
}

/// How large a machine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) processors: u32,
    pub(crate) memory_mib: u32,
}

/// A machine that is about to be started.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) accelerator: Accelerator,
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
    /// Appended to the kernel's command line.
    pub(crate) words: String,
    pub(crate) size: Size,
    pub(crate) console: Console,
    /// A directory: what the guest left in /out.
    pub(crate) out: PathBuf,
    pub(crate) limit: Duration,
}

impl Accelerator {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl Machine {
    /// Runs it until it turns itself off, and unpacks what it left.
    ///
    /// # Errors
    /// When QEMU fails, the machine is still on at its limit, or it went off without a word: the end of its console says
    /// more.
    pub(crate) fn run(&self) -> Result<()> {
        if self.out.exists() {
            fs::remove_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        }
        fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        let archive = self.out.join("out.tar");
        let ended = self.started(&archive).and_then(|child| self.wait(child));
        if matches!(ended, Ok(()) | Err(Stopped::AtLimit)) && fs::metadata(&archive).is_ok_and(|file| file.len() > 0) {
            let status =
                Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&self.out).status().context("tar")?;
            fs::remove_file(&archive)?;
            if status.success() && ended.is_ok() {
                return Ok(());
            }
        }
        match ended {
            Ok(()) => bail!("the machine went off without a report{}", self.last_words()),
            Err(Stopped::AtLimit) => {
                bail!("the machine was still on after {} s{}", self.limit.as_secs(), self.last_words())
            }
            Err(Stopped::Qemu(error)) => Err(error.context(format!("{QEMU} does not run{}", self.last_words()))),
        }
    }

    fn started(&self, archive: &Path) -> Result<Child, Stopped> {
        // It does not outlive us, whoever ends us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", QEMU]);
        // No card, no disk, no screen: what is not there is not waited for.
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"]);
        match self.accelerator {
            Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
            // A processor without vector extensions, as those are translated one by one: a fifth less time than with `max`.
            Accelerator::Tcg => command.args(["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "Nehalem"]),
        };
        command.args(["-m", &self.size.memory_mib.to_string(), "-smp", &self.size.processors.to_string()]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.root);
        // A panic ends the machine at once. On a busy host the timer's first ticks come late, and the kernel would take the
        // timer for broken.
        let mut words = format!("console=ttyS0 loglevel=4 panic=-1 no_timer_check mitigations=off {}", self.words);
        if self.accelerator == Accelerator::Tcg {
            // A program that lies elsewhere in each process is translated anew for each.
            words.push_str(" norandmaps");
        }
        command.arg("-append").arg(words);
        match &self.console {
            Console::Log(log) => {
                if let Some(directory) = log.parent() {
                    fs::create_dir_all(directory).map_err(|error| Stopped::Qemu(error.into()))?;
                }
                let mut file = std::ffi::OsString::from("file:");
                file.push(log);
                command.arg("-serial").arg(file).stdin(Stdio::null());
            }
            Console::Terminal => {
                command.args(["-chardev", "stdio,id=terminal,signal=off", "-serial", "chardev:terminal"]);
            }
        }
        let mut file = std::ffi::OsString::from("file:");
        file.push(archive);
        command.arg("-serial").arg(file);
        if matches!(self.console, Console::Log(_)) {
            let errors = File::create(self.out.join("qemu.log")).map_err(|error| Stopped::Qemu(error.into()))?;
            command.stdout(Stdio::null()).stderr(errors);
        }
        command.spawn().map_err(|error| Stopped::Qemu(anyhow::Error::new(error)))
    }

    fn wait(&self, mut child: Child) -> Result<(), Stopped> {
        let started = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(Stopped::Qemu(anyhow::anyhow!("it ended with {status}"))),
                Ok(None) if started.elapsed() > self.limit => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Stopped::AtLimit);
                }
                Ok(None) => thread::sleep(GLANCE),
                Err(error) => return Err(Stopped::Qemu(error.into())),
            }
        }
    }

    /// The end of what QEMU and the console said.
    fn last_words(&self) -> String {
        let Console::Log(log) = &self.console else { return String::new() };
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let all = read(&self.out.join("qemu.log")) + &read(log);
        let lines: Vec<&str> = all.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let tail = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
        format!("; {} ends with: {}", log.display(), tail.join(" | "))
    }
}

enum Stopped {
    AtLimit,
    Qemu(anyhow::Error),
}

/// Whether this host's own virtualisation works: the device may be there and a guest hang all the same.
pub(crate) fn accelerator(kernel: &Path, root: &Path, scratch: &Path) -> Accelerator {
    // Asked once per boot of this host.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let known = scratch.join("kvm-hangs");
    let hangs = fs::read_to_string(&known).is_ok_and(|known| !boot.is_empty() && known == boot);
    if hangs || File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Accelerator::Tcg;
    }
    let probe = Machine {
        accelerator: Accelerator::Kvm,
        kernel: kernel.to_owned(),
        root: root.to_owned(),
        words: "caracal.cgroup=pure".to_owned(),
        size: Size { processors: 1, memory_mib: MEMORY_MIB },
        console: Console::Log(scratch.join("kvm.log")),
        out: scratch.join("kvm"),
        limit: PROBE,
    };
    if probe.run().is_ok() {
        return Accelerator::Kvm;
    }
    // Without the note, the next run asks again.
    let _ = fs::write(&known, boot);
    Accelerator::Tcg
}
