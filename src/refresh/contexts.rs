//! Whose models jobs and the background are of: contexts, their models and their zones.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{RefreshParts, Refresher};
use crate::hooks::HookError;
use crate::query::rollups::Rollups;
use crate::query::tenants::TenantError;
use crate::time::Zone;

/// What the background looks after: one model in some zones.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    /// The security context whose model it is.
    pub(super) context: Value,
    pub(super) rollups: Arc<Rollups>,
    pub(super) zones: Vec<Zone>,
}

impl RefreshParts {
    /// The rollups of a security context.
    ///
    /// # Errors
    /// A hook fails, or the model has faults for this context.
    pub(super) async fn rollups_of(&self, context: &Value) -> Result<Arc<Rollups>, TenantError> {
        match &self.tenants {
            Some(tenants) => Ok(Arc::clone(&tenants.model_of(context).await?.rollups)),
            None => Ok((self.rollups)()),
        }
    }

    /// All that the background looks after, in these zones or in its own. What fails costs a context, and is logged.
    pub(super) async fn charges(&self, asked: &[Zone], own: &[Zone]) -> Vec<Charge> {
        let contexts = match &self.hooks {
            Some(hooks) => hooks.background_contexts().await,
            None => Ok(vec![Value::Object(Map::new())]),
        };
        let contexts = contexts.unwrap_or_else(|error| {
            tracing::warn!(hook = error.place(), %error, "the background does not know whom to build for");
            Vec::new()
        });
        let mut charges: Vec<Charge> = Vec::new();
        for context in contexts {
            match self.charge(context, asked, own).await {
                Ok(charge) if charges.iter().any(|known| known.is_same(&charge)) => {}
                Ok(charge) => charges.push(charge),
                Err(error) => tracing::warn!(%error, "the background cannot build for a context"),
            }
        }
        charges
    }

    async fn charge(&self, context: Value, asked: &[Zone], own: &[Zone]) -> Result<Charge, TenantError> {
        let rollups = self.rollups_of(&context).await?;
        let zones = if asked.is_empty() { self.zones_of(&context, own).await? } else { asked.to_vec() };
        Ok(Charge { context, rollups, zones })
    }

    /// The zones that a hook gives for a security context, or the server's own.
    ///
    /// # Errors
    /// The hook fails, or names what is no zone.
    async fn zones_of(&self, context: &Value, own: &[Zone]) -> Result<Vec<Zone>, HookError> {
        let given = match &self.hooks {
            Some(hooks) => hooks.background_zones(context).await?,
            None => None,
        };
        given.map_or_else(|| Ok(own.to_vec()), |names| zones(&names))
    }
}

impl Refresher {
    /// The zones that the background builds for where it builds for this security context.
    ///
    /// # Errors
    /// A hook fails, or names what is no zone.
    pub async fn zones_of(&self, context: &Value) -> Result<Vec<Zone>, HookError> {
        self.inner.parts.zones_of(context, &self.inner.options.zones).await
    }
}

impl Charge {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rollups, &other.rollups) && self.zones == other.zones
    }
}

/// Zones by name; UTC when there are none.
fn zones(names: &[String]) -> Result<Vec<Zone>, HookError> {
    let mut zones = Vec::new();
    for name in names {
        let zone = Zone::from_str_insensitive(name);
        let zone = zone.map_err(|_unknown| {
            HookError::Nonsense(format!("scheduledRefreshTimeZones of cube.js gave '{name}', which is no time zone"))
        })?;
        if !zones.contains(&zone) {
            zones.push(zone);
        }
    }
    Ok(if zones.is_empty() { vec![Zone::UTC] } else { zones })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_by_name_and_are_utc_by_default() {
        let read = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            zones(&names).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[]), Ok(vec![Zone::UTC]));
        assert_eq!(read(&["europe/berlin", "UTC", "Europe/Berlin"]), Ok(vec![Zone::Europe__Berlin, Zone::UTC]));
        assert!(read(&["Mars/Base"]).is_err_and(|text| text.contains("'Mars/Base', which is no time zone")));
    }
}
