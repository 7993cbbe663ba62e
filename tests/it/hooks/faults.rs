//! What is wrong with a `cube.js` is told before anything is served.

use super::project;
use crate::server::{SECRET, printed, run};

#[test]
fn faults_are_told_at_start_and_by_check() {
    let cases = [
        (
            "module.exports = { queryRewirte: (query) => query }",
            "cube.js: Invalid cube-server-core options: \"queryRewirte\" is not allowed: did you mean 'queryRewrite'?",
        ),
        (
            "module.exports = { checkAuth: true, http: { cors: { orgin: '*' } } }",
            "\"http.cors.orgin\" is not allowed: did you mean 'http.cors.origin'?",
        ),
        ("module.exports = { checkAuth: true }", "\"checkAuth\" must be a function"),
        ("module.exports = { dbType: 'postgres' }", "\"dbType\" is not allowed: it was removed from Cube"),
        ("module.exports = {\n  queryRewrite: (query => query\n}", "cube.js:3:1: "),
        ("const jwt = require('jsonwebtoken')", "cube.js:1:21: the package 'jsonwebtoken' is not available"),
        (
            "module.exports = { http: { cors: { origin: /example/ } } }",
            "\"http.cors.origin\" must be a string, a boolean or an array of strings",
        ),
        ("for (;;) {}", "the script did not end within 1 s"),
        ("module.exports = { basePath: 'api' }", "CUBEJS_BASE_PATH is 'api', but a path such as /api is expected"),
        ("module.exports = { jwt: { jwkUrl: () => 'http://keys' } }", "\"jwt.jwkUrl\" must be a string"),
    ];
    for (main, expected) in cases {
        let project = project(main);
        for args in [&["serve", "--host", "127.0.0.1", "--port", "0"][..], &["check"]] {
            let settings = [("CUBEJS_API_SECRET", SECRET), ("QUARRY_HOOK_TIMEOUT", "1")];
            let output = run(project.path(), &settings, args);
            let text = printed(&output);
            assert!(!output.status.success() && !text.contains("listening on"), "{args:?} {main}: {text}");
            assert!(text.contains(expected), "{args:?} {main}: {text}");
        }
    }
}

#[test]
fn other_languages_stop_the_start() {
    for name in ["cube.py", "cube.ts"] {
        let project = project("");
        std::fs::remove_file(project.path().join("cube.js")).expect("it was written");
        project.write(name, "config.base_path = '/api'");
        let output = run(project.path(), &[("CUBEJS_API_SECRET", SECRET)], &["serve", "--port", "0"]);
        let text = printed(&output);
        assert!(!output.status.success() && text.contains(&format!("{name} is not run")), "{text}");
    }
}

#[test]
fn check_names_what_has_no_effect() {
    let project =
        project("module.exports = { queryRewrite: (q) => q, repositoryFactory: () => ({}), fastReload: true }");
    let output = run(project.path(), &[], &["check"]);
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("cube.js: fastReload, repositoryFactory have no effect")
            || text.contains("cube.js: repositoryFactory, fastReload have no effect"),
        "{text}"
    );
    assert!(text.contains("the data model is valid"), "{text}");
}
