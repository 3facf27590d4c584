// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which peer a VM goes to. Pure: everything it needs is handed in.

use std::collections::BTreeMap;

use virtnotify_model::{Bytes, ChunkSize, LowMark, PoolName};

use crate::error::{NoPeer, Unfit};
use crate::hypervisor::{Copying, PoolRoom};

/// What a VM takes from each pool, by the pool's name.
pub(crate) type Needs = BTreeMap<PoolName, Bytes>;

/// What is known of a peer.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Its name.
    pub name: String,
    /// How the VM's disks would be copied.
    pub copying: Copying,
    /// What the VM takes there.
    pub needs: Needs,
    /// Its pools, as far as they were asked for; or why it is not eligible at all.
    pub rooms: Result<BTreeMap<PoolName, Option<PoolRoom>>, Unfit>,
    /// What moves that are under way to it take, from whichever host.
    pub promised: Needs,
    /// A VM there from which this one would rather keep apart.
    pub together: bool,
}

impl Candidate {
    /// The chunk sizes of its pools, as far as they are known.
    pub(crate) fn chunks(&self) -> BTreeMap<PoolName, ChunkSize> {
        let rooms = self.rooms.iter().flatten();
        let chunk =
            |(pool, room): (&PoolName, &Option<PoolRoom>)| Some((pool.clone(), (*room)?.chunk?));
        rooms.filter_map(chunk).collect()
    }
}

/// What a pool must keep free after a move, so that the VM does not only fill the next host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Margin {
    /// For a move at the low mark: the mark, so that the next host need not move it on.
    pub marks: BTreeMap<PoolName, LowMark>,
    /// What the VM is going to grow by soon.
    pub growth: Bytes,
}

impl Margin {
    fn of(&self, pool: &PoolName, room: &PoolRoom) -> Bytes {
        let least = Bytes(room.capacity.0 / MARGIN_DIVISOR);
        let mark = self.marks.get(pool).map_or(Bytes::ZERO, |mark| mark.of(room.capacity));
        mark.saturating_add(self.growth).max(least)
    }
}

/// A pool must keep this share of itself free in any case: a sixteenth.
const MARGIN_DIVISOR: u64 = 16;

/// The peer that keeps most room after the move, in the pool where it keeps least; one without a VM from which this one
/// would rather keep apart before all others. Among equals, the one named first.
pub(crate) fn choose(margin: &Margin, candidates: &[Candidate]) -> Result<usize, NoPeer> {
    let mut refusals = Vec::new();
    let mut best: Option<(usize, (bool, Bytes))> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        match room_after(margin, candidate) {
            Ok(left) => {
                let worth = (!candidate.together, left);
                if best.is_none_or(|(_, most)| worth > most) {
                    best = Some((index, worth));
                }
            }
            Err(why) => refusals.push((candidate.name.clone(), why)),
        }
    }
    best.map(|(index, _)| index).ok_or(NoPeer(refusals))
}

