//! An endpoint's answer as a socket hands it on: status, body, and a print of what it says.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::footprint::Footprint;

/// What an endpoint answered.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: u16,
    /// JSON.
    body: Bytes,
    /// Equal for answers that say the same: their queries, members, rows and totals.
    print: u64,
    /// Not ready yet; the same question will be answered later.
    pub(super) unfinished: bool,
    /// What it rests on, when that was asked for and it is an answer.
    pub(super) footprint: Option<Footprint>,
}

impl Outcome {
    /// Collects a response.
    pub(super) async fn of(response: Response<Body>) -> Self {
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        let (status, body) = match body {
            Ok(body) if std::str::from_utf8(&body).is_ok() => (status, body),
            Ok(_) | Err(_) => {
                tracing::error!("an answer broke off");
                let text = r#"{"error":"Error: Internal Server Error"}"#;
                (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(text.as_bytes()))
            }
        };
        let unfinished = body.starts_with(br#"{"error":"Continue wait""#);
        Self { status: status.as_u16(), body, print: 0, unfinished, footprint: None }
    }

    /// Collects a response that will be compared with others later, with what it rests on.
    pub(super) async fn printed(response: Response<Body>, footprint: Option<Footprint>) -> Self {
        let outcome = Self::of(response).await;
        Self { print: print(&outcome.body), footprint, ..outcome }
    }

    /// The body.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    /// Whether it is an answer, and no refusal or delay.
    pub(super) fn is_answer(&self) -> bool {
        self.status == StatusCode::OK.as_u16() && !self.unfinished
    }

    /// Whether who has seen `other` has seen this.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        self.status == other.status && self.print == other.print
    }
}

/// A print of what a body says: not when it was made, from what, and in which order rows came that nothing orders.
fn print(body: &[u8]) -> u64 {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return xxh3_64(body) };
    let results = match value.get("results").and_then(Value::as_array) {
        Some(results) => results.as_slice(),
        None if value.get("data").is_some() => std::slice::from_ref(&value),
        None => return xxh3_64(body),
    };
    let mut text = Vec::new();
    for result in results {
        for key in ["query", "annotation", "total"] {
            text.extend_from_slice(result[key].to_string().as_bytes());
            text.push(0);
        }
        let (members, rows, sum) = print_rows(&result["data"]);
        text.extend_from_slice(members.as_bytes());
        text.extend_from_slice(&rows.to_le_bytes());
        text.extend_from_slice(&sum.to_le_bytes());
    }
    xxh3_64(&text)
}

/// Members of packed rows, number of rows, and a sum over rows that does not depend on their order.
fn print_rows(data: &Value) -> (String, usize, u64) {
    let of_row = |row: &Value| xxh3_64(row.to_string().as_bytes());
    let sum = |prints: &mut dyn Iterator<Item = u64>| {
        prints.fold((0, 0_u64), |(rows, sum), print| (rows + 1, sum.wrapping_add(print)))
    };
    let members = data["members"].to_string();
    let (rows, sum) = match (data, data.get("dataset"), data.get("columns").and_then(Value::as_array)) {
        (Value::Array(rows), ..) | (_, Some(Value::Array(rows)), _) => sum(&mut rows.iter().map(of_row)),
        (_, _, Some(columns)) => {
            let rows = columns.first().and_then(Value::as_array).map_or(0, Vec::len);
            sum(&mut (0..rows).map(|row| of_row(&columns.iter().map(|column| column[row].clone()).collect())))
        }
        _ => (0, of_row(data)),
    };
    (members, rows, sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(value: &Value) -> u64 {
        print(value.to_string().as_bytes())
    }

    fn wrapped(data: &Value, total: u32, moment: &str) -> Value {
        json!({"queryType": "regularQuery", "slowQuery": false, "results": [{"query": {"limit": 1}, "annotation": {},
            "lastRefreshTime": moment, "requestId": moment, "total": total, "data": data,
            "usedPreAggregations": {"a": {"lastUpdatedAt": moment}}, "quarry": {"snapshot": moment}}]})
    }

    #[test]
    fn prints_tell_contents_and_nothing_else() {
        let plain = [json!([{"a": "1"}, {"a": "2"}]), json!([{"a": "2"}, {"a": "1"}]), json!([{"a": "1"}, {"a": "3"}])];
        let compact = plain.each_ref().map(|rows| {
            let rows: Value = rows.as_array().expect("rows").iter().map(|row| json!([row["a"]])).collect();
            json!({"members": ["a"], "dataset": rows})
        });
        let columnar = plain.each_ref().map(|rows| {
            let column: Value = rows.as_array().expect("rows").iter().map(|row| row["a"].clone()).collect();
            json!({"members": ["a", "b"], "columns": [column, ["x", "x"]]})
        });
        for [first, turned, other] in [plain, compact, columnar] {
            let print = printed(&wrapped(&first, 1, "now"));
            assert_eq!(print, printed(&wrapped(&turned, 1, "then")), "{first}");
            assert_ne!(print, printed(&wrapped(&other, 1, "now")), "{first}");
            assert_ne!(print, printed(&wrapped(&first, 2, "now")), "{first}");
        }
        let twice = json!([{"a": "1"}, {"a": "1"}]);
        assert_ne!(printed(&wrapped(&twice, 1, "now")), printed(&wrapped(&json!([]), 1, "now")));
        let bare = |at: &str| json!({"query": {}, "lastRefreshTime": at, "data": [1]});
        assert_eq!(printed(&bare("now")), printed(&bare("then")));
        assert_ne!(printed(&json!({"error": "a"})), printed(&json!({"error": "b"})));
    }
}
