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
    let of = async |main: &str, context: Json| {
        let found = hooks(main).belongings(&json!({ "securityContext": context })).await;
        found.map_err(|error| error.to_string())
    };
    let main = "module.exports = {
        contextToAppId: ({ securityContext }) => `app_${securityContext.tenant}`,
        contextToOrchestratorId: ({ securityContext }) => securityContext.tenant,
        contextToRoles: () => { throw new Error('older') },
        contextToGroups: async ({ securityContext }) => securityContext.groups }";
    let found = of(main, json!({"tenant": 7, "groups": ["a"]})).await.expect("sound");
    let expected = Belongings {
        app: Some("app_7".to_owned()),
        orchestrator: Some("7".to_owned()),
        schema_version: None,
        groups: Some(vec!["a".to_owned()]),
    };
    assert_eq!(found, expected);
    let odd = of(main, json!({"tenant": 7, "groups": "a"})).await.expect_err("no list");
    assert_eq!(odd, "Error: contextToGroups of cube.js gave \"a\", not an array of strings");
    let odd = of("module.exports = { contextToAppId: () => ({}) }", json!({})).await.expect_err("no text");
    assert_eq!(odd, "Error: contextToAppId of cube.js gave {}, not a string");
    let nobody = of("module.exports = { contextToAppId: ({ securityContext: s }) => s && s.tenant }", json!({})).await;
    assert!(nobody.expect_err("nothing").ends_with("not a string"));
}

#[tokio::test]
async fn users_of_the_sql_api_are_described_by_the_project() {
    let hooks = hooks(
        "module.exports = {
           checkSqlAuth: async (req, user, password) => {
             if (user === 'own') return { password: 'secret', securityContext: { tenant: user }, superuser: true };
             if (user === 'checked' && password === 'given') return { skipPasswordCheck: true, securityContext: { user } };
             if (user === 'open') return { securityContext: {} };
             if (user === 'odd') return 'yes';
             if (user === 'number') return { password: 5 };
             throw new Error('Access denied');
           },
           canSwitchSqlUser: (current, next) => current === 'own' && next !== 'root' }",
    );
    let of = async |user: &str, password: Option<&str>| hooks.check_sql_auth(&json!({}), user, password).await;
    let own = SqlUser {
        password: SqlPassword::Is("secret".to_owned()),
        superuser: true,
        security_context: json!({"tenant": "own"}),
    };
    assert_eq!(of("own", None).await, Ok(Some(own.clone())));
    assert_eq!(format!("{:?}", own.password), "Is(_)", "passwords are not for logs");
    let checked = of("checked", Some("given")).await.expect("let in").expect("a user");
    assert_eq!((checked.password, checked.security_context), (SqlPassword::Any, json!({"user": "checked"})));
    for (user, expected) in [
        ("checked", "Error: Access denied"),
        ("open", "Error: checkSqlAuth of cube.js gave no password, and no skipPasswordCheck"),
        ("odd", "Error: checkSqlAuth of cube.js gave \"yes\", not a user"),
        ("number", "Error: checkSqlAuth of cube.js gave the password 5, not a string"),
        ("nobody", "Error: Access denied"),
    ] {
        assert_eq!(of(user, None).await.expect_err(user).to_string(), expected, "{user}");
    }
    assert_eq!(hooks.can_switch_sql_user("own", "other").await, Ok(Some(true)));
    assert_eq!(hooks.can_switch_sql_user("own", "root").await, Ok(Some(false)));
    let without = self::hooks("module.exports = {}");
    assert_eq!(without.check_sql_auth(&json!({}), "own", None).await, Ok(None));
    assert_eq!(without.can_switch_sql_user("own", "other").await, Ok(None));
}

#[tokio::test]
async fn the_background_asks_for_contexts_and_zones() {
    let of = async |contexts: &str| {
        let hooks = hooks(&format!("module.exports = {{ scheduledRefreshContexts: {contexts} }}"));
        hooks.background_contexts().await.map_err(|error| error.to_string())
    };
    let given = of("async () => [{ securityContext: { a: 1 } }, {}, null]").await;
    assert_eq!(given, Ok(vec![json!({"a": 1}), json!({}), json!({})]));
    assert!(of("() => 5").await.is_err_and(|text| text.ends_with("gave 5, not a list of contexts")));
    assert!(of("() => ['a']").await.is_err_and(|text| text.ends_with("gave \"a\", not a list of contexts")));
    let zones =
        hooks("module.exports = { scheduledRefreshTimeZones: ({ securityContext }) => [securityContext.zone] }");
    let given = zones.background_zones(&json!({"zone": "UTC"})).await;
    assert_eq!(given, Ok(Some(vec!["UTC".to_owned()])));
    assert!(zones.background_zones(&json!({"zone": 5})).await.is_err());
    let listed = hooks("module.exports = { scheduledRefreshTimeZones: ['UTC'] }");
    assert_eq!(listed.background_zones(&json!({})).await, Ok(None), "a list is a setting");
    assert_eq!(listed.background_contexts().await, Ok(vec![json!({})]));
}
