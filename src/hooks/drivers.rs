//! What `driverFactory` says of data sources: which folder of files each of them is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::pool::{Call, Engine};
use super::{CubeJs, HookError, MAIN};
use crate::script::on_own_stack;

const NAME: &str = "driverFactory";
/// The type of a data source that is a folder of files.
const FILES: &str = "files";

/// The folders that `driverFactory` chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// By the name of the data source, relative to the project.
    pub by_source: BTreeMap<String, String>,
    /// What it gives that this version does not have, in words for the log.
    pub warnings: Vec<String>,
}

impl CubeJs {
    /// Asks `driverFactory` once for each of these data sources; nothing without that hook. Who asks is nobody: one
    /// data source is the same for all callers.
    ///
    /// # Errors
    /// It fails, or makes no sense.
    pub fn folders(&self, sources: &BTreeSet<String>) -> Result<Folders, HookError> {
        if !self.options.has(NAME) {
            return Ok(Folders::default());
        }
        let ask = || -> Result<Vec<(String, Json)>, HookError> {
            let (engine, _) = Engine::start(&self.program)?;
            let given = sources.iter().map(|source| {
                let context = json!({"dataSource": source, "securityContext": {}, "authInfo": {}});
                let call = Call { function: "__call", arguments: vec![NAME.into(), json!([context])] };
                Ok((source.clone(), engine.call(&call)?["given"].take()))
            });
            given.collect()
        };
        let failed = |error: std::io::Error| HookError::Nonsense(format!("{MAIN} cannot be run: {error}"));
        let given = on_own_stack(self.program.limits, ask).map_err(failed)??;
        let mut folders = Folders::default();
        for (source, driver) in given {
            match folder_of(&source, &driver)? {
                Ok(folder) => drop(folders.by_source.insert(source, folder)),
                Err(warning) => folders.warnings.push(warning),
            }
        }
        Ok(folders)
    }
}

/// The folder that a driver names; else what stands for it.
fn folder_of(source: &str, driver: &Json) -> Result<Result<String, String>, HookError> {
    let odd = |why: String| HookError::Nonsense(format!("{NAME} of {MAIN} gave {driver} for '{source}': {why}"));
    if !driver.is_object() {
        return Err(odd("it must be an object with a type".to_owned()));
    }
    match &driver["type"] {
        Json::String(kind) if kind == FILES => match &driver["path"] {
            Json::Null => Ok(Ok("data".to_owned())),
            Json::String(path) if is_inside(path) => Ok(Ok(path.trim_matches('/').to_owned())),
            _ => Err(odd("its path must be that of a folder of the project".to_owned())),
        },
        Json::Null | Json::String(_) => {
            let kind = driver["type"].as_str().unwrap_or("a driver of its own");
            Ok(Err(format!(
                "{MAIN}: {NAME} gives {kind} for the data source '{source}', which this version of Quarry does not \
                 have: the files below data/ stand for it; {{ type: '{FILES}', path: 'data/{source}' }} names others"
            )))
        }
        _ => Err(odd("its type must be a string".to_owned())),
    }
}

/// Whether a path names something below the project.
fn is_inside(path: &str) -> bool {
    let is_plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    !path.is_empty() && std::path::Path::new(path).components().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_a_folder_of_the_project_or_is_told_of() {
        let said = |driver: Json| folder_of("archive", &driver).map_err(|error| error.to_string());
        assert_eq!(said(json!({"type": "files"})), Ok(Ok("data".to_owned())));
        assert_eq!(said(json!({"type": "files", "path": "data/old/"})), Ok(Ok("data/old".to_owned())));
        for path in [json!(""), json!("/etc"), json!("../other"), json!("data/../.."), json!(7), json!(["data"])] {
            let told = said(json!({"type": "files", "path": path}));
            assert!(told.as_ref().is_err_and(|text| text.contains("a folder of the project")), "{told:?}");
        }
        for (driver, kind) in [(json!({"type": "postgres"}), "postgres"), (json!({"pool": {}}), "a driver of its own")]
        {
            let told = said(driver);
            assert!(matches!(&told, Ok(Err(text)) if text.contains(kind)), "{told:?}");
        }
        for odd in [json!(null), json!("postgres"), json!({"type": 1})] {
            assert!(said(odd).is_err());
        }
    }
}
