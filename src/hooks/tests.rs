use std::time::Duration;

use super::*;

const LIMITS: Limits = Limits { time: Duration::from_secs(2), memory: 8 << 20, stack: 256 << 10 };

fn load(files: &[(&str, &str)]) -> Result<Option<CubeJs>, Vec<String>> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder above")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    CubeJs::load(folder.path(), &BTreeMap::from([("REGION".to_owned(), "eu".to_owned())]), LIMITS)
}

fn hooks(main: &str) -> Hooks {
    Hooks::new(&load(&[("cube.js", main)]).expect("sound").expect("there"))
}

fn entry(token: Option<&'static str>) -> Entry<'static> {
    Entry {
        id: "r-span-1",
        token,
        checks: true,
        context: None,
        signed_by_playground: false,
        scopes: Some(vec!["meta", "data"]),
    }
}

#[test]
fn a_project_without_the_file_has_no_hooks() {
    assert!(load(&[("other.js", "")]).expect("sound").is_none());
}

#[test]
fn both_ways_to_export_are_known() {
    for main in [
        "module.exports = { queryRewrite: (q) => q }",
        "exports.queryRewrite = (q) => q",
        "export const queryRewrite = (q) => q",
        "export default { queryRewrite: (q) => q }",
        "const lib = require('./lib/own'); module.exports = { queryRewrite: lib.rewrite }",
        "import { rewrite } from './lib/own'; module.exports = { queryRewrite: rewrite }",
    ] {
        let loaded = load(&[("cube.js", main), ("lib/own.js", "exports.rewrite = (q) => q")]);
        assert!(loaded.expect(main).expect(main).options().has("queryRewrite"), "{main}");
    }
}

#[test]
fn a_file_that_does_not_run_is_told_with_its_place() {
    for (main, expected) in [
        ("module.exports = {\n  a: = 1\n}", "cube.js:2:6: "),
        ("throw new Error('no')", "cube.js:1:11: no"),
        ("for (;;) {}", "did not end within 2 s"),
        ("require('lodash')", "the package 'lodash' is not available"),
        ("require('./lib')", "the file 'lib' is not there"),
        ("module.exports = 5", "module.exports has to be an object with options, not number"),
        ("module.exports = { queryRewirte: 1 }", "\"queryRewirte\" is not allowed: did you mean 'queryRewrite'?"),
        ("setTimeout(() => 1, 10)", "'setTimeout' runs only while a hook waits for it"),
        ("process.exit(1)", "cube.js cannot end the server"),
    ] {
        let faults = load(&[("cube.js", main)]).expect_err(main);
        assert!(faults[0].contains(expected), "{main}: {faults:?}");
    }
}

#[tokio::test]
async fn who_asks_is_decided_in_order() {
    let hooks = hooks(
        "module.exports = {
           checkAuth: async (req, token) => {
             if (token !== 'good') throw new Error('Access denied');
             req.securityContext = { by: token, tenant: req.headers['x-tenant'], region: process.env.REGION };
           },
           extendContext: (req) => ({ path: req.path, who: req.securityContext.by, authInfo: req.authInfo }),
           contextToApiScopes: (context, defaults) => context.tenant === 'acme' ? [...defaults, 'jobs'] : [],
         }",
    );
    let head = RequestHead { url: "/v1/load?a=1".to_owned(), ..RequestHead::default() };
    let head = RequestHead { headers: BTreeMap::from([("x-tenant".to_owned(), "acme".to_owned())]), ..head };
    let admission = hooks.admit(&head, entry(Some("good"))).await.expect("let in");
    assert_eq!(admission.security_context(), Some(&json!({"by": "good", "tenant": "acme", "region": "eu"})));
    assert_eq!((&admission.request["path"], &admission.request["who"]), (&json!("/v1/load"), &json!("good")));
    assert_eq!(admission.scopes.as_deref().expect("scopes"), ["meta", "data", "jobs"]);
    for token in [None, Some("bad")] {
        let error = hooks.admit(&head, entry(token)).await.expect_err("not let in");
        assert_eq!(error.to_string(), "Error: Access denied");
    }
}

