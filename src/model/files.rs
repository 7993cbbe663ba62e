//! Finds and reads the files of a model folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::fields::{Place, Report};
use super::front::Language;
use super::yaml::Mark;

/// All model files below `model_dir` and what they may import, sorted by path, with paths relative to `project`. Files
/// and folders whose names begin with a dot, and folders of packages, are not looked at.
pub(super) fn read_sources(project: &Path, model_dir: &Path, report: &mut Report) -> Vec<(PathBuf, String)> {
    let shown = |path: &Path| path.strip_prefix(project).unwrap_or(path).to_path_buf();
    let mut paths = Vec::new();
    let mut faults = Vec::new();
    collect(model_dir, &mut Vec::new(), &mut paths, &mut faults);
    for (path, error) in faults {
        let message = format!("the folder cannot be read: {error}");
        report.error(&Place::of_file(&shown(&path)), Mark::START, message);
        report.doubt_all = true;
    }
    paths.sort();
    // Data is there for scripts to import.
    if !paths.iter().any(|path| Language::of(path) == Language::JavaScript) {
        paths.retain(|path| Language::of(path) != Language::Data);
    }
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        match fs::read_to_string(&path) {
            Ok(source) => sources.push((shown(&path), source)),
            Err(error) => {
                let message = format!("the file cannot be read: {error}");
                report.error(&Place::of_file(&shown(&path)), Mark::START, message);
                report.doubt_all = true;
            }
        }
    }
    sources
}

/// `above` holds the real paths of the folders on the way down, so that a link to one of them ends the walk.
fn collect(folder: &Path, above: &mut Vec<PathBuf>, paths: &mut Vec<PathBuf>, faults: &mut Vec<(PathBuf, io::Error)>) {
    let listing = fs::canonicalize(folder).and_then(|real| Ok((real, fs::read_dir(folder)?)));
    let (real, listing) = match listing {
        Ok(listing) => listing,
        Err(error) => return faults.push((folder.to_path_buf(), error)),
    };
    if above.contains(&real) {
        return;
    }
    above.push(real);
    for entry in listing {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                faults.push((folder.to_path_buf(), error));
                continue;
            }
        };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if name.starts_with('.') || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            collect(&path, above, paths, faults);
        } else if Language::of(&path) != Language::Other {
            paths.push(path);
        }
    }
    above.pop();
}
