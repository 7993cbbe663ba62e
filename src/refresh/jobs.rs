//! What a job record says beyond its partition, and how clients see a job.

use std::collections::HashMap;
use std::sync::Arc;

use quarry_storage::{Bounds, JobRecord, JobState, NewJob, TableId, TableState};
use serde_json::{Map, Value, json};

use super::planning::{Target, extended};
use super::{Atomic, JobView};
use crate::model::{Model, PreaggKind};
use crate::names::MemberPath;
use crate::query::rollups::Rollups;
use crate::time::Zone;

/// Who asks, for the scheduler's own jobs. Not the digest of any context: a job that a client posts must
/// not join a scheduled one, whose build refuses an empty result.
pub(super) const SCHEDULER: &str = "scheduler";

/// Who wants to hear of the end of the jobs of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where to send it.
    pub url: String,
    /// The request: all its jobs carry the same.
    pub request: String,
}

/// The caller's part of a job record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Details {
    /// `cube.rollup`.
    pub(super) preagg: String,
    /// The zone's name.
    pub(super) timezone: String,
    /// The security context, as sent.
    pub(super) context: Value,
    /// The defining cube's data source when the job was made.
    pub(super) data_source: String,
    /// Asked for by a client: built whatever the source says. Else an empty result is not trusted.
    pub(super) forced: bool,
    /// Told of the end of the request that the job is of.
    pub(super) webhook: Option<Webhook>,
    /// Of a group: what is known of the table from its publish on.
    pub(super) claim: Option<Claimed>,
}

/// What a request means a table to hold, which it is to claim with what is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claimed {
    /// What was known when it was asked for.
    pub(super) before: TableState,
    /// What is to be known.
    pub(super) after: TableState,
}

impl Claimed {
    /// What is to be known of the table when these partitions of it are published, and `known` is by then. Where
    /// somebody else has looked at the source since, only what adjoins is added.
    pub(super) fn over(self, known: TableState, built: &[Bounds]) -> TableState {
        if known == self.before { self.after } else { extended(known, self.after, built) }
    }
}

fn state_to_json(state: TableState) -> Value {
    json!({ "range": state.range.map(|range| [range.start, range.end]), "complete": state.complete })
}

fn state_of_json(state: &Value) -> Option<TableState> {
    let range = match state.get("range")? {
        Value::Null => None,
        range => Some(Bounds { start: range.get(0)?.as_i64()?, end: range.get(1)?.as_i64()? }),
    };
    Some(TableState { range, complete: state.get("complete")?.as_bool()? })
}

impl Details {
    pub(super) fn new(target: &Target, context: Value, forced: bool) -> Self {
        Self {
            preagg: target.path.clone(),
            timezone: target.zone.name().to_owned(),
            context,
            data_source: target.data_source.clone(),
            forced,
            webhook: None,
            claim: None,
        }
    }

    /// The JSON kept in the record. Fields may be added, their meaning stays: records outlive a release.
    pub(super) fn to_text(&self) -> String {
        json!({
            "preagg": self.preagg,
            "timezone": self.timezone,
            "context": self.context,
            "data_source": self.data_source,
            "forced": self.forced,
            "webhook": self.webhook.as_ref().map(|hook| json!({"url": hook.url, "request": hook.request})),
            "claim": self.claim.map(|claim| {
                json!({"before": state_to_json(claim.before), "after": state_to_json(claim.after)})
            }),
        })
        .to_string()
    }

    /// Reads the JSON of a record; none when it was not written by [`Details::to_text`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields: Map<String, Value> = serde_json::from_str(text).ok()?;
        let word = |name: &str| fields.get(name)?.as_str().map(str::to_owned);
        let (preagg, timezone, data_source) = (word("preagg")?, word("timezone")?, word("data_source")?);
        let forced = fields.get("forced")?.as_bool()?;
        let webhook = fields.get("webhook").and_then(|hook| {
            let word = |name: &str| hook.get(name)?.as_str().map(str::to_owned);
            Some(Webhook { url: word("url")?, request: word("request")? })
        });
        let claim = fields.get("claim").and_then(|claim| {
            let state = |name: &str| state_of_json(claim.get(name)?);
            Some(Claimed { before: state("before")?, after: state("after")? })
        });
        Some(Self { preagg, timezone, context: fields.remove("context")?, data_source, forced, webhook, claim })
    }

    /// The zone, unless this version does not know it.
    pub(super) fn zone(&self) -> Option<Zone> {
        self.timezone.parse().ok()
    }
}

