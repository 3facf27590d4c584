// SPDX-License-Identifier: LGPL-2.1-or-later
//! How full one pool was: points by the minute, and by the quarter of an hour. Pure: time is the caller's.
//!
//! Each of the two has a fixed number of points at most. Not those of a fixed age: a clock that is wrong for a moment
//! would take all of them. For the same reason a time long before the last point is not believed at once: either that
//! point or this one was noted while the clock was wrong, and only the clock of the next minutes tells which.

use std::collections::VecDeque;

/// Seconds from one point to the next.
pub const MINUTE: u64 = 60;
const QUARTER: u64 = 15 * MINUTE;
/// A day by the minute.
const MINUTES: usize = 24 * 60;
/// A week by the quarter of an hour.
const QUARTERS: usize = 7 * 24 * 4;

/// A clock is set right by so much without more ado, and a host that is busy notes its points as late as that.
const LITTLE: u64 = 5 * MINUTE;
/// So many points after each other are believed.
const BELIEVED: usize = 10;

/// How full the pool was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// In seconds since 1970.
    pub time: u64,
    /// The size of its volume group, in bytes.
    pub capacity: u64,
    /// What its volumes could still get.
    pub available: u64,
}

/// The points of a pool, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Curve {
    pub minutes: VecDeque<Point>,
    /// Of each quarter of an hour the fullest moment, under the time at which the quarter began.
    pub quarters: VecDeque<Point>,
    /// Points of a time long before the last one, until they are believed.
    doubted: Vec<Point>,
}

impl Curve {
    /// Adds a point. One of long before the last point is kept back until the clock has agreed with it for some
    /// minutes, and is forgotten if the clock comes back to where it was.
    pub fn add(&mut self, point: Point) {
        if point.time + LITTLE >= self.last() {
            self.doubted.clear();
            return self.put(point);
        }
        let follows = |last: &Point| (last.time + 1..=last.time + LITTLE).contains(&point.time);
        if !self.doubted.last().is_some_and(follows) {
            self.doubted.clear();
        }
        self.doubted.push(point);
        if self.doubted.len() >= BELIEVED {
            std::mem::take(&mut self.doubted).into_iter().for_each(|point| self.put(point));
        }
    }

    /// Puts a point at the end. Those that are not before it were noted while the clock was wrong, and go.
    fn put(&mut self, point: Point) {
        let begin = point.time / QUARTER * QUARTER;
        while self.minutes.back().is_some_and(|last| last.time >= point.time) {
            self.minutes.pop_back();
        }
        while self.quarters.back().is_some_and(|last| last.time > begin) {
            self.quarters.pop_back();
        }
        self.minutes.push_back(point);
        match self.quarters.back_mut().filter(|last| last.time == begin) {
            Some(last) if last.available <= point.available => {}
            Some(last) => *last = Point { time: begin, ..point },
            None => self.quarters.push_back(Point { time: begin, ..point }),
        }
        keep(&mut self.minutes, MINUTES);
        keep(&mut self.quarters, QUARTERS);
    }

    /// The points since then: by the minute as far back as these go, before that by the quarter of an hour.
    pub fn since(&self, since: u64) -> Vec<Point> {
        let fine = self.minutes.front().map_or(u64::MAX, |first| first.time);
        let coarse = self.quarters.iter().filter(|point| point.time + QUARTER <= fine);
        coarse.chain(&self.minutes).filter(|point| point.time >= since).copied().collect()
    }

    /// When the last point was noted; 0 without one.
    pub fn last(&self) -> u64 {
        self.minutes.back().or(self.quarters.back()).map_or(0, |last| last.time)
    }

    /// A curve of these points, unless one of the lists is too long or not in order.
    pub fn of(minutes: Vec<Point>, quarters: Vec<Point>) -> Option<Self> {
        let in_order = |points: &[Point]| points.is_sorted_by(|a, b| a.time < b.time);
        let is_good = minutes.len() <= MINUTES
            && quarters.len() <= QUARTERS
            && in_order(&minutes)
            && in_order(&quarters);
        let doubted = Vec::new();
        is_good.then(|| Self { minutes: minutes.into(), quarters: quarters.into(), doubted })
    }
}

