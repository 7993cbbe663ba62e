//! Who is let in, and for what: `checkAuth`, `extendContext`, `contextToApiScopes`, `contextToGroups`.

use serde_json::{Value, json};

use super::{MODEL, ask, count, counted, project, token};
use crate::server::{LOAD, SECRET, Server, quarry, sign};

const META: &str = "/cubejs-api/v1/meta";

/// The example of Cube's documentation, word for word.
const SERVICE_ACCOUNTS: &str = r#"module.exports = {
  contextToApiScopes: (securityContext, defaultScopes) => {
    if (securityContext.service) {
      return ["meta", ...defaultScopes]
    }

    return defaultScopes
  }
}
"#;

#[test]
fn the_metadata_are_open_to_service_accounts_only() {
    let server = Server::start_with(&project(SERVICE_ACCOUNTS), &[("CUBEJS_DEFAULT_API_SCOPES", "data,graphql")]);
    let meta = |claims: Value| server.call("GET", META).token(&token(&claims)).send();
    let reply = meta(json!({"service": true}));
    assert_eq!((reply.status, &reply.value()["cubes"][0]["name"]), (200, &json!("orders")));
    for claims in [json!({}), json!({"service": false}), json!({"u": {"service": true}})] {
        let reply = meta(claims);
        assert_eq!((reply.status, reply.value()), (403, json!({"error": "API scope is missing: meta"})));
    }
    // Who is not known is told that, whatever the scopes.
    let reply = server.call("GET", META).send();
    assert_eq!((reply.status, reply.error().as_str()), (403, "Authorization header isn't set"));
    assert_eq!(count(&server, &json!({})), "5");
    assert_eq!(count(&server, &json!({"service": true})), "5");
}

#[test]
fn scopes_that_make_no_sense_let_nobody_in() {
    let server = Server::start(&project(
        "module.exports = { contextToApiScopes: async (context, defaults) => {
           if (context.throws) throw new Error('no scopes for you');
           if (context.loops) for (;;) {}
           return context.scopes ?? [...defaults, 'jobs'];
         } }",
    ));
    let inconsistent = "500 Error: A user-defined contextToApiScopes function returns an inconsistent type.";
    for (claims, expected) in [
        (json!({}), "5"),
        (json!({"scopes": ["data"]}), "5"),
        (json!({"scopes": ["meta"]}), "403 API scope is missing: data"),
        (json!({"scopes": []}), "403 API scope is missing: data"),
        (json!({"scopes": "data"}), inconsistent),
        (json!({"scopes": {"data": true}}), inconsistent),
        (
            json!({"scopes": ["data", "all"]}),
            "500 Error: A user-defined contextToApiScopes function returns a wrong scope: all",
        ),
        (
            json!({"scopes": ["data", 5]}),
            "500 Error: A user-defined contextToApiScopes function returns a wrong scope: 5",
        ),
        (json!({"throws": true}), "500 Error: no scopes for you"),
    ] {
        assert_eq!(count(&server, &claims), expected, "{claims}");
    }
}

#[test]
fn check_auth_takes_the_place_of_the_secret() {
    // Without a secret in the environment: nothing is checked with it.
    let project = project(
        "const { CubejsHandlerError } = require('@cubejs-backend/api-gateway');
         const known = require('./config/tokens.json');
         module.exports = {
           checkAuth: async (req, token) => {
             if (token === 'teapot') throw new CubejsHandlerError(418, 'Teapot', 'I am a teapot');
             if (token === 'returned') { req.securityContext = { tenant: 'bond' }; return { security_context: { tenant: 'acme' } }; }
             if (token === 'text') { req.securityContext = 'acme'; return; }
             if (req.headers['x-tenant']) { req.securityContext = { tenant: req.headers['x-tenant'] }; return; }
             await new Promise((resolve) => setTimeout(resolve, 5));
             if (!known[token]) throw new Error('Access denied');
             req.securityContext = known[token];
           },
           queryRewrite: (query, { securityContext }) => {
             query.filters.push({ member: 'orders.tenant', operator: 'equals', values: [String(securityContext?.tenant)] });
             return query;
           },
         }",
    );
    project.write("config/tokens.json", r#"{"a-key": {"tenant": "acme"}, "b-key": {"tenant": "bond"}}"#);
    let server = Server::spawn(project.path(), &[], &["serve", "--host", "127.0.0.1", "--port", "0"]);
    let query = json!({"query": {"measures": ["orders.count"]}});
    let with = |name: &str, value: &str| server.call("POST", LOAD).header(name, value).json(&query).send();
    for (value, expected) in [
        ("a-key", "3"),
        ("Bearer a-key", "3"),
        ("b-key", "2"),
        ("returned", "3"),
        ("text", "0"),
        ("c-key", "500 Error: Access denied"),
        ("", "500 Error: Access denied"),
        ("teapot", "418 I am a teapot"),
        (&sign(&json!({"tenant": "acme"}), SECRET), "500 Error: Access denied"),
    ] {
        assert_eq!(counted(&with("authorization", value)), expected, "{value}");
    }
    assert_eq!(counted(&with("X-Tenant", "bond")), "2");
    let nobody = server.call("POST", LOAD).json(&query).send();
    assert_eq!(nobody.value(), json!({"error": "Error: Access denied"}));
    assert_eq!(server.call("GET", "/readyz").send().status, 200, "probes ask nobody");
    assert!(server.log().contains("the security context is no object"), "{}", server.log());
}

#[test]
fn a_check_that_does_nothing_lets_everybody_in() {
    let server = Server::start(&project("module.exports = { checkAuth: () => {} }"));
    for token in ["", "garbage"] {
        let reply = server.call("POST", LOAD).header("authorization", token).json(&json!({"query":
            {"measures": ["orders.count"]}}));
        assert_eq!(counted(&reply.send()), "5");
    }
}

#[test]
fn contexts_are_extended_after_the_token_is_checked() {
    let server = Server::start(&project(
        "module.exports = {
           extendContext: (req) => {
             if (req.query.broken) throw new Error('no context');
             if (req.query.odd) return { f: () => 1 };
             return {
               tenant: req.get('X-Tenant') ?? req.securityContext.tenant,
               ...(req.query.as ? { securityContext: { as: req.query.as } } : {}),
             };
           },
           queryRewrite: (query, context) => {
             if (context.authInfo.tenant !== 'acme' || !/-span-/.test(context.requestId)) throw new Error('no token');
             const values = [context.securityContext.as ?? context.tenant];
             query.filters.push({ member: 'orders.tenant', operator: 'equals', values });
             return query;
           },
         }",
    ));
    let ask = |path: &str, tenant: Option<&str>| {
        let call = server.call("POST", &format!("{LOAD}{path}")).token(&token(&json!({"tenant": "acme"})));
        let call = tenant.into_iter().fold(call, |call, tenant| call.header("x-tenant", tenant));
        counted(&call.json(&json!({"query": {"measures": ["orders.count"]}})).send())
    };
    assert_eq!(ask("", None), "3");
    assert_eq!(ask("", Some("bond")), "2");
    assert_eq!(ask("?as=bond", None), "2", "a new security context is taken");
    assert_eq!(ask("?broken=1", None), "500 Error: no context");
    assert!(ask("?odd=1", None).contains("the result of extendContext.f is a function"));
    let reply = server.call("POST", LOAD).token("garbage").json(&json!({"query": {}})).send();
    assert_eq!((reply.status, reply.error().as_str()), (403, "Invalid token"));
}

