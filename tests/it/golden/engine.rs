//! Windows, delay windows, decisions, activator counts.
use super::{Lines, Tally};

pub(super) fn windows(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn max_window(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn decisions(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn num_activators(_lines: &mut Lines, _tally: &mut Tally) {}
