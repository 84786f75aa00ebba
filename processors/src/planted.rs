//! Defects that tests plant in what decides row by row, to see that the simulation finds them. Those of the run loop are
//! in `engine::worker`.

use std::cell::Cell;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A lane's time is that of the largest number seen, whatever is missing below it.
    LaneTimeOfTheLargest,
    /// Silence and open holes age as the bridges' clocks do, whoever was away.
    SilenceByWallClock,
    /// Windows over the fleet end when the first partition is past them, without the others.
    FirstSourceDecides,
}

thread_local! {
    static PRESENT: Cell<Option<Planted>> = const { Cell::new(None) };
}

/// Plants it on this thread, or takes away what was planted.
pub(crate) fn plant(defect: Option<Planted>) {
    PRESENT.set(defect);
}

/// Whether it is planted on this thread.
pub(crate) fn is_planted(defect: Planted) -> bool {
    PRESENT.get() == Some(defect)
}
