//! Which replica owns which revision.

pub mod ring;
