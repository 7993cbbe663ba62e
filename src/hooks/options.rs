//! The options of `cube.js`: which there are, of what kind, and what becomes of each here (`http-api.md` §14).

use serde_json::{Map, Value as Json};

use crate::names::nearest;

/// What an option may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Function,
    Text,
    Flag,
    /// From, to.
    Number(u64, u64),
    Texts,
    OneOf(&'static [&'static str]),
    Object(&'static [Key]),
    /// Looked at by whoever takes it.
    Any,
    Either(&'static Self, &'static Self),
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Honoured,
    /// Asks for what is so anyway.
    Moot,
    /// Named at start.
    Ignored,
    /// Stops the start; with the reason.
    Refused(&'static str),
}

/// A known option.
#[derive(Debug)]
struct Key {
    name: &'static str,
    kind: Kind,
    effect: Effect,
}

const fn key(name: &'static str, kind: Kind, effect: Effect) -> Key {
    Key { name, kind, effect }
}

use Effect::{Honoured, Ignored, Moot, Refused};
use Kind::{Any, Either, Flag, Function, Number, Object, OneOf, Text, Texts};

const NUMBER: Kind = Number(0, 1 << 53);
const DB_TYPE: &str = "it was removed from Cube: use driverFactory or CUBEJS_DB_TYPE";

const QUEUE: &[Key] = &[
    key("concurrency", Number(1, 256), Honoured),
    key("continueWaitTimeout", Number(0, 90), Ignored),
    key("executionTimeout", NUMBER, Honoured),
    key("orphanedTimeout", NUMBER, Ignored),
    key("heartBeatInterval", NUMBER, Ignored),
    key("sendProcessMessageFn", Function, Ignored),
    key("sendCancelMessageFn", Function, Ignored),
];

const QUERY_QUEUE: &[Key] = &[
    key("concurrency", Number(1, 256), Honoured),
    key("continueWaitTimeout", Number(0, 90), Ignored),
    key("executionTimeout", NUMBER, Honoured),
    key("orphanedTimeout", NUMBER, Honoured),
    key("heartBeatInterval", NUMBER, Ignored),
    key("sendProcessMessageFn", Function, Ignored),
    key("sendCancelMessageFn", Function, Ignored),
];

const ORCHESTRATOR: &[Key] = &[
    key("continueWaitTimeout", Number(0, 90), Honoured),
    key("rollupOnlyMode", Flag, Honoured),
    key("redisPrefix", Text, Ignored),
    key("skipExternalCacheAndQueue", Flag, Ignored),
    key("testConnectionTimeout", NUMBER, Ignored),
    key(
        "queryCacheOptions",
        Object(&[
            key("refreshKeyRenewalThreshold", NUMBER, Ignored),
            key("backgroundRenew", Flag, Honoured),
            key("queueOptions", Either(&Object(QUERY_QUEUE), &Function), Honoured),
            key("externalQueueOptions", Either(&Object(QUERY_QUEUE), &Function), Ignored),
        ]),
        Honoured,
    ),
    key(
        "preAggregationsOptions",
        Object(&[
            key("queueOptions", Either(&Object(QUEUE), &Function), Honoured),
            key("externalRefresh", Flag, Ignored),
            key("maxPartitions", Number(1, 1_000_000), Honoured),
        ]),
        Honoured,
    ),
];

const JWT: &[Key] = &[
    key("key", Text, Honoured),
    key("algorithms", Texts, Honoured),
    key("issuer", Texts, Honoured),
    key("audience", Text, Honoured),
    key("subject", Text, Honoured),
    key("claimsNamespace", Text, Honoured),
    key("jwkUrl", Text, Honoured),
    key("jwkRetry", Number(1, 5), Ignored),
    key("jwkDefaultExpire", NUMBER, Ignored),
    key("jwkRefetchWindow", NUMBER, Honoured),
];

const CORS: &[Key] = &[
    key("origin", Any, Honoured),
    key("methods", Any, Honoured),
    key("allowedHeaders", Any, Honoured),
    key("exposedHeaders", Any, Honoured),
    key("credentials", Flag, Honoured),
    key("maxAge", NUMBER, Honoured),
    key("preflightContinue", Flag, Honoured),
    key("optionsSuccessStatus", Number(200, 299), Honoured),
];

/// Every option of Cube.
const KEYS: &[Key] = &[
    key("allowJsDuplicatePropsInSchema", Flag, Ignored),
    key("allowNodeRequire", Flag, Ignored),
    key("allowUngroupedWithoutPrimaryKey", Flag, Honoured),
    key("apiSecret", Text, Honoured),
    key("basePath", Text, Honoured),
    key("cacheAndQueueDriver", OneOf(&["memory", "cubestore", "redis"]), Ignored),
    key("canSwitchSqlUser", Function, Honoured),
    key("checkAuth", Function, Honoured),
    key("checkSqlAuth", Function, Honoured),
    key("compilerCacheSize", NUMBER, Honoured),
    key("contextToApiScopes", Function, Honoured),
    key("contextToAppId", Function, Honoured),
    key("contextToCubeStoreRouterId", Function, Ignored),
    key("contextToDataSourceId", Function, Refused("it was removed from Cube: use contextToOrchestratorId")),
    key("contextToGroups", Function, Honoured),
    key("contextToOrchestratorId", Function, Honoured),
    key("contextToRoles", Function, Honoured),
    key("dashboardAppPath", Text, Ignored),
    key("dashboardAppPort", NUMBER, Ignored),
    key("dbType", Any, Refused(DB_TYPE)),
    key("devServer", Flag, Ignored),
    key("dialectFactory", Function, Ignored),
    key("driverFactory", Function, Honoured),
    key("eventEmitterOptions", Any, Ignored),
    key("extendContext", Function, Honoured),
    key("externalDbType", Any, Ignored),
    key("externalDialectFactory", Function, Ignored),
    key("externalDriverFactory", Function, Ignored),
    key("fastReload", Flag, Ignored),
    key("gatewayPort", NUMBER, Ignored),
    key("gracefulShutdown", NUMBER, Honoured),
    key("http", Object(&[key("cors", Object(CORS), Honoured)]), Honoured),
    key("jwt", Object(JWT), Honoured),
    key("livePreview", Flag, Ignored),
    key("logger", Function, Honoured),
    key("maxCompilerCacheKeepAlive", NUMBER, Honoured),
    key("orchestratorOptions", Either(&Object(ORCHESTRATOR), &Function), Honoured),
    key("pgSqlPort", NUMBER, Honoured),
    key("preAggregationsSchema", Either(&Text, &Function), Honoured),
    key("processSubscriptionsInterval", NUMBER, Honoured),
    key("queryRewrite", Function, Honoured),
    key("queryTags", Function, Ignored),
    key("queryTransformer", Function, Honoured),
    key("repositoryFactory", Function, Ignored),
    key("scheduledRefreshBatchSize", Number(1, 1 << 53), Honoured),
    key("scheduledRefreshConcurrency", Number(1, 10_000), Honoured),
    key("scheduledRefreshContexts", Function, Honoured),
    key("scheduledRefreshTimeZones", Either(&Texts, &Function), Honoured),
    key("scheduledRefreshTimer", Either(&Flag, &NUMBER), Honoured),
    key("schemaPath", Text, Honoured),
    key("schemaVersion", Function, Honoured),
    key("semanticLayerSync", Function, Ignored),
    key("serverHeadersTimeout", NUMBER, Honoured),
    key("serverKeepAliveTimeout", NUMBER, Honoured),
    key("serverless", Flag, Ignored),
    key("sqlCache", Flag, Ignored),
    key("sqlPassword", Text, Honoured),
    key("sqlPort", NUMBER, Ignored),
    key("sqlSuperUser", Text, Honoured),
    key("sqlUser", Text, Honoured),
    key("telemetry", Flag, Moot),
    key("updateCompilerCacheKeepAlive", Flag, Honoured),
    key("webSockets", Flag, Honoured),
    key("webSocketsBasePath", Text, Honoured),
];

/// The options that a `cube.js` gives. Functions are marked and called by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Options(Json);

impl Options {
    /// From what the file exports; with every fault.
    pub(super) fn check(exported: Json) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        if let Json::Object(entries) = &exported {
            check_keys(entries, KEYS, "", &mut faults);
        }
        (Self(exported), faults)
    }

    /// Options that are there and have no effect, by path.
    pub(super) fn ignored(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Json::Object(entries) = &self.0 {
            list_ignored(entries, KEYS, "", &mut found);
        }
        found
    }

    /// Whether an option is a function.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_function)
    }

    /// The option at a path such as `http.cors`; none when it is absent or null.
    pub fn get(&self, path: &str) -> Option<&Json> {
        path.split('.').try_fold(&self.0, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// The text at a path.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// The number at a path.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.get(path)?.as_u64()
    }

    /// The truth value at a path.
    pub fn flag(&self, path: &str) -> Option<bool> {
        self.get(path)?.as_bool()
    }
}

