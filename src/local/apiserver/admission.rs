//! A place to look at every write before it happens, as a cluster's webhooks do.

use super::resource::Resource;
use super::status::Answer;
use serde_json::Value;

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// A new version of an object, by replacing, patching or applying.
    Update,
    /// The request to delete an object; not the removal that follows once its finalizers are gone.
    Delete,
}

/// One write, as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// What is about to happen.
    pub operation: Operation,
    /// To what kind of object.
    pub resource: &'a Resource,
    /// `status` or `scale` when only that part is written.
    pub subresource: Option<&'a str>,
    /// The namespace; empty for objects outside namespaces.
    pub namespace: &'a str,
    /// The name, generated already when the client asked for that.
    pub name: &'a str,
    /// The object as it is; absent on create.
    pub old: Option<&'a Value>,
    /// The write will not be kept, so nothing else may be done because of it either.
    pub dry_run: bool,
}

/// The judge: takes the new object (on delete: the object as it is) and gives back the object to store (on delete it is
/// ignored), or the `Status` to refuse with; [`super::invalid`] makes a good one.
///
/// It runs outside the store's lock and possibly more than once for one request, when a patch must be tried again on a
/// newer version.
pub struct Admit(Box<Judge>);

type Judge = dyn Fn(&Review<'_>, Value) -> Answer<Value> + Send + Sync;

impl Admit {
    /// Asks the judge.
    pub(super) fn admit(&self, review: &Review<'_>, object: Value) -> Answer<Value> {
        (self.0)(review, object)
    }
}

impl<F: Fn(&Review<'_>, Value) -> Answer<Value> + Send + Sync + 'static> From<F> for Admit {
    fn from(judge: F) -> Self {
        Self(Box::new(judge))
    }
}

impl std::fmt::Debug for Admit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admit")
    }
}
