// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which drop-ins put virtnotify-proxy in front of libvirt's daemon: names and contents, no I/O.

/// The daemons that a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One for each part (Fedora, RHEL, openSUSE): virtnotify-proxy sits before virtstoraged.
    Modular,
    /// One for everything (Debian, Ubuntu): virtnotify-proxy sits before libvirtd.
    Monolithic,
}

/// Who may connect to a socket, as its unit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Its mode, in octal.
    pub mode: String,
    /// Its owner; empty is root.
    pub user: String,
    /// Its group; empty is root's.
    pub group: String,
}

impl Default for Permissions {
    fn default() -> Self {
        Permissions { mode: "0666".to_owned(), user: String::new(), group: String::new() }
    }
}

/// A drop-in of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropIn {
    /// The unit.
    pub unit: String,
    /// Its content.
    pub text: String,
}

/// The name of every drop-in of ours.
pub const FILE: &str = "virtnotify.conf";
/// The units of our own. The first three have drop-ins, the first two in the order of [`Mode::sockets`].
pub const OURS: [&str; 5] = [
    "virtnotify-proxy.socket",
    "virtnotify-proxy-ro.socket",
    "virtnotify-proxy.service",
    "virtnotifyd.service",
    "virtnotify-control.service",
];

const UPSTREAM: &str =
    include_str!("../../../packaging/systemd/virtstoraged.socket.d/virtnotify.conf");
const UPSTREAM_RO: &str =
    include_str!("../../../packaging/systemd/virtstoraged-ro.socket.d/virtnotify.conf");
const BEFORE_VMS: &str =
    include_str!("../../../packaging/systemd/virtqemud.service.d/virtnotify.conf");

impl Mode {
    /// The daemon behind us.
    #[must_use]
    pub fn daemon(self) -> &'static str {
        match self {
            Mode::Modular => "virtstoraged",
            Mode::Monolithic => "libvirtd",
        }
    }

    /// The sockets of the daemon behind us, the one that the other depends on first.
    #[must_use]
    pub fn sockets(self) -> [String; 2] {
        [format!("{}.socket", self.daemon()), format!("{}-ro.socket", self.daemon())]
    }

    /// The other sockets of the daemon behind us: `BindsTo=` the first one, they stop with it, and
    /// do not start with it again.
    #[must_use]
    pub fn bound(self) -> Vec<String> {
        let kinds: &[&str] = match self {
            Mode::Modular => &["admin"],
            Mode::Monolithic => &["admin", "tcp", "tls"],
        };
        kinds.iter().map(|kind| format!("{}-{kind}.socket", self.daemon())).collect()
    }

    /// The unit of the daemon behind us.
    #[must_use]
    pub fn service(self) -> String {
        format!("{}.service", self.daemon())
    }

    /// The unit that starts VMs with the host.
    fn starts_vms(self) -> &'static str {
        match self {
            Mode::Modular => "virtqemud.service",
            Mode::Monolithic => "libvirtd.service",
        }
    }

    /// The paths where clients expect the daemon.
    fn paths(self) -> [&'static str; 2] {
        match self {
            Mode::Modular => {
                ["/run/libvirt/virtstoraged-sock", "/run/libvirt/virtstoraged-sock-ro"]
            }
            Mode::Monolithic => ["/run/libvirt/libvirt-sock", "/run/libvirt/libvirt-sock-ro"],
        }
    }

    /// All drop-ins; our sockets have these `permissions`, those behind us let in only root.
    #[must_use]
    pub fn drop_ins(self, permissions: [Permissions; 2]) -> Vec<DropIn> {
        let sockets = self.sockets();
        let [rw, ro] = permissions;
        let [path, path_ro] = self.paths();
        let place = |unit: &str, text: String| DropIn { unit: unit.to_owned(), text };
        vec![
            place(&sockets[0], UPSTREAM.to_owned()),
            place(&sockets[1], UPSTREAM_RO.to_owned()),
            place(self.starts_vms(), BEFORE_VMS.to_owned()),
            place(OURS[0], socket(path, &sockets[0], &rw)),
            place(OURS[1], socket(path_ro, &sockets[1], &ro)),
            place(OURS[2], service(&sockets)),
        ]
    }
}

const LICENCE: &str = "# SPDX-License-Identifier: LGPL-2.1-or-later\n";

fn socket(path: &str, behind: &str, permissions: &Permissions) -> String {
    let Permissions { mode, user, group } = permissions;
    let mut text = format!(
        "{LICENCE}# Where clients expect libvirt, open to whom {behind} was open.\n[Unit]\n\
         After={behind}\n\n[Socket]\nListenStream=\nListenStream={path}\nSocketMode={mode}\n"
    );
    for (name, value) in [("SocketUser", user), ("SocketGroup", group)] {
        if !value.is_empty() {
            text += &format!("{name}={value}\n");
        }
    }
    text
}

fn service(sockets: &[String; 2]) -> String {
    let sockets = sockets.join(" ");
    format!("{LICENCE}[Unit]\nWants={sockets}\nAfter={sockets}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be taken away by a drop-in is not in the unit: with libvirtd behind us, virtstoraged's
    /// sockets would stop libvirtd's.
    #[test]
    fn the_unit_itself_names_no_daemon_behind_it() {
        let unit = include_str!("../../../packaging/systemd/virtnotify-proxy.service");
        assert!(!unit.contains("virtstoraged") && !unit.contains("libvirtd"));
        let packaged =
            include_str!("../../../packaging/systemd/virtnotify-proxy.service.d/virtnotify.conf");
        let of_setup = service(&Mode::Modular.sockets());
        assert!(packaged.ends_with(of_setup.strip_prefix(LICENCE).unwrap()), "{of_setup}");
    }

    #[test]
    fn our_sockets_stand_where_libvirts_did_and_let_in_the_same() {
        let group = Permissions { mode: "0660".into(), group: "libvirt".into(), ..<_>::default() };
        let plan = Mode::Monolithic.drop_ins([group, Permissions::default()]);
        let units: Vec<_> = plan.iter().map(|one| one.unit.as_str()).collect();
        let expected = ["libvirtd.socket", "libvirtd-ro.socket", "libvirtd.service"];
        assert_eq!(units, [&expected[..], &OURS[..3]].concat());
        let rw = &plan[3].text;
        let lines = "[Socket]\nListenStream=\nListenStream=/run/libvirt/libvirt-sock\n\
                     SocketMode=0660\nSocketGroup=libvirt\n";
        assert!(rw.ends_with(lines) && !rw.contains("SocketUser"), "{rw}");
        assert!(plan[0].text.contains("SocketMode=0600"), "{}", plan[0].text);
        assert!(plan.iter().all(|one| one.text.starts_with(LICENCE)));
    }
}
