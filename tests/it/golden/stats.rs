//! Wire format, sample sizes, pod counting, scraping.
use super::{Lines, Tally};

pub(super) fn wire(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn sample_size(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn pods(_lines: &mut Lines, _tally: &mut Tally) {}

pub(super) fn scrape(_lines: &mut Lines, _tally: &mut Tally) {}
