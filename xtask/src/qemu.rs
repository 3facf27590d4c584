// SPDX-License-Identifier: LGPL-2.1-or-later
//! One host of the lab as a QEMU process, on Debian's kernel.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, KeyBuilder};
use crate::disk::{Attached, Cut};
use crate::host::{Event, HostSpec, watch_beacon, watch_end};
use crate::image::HostImage;
use crate::proc::{self, Proc};
use crate::qmp::Monitor;
use crate::ui;

/// How long one boot of kernel and initramfs may take when an accelerator is tried.
const TRIAL: &str = "45";

/// How the hosts' processors are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By this machine's own, through KVM.
    Kvm,
    /// By translation.
    Tcg,
}

impl Accel {
    /// How many processors a host gets by default. Under this machine's QEMU more than one
    /// translating thread may race with the kernel's patching of its own code: seen with Debian 12's
    /// as an int3 in the scheduler, and as nested guests that were reset. So emulated hosts have one,
    /// and those that ask for several have another QEMU: see [`program`].
    pub fn cpus(self) -> u8 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 1,
        }
    }

    fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// What a host's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// This machine's.
    Real,
    /// Its one processor's count of instructions, a nanosecond each: what is measured by it does
    /// not depend on the machine or on what else runs there. While the processor idles the
    /// count jumps to the next timer, so waiting costs no real time. Always emulated.
    Instructions,
}

impl Clock {
    fn args(self, accel: Accel) -> Vec<&'static str> {
        match self {
            Self::Real => accel.args().into(),
            Self::Instructions => {
                vec!["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max"]
            }
        }
    }
}

/// Finds out, by booting once, whether KVM runs the hosts' kernel; says which
/// accelerator is used. The answer is kept for this kernel, QEMU and processor.
pub fn accel(cache: &Cache, image: &HostImage) -> Result<Accel> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu: Vec<&str> =
        cpu.lines().take_while(|l| !l.is_empty()).filter(|l| !l.contains("MHz")).collect();
    let key = KeyBuilder::new("accelerator")
        .text(&std::fs::read_to_string("/proc/version").unwrap_or_default())
        .text(&cpu.join("\n"))
        .text(&proc::capture("qemu-system-x86_64", &["--version"])?)
        .text(&image.initrd.display().to_string())
        .text(&Path::new("/dev/kvm").exists().to_string())
        .finish();
    let place = cache.entry("accelerator", &key, |dir| {
        let works = Path::new("/dev/kvm").exists() && boots_with_kvm(image, dir)?;
        Ok(std::fs::write(dir.join("answer"), if works { "kvm" } else { "tcg" })?)
    })?;
    let accel = match std::fs::read_to_string(place.join("answer"))?.as_str() {
        "kvm" => Accel::Kvm,
        _ => Accel::Tcg,
    };
    ui::say(match accel {
        Accel::Kvm => "the hosts run under KVM, which was tried and works here",
        Accel::Tcg => "the hosts are emulated (TCG): KVM was tried and does not run them here",
    });
    Ok(accel)
}

