//! The runtimes that an instance uses, by reference.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::docker::Docker;
use super::docker::endpoint::Endpoint;
use super::process::{ProcessRuntime, Records, Strays};
use super::{Runtime, RuntimeError};
use crate::resource::{RuntimeKind, RuntimeRef};

/// Opens the runtime that is meant. Nothing is asked of it yet; `reason` says for a person why it
/// is looked for there.
///
/// # Errors
/// [`RuntimeError::Unavailable`] where there can be nothing of the kind.
pub fn open(
    reference: &RuntimeRef,
    reason: &str,
    records: &Arc<dyn Records>,
) -> Result<Arc<dyn Runtime>, RuntimeError> {
    match (reference.kind, &reference.endpoint) {
        (RuntimeKind::None, _) => Ok(Arc::new(ProcessRuntime::new(
            crate::process::SELF.into(),
            Strays::Adopted,
            Arc::clone(records),
        ))),
        (RuntimeKind::Docker, Some(url)) => {
            let (url, reason) = (url.clone(), reason.to_owned());
            Ok(Arc::new(Docker::new(Endpoint { url, reason })?))
        }
        (runtime @ RuntimeKind::Docker, None) => {
            let why = "it is not known where its engine is".to_owned();
            Err(RuntimeError::Unavailable { runtime, why })
        }
    }
}

/// One that was found, or why it cannot be used.
type Present = Result<Arc<dyn Runtime>, String>;

/// The runtimes of this machine that an instance uses. Clones share them: one that is found later
/// is there for all.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    all: Arc<RwLock<BTreeMap<RuntimeRef, Present>>>,
}

impl Runtimes {
    /// These and no others.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = Arc<dyn Runtime>>) -> Self {
        let all = all.into_iter().map(|runtime| (runtime.reference(), Ok(runtime))).collect();
        Self { all: Arc::new(RwLock::new(all)) }
    }

    /// Adds one that was found.
    pub fn add(&self, runtime: Arc<dyn Runtime>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(runtime.reference(), Ok(runtime));
    }

    /// Says why one cannot be used.
    pub fn lack(&self, reference: RuntimeRef, why: String) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(reference, Err(why));
    }

    /// Forgets all but those that are kept.
    pub fn retain(&self, mut keep: impl FnMut(&RuntimeRef) -> bool) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|reference, _| keep(reference));
    }

    /// The one that is meant; of a reference that does not say where, one of its kind.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where it was not found.
    pub fn get(&self, reference: &RuntimeRef) -> Result<Arc<dyn Runtime>, RuntimeError> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let mut of_kind = all.iter().filter(|(other, _)| other.kind == reference.kind);
        let found = match (all.get(reference), of_kind.next(), &reference.endpoint) {
            (Some(present), ..) | (None, Some((_, present)), None) => present.clone(),
            (None, Some((other, _)), Some(_)) => Err(format!(
                "{reference} is applied, and {other} is another one; run `babybot plan` to see the \
                 change"
            )),
            (None, None, _) => Err("not found on this machine".to_owned()),
        };
        found.map_err(|why| RuntimeError::Unavailable { runtime: reference.kind, why })
    }

    /// The one that images are built at.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`] where none was found.
    pub fn with_images(&self) -> Result<Arc<dyn Runtime>, RuntimeError> {
        self.get(&RuntimeRef::docker(None))
    }

    /// Each of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn Runtime>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().cloned().collect()
    }
}
