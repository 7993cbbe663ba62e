//! Answers of rollups, finished and ready to be sent, with their compressed forms beside (`performance.md` §3, level A).
//!
//! The key holds all that decides an answer but the state of the store: the model, the query with the conditions and
//! masks of its asker's policies, the shape. Beside the answer stands what it rests on: the tables that may have a part in
//! it, as they were. It is good for a state of the store in which they are the same, whatever else was published. What a
//! source had a part in is not kept here.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock, Weak};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, header};
use axum::middleware::Next;
use bytes::Bytes;
use quarry_storage::{Snapshot, Table, TableId};
use xxhash_rust::xxh3::Xxh3;

use super::accept::Encoding;
use super::live::Footprint;
use crate::cache::memory::Memory;
use crate::query::Query;
use crate::query::normalize::Normalized;
use crate::query::rollups::Rollups;

/// A longer answer is not kept: writing it anew takes little of the time that it takes to send.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Finished answers, bounded in bytes.
#[derive(Debug)]
pub struct Finished {
    memory: Memory<Arc<Kept>>,
}

/// A finished answer.
#[derive(Debug)]
pub(super) struct Kept {
    rests_on: Vec<(TableId, Option<Weak<Table>>)>,
    plain: Bytes,
    /// By the order of [`Encoding::ALL`]; made when they are first asked for.
    encoded: [OnceLock<Bytes>; Encoding::ALL.len()],
}

/// What decides an answer besides its queries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) rollups: &'a Rollups,
    /// Counts what is told of refresh keys that failed.
    pub(super) key_errors: u64,
    /// How the queries belong together, and how the answer wraps them.
    pub(super) shape: &'a str,
}

impl Asked<'_> {
    /// The key of the answer.
    pub(super) fn key(&self, queries: &[Normalized]) -> u128 {
        let mut hash = Digest(Xxh3::new());
        // Writing to a digest does not fail.
        let _ = write!(hash, "{} {} {}", self.rollups.instance(), self.key_errors, self.shape);
        for Normalized { query, echo } in queries {
            // Of the asker only what the query says counts, unless some SQL reads more.
            let anonymous;
            let query = if self.rollups.any_reads_claims() {
                query
            } else {
                anonymous = Query { context: Arc::default(), ..query.clone() };
                &anonymous
            };
            let _ = write!(hash, "\n{query:?}\n{echo:?}");
        }
        hash.0.digest128()
    }
}

struct Digest(Xxh3);

impl std::fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

impl Finished {
    /// Holds at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { memory: Memory::new(bytes) }
    }

    /// The answer for a state of the store, if it is kept.
    pub(super) fn find(&self, key: u128, snapshot: &Snapshot) -> Option<Arc<Kept>> {
        self.memory.get(key).filter(|kept| kept.is_of(snapshot))
    }

    /// Keeps an answer that was made of a state of the store, unless it is long. It takes the place of that of another
    /// state.
    pub(super) fn keep(
        &self,
        key: u128,
        footprint: &Footprint,
        snapshot: &Snapshot,
        plain: Bytes,
    ) -> Option<Arc<Kept>> {
        if plain.len() > MAX_BODY_BYTES {
            return None;
        }
        let state = |table: &TableId| (table.clone(), snapshot.table(table).map(Arc::downgrade));
        let rests_on = footprint.tables().iter().map(state).collect();
        // Compressed it takes a part of that again, seldom more than half.
        let bytes = plain.len() + plain.len() / 2;
        let kept = Arc::new(Kept { rests_on, plain, encoded: [OnceLock::new(), OnceLock::new()] });
        self.memory.put(key, Arc::clone(&kept), bytes);
        Some(kept)
    }
}

impl Kept {
    /// Whether the tables that it rests on are those of a state of the store.
    fn is_of(&self, snapshot: &Snapshot) -> bool {
        self.rests_on.iter().all(|(table, known)| match (snapshot.table(table), known) {
            // While the former is remembered nothing else can be at its address.
            (Some(table), Some(known)) => std::ptr::eq(Arc::as_ptr(table), known.as_ptr()),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        })
    }

    /// The answer in JSON.
    pub(super) fn plain(&self) -> Bytes {
        self.plain.clone()
    }

    /// The compressed answer that a client likes best, when it is there.
    pub(super) fn encoded(&self, accepted: &str) -> Option<(Encoding, Bytes)> {
        let wanted = Encoding::preferred(accepted)?;
        Some((wanted, self.slot(wanted)?.get()?.clone()))
    }

    fn slot(&self, encoding: Encoding) -> Option<&OnceLock<Bytes>> {
        let position = Encoding::ALL.iter().position(|known| *known == encoding)?;
        self.encoded.get(position)
    }
}

/// Sends a compressed answer as it is.
pub(super) fn send_encoded(response: &mut Response<Body>, (encoding, body): (Encoding, Bytes)) {
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.as_str()));
    headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
}

