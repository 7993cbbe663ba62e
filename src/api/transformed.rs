//! `transformedQueries` of `/v1/dry-run`: what rollup tooling reads of a query (`http-api.md` §7.2).

use serde_json::{Map, Value, json};

use crate::model::{DataType, MeasureId, MemberId, Model};
use crate::query::Query;
use crate::query::tooling::{hierarchies, is_additive, owned, traits};

/// A query in the words of that tooling.
pub(super) fn transformed(model: &Model, query: &Query) -> Value {
    let found = traits(model, query);
    let path = |member: MemberId| model.path_of(member);
    let measure = |id: MeasureId| path(MemberId::Measure(id));
    let mut leaves: Vec<MeasureId> = Vec::new();
    let mut by_measure = Map::new();
    for (id, under) in &found.leaves {
        let under_it = under.iter().map(|leaf| {
            let kind = model.measure(*leaf).kind.agg_type();
            json!({"measure": measure(*leaf), "additive": is_additive(model, *leaf), "type": kind})
        });
        by_measure.insert(measure(*id), under_it.collect());
        leaves.extend(under);
    }
    leaves.sort_by_key(|id| measure(*id));
    leaves.dedup();
    let leaf_paths: Vec<String> = leaves.iter().map(|id| measure(*id)).collect();
    let own = |member: MemberId| path(owned(model, member));
    let mut own_dimensions: Vec<String> = found.dimensions.iter().map(|member| own(*member)).collect();
    own_dimensions.sort();
    let times: Vec<Value> =
        found.times.iter().map(|(id, unit)| json!([path(MemberId::Dimension(*id)), unit])).collect();
    let own_times = |as_asked: bool| -> Vec<Value> {
        let times = query.time_dimensions.iter().zip(&found.times);
        let times = times.map(|(time, (id, unit))| {
            let asked = time.granularity.map(|grain| model.dimension(*id).grain_name(grain));
            json!([own(MemberId::Dimension(*id)), asked.filter(|_| as_asked).unwrap_or(unit)])
        });
        times.collect()
    };
    let mut sorted_times = times.clone();
    sorted_times.sort_by_key(Value::to_string);
    json!({
        "sortedDimensions": found.dimensions.iter().map(|member| path(*member)).collect::<Vec<_>>(),
        "sortedTimeDimensions": sorted_times,
        "timeDimensions": times,
        "measures": query.measures.iter().map(|id| measure(*id)).collect::<Vec<_>>(),
        "leafMeasureAdditive": leaves.iter().all(|id| is_additive(model, *id)),
        "leafMeasures": leaf_paths,
        "leafMeasuresFullPaths": leaf_paths,
        "measureToLeafMeasures": by_measure,
        "hasNoTimeDimensionsWithoutGranularity": query.time_dimensions.iter().all(|time| time.granularity.is_some()),
        "allFiltersWithinSelectedDimensions": found.filters_selected_only,
        "isAdditive": query.measures.iter().all(|id| is_additive(model, *id)),
        "granularityHierarchies": granularity_hierarchies(model),
        "hasMultipliedMeasures": found.multiplied,
        "hasCumulativeMeasures": found.cumulative,
        "windowGranularity": null,
        "filterDimensionsSingleValueEqual": {},
        "ownedDimensions": own_dimensions,
        "ownedTimeDimensionsWithRollupGranularity": own_times(false),
        "ownedTimeDimensionsAsIs": own_times(true),
        "allBackAliasMembers": back_aliases(model, query),
        "hasMultiStage": found.multi_stage,
    })
}

fn granularity_hierarchies(model: &Model) -> Value {
    let mut all = Map::new();
    for dimension in model.cubes().iter().flat_map(|cube| &cube.dimensions) {
        if dimension.data_type == DataType::Time {
            let path = model.path_of(MemberId::Dimension(dimension.id));
            all.extend(hierarchies(dimension).into_iter().map(|(unit, by)| (format!("{path}.{unit}"), json!(by))));
        }
    }
    Value::Object(all)
}

/// Members of cubes by those of views that stand for them.
fn back_aliases(model: &Model, query: &Query) -> Value {
    let times = query.time_dimensions.iter().map(|time| time.dimension);
    let members = query.dimensions.iter().copied().chain(times).map(MemberId::Dimension);
    let pairs = members.map(|member| (owned(model, member), member)).filter(|(own, member)| own != member);
    Value::Object(pairs.map(|(own, member)| (model.path_of(own), json!(model.path_of(member)))).collect())
}