fn keep(points: &mut VecDeque<Point>, most: usize) {
    let beyond = points.len().saturating_sub(most);
    points.drain(..beyond);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30, the beginning of an hour.
    const NOON: u64 = 1_796_040_000;

    fn point(time: u64, available: u64) -> Point {
        Point { time, capacity: 100, available }
    }

    fn times(points: &[Point]) -> Vec<u64> {
        points.iter().map(|point| point.time - NOON).collect()
    }

    #[test]
    fn a_week_is_kept_of_which_the_last_day_is_fine() {
        let mut curve = Curve::default();
        let minutes = 9 * 24 * 60;
        for n in 0..minutes {
            curve.add(point(NOON + n * MINUTE, n));
        }
        assert_eq!((curve.minutes.len(), curve.quarters.len()), (MINUTES, QUARTERS));
        let all = curve.since(0);
        assert!(all.is_sorted_by(|a, b| a.time < b.time));
        let week = MINUTE * 60 * 24 * 7;
        let end = NOON + minutes * MINUTE;
        assert_eq!((all[0].time, all.last().unwrap().time), (end - week, end - MINUTE));
        let day = end - MINUTE * 60 * 24;
        let coarse = all.iter().filter(|point| point.time < day).count();
        assert_eq!((coarse, all.len()), (6 * 24 * 4, 6 * 24 * 4 + MINUTES));
        assert_eq!(curve.since(end - 5 * MINUTE).len(), 5);
        assert_eq!(curve.since(end), []);
    }

    #[test]
    fn the_fullest_moment_of_a_quarter_is_kept() {
        let mut curve = Curve::default();
        for (minute, available) in [(0, 50), (1, 20), (2, 60), (15, 70)] {
            curve.add(point(NOON + minute * MINUTE, available));
        }
        let left: Vec<u64> = curve.quarters.iter().map(|point| point.available).collect();
        assert_eq!(left, [20, 70]);
        curve.minutes.clear();
        assert_eq!(times(&curve.since(0)), [0, 900]);
    }

    #[test]
    fn a_clock_that_was_wrong_for_a_moment_takes_one_point() {
        let mut curve = Curve::default();
        for minute in 0..30 {
            curve.add(point(NOON + minute * MINUTE, 50));
        }
        curve.add(point(NOON * 2, 50));
        assert_eq!(curve.since(0).len(), 31);
        for minute in 30..40 {
            curve.add(point(NOON + minute * MINUTE, 40));
        }
        assert_eq!(times(&curve.since(NOON + 38 * MINUTE)), [2280, 2340]);
        assert_eq!((curve.since(0).len(), curve.quarters.len()), (40, 3));
        // Set back a little, it goes on from there.
        curve.add(point(NOON + 36 * MINUTE, 40));
        assert_eq!(times(&curve.since(NOON + 35 * MINUTE)), [2100, 2160]);
    }

    #[test]
    fn a_clock_that_was_set_back_for_a_moment_takes_nothing() {
        let mut curve = Curve::default();
        for minute in 0..600 {
            curve.add(point(NOON + minute * MINUTE, 50));
        }
        let before = curve.clone();
        // The host has started without the time of day.
        for minute in 0..BELIEVED as u64 - 1 {
            curve.add(point(minute * MINUTE, 50));
        }
        assert_eq!((&curve.minutes, &curve.quarters), (&before.minutes, &before.quarters));
        curve.add(point(NOON + 600 * MINUTE, 50));
        assert_eq!((curve.minutes.len(), curve.doubted.len()), (601, 0));
        // What it says now and then is no agreement.
        for minute in [100, 0, 200, 50].repeat(BELIEVED) {
            curve.add(point(NOON + minute * MINUTE, 50));
        }
        assert_eq!(curve.minutes.len(), 601);
        // It was wrong all the time, and is right now.
        for minute in 100..100 + BELIEVED as u64 {
            curve.add(point(NOON + minute * MINUTE, 40));
        }
        assert_eq!(curve.minutes.len(), 100 + BELIEVED);
        assert_eq!(curve.last(), NOON + (99 + BELIEVED as u64) * MINUTE);
    }

    #[test]
    fn only_what_add_makes_is_a_curve() {
        let some = || vec![point(1, 1), point(2, 1)];
        assert!(Curve::of(some(), some()).is_some());
        assert!(Curve::of(vec![point(2, 1), point(2, 1)], Vec::new()).is_none());
        let many = (0..=MINUTES as u64).map(|n| point(n, 1)).collect();
        assert!(Curve::of(many, Vec::new()).is_none());
    }
}
