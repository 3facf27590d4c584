// SPDX-License-Identifier: LGPL-2.1-or-later
//! What can be asked. Help, man pages and completions are made from this.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use virtnotify_model::Severity;

/// What the command ends with.
pub mod code {
    /// It was done, and nothing is wrong.
    pub const FINE: u8 = 0;
    /// A check has found something by which nothing is lost, or a question was answered with no.
    pub const FINDINGS: u8 = 1;
    /// Metadata, or a map that was to be used, is damaged.
    pub const DAMAGE: u8 = 2;
    /// It could not be done.
    pub const CANNOT: u8 = 3;
    /// The command line makes no sense (`EX_USAGE` of <sysexits.h>).
    pub const USAGE: u8 = 64;
}

const EXIT_CODES: &str = "\
Exit status:
  0   done; a check has found nothing
  1   a check has found something by which nothing is lost, or a question was answered with no
  2   damage: in the metadata, or in the map that was to be restored; `status --check`: critical
  3   it could not be done: no such pool, no daemon, not allowed, refused
  64  the command line makes no sense";

/// Looks at virtnotify's pools and volumes, and repairs their metadata.
#[derive(Debug, Parser)]
#[command(name = "virt-notify", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Args {
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Ask the daemon of this host, reached with ssh; `status` and `usage` take several.
    ///
    /// Anything that ssh takes will do. The host needs systemd-stdio-bridge, which comes with systemd.
    #[arg(long, short = 'H', global = true, value_name = "[USER@]HOST", value_parser = host)]
    pub host: Vec<String>,
    #[command(subcommand)]
    pub command: Command,
}

/// A host's name, which ssh must not take for an option.
fn host(text: &str) -> Result<String, String> {
    match text.is_empty() || text.starts_with('-') || text.contains(char::is_whitespace) {
        true => Err("a host's name is not empty, has no spaces and does not begin with '-'".into()),
        false => Ok(text.to_owned()),
    }
}