/// Names for the groups of one request.
#[derive(Debug)]
pub(super) struct GroupNames {
    atomic: Option<Atomic>,
    /// By table; under none that of everything.
    names: HashMap<Option<TableId>, String>,
}

impl GroupNames {
    pub(super) fn new(atomic: Option<Atomic>) -> Self {
        Self { atomic, names: HashMap::new() }
    }

    /// The group that the partitions of a target are of. Rows that rollups are built from are of none: who waited for
    /// the rollup would wait for them, and they for the rollup.
    pub(super) fn of(&mut self, rollups: &Rollups, target: &Target) -> Option<String> {
        let preagg = rollups.model().preagg(target.preagg);
        let table = match self.atomic? {
            _ if matches!(preagg.kind, PreaggKind::OriginalSql) => return None,
            Atomic::PerPreaggregation => Some(target.table.clone()),
            Atomic::All => None,
        };
        let new = || uuid::Uuid::new_v4().simple().to_string();
        Some(self.names.entry(table).or_insert_with(new).clone())
    }
}

/// What an ended job was for, as a new job. The name of a group gives that of the next try: whoever retries its jobs one
/// by one asks for one group, and not for one with each.
pub(super) fn anew(JobRecord { partition, details, mut context, group, .. }: JobRecord) -> NewJob {
    let group = group.map(|old| {
        let new = digest(&old);
        // Where it keeps jobs of different groups apart.
        context = context.replace(&old, &new);
        new
    });
    NewJob { partition, details, context, group }
}

/// A digest of who asks: equal for equal JSON, whatever the order of its keys.
pub(super) fn context_digest(context: &Value) -> String {
    let mut context = context.clone();
    context.sort_all_objects();
    digest(&context.to_string())
}

