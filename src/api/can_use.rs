//! `/v1/pre-aggregations/can-use`: would a rollup that is being designed answer a query (`http-api.md` §7.8)? Its body
//! holds one of the `transformedQueries` of `/v1/dry-run`, and what the rollup is to store.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Call;
use super::error::{ApiError, json_response};

/// What the tools send back of `transformedQueries`; what is left out says no.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Transformed {
    sorted_dimensions: BTreeSet<String>,
    /// Dimension and the granularity that a rollup must have at least; none for any.
    sorted_time_dimensions: Vec<(String, Option<String>)>,
    measures: BTreeSet<String>,
    leaf_measures: BTreeSet<String>,
    leaf_measure_additive: bool,
    has_no_time_dimensions_without_granularity: bool,
    all_filters_within_selected_dimensions: bool,
    has_multiplied_measures: bool,
    has_multi_stage: bool,
    /// `cube.dimension.granularity` → itself and all finer ones.
    granularity_hierarchies: BTreeMap<String, Vec<String>>,
}

/// What a rollup stores.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct References {
    measures: BTreeSet<String>,
    dimensions: BTreeSet<String>,
    time_dimensions: Vec<StoredTime>,
}

#[derive(Debug, Deserialize)]
struct StoredTime {
    dimension: String,
    granularity: Option<String>,
}

/// Says whether the query could be answered; nothing when there is no rollup to look at.
pub(super) fn answer(call: &Call) -> Result<Response<Body>, ApiError> {
    let query: Transformed = read(&call.arguments, "transformedQuery")?.unwrap_or_default();
    let references: Option<References> = read(&call.arguments, "references")?;
    let verdict = references.map(|references| query.fits(&references));
    let body = verdict.map_or(json!({}), |fits| json!({"canUsePreAggregationForTransformedQuery": fits}));
    Ok(json_response(StatusCode::OK, body.to_string()))
}

fn read<T: for<'de> Deserialize<'de>>(arguments: &Map<String, Value>, key: &str) -> Result<Option<T>, ApiError> {
    let Some(value) = arguments.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
    if !value.is_object() {
        return Err(ApiError::Invalid(format!("Invalid query format: \"{key}\" must be of type object")));
    }
    T::deserialize(value)
        .map(Some)
        .map_err(|error| ApiError::Invalid(format!("Invalid query format: \"{key}\": {error}")))
}

impl Transformed {
    /// As it is stored, or summed up from finer rows where every measure can be.
    fn fits(&self, rollup: &References) -> bool {
        let summable = self.leaf_measure_additive && !self.has_multiplied_measures && !self.has_multi_stage;
        self.is_stored(rollup) || summable && self.sums_up(rollup)
    }

    /// The very groups of the rollup.
    fn is_stored(&self, rollup: &References) -> bool {
        let asked: BTreeSet<_> = self.sorted_time_dimensions.iter().cloned().collect();
        let stored: BTreeSet<_> =
            rollup.time_dimensions.iter().map(|time| (time.dimension.clone(), time.granularity.clone())).collect();
        self.has_no_time_dimensions_without_granularity
            && self.all_filters_within_selected_dimensions
            && self.sorted_dimensions == rollup.dimensions
            && asked == stored
            && (self.measures.is_subset(&rollup.measures) || self.has_leaves(rollup))
    }

    fn sums_up(&self, rollup: &References) -> bool {
        self.sorted_dimensions.is_subset(&rollup.dimensions)
            && self.has_leaves(rollup)
            && self.sorted_time_dimensions.iter().all(|(dimension, granularity)| {
                let mut stored = rollup.time_dimensions.iter().filter(|time| time.dimension == *dimension);
                stored.any(|time| self.is_finer(dimension, time.granularity.as_deref(), granularity.as_deref()))
            })
    }

    fn has_leaves(&self, rollup: &References) -> bool {
        self.leaf_measures.is_subset(&rollup.measures)
    }

    /// Whether buckets of `stored` make up those of `asked`.
    fn is_finer(&self, dimension: &str, stored: Option<&str>, asked: Option<&str>) -> bool {
        let (Some(stored), Some(asked)) = (stored, asked) else { return asked.is_none() };
        let hierarchy = self.granularity_hierarchies.get(&format!("{dimension}.{asked}"));
        stored == asked || hierarchy.is_some_and(|finer| finer.iter().any(|unit| unit == stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(change: &Value) -> Transformed {
        let mut query = json!({
            "sortedDimensions": ["o.city"],
            "sortedTimeDimensions": [["o.at", "month"]],
            "measures": ["o.mean"],
            "leafMeasures": ["o.count", "o.sum"],
            "leafMeasureAdditive": true,
            "hasNoTimeDimensionsWithoutGranularity": true,
            "allFiltersWithinSelectedDimensions": true,
            "granularityHierarchies": {"o.at.month": ["month", "day"]},
        });
        for (key, value) in change.as_object().into_iter().flatten() {
            query[key] = value.clone();
        }
        Transformed::deserialize(query).expect("a query")
    }

    fn fits(change: &Value, granularity: &str, measures: &[&str], dimensions: &[&str]) -> bool {
        let rollup = json!({"measures": measures, "dimensions": dimensions,
            "timeDimensions": [{"dimension": "o.at", "granularity": granularity}]});
        query(change).fits(&References::deserialize(rollup).expect("a rollup"))
    }

    #[test]
    fn additive_measures_need_leaves_dimensions_and_finer_buckets() {
        let leaves = ["o.count", "o.sum"];
        let none = json!({});
        assert!(fits(&none, "day", &leaves, &["o.city", "o.shop"]));
        assert!(fits(&none, "month", &leaves, &["o.city"]));
        assert!(!fits(&none, "year", &leaves, &["o.city"]));
        assert!(!fits(&none, "day", &["o.sum"], &["o.city"]));
        assert!(!fits(&none, "day", &leaves, &["o.shop"]));
        let any = json!({"sortedTimeDimensions": [["o.at", null]]});
        assert!(fits(&any, "year", &leaves, &["o.city"]));
        let other = json!({"sortedTimeDimensions": [["o.sent", "month"]]});
        assert!(!fits(&other, "day", &leaves, &["o.city"]));
    }

    #[test]
    fn other_measures_need_the_very_groups() {
        for change in [
            json!({"leafMeasureAdditive": false}),
            json!({"hasMultipliedMeasures": true}),
            json!({"hasMultiStage": true}),
        ] {
            assert!(fits(&change, "month", &["o.mean"], &["o.city"]), "{change}");
            assert!(!fits(&change, "day", &["o.mean"], &["o.city"]), "{change}");
            assert!(!fits(&change, "month", &["o.mean"], &["o.city", "o.shop"]), "{change}");
        }
        let filtered = json!({"leafMeasureAdditive": false, "allFiltersWithinSelectedDimensions": false});
        assert!(!fits(&filtered, "month", &["o.mean"], &["o.city"]));
    }
}