#[test]
fn development_mode_has_no_context_and_hooks_cope() {
    let server = Server::start_with(
        &project(
            "module.exports = {
               contextToApiScopes: (context, defaults) => context.tenant ? defaults : ['data'],
               queryRewrite: (query, { securityContext }) => {
                 if (securityContext === undefined) query.filters.push({ member: 'orders.tenant', operator: 'notSet' });
                 return query;
               } }",
        ),
        &[("CUBEJS_DEV_MODE", "true")],
    );
    let reply = server.call("POST", LOAD).json(&json!({"query": {"measures": ["orders.count"]}})).send();
    assert_eq!(counted(&reply), "0");
    assert_eq!(server.call("GET", META).send().error(), "API scope is missing: meta");
    assert_eq!(count(&server, &json!({"tenant": "acme"})), "5");
}

#[test]
fn groups_come_from_the_hook_and_match_policies() {
    let policies = "    access_policy:
      - {group: all, row_level: {allow_all: true}}
      - {group: acme, row_level: {filters: [{member: tenant, operator: equals, values: [acme]}]}}
";
    for name in ["contextToGroups", "contextToRoles"] {
        let project =
            project(&format!("module.exports = {{ {name}: async ({{ securityContext }}) => securityContext.teams }}"));
        project.write("model/orders.yml", &format!("{MODEL}{policies}"));
        let server = Server::start(&project);
        assert_eq!(count(&server, &json!({"teams": ["all"]})), "5", "{name}");
        assert_eq!(count(&server, &json!({"teams": ["acme"], "groups": ["all"]})), "3", "{name}");
        let hidden = count(&server, &json!({"teams": [], "groups": ["all"]}));
        assert!(hidden.starts_with("500 Error: You requested hidden member"), "{name}: {hidden}");
        let odd = count(&server, &json!({"teams": "all"}));
        assert_eq!(odd, format!("500 Error: {name} of cube.js gave \"all\", not an array of strings"));
    }
}

#[test]
fn conditions_of_the_hook_need_no_leave_and_what_it_selects_does() {
    let project = project(
        "module.exports = {
           contextToGroups: ({ securityContext }) => [securityContext.group],
           queryRewrite: (query, { securityContext }) => {
             if (securityContext.peek) query.dimensions.push('orders.tenant');
             query.filters.push({ member: 'orders.tenant', operator: 'equals', values: ['acme'] });
             return query;
           } }",
    );
    let policies = "    access_policy:
      - {group: few, member_level: {includes: [count, status]}}
      - {group: all, member_level: {includes: '*'}}
";
    project.write("model/orders.yml", &format!("{MODEL}{policies}"));
    let server = Server::start(&project);
    assert_eq!(count(&server, &json!({"group": "few"})), "3");
    assert_eq!(count(&server, &json!({"group": "all"})), "3");
    let by_tenant = json!({"measures": ["orders.count"], "dimensions": ["orders.tenant"]});
    let hidden = ask(&server, &json!({"group": "few"}), &by_tenant);
    assert!(hidden.error().contains("You requested hidden member"), "{}", hidden.body);
    let peeked = count(&server, &json!({"group": "few", "peek": true}));
    assert!(peeked.contains("You requested hidden member"), "{peeked}");
    assert_eq!(count(&server, &json!({"group": "all", "peek": true})), "3");
}

#[test]
fn commands_of_the_operator_ask_nobody() {
    let project = project("module.exports = { checkAuth: () => { throw new Error('Access denied') } }");
    let output = quarry(project.path(), &[("CUBEJS_API_SECRET", SECRET)])
        .args(["query", r#"{"measures":["orders.count"]}"#])
        .output()
        .expect("the binary can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"5\""));
}