/// Keeps what was compressed on its way out beside the answer that it was made of.
pub(super) async fn keep_compressed(request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    let Some(kept) = response.extensions_mut().remove::<Arc<Kept>>() else { return response };
    let encoding = response.headers().get(header::CONTENT_ENCODING).and_then(|name| name.to_str().ok());
    let encoding = encoding.and_then(|name| Encoding::ALL.into_iter().find(|known| known.as_str() == name));
    let Some(slot) = encoding.and_then(|encoding| kept.slot(encoding)) else { return response };
    let (mut head, body) = response.into_parts();
    match axum::body::to_bytes(body, 2 * MAX_BODY_BYTES).await {
        Ok(bytes) => {
            // Somebody else may have been first; the bytes say the same.
            let _ = slot.set(bytes.clone());
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            Response::from_parts(head, Body::from(bytes))
        }
        // Compressing to memory does not fail; a body that is cut short must not look whole.
        Err(error) => {
            Response::from_parts(head, Body::from_stream(futures::stream::once(async { Err::<Bytes, _>(error) })))
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use quarry_storage::{Gate, PartitionKey, PartitionWriter, Publish, Store, StoreOptions};
    use serde_json::json;

    use super::*;
    use crate::query::normalize::{Limits, normalize};
    use crate::query::policy::Asker;
    use crate::query::sample;
    use crate::time::Zone;

    fn limits() -> Limits {
        Limits { default_rows: 10, max_rows: 10, timezone: Zone::UTC, allow_hidden: false, ungrouped_without_key: true }
    }

    /// Everything but the store that changes an answer changes its key, and who asks does not where no SQL reads it.
    #[test]
    fn keys_differ_where_answers_do() {
        let (rollups, others) = (Rollups::new(Arc::new(sample::model())), Rollups::new(Arc::new(sample::model())));
        let limits = limits();
        let key = |asked: Asked<'_>, query: serde_json::Value, user: &str, now: i64| {
            let request = crate::api::parse_request(&query).expect("a query");
            let asker = Asker::of(json!({"user": user}));
            let normalized = normalize(&request, asked.rollups.model(), &limits, &asker, now).expect("resolved");
            asked.key(&[normalized])
        };
        let asked = Asked { rollups: &rollups, key_errors: 0, shape: "regularQuery" };
        let count = || json!({"measures": ["orders.count"]});
        let first = key(asked, count(), "a", 0);
        assert_eq!(first, key(asked, count(), "b", 0));
        assert_eq!(first, key(asked, count(), "a", 1_000_000));
        let mut keys = vec![
            first,
            key(Asked { rollups: &others, ..asked }, count(), "a", 0),
            key(Asked { key_errors: 1, ..asked }, count(), "a", 0),
            key(Asked { shape: "multi", ..asked }, count(), "a", 0),
        ];
        for (name, value) in [
            ("limit", json!(5)),
            ("offset", json!(1)),
            ("total", json!(true)),
            ("timezone", json!("Europe/Berlin")),
            ("responseFormat", json!("compact")),
            ("dimensions", json!(["orders.status"])),
            ("filters", json!([{"member": "orders.status", "operator": "equals", "values": ["x"]}])),
            ("filters", json!([{"member": "orders.status", "operator": "equals", "values": ["y"]}])),
            ("timeDimensions", json!([{"dimension": "orders.created_at", "dateRange": "today"}])),
        ] {
            let mut query = count();
            query[name] = value;
            keys.push(key(asked, query, "a", 0));
        }
        // Today is another day tomorrow.
        let today = json!({"measures": ["orders.count"],
            "timeDimensions": [{"dimension": "orders.created_at", "dateRange": "today"}]});
        keys.push(key(asked, today, "a", 2 * 86_400_000_000));
        let distinct: std::collections::BTreeSet<u128> = keys.iter().copied().collect();
        assert_eq!(distinct.len(), keys.len(), "{keys:?}");
    }

    /// What an answer to `count` by the rollups of a model rests on.
    fn footprint(rollups: &Rollups) -> Footprint {
        let request = crate::api::parse_request(&json!({"measures": ["orders.count"]})).expect("a query");
        let asker = Asker::of(json!({}));
        let normalized = normalize(&request, rollups.model(), &limits(), &asker, 0).expect("resolved");
        Footprint::of(rollups, &[normalized], true).expect("planned")
    }

    #[test]
    fn long_answers_are_not_kept() {
        let rollups = Rollups::new(Arc::new(sample::model()));
        let (finished, footprint, snapshot) = (Finished::new(64 << 20), footprint(&rollups), Snapshot::default());
        let keep = |key, body| finished.keep(key, &footprint, &snapshot, body);
        assert!(keep(1, Bytes::from(vec![0; MAX_BODY_BYTES + 1])).is_none());
        assert!(keep(2, Bytes::from_static(b"{}")).is_some());
        let find = |key| finished.find(key, &snapshot);
        assert!(find(1).is_none() && find(2).is_some_and(|kept| kept.plain() == "{}"));
    }

    /// An answer lasts while its own tables do, and no longer.
    #[test]
    fn an_answer_is_good_until_a_table_that_it_rests_on_is_published() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path().to_owned())).expect("an empty folder");
        let publish = |table: &TableId| {
            let key = PartitionKey { table: table.clone(), bucket: None };
            let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
            let file = store.writer(&key, schema, None).and_then(PartitionWriter::finish).expect("a file");
            let refresh_key = String::new();
            let publish = Publish { key, file, refresh_key, build_ms: 0, jobs: Vec::new(), gate: Gate::Open };
            store.publish(publish, 0).expect("published");
        };
        let rollups = Rollups::new(Arc::new(sample::model()));
        let (finished, footprint) = (Finished::new(64 << 20), footprint(&rollups));
        let own = footprint.tables().first().expect("orders have a rollup").clone();
        let other = TableId::new("other.table@UTC-0").expect("a name");
        let is_kept = || finished.find(1, &store.snapshot()).is_some();
        let keep = || drop(finished.keep(1, &footprint, &store.snapshot(), Bytes::from_static(b"{}")));
        keep();
        // Of tables that are not there yet.
        publish(&other);
        assert!(is_kept());
        publish(&own);
        assert!(!is_kept());
        let before = store.snapshot();
        keep();
        publish(&other);
        assert!(is_kept());
        publish(&own);
        assert!(!is_kept() && finished.find(1, &before).is_some());
        keep();
        assert!(is_kept() && finished.find(1, &before).is_none());
        store.retain_tables(&|table| *table != own, 1).expect("dropped");
        assert!(!is_kept());
    }
}
