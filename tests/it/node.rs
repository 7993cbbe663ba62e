//! npm packages as tools of the tests: installed once into the cache folder, from a lock file.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::python::cache_folder;
use crate::server::root;

/// The folder with the packages of `tests/checks/NAME/package-lock.json`; made anew when that has changed.
pub(crate) fn packages(name: &str) -> PathBuf {
    let source = root().join("tests/checks").join(name);
    let files = ["package.json", "package-lock.json", ".npmrc"];
    let texts = files.map(|file| fs::read_to_string(source.join(file)).expect("a file of the check"));
    let cache = cache_folder();
    let lock = File::create(cache.join(format!("npm-{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock can be taken");
    let folder = cache.join(format!("npm-{name}"));
    let (recipe, made) = (texts.join("\n"), folder.join("quarry-recipe.txt"));
    // Written last: a folder that was left half made has none.
    if fs::read_to_string(&made).is_ok_and(|text| text == recipe) {
        return folder;
    }
    fs::create_dir_all(&folder).expect("the cache folder can be written");
    for (file, text) in files.iter().zip(&texts) {
        fs::write(folder.join(file), text).expect("the cache folder can be written");
    }
    let installed = Command::new("npm").args(["ci", "--no-progress"]).current_dir(&folder).output();
    let failure = match installed {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(failure) = failure {
        panic!("the check '{name}' needs Node.js 20 with npm, and network the first time; npm ci failed: {failure}");
    }
    fs::write(made, recipe).expect("the cache folder can be written");
    folder
}

/// What a script of `tests/checks/NAME` prints for a task on its standard input, in a time zone.
pub(crate) fn run_script(name: &str, script: &str, zone: &str, task: &Value) -> Value {
    let mut child = Command::new("node")
        .arg(root().join("tests/checks").join(name).join(script))
        .arg(packages(name))
        .env("TZ", zone)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Node.js can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = task.to_string();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("Node.js can be waited for");
    writer.join().expect("the writer does not panic").expect("the script reads its input");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} fails: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{script} prints no JSON ({error}): {said}"))
}
