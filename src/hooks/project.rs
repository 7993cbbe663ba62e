//! The files that `cube.js` can see: scripts and JSON files of the project folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::script::Files;

/// The file with the configuration.
pub(super) const MAIN: &str = "cube.js";
/// Packages whose names are known here, and the text that stands for them.
const PACKAGES: [(&str, &str); 1] = [("@cubejs-backend/api-gateway", include_str!("gateway.js"))];
/// Folders that hold no code of the project.
const NO_CODE: [&str; 4] = ["node_modules", "data", "target", "dist"];
/// Largest file that can be imported, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files that can be imported.
const MAX_FILES: usize = 5_000;

/// Scripts and JSON files below the project folder, by path with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProjectFiles {
    texts: BTreeMap<String, String>,
}

impl ProjectFiles {
    /// Reads the folder. Files that cannot be read as text, and very large ones, are not there.
    pub(super) fn read(project: &Path) -> Self {
        let mut texts = BTreeMap::new();
        let mut folders = vec![(project.to_path_buf(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
                let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
                if metadata.is_dir() {
                    if !name.starts_with('.') && !NO_CODE.contains(&name.as_str()) && path.split('/').count() < 20 {
                        folders.push((entry.path(), path));
                    }
                } else if is_code(&entry.path())
                    && metadata.len() <= MAX_FILE_BYTES
                    && texts.len() < MAX_FILES
                    && let Ok(text) = std::fs::read_to_string(entry.path())
                {
                    texts.insert(path, text);
                }
            }
        }
        texts.extend(PACKAGES.map(|(name, text)| (name.to_owned(), text.to_owned())));
        Self { texts }
    }

    /// The file at a path, whose suffix may be left out.
    fn find(&self, name: &str) -> Option<String> {
        let candidates = [
            name.to_owned(),
            format!("{name}.js"),
            format!("{name}.cjs"),
            format!("{name}.json"),
            format!("{name}/index.js"),
        ];
        candidates.into_iter().find(|name| self.texts.contains_key(name))
    }
}

fn is_code(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["js", "cjs", "mjs", "json"].iter().any(|known| ending == *known))
}

/// `folder` along `specifier`; none when it leaves the project.
fn follow(folder: &str, specifier: &str) -> Option<String> {
    let mut path: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in specifier.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = path.pop()?,
            part => path.push(part),
        }
    }
    Some(path.join("/"))
}

impl Files for ProjectFiles {
    fn resolve(&self, from: &str, specifier: &str) -> Result<String, String> {
        if !specifier.starts_with('.') {
            return match self.find(specifier).filter(|name| PACKAGES.iter().any(|(package, _)| package == name)) {
                Some(name) => Ok(name),
                None => Err(format!(
                    "the package '{specifier}' is not available: cube.js sees the files of its project only; copy what \
                     it needs of the package beside it"
                )),
            };
        }
        let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = follow(folder, specifier).ok_or_else(|| format!("'{specifier}' is outside the project folder"))?;
        self.find(&path).ok_or_else(|| format!("the file '{path}' is not there"))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }
}

/// A configuration file of Cube that is not JavaScript; none when there is a `cube.js`, which Cube prefers to Python.
pub fn foreign(project: &Path) -> Option<PathBuf> {
    let found = |name: &str| Some(project.join(name)).filter(|file| file.is_file());
    found("cube.ts").or_else(|| found("cube.py").filter(|_| found(MAIN).is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, specifier: &str, expected: Result<&str, &str>) {
        let names = ["cube.js", "lib/tenants.js", "lib/index.js", "tenants.json", "@cubejs-backend/api-gateway"];
        let files = ProjectFiles { texts: names.map(|name| (name.to_owned(), String::new())).into() };
        let found = files.resolve(from, specifier);
        match expected {
            Ok(name) => assert_eq!(found.as_deref(), Ok(name), "{from} {specifier}"),
            Err(part) => {
                assert!(found.as_ref().is_err_and(|text| text.contains(part)), "{from} {specifier}: {found:?}")
            }
        }
    }

    #[test]
    fn imports_are_files_of_the_project() {
        check("cube.js", "./lib/tenants", Ok("lib/tenants.js"));
        check("cube.js", "./lib", Ok("lib/index.js"));
        check("lib/index.js", "./tenants.js", Ok("lib/tenants.js"));
        check("lib/index.js", "../tenants.json", Ok("tenants.json"));
        check("cube.js", "@cubejs-backend/api-gateway", Ok("@cubejs-backend/api-gateway"));
        check("cube.js", "./nowhere", Err("'nowhere' is not there"));
        check("cube.js", "../secret", Err("outside the project"));
        check("cube.js", "lodash", Err("'lodash' is not available"));
        check("cube.js", "tenants", Err("'tenants' is not available"));
    }
}