/// Severities, each with its meaning.
fn severities() -> impl clap::builder::TypedValueParser<Value = Severity> {
    let meaning = |severity| match severity {
        Severity::Info => "Growth, and the course of what was asked for",
        Severity::Notice => "A VM moves, or something is well again",
        Severity::Warning => "Something will go wrong unless it is looked at",
        Severity::Critical => "A VM stands still, or data is in danger",
    };
    let all = Severity::ALL.map(|of| PossibleValue::new(of.word()).help(meaning(of)));
    PossibleValuesParser::new(all).try_map(|word: String| word.parse::<Severity>())
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show pools and volumes: capacity, what is allocated, what is left.
    Status {
        /// Only this pool.
        pool: Option<String>,
        /// Say in a line whether anything needs a person, for Nagios and programs like it: exit status 0, 1 for a
        /// warning, or 2 when a VM stands still or the daemon does not answer.
        #[arg(long)]
        check: bool,
    },
    /// Show the same again whenever it changes; q ends.
    Top {
        /// End after this many times.
        #[arg(long, short = 'n')]
        count: Option<u64>,
    },
    /// Print events line by line: growth, the end of space, moves; or run programs for them.
    Events(EventsArgs),
    /// Draw where a volume's chunks lie on the disk.
    Map {
        /// POOL/VOLUME or /dev/notify/POOL/VOLUME.
        volume: String,
        /// Write an SVG to this file instead.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Move the chunks of a volume, or of all volumes of a pool, together on the disk.
    ///
    /// Guests go on, and come first: a chunk that one writes meanwhile is copied again. Chunks that a
    /// snapshot shares with others move once for all of them. `virt-notify map` shows before and after.
    /// Ctrl-C ends the job; what it did stays. Needs root, or polkit's org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Defrag {
        /// POOL/VOLUME, POOL/VOLUME@SNAPSHOT, or POOL.
        #[arg(value_name = "POOL[/VOLUME]")]
        of: String,
    },
    /// Give the volume group what a pool does not need, or the pool what a volume does not need.
    ///
    /// Takes back chunks that volumes were given and never wrote, and those that were discarded. For a pool,
    /// also moves chunks from the end of its data to free space before it, while guests use them, and then gives
    /// the group all free space but the headroom. With --zeroes written chunks that are all zeroes come back,
    /// too. Ctrl-C ends the job; what it did stays. Needs root, or polkit's org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Reclaim {
        /// POOL, or POOL/VOLUME. With --zeroes also POOL/VOLUME@SNAPSHOT, with what lies below it.
        #[arg(value_name = "POOL[/VOLUME]")]
        of: String,
        /// Read all chunks, and take back those that hold nothing but zeroes.
        #[arg(long)]
        zeroes: bool,
    },
    /// Empty a disk of a volume group, so that it can be taken out of the group.
    ///
    /// New growth avoids the disk at once. What the pool has there, metadata too, moves to the other disks of the
    /// group, while guests use it. It is refused if these have no room. Afterwards `vgreduce VG DEVICE` takes the
    /// disk out. Ctrl-C ends the job: what it moved stays moved, and growth may use the disk again. Needs root, or
    /// polkit's org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Evacuate {
        /// The volume group.
        #[arg(value_name = "VG")]
        group: String,
        /// The disk: any absolute path that leads to it.
        device: String,
    },
    /// Move a VM with its volumes to another host, and watch. Ctrl-C cancels the move.
    ///
    /// The VM must run, or wait for space. Only hosts that are peers in the daemon's configuration
    /// are possible. Needs root, or polkit's org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Migrate {
        /// The VM's name or UUID.
        domain: String,
        /// The peer's name or URI; without it the daemon chooses.
        #[arg(long, value_name = "PEER")]
        to: Option<String>,
        /// Say what would be done, as `plan` does, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Say where VMs would move to, how long that would take, and why not elsewhere; change nothing.
    ///
    /// All peers are asked. The status is 1 where a VM would stay. Needs root, or polkit's
    /// org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Plan {
        /// The VM's name or UUID; without it all VMs of this host that have a disk in a pool of type
        /// notify.
        domain: Option<String>,
        /// Only this peer, by name or URI.
        #[arg(long, value_name = "PEER")]
        to: Option<String>,
    },
    /// Show moves that are not over, and VMs that wait for space, each with what is in the way.
    Moves,
    /// Show the hosts that VMs may move to: how they are, and what room they have.
    ///
    /// Each is asked once a minute. The status is 1 where one of them could take no VM.
    #[command(after_help = EXIT_CODES)]
    Peers,
    /// Cancel the move of a VM: it stays on this host. Needs root, or polkit's
    /// org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Cancel {
        /// The VM's name or UUID.
        domain: String,
    },
    /// End a move that does not end by itself, such as one whose other host is gone for good.
    ///
    /// You say which host has the VM that counts. What follows from that is said first, and asked for. Nothing is
    /// deleted on either host but the room that was kept, and a VM that is seen to be active is never given up. Needs
    /// root, or polkit's org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Settle(Settle),
    /// Keep a VM on this host: it does not move, until `unpin`. Needs root, or polkit's
    /// org.virtnotify1.manage.
    ///
    /// That is written into its metadata, where `virsh metadata` shows it, and goes where the VM goes.
    #[command(after_help = EXIT_CODES)]
    Pin {
        /// The VM's name or UUID.
        domain: String,
    },
    /// Let a VM move again that was pinned. Needs root, or polkit's org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Unpin {
        /// The VM's name or UUID.
        domain: String,
    },
    /// Empty this host: its VMs move away one after the other, and no peer sends it any, until `undrain`.
    ///
    /// VMs that are pinned, that do not run or that have a disk which cannot go stay; they are listed. A
    /// restart of the host or of the daemon does not end it. Needs root, or polkit's
    /// org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Drain,
    /// End what `drain` began. VMs that have left stay where they are. Needs root, or polkit's
    /// org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Undrain,
    /// Show what volumes held for how long, for charging by use.
    ///
    /// A line for each volume and VM, in bytes times hours. Whole days of UTC are counted. A VM that
    /// moved used space on several hosts: with --host for each of them its line has all of it.
    Usage {
        /// From this day on (2026-11-22), or the time up to now (30d, 12h).
        #[arg(long, default_value = "30d")]
        since: String,
        /// As CSV or JSON; a table without it.
        #[arg(long, value_enum)]
        format: Option<Format>,
    },
    /// Show or change what a pool does by itself when space gets low, and within which limits.
    Policy {
        #[command(subcommand)]
        action: PolicyAction,
    },
    /// Have what waits for space tried again at once, instead of after the interval.
    ///
    /// Pools whose VMs wait look at their volume groups; VMs that have no space then move if they can. Prints what
    /// came of each; the status is 1 where one still waits. Needs root, or polkit's
    /// org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Retry,
    /// Show how full a pool was: a curve on a terminal, else a line for each point.
    ///
    /// The daemon notes it each minute, and keeps a day of that, and a week by the quarter of an hour. There is a gap
    /// where the pool was not active or the daemon did not run.
    #[command(after_help = EXIT_CODES)]
    History {
        /// The pool.
        pool: String,
        /// Since this day (2026-11-22), or for the time up to now (7d, 12h).
        #[arg(long, default_value = "1d")]
        since: String,
    },
    /// Take, list, roll back and delete snapshots.
    ///
    /// A snapshot is a read-only volume POOL/VOLUME@NAME that takes up what its volume has written since.
    /// Needs root, or polkit's org.virtnotify1.manage.
    Snapshot {
        #[command(subcommand)]
        action: Snapshots,
    },
    /// List what was written between a snapshot and another one, or a volume.
    ///
    /// The form is that of `qemu-img map --output=json`; what is not listed is the same in both.
    #[command(after_help = EXIT_CODES)]
    Diff {
        /// POOL/VOLUME@SNAPSHOT, the older one.
        from: String,
        /// POOL/VOLUME or POOL/VOLUME@SNAPSHOT of the same pool, which goes back to it.
        to: String,
    },
    /// Write a snapshot, or what was written between two, to standard output.
    ///
    /// Only what is allocated is read. Pipe it into `virt-notify receive`, here or over ssh, or keep it in
    /// a file: it has checksums, and a receiver sees its end. Root.
    #[command(after_help = EXIT_CODES)]
    Send {
        /// POOL/VOLUME@SNAPSHOT.
        snapshot: String,
        /// Only what was written since this older snapshot, which the receiver must have.
        #[arg(long, value_name = "SNAPSHOT")]
        from: Option<String>,
    },
    /// Read what `virt-notify send` writes from standard input.
    ///
    /// A whole snapshot makes a new volume. A difference goes into a volume that has the older snapshot
    /// and has not changed since. Afterwards the volume has a snapshot of the same name. A stream that is
    /// cut off or damaged changes nothing. Root.
    #[command(after_help = EXIT_CODES)]
    Receive {
        /// POOL/VOLUME.
        volume: String,
    },
    /// Compare a pool's metadata, LVM, the kernel's maps and the backup.
    ///
    /// Nothing is changed. The pool may be started or not. Needs root, or polkit's
    /// org.virtnotify1.manage.
    #[command(after_help = EXIT_CODES)]
    Check {
        /// A pool, or its volume group.
        pool: String,
    },
    /// Print a pool's map as text, in the format of the backups.
    #[command(after_help = EXIT_CODES)]
    Dump {
        /// A pool, or its volume group.
        pool: String,
        /// Where the map is taken from.
        #[arg(long, value_enum, default_value_t = From::Metadata)]
        from: From,
        /// Write to this file instead.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Write the metadata of a pool that is not started, from a map.
    ///
    /// Everything is looked at before anything is written, and a copy of what was there is kept in
    /// /etc/virtnotify/backup/archive. Volumes may be in use meanwhile: that is what --from-kernel
    /// is for. See docs/operator/repair.md.
    #[command(after_help = EXIT_CODES)]
    Restore(Restore),
    /// Put virtnotify-proxy in front of libvirt's storage daemon, so that clients find pools of type notify.
    ///
    /// Only virtnotify's own drop-ins under /etc/systemd/system are changed, and whether its units
    /// are enabled. VMs run on. It may be run again at any time. Root.
    #[command(after_help = EXIT_CODES)]
    Setup {
        /// Take it away again; refused while a pool is active.
        #[arg(long)]
        undo: bool,
        /// Say whether the daemons would take their configuration, and change nothing.
        #[arg(long, conflicts_with = "undo")]
        check: bool,
    },
    /// Make a guest's volumes active before it starts. libvirt's hook runs this.
    #[command(hide = true)]
    Hook(HookArgs),
    /// Write man pages and completions.
    #[command(hide = true)]
    Generate {
        /// Where to.
        directory: PathBuf,
    },
}

