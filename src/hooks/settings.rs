//! Options of `cube.js` that stand for a setting of the environment. The option is stronger.

use serde_json::Value as Json;

use super::Options;

/// Options and the settings that they stand for.
const SETTINGS: &[(&str, &str)] = &[
    ("allowUngroupedWithoutPrimaryKey", "CUBEJS_ALLOW_UNGROUPED_WITHOUT_PRIMARY_KEY"),
    ("apiSecret", "CUBEJS_API_SECRET"),
    ("basePath", "CUBEJS_BASE_PATH"),
    ("gracefulShutdown", "CUBEJS_GRACEFUL_SHUTDOWN"),
    ("jwt.algorithms", "CUBEJS_JWT_ALGS"),
    ("jwt.audience", "CUBEJS_JWT_AUDIENCE"),
    ("jwt.claimsNamespace", "CUBEJS_JWT_CLAIMS_NAMESPACE"),
    ("jwt.issuer", "CUBEJS_JWT_ISSUER"),
    ("jwt.jwkRefetchWindow", "QUARRY_JWK_REFETCH_WINDOW"),
    ("jwt.jwkUrl", "CUBEJS_JWK_URL"),
    ("jwt.key", "CUBEJS_JWT_KEY"),
    ("jwt.subject", "CUBEJS_JWT_SUBJECT"),
    ("orchestratorOptions.continueWaitTimeout", "QUARRY_CONTINUE_WAIT"),
    ("orchestratorOptions.preAggregationsOptions.maxPartitions", "CUBEJS_MAX_PARTITIONS_PER_CUBE"),
    ("orchestratorOptions.preAggregationsOptions.queueOptions.concurrency", "CUBEJS_REFRESH_WORKER_CONCURRENCY"),
    ("orchestratorOptions.queryCacheOptions.backgroundRenew", "QUARRY_BACKGROUND_RENEW"),
    ("orchestratorOptions.queryCacheOptions.queueOptions.concurrency", "QUARRY_QUERY_CONCURRENCY"),
    ("orchestratorOptions.queryCacheOptions.queueOptions.executionTimeout", "CUBEJS_DB_QUERY_TIMEOUT"),
    ("orchestratorOptions.queryCacheOptions.queueOptions.orphanedTimeout", "QUARRY_ORPHANED_TIMEOUT"),
    ("orchestratorOptions.rollupOnlyMode", "CUBEJS_ROLLUP_ONLY"),
    ("pgSqlPort", "CUBEJS_PG_SQL_PORT"),
    ("preAggregationsSchema", "CUBEJS_PRE_AGGREGATIONS_SCHEMA"),
    ("scheduledRefreshBatchSize", "CUBEJS_SCHEDULED_REFRESH_BATCH_SIZE"),
    ("scheduledRefreshConcurrency", "CUBEJS_SCHEDULED_REFRESH_QUERIES_PER_APP_ID"),
    ("scheduledRefreshTimeZones", "CUBEJS_SCHEDULED_REFRESH_TIMEZONES"),
    ("scheduledRefreshTimer", "CUBEJS_SCHEDULED_REFRESH_TIMER"),
    ("schemaPath", "CUBEJS_SCHEMA_PATH"),
    ("serverHeadersTimeout", "CUBEJS_SERVER_HEADERS_TIMEOUT"),
    ("serverKeepAliveTimeout", "CUBEJS_SERVER_KEEP_ALIVE_TIMEOUT"),
    ("sqlPassword", "CUBEJS_SQL_PASSWORD"),
    ("sqlSuperUser", "CUBEJS_SQL_SUPER_USER"),
    ("sqlUser", "CUBEJS_SQL_USER"),
    ("webSockets", "CUBEJS_WEB_SOCKETS"),
    ("webSocketsBasePath", "QUARRY_WEB_SOCKETS_BASE_PATH"),
];

/// The settings that the options give.
pub(super) fn settings(options: &Options) -> Vec<(&'static str, String)> {
    let mut found: Vec<(&'static str, String)> =
        SETTINGS.iter().filter_map(|(option, setting)| Some((*setting, written(options.get(option)?)?))).collect();
    if let Some(cycle) = options.get("processSubscriptionsInterval") {
        found.push(("QUARRY_SUBSCRIPTION_INTERVAL", format!("{cycle}ms")));
    }
    // The timer switches the worker too, and here it is stronger than the worker's own setting.
    if let Some(timer) = options.get("scheduledRefreshTimer") {
        let on = timer.as_bool().unwrap_or(timer.as_u64() != Some(0));
        found.push(("CUBEJS_REFRESH_WORKER", on.to_string()));
    }
    found
}

/// As the environment would have it; none for a function, and for an empty list.
fn written(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Bool(_) | Json::Number(_) => Some(value.to_string()),
        Json::Array(items) => {
            let words: Vec<&str> = items.iter().filter_map(Json::as_str).collect();
            (!words.is_empty()).then(|| words.join(","))
        }
        Json::Null | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_written_as_settings() {
        let (options, faults) = Options::check(json!({
            "jwt": {"key": "k", "issuer": ["a", "b"]}, "schemaPath": "schemas", "scheduledRefreshTimer": 45,
            "scheduledRefreshTimeZones": {"$function": true}, "orchestratorOptions": {"rollupOnlyMode": true},
            "processSubscriptionsInterval": 1500,
        }));
        assert_eq!(faults, [""; 0]);
        let expected = [
            ("CUBEJS_JWT_ISSUER", "a,b"),
            ("CUBEJS_JWT_KEY", "k"),
            ("CUBEJS_ROLLUP_ONLY", "true"),
            ("CUBEJS_SCHEDULED_REFRESH_TIMER", "45"),
            ("CUBEJS_SCHEMA_PATH", "schemas"),
            ("QUARRY_SUBSCRIPTION_INTERVAL", "1500ms"),
            ("CUBEJS_REFRESH_WORKER", "true"),
        ];
        assert_eq!(settings(&options), expected.map(|(name, value)| (name, value.to_owned())));
    }
}