fn digest(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

/// A job as clients see it (`http-api.md` §8.4). What has ended is answered from its record alone, so
/// that `done` stays done when the partition or its definition is gone. Without a model all definitions are there.
pub(super) fn view(record: JobRecord, model: Option<&Arc<Model>>) -> JobView {
    let details = Details::parse(&record.details).unwrap_or_else(|| Details {
        preagg: String::new(),
        timezone: String::new(),
        context: Value::Null,
        data_source: String::new(),
        forced: true,
        webhook: None,
        claim: None,
    });
    let is_defined = || {
        let path = MemberPath::parse(&details.preagg);
        path.is_ok_and(|path| model.is_none_or(|model| model.find_preagg(&path).is_some()))
    };
    let status = match &record.state {
        JobState::Done { .. } => "done".to_owned(),
        JobState::Failed { cause } => format!("failure: {cause}"),
        // Cube knows no such word; clients take every failure for an end, and an unknown word for none.
        JobState::Cancelled => "failure: the job was cancelled".to_owned(),
        JobState::Queued | JobState::Running if !is_defined() => "pre_agg_not_found".to_owned(),
        JobState::Queued => "scheduled".to_owned(),
        JobState::Running => "processing".to_owned(),
    };
    JobView {
        status,
        preagg: details.preagg,
        data_source: details.data_source,
        timezone: details.timezone,
        context: details.context,
        progress: None,
        webhook: details.webhook,
        record,
    }
}

#[cfg(test)]
mod tests {
    use quarry_storage::{JobId, PartitionKey};

    use super::*;

    fn details() -> Details {
        Details {
            preagg: "orders.daily".to_owned(),
            timezone: "Europe/Berlin".to_owned(),
            context: json!({ "tenant": "a \"b\"", "roles": [1, null] }),
            data_source: "default".to_owned(),
            forced: true,
            webhook: Some(Webhook { url: "http://localhost/ended".to_owned(), request: "r".to_owned() }),
            claim: Some(Claimed {
                before: TableState::default(),
                after: TableState { range: Some(Bounds { start: -5, end: 5 }), complete: true },
            }),
        }
    }

    #[test]
    fn a_claim_does_not_undo_what_was_seen_since() {
        let state = |start, end, complete| TableState { range: Some(Bounds { start, end }), complete };
        let built = |start| Bounds { start, end: start + 10 };
        let claim = Claimed { before: state(0, 30, true), after: state(10, 40, true) };
        assert_eq!(claim.over(claim.before, &[built(30)]), claim.after, "nobody has looked since");
        assert_eq!(claim.over(state(0, 50, true), &[built(30)]), state(0, 50, true));
        assert_eq!(claim.over(state(0, 30, false), &[built(30)]), state(0, 40, true), "what adjoins is claimed");
        let first = Claimed { before: TableState::default(), after: state(0, 20, true) };
        assert_eq!(first.over(TableState::default(), &[built(0), built(10)]), first.after);
    }

    #[test]
    fn details_survive_the_record() {
        assert_eq!(Details::parse(&details().to_text()), Some(details()));
        assert_eq!(details().zone(), Some(Zone::Europe__Berlin));
        assert_eq!(Details::parse("{}"), None);
        assert_eq!(Details::parse("nonsense"), None);
    }

    #[test]
    fn who_retries_the_jobs_of_a_group_one_by_one_asks_for_one_group() {
        let job = |asker: &str| JobRecord {
            context: format!("{asker}-g"),
            group: Some("g".to_owned()),
            ..record(JobState::Cancelled)
        };
        let (one, other) = (anew(job("a")), anew(job("b")));
        let group = one.group.clone().expect("a group");
        assert_ne!(group, "g");
        assert_eq!(other.group.as_ref(), Some(&group));
        assert_eq!([one.context, other.context], ["a", "b"].map(|asker| format!("{asker}-{group}")));
        assert_eq!(anew(job("a")).group, Some(group), "also when it is asked again");
        assert_eq!(anew(record(JobState::Cancelled)).group, None);
    }

    #[test]
    fn equal_contexts_have_equal_digests() {
        let digest = |text: &str| context_digest(&serde_json::from_str(text).expect("JSON"));
        assert_eq!(digest(r#"{"a":1,"b":{"c":2,"d":3}}"#), digest(r#"{ "b": {"d":3,"c":2}, "a":1 }"#));
        assert_ne!(digest(r#"{"a":1}"#), digest(r#"{"a":"1"}"#));
        assert_ne!(digest("[1,2]"), digest("[2,1]"));
        assert_ne!(digest("null"), digest("{}"));
    }

    fn record(state: JobState) -> JobRecord {
        let table = TableId::new("orders.daily@UTC-0").expect("a name");
        JobRecord {
            id: JobId::from_token("0"),
            partition: PartitionKey { table, bucket: None },
            details: details().to_text(),
            context: String::new(),
            state,
            attempt: 0,
            created_at: 0,
            started_at: None,
            ended_at: None,
            group: None,
        }
    }

    #[test]
    fn a_failure_is_final_and_a_live_job_needs_its_definition() {
        let model = Some(&Arc::new(Model::new(0, Vec::new())));
        let failed = view(record(JobState::Failed { cause: "no such table".to_owned() }), model);
        assert_eq!(failed.status, "failure: no such table");
        assert_eq!((failed.preagg.as_str(), failed.timezone.as_str()), ("orders.daily", "Europe/Berlin"));
        assert_eq!(failed.context, details().context);
        assert_eq!(view(record(JobState::Queued), model).status, "pre_agg_not_found");
        assert_eq!(view(record(JobState::Running), model).status, "pre_agg_not_found");
        assert_eq!(view(record(JobState::Queued), None).status, "scheduled");
        assert_eq!(view(record(JobState::Cancelled), model).status, "failure: the job was cancelled");
    }
}
