//! The runner of deciders, scale to zero, status.
use super::{Lines, Tally};

pub(super) fn multiscaler(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn scale_to_zero(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn status(_lines: &mut Lines, _tally: &mut Tally) {}
