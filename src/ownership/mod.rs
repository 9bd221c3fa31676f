//! Which replica owns which revision.