/// The words with which libvirt runs a hook (see <https://libvirt.org/hooks.html>).
#[derive(Debug, ClapArgs)]
pub struct HookArgs {
    /// Where virtnotifyd listens; tests have it elsewhere.
    #[arg(long, hide = true, default_value = virtnotify_model::STORAGE_SOCKET)]
    pub storage: PathBuf,
    /// The guest's name: its owner's choice.
    pub guest: String,
    /// What happens to it: `prepare`, `migrate`, `release`, ...
    pub operation: String,
    /// `begin` or `end`.
    pub sub_operation: String,
    /// Further words, which are ignored.
    pub extra: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct EventsArgs {
    /// Begin with what the daemon remembers from this day on (2026-11-22), or of the time up to now (2d, 12h), and
    /// end then, unless --follow is given. Growths and the progress of moves are not remembered.
    #[arg(long, value_name = "TIME", conflicts_with = "run")]
    pub since: Option<String>,
    /// Go on until interrupted, which is so without --since as well.
    #[arg(long, short)]
    pub follow: bool,
    /// End after this many events.
    #[arg(long, short = 'n')]
    pub count: Option<u64>,
    /// Leave out less severe events.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = severities())]
    pub severity: Severity,
    /// Run each program in this directory for each event, which it gets as JSON on its standard input and as
    /// VIRTNOTIFY_* in its environment. virtnotify-notify.service does so.
    #[arg(long, value_name = "DIRECTORY")]
    pub run: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Settle {
    /// The VM's name or UUID.
    pub domain: String,
    #[command(flatten)]
    pub keep: Keep,
    /// The other host, where the VM's moves to several are not over.
    #[arg(long, value_name = "PEER")]
    pub peer: Option<String>,
    /// Say what would follow, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Keep {
    /// The VM on this host counts.
    #[arg(long)]
    pub here: bool,
    /// The VM on the other host counts.
    #[arg(long)]
    pub there: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Restore {
    /// The volume group.
    #[arg(value_name = "VG")]
    pub vg: String,
    #[command(flatten)]
    pub from: RestoreFrom,
    /// Leave this volume out: its data is given up. May be repeated.
    #[arg(long, value_name = "VOLUME")]
    pub without: Vec<String>,
    /// Take a map that was made for other logical volumes, or for another pool.
    #[arg(long)]
    pub force: bool,
    /// Keep no copy of what is overwritten.
    #[arg(long)]
    pub no_archive: bool,
    /// Look at everything and say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct RestoreFrom {
    /// From a backup or a dump.
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// From the newest backup that was made of these logical volumes.
    #[arg(long)]
    pub from_backup: bool,
    /// From the maps that the kernel has of the volumes in use.
    #[arg(long)]
    pub from_kernel: bool,
}

const SETTINGS: &str = "\
Settings:
  low-mark        when less than this is available: a size (20GiB) or a part (10%); 0 is never
  at-low-mark     nothing, warn or migrate
  when-full       migrate, pause or error
  largest-volume  the largest capacity of a volume: a size, or none
  overcommit      the most that all capacities may be together: a multiple (1.5), a size, or none
  growth-least    what a volume gets at a time, at least: a size, or none
  growth-most     the same, at most
  passdown        yes or no: discard on its disks what goes back to the volume group
  movable         yes or no: whether VMs with a disk in the pool may be moved
  bandwidth       the most that a move may send in a second: a size, or none
  window          when VMs may leave at the low mark: a part of the day (22:00-06:30), or none
  daily           how many VMs may leave so in a day: a number, or none";

#[derive(Debug, Subcommand)]
pub enum PolicyAction {
    /// Print the policy of a pool that is active.
    #[command(after_help = SETTINGS)]
    Get {
        /// The pool.
        pool: String,
    },
    /// Change settings of a pool's policy, now and in its definition; others stay. Needs root, or polkit's org.virtnotify1.manage.
    #[command(after_help = SETTINGS)]
    Set {
        /// The pool.
        pool: String,
        /// What is changed.
        #[arg(required = true, value_name = "SETTING=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
    },
}

fn setting(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    parts.map(own).ok_or_else(|| "this is not SETTING=VALUE".to_owned())
}

#[derive(Debug, Subcommand)]
pub enum Snapshots {
    /// Take a snapshot of volumes of one pool, all at one moment.
    #[command(after_help = EXIT_CODES)]
    Create(Create),
    /// List snapshots: when they were taken, what they hold, and what of that nothing else has.
    #[command(after_help = EXIT_CODES)]
    List {
        /// POOL/VOLUME, or POOL; all without it.
        of: Option<String>,
    },
    /// Set a volume back to a snapshot; what was written since is lost.
    ///
    /// Its VM must be shut off. Snapshots that were taken since stay.
    #[command(after_help = EXIT_CODES)]
    Rollback {
        /// POOL/VOLUME@SNAPSHOT.
        snapshot: String,
    },
    /// Delete snapshots. Their volumes, and what was made of them, stay.
    #[command(after_help = EXIT_CODES)]
    Delete {
        /// POOL/VOLUME@SNAPSHOT.
        #[arg(required = true)]
        snapshots: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub struct Create {
    /// What the snapshots are called after the '@'; with --keep, the name of a series.
    pub name: String,
    /// POOL/VOLUME.
    #[arg(required_unless_present = "vm", value_name = "VOLUME")]
    pub volumes: Vec<String>,
    /// All disks of this VM that lie in a pool of type notify, by the VM's name or UUID.
    #[arg(long, conflicts_with = "volumes", value_name = "VM")]
    pub vm: Option<String>,
    /// Let the VM's guest agent freeze its file systems for that moment.
    #[arg(long, requires = "vm", conflicts_with = "volumes")]
    pub quiesce: bool,
    /// Add the time to the name, and keep only this many snapshots of the series: the oldest are
    /// deleted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep: Option<u64>,
}

/// How usage is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Csv,
    Json,
}

/// Where a map is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// The metadata logical volume.
    Metadata,
    /// The devices of the volumes in use.
    Kernel,
    /// The newest backup.
    Backup,
}

impl From {
    /// Its name on D-Bus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Kernel => "kernel",
            Self::Backup => "backup",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn hosts_are_no_options_of_ssh() {
        let parse = |host: &str| Args::try_parse_from(["virt-notify", "status", "-H", host]);
        assert_eq!(parse("root@host2").unwrap().host, ["root@host2"]);
        for bad in ["", "-oProxyCommand=x", "a b"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_name_of_a_guest_is_no_option() {
        let words = [
            "virt-notify",
            "hook",
            "--",
            "--address=unixexec:path=/bin/sh",
            "prepare",
            "begin",
            "-",
        ];
        let Command::Hook(hook) = Args::try_parse_from(words).unwrap().command else {
            panic!("not the hook");
        };
        assert_eq!(hook.guest, "--address=unixexec:path=/bin/sh");
        assert_eq!((hook.operation.as_str(), hook.sub_operation.as_str()), ("prepare", "begin"));
    }

    #[test]
    fn a_snapshot_is_of_volumes_or_of_a_vm() {
        let parse = |words: &str| {
            let words = words.split(' ');
            Args::try_parse_from(["virt-notify", "snapshot", "create"].into_iter().chain(words))
        };
        for good in ["n vms/a vms/b", "n --vm web1 --quiesce", "n --keep 7 vms/a"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["n", "n vms/a --vm web1", "n vms/a --quiesce", "n --keep 0 vms/a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_restore_is_from_one_place() {
        let parse = |words: &[&str]| {
            let words = ["virt-notify", "restore", "vg0"].iter().chain(words).copied();
            Args::try_parse_from(words)
        };
        assert!(parse(&["--from-kernel"]).is_ok());
        assert!(parse(&["--from", "x", "--without", "a", "--without", "b", "--yes"]).is_ok());
        for bad in [&[][..], &["--from-kernel", "--from-backup"], &["--from", "x", "--from-kernel"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