#[tokio::test]
async fn what_a_check_returns_is_stronger_than_what_it_sets() {
    for (check, expected) in [
        ("(req) => { req.securityContext = {a: 1}; return { security_context: {b: 2} } }", Some(json!({"b": 2}))),
        ("(req) => { req.securityContext = {a: 1}; return {} }", Some(json!({"a": 1}))),
        ("(req) => { req.authInfo = {a: 1} }", Some(json!({"a": 1}))),
        ("async () => ({ security_context: 'text' })", Some(json!("text"))),
        ("() => {}", None),
    ] {
        let hooks = hooks(&format!("module.exports = {{ checkAuth: {check} }}"));
        let admission = hooks.admit(&RequestHead::default(), entry(None)).await.expect("let in");
        assert_eq!(admission.security_context(), expected.as_ref(), "{check}");
    }
}

#[tokio::test]
async fn hooks_that_fail_are_errors_and_the_next_one_runs() {
    let hooks = hooks(
        "const { UserError } = require('@cubejs-backend/api-gateway');
         const kept = [];
         module.exports = { queryRewrite: async (query) => {
           switch (query.what) {
             case 'throw': throw new TypeError('no');
             case 'text': throw 'a text';
             case 'user': throw new UserError('not for you');
             case 'loop': for (;;) {}
             case 'later': return new Promise(() => {});
             case 'never': await new Promise((resolve) => setTimeout(resolve, 60_000));
             case 'wait': await new Promise((resolve) => setTimeout(resolve, 20)); return { waited: true };
             case 'eat': { const a = []; for (;;) a.push(new Array(100).fill(a.length)); }
             case 'keep': for (;;) kept.push(new Array(100).fill(kept.length));
             case 'deep': return (function f() { return f() + 1; })();
             case 'odd': return query.result;
             case 'circle': { const o = {}; o.o = o; return o; }
             case 'body': return query;
           }
           return query;
         } }",
    );
    for (query, expected) in [
        (json!({"what": "throw"}), "TypeError: no"),
        (json!({"what": "text"}), "a text"),
        (json!({"what": "user"}), "UserError: not for you"),
        (json!({"what": "loop"}), "Error: queryRewrite of cube.js failed: the script did not end within 2 s"),
        (json!({"what": "never"}), "Error: queryRewrite of cube.js failed: the script did not end within 2 s"),
        (
            json!({"what": "later"}),
            "Error: queryRewrite of cube.js failed: the script waits for a promise that nothing will settle",
        ),
        (json!({"what": "eat"}), "Error: queryRewrite of cube.js failed: the script uses more than 8 MB of memory"),
        (json!({"what": "keep"}), "Error: queryRewrite of cube.js failed: the script uses more than 8 MB of memory"),
        (
            json!({"what": "deep"}),
            "Error: queryRewrite of cube.js failed: the script calls too deep: it seems to call itself without end",
        ),
        (json!({"what": "odd"}), "Error: queryRewrite of cube.js gave undefined, not a query"),
        (json!({"what": "odd", "result": [1]}), "Error: queryRewrite of cube.js gave object, not a query"),
    ] {
        let error = hooks.rewrite(vec![query.clone()], &json!({})).await.expect_err("a fault");
        assert_eq!(error.to_string(), expected, "{query}");
        let sound = hooks.rewrite(vec![json!({"what": "wait"})], &json!({})).await;
        assert_eq!(sound.expect("the next one runs"), [json!({"waited": true})], "after {query}");
    }
    hooks.rewrite(vec![json!({"what": "circle"})], &json!({})).await.expect_err("no JSON");
}

#[tokio::test]
async fn a_slow_hook_does_not_stop_the_others() {
    let hooks = hooks(
        "module.exports = { queryRewrite: (query) => { for (const end = Date.now() + query.ms; Date.now() < end;); return query; } }",
    );
    let slow = |ms: u64| hooks.rewrite(vec![json!({ "ms": ms })], &Json::Null);
    let first = tokio::select! {
        biased;
        slowest = slow(1_500) => slowest.map(|_| "slow"),
        quick = slow(0) => quick.map(|_| "quick"),
    };
    assert_eq!(first, Ok("quick"));
}

#[tokio::test]
async fn what_belongs_to_a_context_is_checked() {
    let hooks = hooks(
        "module.exports = {
           contextToRoles: () => { throw new Error('older') },
           contextToGroups: async ({ securityContext }) => securityContext.groups }",
    );
    let of = async |groups: Json| hooks.belongings(&json!({"securityContext": {"groups": groups}})).await;
    assert_eq!(of(json!(["a"])).await.expect("sound").groups, Some(vec!["a".to_owned()]));
    for odd in [json!("a"), json!([1]), Json::Null] {
        let text = of(odd.clone()).await.expect_err("no list").to_string();
        assert_eq!(text, format!("Error: contextToGroups of cube.js gave {odd}, not an array of strings"));
    }
}
