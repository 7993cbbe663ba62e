//! `/quarry/v1/explain`: tells where a query would be answered from, and why; also the part of an answer that tells
//! it of its own query (`pre-aggregations.md` §22 G14).

use axum::body::Body;
use axum::http::{Response, StatusCode};
use quarry_storage::Bounds;
use serde_json::{Map, Value, json};

use super::error::{ApiError, json_response};
use super::question::Question;
use super::{ApiParts, Call};
use crate::query::explain::{AnsweredBy, Change, Chosen, Edit, Explanation, Level, Misfit, Verdict, explain};
use crate::time::format_local;

/// Plans, and runs nothing. One result a query, in order.
pub(super) async fn explain_query(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    let question = Question::read(&call.arguments, parts.options.max_queries)?;
    let current = call.model(parts);
    let snapshot = parts.store.snapshot();
    let asked = question.resolve(parts, call, current.rollups.model(), parts.clock.now()).await?;
    let mut results = Vec::with_capacity(asked.len());
    let text = match call.arguments.get("format").filter(|value| !value.is_null()).map(Value::as_str) {
        None | Some(Some("json")) => false,
        Some(Some("text")) => true,
        Some(_) => return Err(ApiError::Invalid("\"format\" must be one of [json, text]".to_owned())),
    };
    for part in &asked {
        let explanation = explain(&current.rollups, &snapshot, &part.query)?;
        results.push(if text { json!({"text": explanation.to_string()}) } else { describe(&explanation) });
    }
    let body = json!({"queryType": question.kind.as_str(), "results": results});
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// The argument `explain`: a truth value, or `preAggregations`.
///
/// # Errors
/// It is neither true nor false.
pub(super) fn is_wanted(arguments: &Map<String, Value>) -> Result<bool, ApiError> {
    match arguments.get("explain") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(wanted)) => Ok(*wanted),
        Some(Value::String(text)) if matches!(text.as_str(), "true" | "preAggregations") => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => Err(ApiError::Invalid("\"explain\" must be a boolean".to_owned())),
    }
}

/// The explanation of one query.
pub(super) fn describe(explanation: &Explanation) -> Value {
    let levels: Vec<Value> = explanation.levels.iter().map(level).collect();
    let by = match explanation.by {
        AnsweredBy::Rollups => "rollup",
        AnsweredBy::StoredRows => "originalSql",
        AnsweredBy::Source => "source",
    };
    let mut shown = json!({"answeredBy": by, "levels": levels});
    if !explanation.stored_rows.is_empty() {
        shown["storedRows"] = json!(explanation.stored_rows);
    }
    shown
}

fn level(level: &Level) -> Value {
    let mut shown = json!({
        "columns": level.columns,
        "chosen": level.chosen.as_ref().map(chosen),
        "candidates": level.verdicts.iter().map(verdict).collect::<Vec<_>>(),
    });
    if let Some(suggestion) = &level.suggestion {
        shown["suggestion"] = json!(suggestion);
    }
    shown
}

fn chosen(chosen: &Chosen) -> Value {
    let range = |bucket: &Bounds| json!([format_local(bucket.start), format_local(bucket.end - 1)]);
    let ranges: Vec<Value> = chosen.partitions.iter().flatten().map(range).collect();
    let mut shown = json!({
        "preAggregationId": chosen.rollup,
        "timezone": chosen.zone,
        "exact": chosen.exact,
        "partitions": chosen.partitions.len(),
        "rowsBeforePruning": chosen.rows_before,
        "rowsAfterPruning": chosen.rows_after,
        "why": chosen.why,
    });
    if !chosen.from_source.is_empty() {
        shown["fromSource"] = chosen.from_source.iter().map(|range| json!(range.to_string())).collect();
    }
    if !chosen.copies.is_empty() {
        let kind = |aggregate| if aggregate { "aggregate" } else { "regular" };
        let copies = chosen.copies.iter();
        shown["indexCopies"] =
            copies.map(|copy| json!({"index": copy.index, "type": kind(copy.aggregate), "rows": copy.rows})).collect();
    }
    if !ranges.is_empty() {
        shown["partitionRanges"] = Value::Array(ranges);
    }
    shown
}

fn verdict(verdict: &Verdict) -> Value {
    match &verdict.outcome {
        Ok(rows) => json!({"preAggregationId": verdict.rollup, "matches": true, "rows": rows}),
        Err(misfit) => refused(&verdict.rollup, misfit),
    }
}

fn refused(rollup: &str, misfit: &Misfit) -> Value {
    let mut shown = json!({
        "preAggregationId": rollup,
        "matches": false,
        "rule": misfit.reason.code(),
        "reason": misfit.reason.to_string(),
    });
    if let Some(culprit) = misfit.reason.culprit() {
        shown["member"] = json!(culprit.to_string());
    }
    if let Some(edits) = misfit.edits.as_ref().filter(|edits| !edits.is_empty()) {
        shown["edits"] = edits.iter().map(edit).collect();
    }
    if let Some(remedy) = &misfit.remedy {
        shown["remedy"] = json!(remedy);
    }
    shown
}

fn edit(edit: &Edit) -> Value {
    let change = match edit.change {
        Change::Add => "add",
        Change::Set => "set",
    };
    json!({"key": edit.key, "change": change, "yaml": edit.yaml})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_a_truth_value_also_as_text() {
        let wanted = |value: Value| {
            let arguments = Map::from_iter([("explain".to_owned(), value)]);
            is_wanted(&arguments).map_err(|error| error.to_string())
        };
        assert_eq!(is_wanted(&Map::new()).ok(), Some(false));
        assert_eq!(wanted(json!(true)), Ok(true));
        assert_eq!(wanted(json!("false")), Ok(false));
        assert_eq!(wanted(json!("preAggregations")), Ok(true));
        assert_eq!(wanted(Value::Null), Ok(false));
        assert!(wanted(json!(1)).is_err_and(|text| text.contains("must be a boolean")));
    }
}
