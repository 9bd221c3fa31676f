//! ConfigMaps, annotations, resolution, bucket hashing.
use super::{Lines, Tally};

pub(super) fn config(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn validate(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn resolve(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn hash(_lines: &mut Lines, _tally: &mut Tally) {}