fn is_function(value: &Json) -> bool {
    value.get("$function").is_some()
}

fn check_keys(entries: &Map<String, Json>, known: &[Key], prefix: &str, faults: &mut Vec<String>) {
    for (name, value) in entries {
        let path = format!("{prefix}{name}");
        match known.iter().find(|key| key.name == name) {
            None => {
                let near = nearest(name, known.iter().map(|key| key.name));
                let hint = near.map(|near| format!(": did you mean '{prefix}{near}'?")).unwrap_or_default();
                faults.push(format!("\"{path}\" is not allowed{hint}"));
            }
            Some(Key { effect: Refused(reason), .. }) => faults.push(format!("\"{path}\" is not allowed: {reason}")),
            Some(_) if value.is_null() => {}
            Some(key) => match (key.kind.keys(), value) {
                (Some(inner), Json::Object(entries)) if !is_function(value) => {
                    check_keys(entries, inner, &format!("{path}."), faults);
                }
                _ if key.kind.admits(value) => {}
                _ => faults.push(format!("\"{path}\" must be {}", key.kind.words())),
            },
        }
    }
}

fn list_ignored(entries: &Map<String, Json>, known: &[Key], prefix: &str, found: &mut Vec<String>) {
    for (name, value) in entries {
        let Some(key) = known.iter().find(|key| key.name == name && !value.is_null()) else { continue };
        let called = matches!(key.kind, Either(Object(_), Function)) && is_function(value);
        if key.effect == Ignored || called {
            found.push(format!("{prefix}{name}"));
        } else if let (Some(inner), Json::Object(entries)) = (key.kind.keys(), value) {
            list_ignored(entries, inner, &format!("{prefix}{name}."), found);
        }
    }
}

