//! The files that scripts of a model can import.

use std::collections::BTreeMap;

use super::Script;
use crate::script::Files;

/// Packages that Node.js has built in.
const BUILT_IN: [&str; 12] =
    ["assert", "child_process", "crypto", "fs", "http", "https", "net", "os", "path", "process", "url", "util"];

/// Scripts and JSON files below the model folder, by path.
#[derive(Debug)]
pub(super) struct ModelFiles {
    texts: BTreeMap<String, String>,
    /// Parts of the path of the model folder.
    root: Vec<String>,
}

impl ModelFiles {
    pub(super) fn new(files: &[Script<'_>], root: &str) -> Self {
        let texts = files.iter().map(|file| (file.name.to_owned(), file.text.to_owned())).collect();
        Self { texts, root: parts(root).map(str::to_owned).collect() }
    }

    pub(super) fn source(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// The file at a path, whose suffix may be left out.
    fn find(&self, path: &[String]) -> Option<String> {
        let name = path.join("/");
        let candidates = [name.clone(), format!("{name}.js"), format!("{name}.json"), format!("{name}/index.js")];
        candidates.into_iter().find(|name| self.texts.contains_key(name))
    }

    /// The path that leads from a folder along `specifier`; none when it leaves the model folder.
    fn follow(&self, folder: &[String], specifier: &str) -> Option<Vec<String>> {
        let mut path = folder.to_vec();
        for part in parts(specifier) {
            match part {
                ".." => {
                    path.pop()?;
                    if path.len() < self.root.len() {
                        return None;
                    }
                }
                part => path.push(part.to_owned()),
            }
        }
        path.starts_with(&self.root).then_some(path)
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

impl Files for ModelFiles {
    /// Paths are relative to the file that imports; when nothing is there, to the model folder, as Cube has it.
    fn resolve(&self, from: &str, specifier: &str) -> Result<String, String> {
        if !specifier.starts_with('.') {
            let package = specifier.strip_prefix("node:").unwrap_or(specifier);
            let restricted = specifier.starts_with('/') || package != specifier || BUILT_IN.contains(&package);
            return Err(match restricted {
                true => format!("'{specifier}' restricted"),
                false => format!("Package '{specifier}' not found"),
            });
        }
        let mut folder: Vec<String> = parts(from).map(str::to_owned).collect();
        folder.pop();
        let path = self.follow(&folder, specifier).ok_or_else(|| format!("'{specifier}' restricted"))?;
        let from_root = || self.find(&self.follow(&self.root, specifier)?);
        self.find(&path).or_else(from_root).ok_or_else(|| {
            let shown = path[self.root.len()..].join("/");
            let suffix = if shown.ends_with(".js") || shown.ends_with(".json") { "" } else { ".js" };
            format!("Required import for {shown}{suffix} is not found")
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.source(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(from: &str, specifier: &str, expected: Result<&str, &str>) {
        let names = ["p/model/a.js", "p/model/deep/b.js", "p/model/deep/index.js", "p/model/d.json", "p/model/x.y.js"];
        let files: Vec<_> = names.iter().map(|name| Script { name, text: "" }).collect();
        let found = ModelFiles::new(&files, "p/model").resolve(from, specifier);
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{from} {specifier}");
    }

    #[test]
    fn imports_stay_in_the_model_folder() {
        check("p/model/a.js", "./deep/b", Ok("p/model/deep/b.js"));
        check("p/model/a.js", "./deep/b.js", Ok("p/model/deep/b.js"));
        check("p/model/a.js", "./deep", Ok("p/model/deep/index.js"));
        check("p/model/a.js", "./d.json", Ok("p/model/d.json"));
        check("p/model/a.js", "./x.y", Ok("p/model/x.y.js"));
        check("p/model/deep/b.js", "../a", Ok("p/model/a.js"));
        check("p/model/deep/b.js", "./a", Ok("p/model/a.js"));
        check("p/model/deep/b.js", "./nowhere", Err("Required import for deep/nowhere.js is not found"));
        check("p/model/a.js", "../model/a", Err("'../model/a' restricted"));
        check("p/model/a.js", "../../etc/passwd", Err("'../../etc/passwd' restricted"));
        check("p/model/a.js", "/etc/passwd", Err("'/etc/passwd' restricted"));
        check("p/model/a.js", "fs", Err("'fs' restricted"));
        check("p/model/a.js", "node:fs", Err("'node:fs' restricted"));
        check("p/model/a.js", "lodash", Err("Package 'lodash' not found"));
    }
}