fn boots_with_kvm(image: &HostImage, dir: &Path) -> Result<bool> {
    let console = dir.join("console");
    let mut command = proc::command("timeout");
    command
        .args([TRIAL, "qemu-system-x86_64", "-M", "q35"])
        .args(Accel::Kvm.args())
        .args(["-smp", "2", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-append", "console=ttyS0 panic=-1 quiet lab.try", "-serial"])
        .arg(format!("file:{}", console.display()));
    let _ = proc::run_logged(command, &dir.join("log"));
    Ok(std::fs::read_to_string(console).is_ok_and(|text| text.contains("LAB-TRY-OK")))
}

/// A running host.
pub struct Machine {
    process: Proc,
    disks: Vec<Attached>,
    monitor: PathBuf,
    /// The file with its console.
    pub console: PathBuf,
    /// The port on 127.0.0.1 behind which its sshd is.
    pub ssh_port: u16,
}

impl Machine {
    /// Starts a host; `report` gets what it tells, and says whether a listener is left.
    pub fn start(
        spec: &HostSpec,
        image: &HostImage,
        accel: Accel,
        dir: &Path,
        report: impl Fn(Event) -> bool + Clone + Send + 'static,
    ) -> Result<Self> {
        let number = spec.number;
        let console = dir.join(format!("console{number}.log"));
        let beacon = dir.join(format!("beacon{number}"));
        let _ = std::fs::remove_file(&beacon);
        let ssh_port = free_port()?;
        let monitor = dir.join(format!("monitor{number}"));
        let mut command = qemu(spec, image, accel, dir);
        let disks = attach_disks(spec, dir, &mut command)?;
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .args(["-chardev"])
            .arg(format!("file,id=console,path={},append=on", console.display()))
            .args(["-serial", "chardev:console", "-chardev"])
            .arg(format!("socket,id=beacon,path={},server=on,wait=off", beacon.display()))
            .args(["-serial", "chardev:beacon", "-netdev"])
            .arg(format!("user,id=outside,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"))
            .args(["-device", "virtio-net-pci,netdev=outside,romfile="])
            .args(["-device"])
            .arg(format!("virtio-net-pci,netdev=peers,romfile=,mac=52:54:00:77:00:0{number}"));
        let log = proc::open_log(&dir.join(format!("qemu{number}.log")))?;
        command.stdout(log.try_clone()?).stderr(log);
        let process = Proc::spawn(command)?;
        watch_end(&process, report.clone());
        watch_beacon(connect(&process, &beacon)?, report)?;
        Ok(Self { process, disks, monitor, console, ssh_port })
    }

    /// Cuts its power: a part of what it has not flushed is lost.
    pub fn cut_power(&mut self, random: &mut fastrand::Rng) -> Result<Cut> {
        self.process.kill();
        let mut cut = Cut::default();
        for disk in self.disks.drain(..) {
            cut += disk.cut_power(random)?;
        }
        Ok(cut)
    }

    /// Ends it if it has not ended by itself; its disks lose nothing.
    pub fn power_off(&mut self) -> Result<()> {
        self.process.kill();
        self.disks.drain(..).try_for_each(Attached::power_off)
    }

    /// Has its kernel print the stacks of blocked tasks and of its processors on its console, by
    /// the keyboard; returns where its processors are.
    pub fn ask_kernel_for_stacks(&self) -> Result<String> {
        let mut monitor = Monitor::connect(&self.monitor)?;
        for key in ["9", "w", "l"] {
            monitor.human(&format!("sendkey alt-sysrq-{key}"))?;
            std::thread::sleep(Duration::from_millis(500));
        }
        let registers = monitor.human("info registers -a")?;
        let wanted = |line: &&str| line.starts_with("CPU#") || line.starts_with("RIP");
        Ok(registers.lines().filter(wanted).collect::<Vec<_>>().join("; "))
    }
}

/// The QEMU of a host: this machine's. Where several processors are emulated, that of the hosts' own
/// Debian release, whose translating threads do not run code that another one is patching.
fn program(spec: &HostSpec, image: &HostImage, accel: Accel) -> Command {
    if accel == Accel::Kvm || spec.cpus == 1 {
        return proc::command("qemu-system-x86_64");
    }
    let (tree, libraries) = (&image.tree, image.tree.join("usr/lib/x86_64-linux-gnu"));
    let mut command = proc::command(tree.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(libraries).arg(tree.join("usr/bin/qemu-system-x86_64"));
    for data in ["qemu", "seabios"] {
        command.arg("-L").arg(tree.join("usr/share").join(data));
    }
    command
}

fn qemu(spec: &HostSpec, image: &HostImage, accel: Accel, dir: &Path) -> Command {
    let number = spec.number;
    let other = 3 - number;
    let mut command = program(spec, image, accel);
    command
        .args(["-name", &format!("host{number}"), "-M", "q35,sata=off,smbus=off,vmport=off"])
        .args(spec.clock.args(accel))
        .args(["-smp", &spec.cpus.to_string(), "-m", &spec.memory.to_string()])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-uuid", &format!("0b8e2c5e-6a0d-4b9a-9c57-77000000000{number}")])
        .args(["-device", "virtio-rng-pci"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-append", &kernel_command_line(spec, accel)])
        .arg("-netdev")
        .arg(format!(
            "dgram,id=peers,local.type=unix,local.path={0}/net{number},remote.type=unix,remote.path={0}/net{other}",
            dir.display()
        ));
    let _ = std::fs::remove_file(dir.join(format!("net{number}")));
    command
}

/// Puts the disks behind sockets and tells QEMU of them.
fn attach_disks(spec: &HostSpec, dir: &Path, command: &mut Command) -> Result<Vec<Attached>> {
    let mut disks = Vec::new();
    for (serial, file) in &spec.disks {
        let disk = Attached::new(file, dir.join(format!("{serial}{}.disk", spec.number)))?;
        let device = format!("virtio-blk-pci,drive={serial},serial={serial},write-cache=on");
        command.args(["-blockdev", &disk.blockdev(serial), "-device", &device]);
        disks.push(disk);
    }
    Ok(disks)
}

/// How fast the time-stamp counter of this machine runs, in kHz. It is read within some microseconds
/// of the clock, so it does not matter how long this thread is kept from running in between.
fn tsc_khz() -> u64 {
    let stamp = || loop {
        let before = Instant::now();
        // SAFETY: every x86-64 processor has this instruction, and the kernel lets programs use it.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        if before.elapsed() < Duration::from_micros(5) {
            return (before, ticks);
        }
    };
    let (begin, from) = stamp();
    std::thread::sleep(Duration::from_millis(20));
    let (end, to) = stamp();
    let nanoseconds = u64::try_from((end - begin).as_nanos()).unwrap_or(u64::MAX);
    (to - from) * 1_000_000 / nanoseconds
}

/// Emulated processors show this machine's counter. A kernel that measures it itself while its
/// processor waits for its turn has a clock that runs many times too fast.
fn clock_rate(spec: &HostSpec, accel: Accel) -> String {
    match (spec.clock, accel) {
        (Clock::Real, Accel::Tcg) => format!("tsc_early_khz={}", tsc_khz()),
        (Clock::Real, Accel::Kvm) | (Clock::Instructions, _) => String::new(),
    }
}

fn kernel_command_line(spec: &HostSpec, accel: Accel) -> String {
    format!(
        "root=/dev/vda console=ttyS0 mitigations=off tsc=reliable no_timer_check {} {}",
        clock_rate(spec, accel),
        spec.kernel_words()
    )
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// QEMU makes the beacon's socket just after it starts.
fn connect(process: &Proc, path: &Path) -> Result<UnixStream> {
    let mut tries = 0;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if tries < 500 && proc::is_running(process.pid()) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                return Err(error).context("QEMU did not come up; see its log in the run's files");
            }
        }
    }
}

/// Refuses sizes that QEMU or LVM would refuse later, less clearly.
pub fn parse_size(text: &str) -> Result<u64> {
    let text = text.trim().trim_end_matches("iB").trim_end_matches('B');
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().with_context(|| format!("no size: {text:?}"))?;
    let shift = match text[split..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => bail!("no size: {text:?} (say 512M, 1G, ...)"),
    };
    number
        .checked_mul(1 << shift)
        .filter(|bytes| (1 << 20..=64 << 40).contains(bytes))
        .with_context(|| format!("{text:?} is not a size between 1 MiB and 64 TiB"))
}

#[cfg(test)]
mod tests {
    use super::{parse_size, tsc_khz};

    /// The kernel takes a rate for wrong when its own measurement differs by a hundredth.
    #[test]
    fn the_counters_rate_repeats() {
        let (first, second) = (tsc_khz(), tsc_khz());
        assert!(first.abs_diff(second) < first / 200, "{first} and {second}");
    }

    #[test]
    fn sizes_have_a_unit_and_bounds() {
        assert_eq!(parse_size("1G").unwrap(), 1 << 30);
        assert_eq!(parse_size("512MiB").unwrap(), 512 << 20);
        assert_eq!(parse_size("1048576").unwrap(), 1 << 20);
        for bad in
            ["", "G", "1X", "-1G", "1.5G", "1K", "99999999999999999999", "18014398509481985K"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