/// What stays free at the candidate after the move, in the pool where that is least.
pub(crate) fn room_after(margin: &Margin, candidate: &Candidate) -> Result<Bytes, Unfit> {
    let rooms = candidate.rooms.as_ref().map_err(Clone::clone)?;
    let mut least = Bytes(u64::MAX);
    for (pool, need) in &candidate.needs {
        let room = rooms.get(pool).copied().flatten();
        let room = room.ok_or_else(|| Unfit::NoPool(pool.clone()))?.fit(pool)?;
        let promised = candidate.promised.get(pool).copied().unwrap_or_default();
        let wanted = need.saturating_add(promised);
        let margin = margin.of(pool, &room);
        let left = room.available;
        if left < wanted.saturating_add(margin) {
            let (pool, whole) = (pool.clone(), candidate.copying.whole);
            return Err(Unfit::Room { pool, left, wanted, whole, margin });
        }
        least = least.min(room.available.saturating_sub(wanted));
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(name: &str) -> PoolName {
        name.parse().unwrap()
    }

    fn needs(mib: u64) -> Needs {
        Needs::from([(pool("vms"), Bytes::mib(mib))])
    }

    fn started() -> PoolRoom {
        let (capacity, available) = (Bytes::ZERO, Bytes::ZERO);
        PoolRoom { notify: true, active: true, capacity, available, drained: false, chunk: None }
    }

    fn peer(name: &str, available: u64, promised: u64) -> Candidate {
        let room =
            PoolRoom { capacity: Bytes::mib(1600), available: Bytes::mib(available), ..started() };
        let rooms = BTreeMap::from([(pool("vms"), Some(room))]);
        let (name, needs, promised) = (name.into(), needs(100), needs(promised));
        let copying = Copying::default();
        Candidate { name, copying, needs, rooms: Ok(rooms), promised, together: false }
    }

    fn chosen(peers: &[Candidate]) -> Result<usize, NoPeer> {
        choose(&Margin::default(), peers)
    }

    #[test]
    fn most_room_wins_and_the_first_among_equals() {
        let peers = [peer("a", 800, 0), peer("b", 900, 0), peer("c", 900, 0)];
        assert_eq!(chosen(&peers), Ok(1));
    }

    #[test]
    fn a_host_of_its_own_comes_before_more_room() {
        let mut peers = [peer("a", 900, 0), peer("b", 800, 0)];
        peers[0].together = true;
        assert_eq!(chosen(&peers), Ok(1));
        assert_eq!(chosen(&peers[..1]), Ok(0));
    }

    #[test]
    fn what_is_under_way_counts() {
        let peers = [peer("a", 800, 0), peer("b", 900, 200)];
        assert_eq!(chosen(&peers), Ok(0));
    }

    #[test]
    fn a_peer_that_would_be_full_is_refused_at_the_byte() {
        assert_eq!(chosen(&[peer("a", 200, 0)]), Ok(0));
        let refused = chosen(&[peer("a", 199, 0)]).unwrap_err().to_string();
        assert_eq!(
            refused,
            "no peer can take it: a has 199.00 MiB left in its pool 'vms', \
             and 100.00 MiB are to come and 100.00 MiB to stay free"
        );
        let copying = Copying { whole: true, ..Copying::default() };
        let refused = chosen(&[Candidate { copying, ..peer("a", 199, 0) }]).unwrap_err();
        assert!(refused.to_string().contains("and 100.00 MiB (disks whole: libvirt before 10.9)"));
    }

    #[test]
    fn a_move_at_the_low_mark_keeps_the_next_host_above_its_own() {
        let marks = BTreeMap::from([(pool("vms"), LowMark::Percent(25))]);
        let margin = Margin { marks, growth: Bytes::mib(50) };
        assert_eq!(choose(&margin, &[peer("a", 550, 0)]), Ok(0));
        assert!(choose(&margin, &[peer("a", 549, 0)]).is_err());
    }

    #[test]
    fn each_refusal_is_named() {
        let mut off = peer("off", 900, 0);
        off.rooms =
            Ok(BTreeMap::from([(pool("vms"), Some(PoolRoom { active: false, ..started() }))]));
        let mut none = peer("none", 900, 0);
        none.rooms = Ok(BTreeMap::from([(pool("vms"), None)]));
        let mut dead = peer("dead", 900, 0);
        dead.rooms = Err(Unfit::Fault);
        let mut left = peer("left", 900, 0);
        left.rooms = Ok(BTreeMap::from([(
            pool("vms"),
            Some(PoolRoom { drained: true, available: Bytes::mib(900), ..started() }),
        )]));
        let text = chosen(&[off, none, dead, left]).unwrap_err().to_string();
        assert_eq!(
            text,
            "no peer can take it: off has not started its pool 'vms'; \
             none has no pool 'vms'; dead could not be asked; left is drained: it takes no VMs"
        );
        assert_eq!(chosen(&[]).unwrap_err().to_string(), "no peer is configured");
    }

    proptest! {
        /// The chosen peer keeps its margin, and none that would keep more was passed over.
        #[test]
        fn the_choice_is_the_best(
            need in 0u64..2000,
            peers in proptest::collection::vec((0u64..2000, 0u64..500), 0..6),
        ) {
            let with = |&(a, p)| Candidate { needs: needs(need), ..peer("p", a, p) };
            let peers: Vec<_> = peers.iter().map(with).collect();
            let fits = |c: &Candidate| room_after(&Margin::default(), c).ok();
            match chosen(&peers) {
                Ok(index) => {
                    let left = fits(&peers[index]).unwrap();
                    prop_assert!(left >= Bytes::mib(100));
                    prop_assert!(peers.iter().filter_map(fits).all(|other| other <= left));
                }
                Err(_) => prop_assert!(peers.iter().all(|c| fits(c).is_none())),
            }
        }
    }
}