impl Kind {
    /// The keys of an object.
    fn keys(&self) -> Option<&'static [Key]> {
        match self {
            Object(keys) | Either(Object(keys), _) => Some(keys),
            _ => None,
        }
    }

    fn admits(&self, value: &Json) -> bool {
        match self {
            Function => is_function(value),
            Text => value.is_string(),
            Flag => value.is_boolean(),
            Number(from, to) => value.as_u64().is_some_and(|number| (*from..=*to).contains(&number)),
            Texts => value.as_array().is_some_and(|items| items.iter().all(Json::is_string)),
            OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Object(_) => value.is_object() && !is_function(value),
            Any => true,
            Either(one, other) => one.admits(value) || other.admits(value),
        }
    }

    fn words(&self) -> String {
        match self {
            Function => "a function".to_owned(),
            Text => "a string".to_owned(),
            Flag => "a boolean".to_owned(),
            Number(from, to) if *to == 1 << 53 => format!("a whole number from {from}"),
            Number(from, to) => format!("a whole number from {from} to {to}"),
            Texts => "an array of strings".to_owned(),
            OneOf(words) => format!("one of [{}]", words.join(", ")),
            Object(_) => "an object".to_owned(),
            Any => "anything".to_owned(),
            Either(one, other) => format!("{} or {}", one.words(), other.words()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(options: Json, expected: &[&str]) {
        let (_, faults) = Options::check(options.clone());
        assert_eq!(faults, expected, "{options}");
    }

    #[test]
    fn known_options_of_the_right_kind_pass() {
        let function = json!({"$function": true});
        check(json!({}), &[]);
        check(
            json!({"queryRewrite": function, "basePath": "/api", "telemetry": false, "dbType": null}),
            &["\"dbType\" is not allowed: it was removed from Cube: use driverFactory or CUBEJS_DB_TYPE"],
        );
        check(json!({"scheduledRefreshTimer": true, "scheduledRefreshTimeZones": function}), &[]);
        check(json!({"scheduledRefreshTimer": 60, "scheduledRefreshTimeZones": ["UTC"]}), &[]);
        check(json!({"http": {"cors": {"origin": {"$pattern": "x", "$flags": ""}}}, "jwt": {"issuer": ["a"]}}), &[]);
        check(json!({"orchestratorOptions": function, "schemaPath": null}), &[]);
    }

    #[test]
    fn strangers_and_wrong_kinds_are_named() {
        check(json!({"queryRewirte": 1}), &["\"queryRewirte\" is not allowed: did you mean 'queryRewrite'?"]);
        check(json!({"colour": 1}), &["\"colour\" is not allowed"]);
        check(
            json!({"http": {"cors": {"orgin": "*"}}}),
            &["\"http.cors.orgin\" is not allowed: did you mean 'http.cors.origin'?"],
        );
        check(
            json!({"queryRewrite": "x", "telemetry": "no"}),
            &["\"queryRewrite\" must be a function", "\"telemetry\" must be a boolean"],
        );
        check(
            json!({"orchestratorOptions": {"continueWaitTimeout": 91}}),
            &["\"orchestratorOptions.continueWaitTimeout\" must be a whole number from 0 to 90"],
        );
        check(
            json!({"scheduledRefreshTimer": "1m"}),
            &["\"scheduledRefreshTimer\" must be a boolean or a whole number from 0"],
        );
        check(json!({"orchestratorOptions": 5}), &["\"orchestratorOptions\" must be an object or a function"]);
    }

    #[test]
    fn what_has_no_effect_is_listed() {
        let (options, faults) = Options::check(json!({
            "semanticLayerSync": {"$function": true}, "telemetry": true, "checkAuth": {"$function": true},
            "orchestratorOptions": {"redisPrefix": "x", "queryCacheOptions": {"refreshKeyRenewalThreshold": 5,
                "queueOptions": {"$function": true}}},
        }));
        assert_eq!(faults, [""; 0]);
        let ignored = [
            "semanticLayerSync",
            "orchestratorOptions.redisPrefix",
            "orchestratorOptions.queryCacheOptions.refreshKeyRenewalThreshold",
            "orchestratorOptions.queryCacheOptions.queueOptions",
        ];
        assert_eq!(options.ignored(), ignored);
        assert!(options.has("checkAuth") && !options.has("telemetry") && !options.has("queryRewrite"));
    }

    #[test]
    fn keys_are_sorted_and_distinct() {
        assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
