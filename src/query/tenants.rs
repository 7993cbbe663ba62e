//! The compiled model of whoever asks, where `cube.js` has several (`contextToAppId`, `schemaVersion`,
//! `preAggregationsSchema`; `http-api.md` §14): each is compiled when it is first asked for, and the most recently used are kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::OnceCell;

use super::rollups::CurrentModel;
use crate::hooks::{Belongings, HookError, Hooks};
use crate::model::Diagnostic;
use crate::tasks::blocking;
use crate::time::Clock;

/// Compiles the model for a security context, which is an object.
type Compile = dyn Fn(&Json) -> Result<CurrentModel, Vec<Diagnostic>> + Send + Sync;

/// Why there is no model for a context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The model has faults for this context. Cube's text.
    #[error("Compile errors:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Model(Vec<Diagnostic>),
}

/// How many models are kept, and how long.
#[derive(Debug, Clone, Copy)]
pub struct KeptModels {
    /// `compilerCacheSize`: most models.
    pub most: usize,
    /// `maxCompilerCacheKeepAlive`: longest time; for ever when there is none.
    pub longest: Option<Duration>,
    /// `updateCompilerCacheKeepAlive`: the time begins again with each use.
    pub renewed: bool,
}

/// The models of all contexts. Handles share them.
#[derive(Clone)]
pub struct Tenants(Arc<Shared>);

struct Shared {
    hooks: Hooks,
    compile: Box<Compile>,
    kept: KeptModels,
    clock: Clock,
    models: Mutex<Models>,
}

/// The app and the version of its model.
type Key = (Option<String>, Option<String>);

#[derive(Default)]
struct Models {
    by_key: HashMap<Key, Slot>,
    uses: u64,
}

struct Slot {
    model: Arc<OnceCell<Arc<CurrentModel>>>,
    last_use: u64,
    /// UTC microseconds.
    since: i64,
}

impl fmt::Debug for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenants").field("kept", &self.0.kept).finish_non_exhaustive()
    }
}

impl Tenants {
    /// None where all contexts have one model.
    pub fn of(
        hooks: &Hooks,
        kept: KeptModels,
        clock: Clock,
        compile: impl Fn(&Json) -> Result<CurrentModel, Vec<Diagnostic>> + Send + Sync + 'static,
    ) -> Option<Self> {
        let several = ["contextToAppId", "schemaVersion", "preAggregationsSchema"].iter().any(|name| hooks.has(name));
        let (hooks, models) = (hooks.clone(), Mutex::default());
        several.then(|| Self(Arc::new(Shared { hooks, compile: Box::new(compile), kept, clock, models })))
    }

    /// The model of a security context that comes from no request: of a job, or of the background.
    ///
    /// # Errors
    /// A hook fails, or the model has faults for this context.
    pub async fn model_of(&self, security_context: &Json) -> Result<Arc<CurrentModel>, TenantError> {
        let (belongings, request) = self.0.hooks.belongings_of(security_context).await?;
        self.model(&belongings, &request).await
    }

    /// The model of a request context and what it belongs to.
    ///
    /// # Errors
    /// The model has faults for this context.
    pub async fn model(&self, belongings: &Belongings, request: &Json) -> Result<Arc<CurrentModel>, TenantError> {
        let slot = self.slot((belongings.app.clone(), belongings.schema_version.clone()));
        let (shared, context) = (Arc::clone(&self.0), request.clone());
        // Who asks for the same meanwhile waits for it; a model with faults is tried again.
        let compiled = slot.get_or_try_init(|| async {
            let preagg_schema = shared.hooks.preagg_schema(&context).await?;
            let security_context = context.get("securityContext").filter(|context| context.is_object()).cloned();
            let security_context = security_context.unwrap_or_else(|| json!({}));
            let compiled = blocking(move || (shared.compile)(&security_context)).await.map_err(TenantError::Model)?;
            Ok(Arc::new(CurrentModel { preagg_schema, ..compiled }))
        });
        compiled.await.cloned()
    }

    /// Forgets all: the files have changed.
    pub fn forget(&self) {
        self.lock().by_key.clear();
    }

    fn slot(&self, key: Key) -> Arc<OnceCell<Arc<CurrentModel>>> {
        let (kept, now) = (self.0.kept, self.0.clock.now());
        let mut models = self.lock();
        if let Some(longest) = kept.longest {
            let micros = i64::try_from(longest.as_micros()).unwrap_or(i64::MAX);
            models.by_key.retain(|_, slot| now < slot.since.saturating_add(micros));
        }
        models.uses += 1;
        let last_use = models.uses;
        if let Some(slot) = models.by_key.get_mut(&key) {
            slot.last_use = last_use;
            if kept.renewed {
                slot.since = now;
            }
            return Arc::clone(&slot.model);
        }
        while models.by_key.len() >= kept.most.max(1) {
            let Some(oldest) = models.by_key.iter().min_by_key(|(_, slot)| slot.last_use).map(|(key, _)| key.clone())
            else {
                break;
            };
            models.by_key.remove(&oldest);
        }
        let model = Arc::new(OnceCell::new());
        models.by_key.insert(key, Slot { model: Arc::clone(&model), last_use, since: now });
        model
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, Models> {
        self.0.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
