//! Python packages as tools of the tests: virtual environments in the cache folder, made once.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::server::{environment, root};

/// The Python of a virtual environment that pip made with these arguments. It is kept in the cache folder, and made
/// anew when `arguments` or `pins` (the text of what they name) have changed.
pub(crate) fn virtual_environment(name: &str, arguments: &[&str], pins: &str) -> PathBuf {
    let cache = cache_folder();
    let lock = File::create(cache.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock can be taken");
    let venv = cache.join(name);
    let python = venv.join("bin").join("python");
    let (recipe, made) = (format!("{arguments:?}\n{pins}"), venv.join("quarry-recipe.txt"));
    // Written last: an environment that was left half made has none.
    if fs::read_to_string(&made).is_ok_and(|text| text == recipe) {
        return python;
    }
    let mut make = Command::new("python3");
    run(make.args(["-m", "venv", "--clear"]).arg(&venv), name);
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]);
    run(pip.args(arguments), name);
    fs::write(made, recipe).expect("the cache folder can be written");
    python
}

/// Where what is made once is kept.
pub(crate) fn cache_folder() -> PathBuf {
    let cache = environment("QUARRY_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(environment("HOME").expect("HOME is set")).join(".cache").join("quarry"));
    fs::create_dir_all(&cache).expect("the cache folder can be created");
    cache
}

fn run(command: &mut Command, name: &str) {
    let failure = match command.output() {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    panic!("the check '{name}' needs Python 3 with venv, and network the first time: {command:?} failed: {failure}");
}

/// What a script below `tests/checks` prints for a task on its standard input.
pub(crate) fn run_script(python: &Path, script: &str, task: &Value) -> Value {
    let mut child = Command::new(python)
        .arg(root().join("tests/checks").join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python can be started");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = task.to_string();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("Python can be waited for");
    writer.join().expect("the writer does not panic").expect("Python reads its input");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} fails: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{script} prints no JSON ({error}): {said}"))
}
