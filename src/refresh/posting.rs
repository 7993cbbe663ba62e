//! A selection → what it would build → jobs; and the list of them.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use quarry_storage::{Bounds, JobId, JobState, NewJob, Partition, PartitionKey, StorageError, TableId, TableState};
use serde_json::Value;

use super::keys::Span;
use super::planning::{self, Chosen, Target, Wanted};
use super::staleness::{Freshness, freshness};
use super::{JobView, LOOKS_AT_ONCE, RefreshError, Refresher, Selection, jobs};
use crate::engine::EngineError;
use crate::names::MemberPath;
use crate::query::QueryError;
use crate::query::rollups::Rollups;
use crate::tasks::blocking;
use crate::time::format_local;

/// What a selection would build, of one partition and context.
#[derive(Debug, Clone)]
pub struct Preview {
    /// `cube.rollup`.
    pub preagg: String,
    /// The stored table.
    pub table: TableId,
    /// The zone's name.
    pub timezone: String,
    /// The security context, as sent.
    pub context: Value,
    /// The partition, in the zone's local time; none for an unpartitioned rollup.
    pub bucket: Option<Bounds>,
    /// What it needs.
    pub freshness: Freshness,
    /// What is published of it now: how many rows it had and what it cost say what to expect.
    pub published: Option<Arc<Partition>>,
}

/// Which jobs a list shows; empty lists show all.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// `queued`, `running`, `done`, `failed`, `cancelled`.
    pub states: Vec<String>,
    /// `cube.rollup`.
    pub preaggs: Vec<String>,
    /// Names of the defining cubes.
    pub cubes: Vec<String>,
    /// Names of zones.
    pub timezones: Vec<String>,
    /// Groups that are published in one step.
    pub groups: Vec<String>,
    /// Jobs to skip, of those that fit.
    pub offset: usize,
    /// Most jobs to show.
    pub limit: usize,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone)]
pub struct JobPage {
    /// Those of the page.
    pub jobs: Vec<JobView>,
    /// How many fit the filter.
    pub total: usize,
}

/// What is published of a partition, and what it needs.
type Found = (Option<Arc<Partition>>, Freshness);

/// A selection resolved.
struct Plan {
    /// Each with the position of its model.
    contexts: Vec<(Value, usize)>,
    models: Vec<PlannedModel>,
}

/// What a selection means of one model.
struct PlannedModel {
    rollups: Arc<Rollups>,
    tables: Vec<(Target, Chosen)>,
}

impl Refresher {
    /// Enqueues a build of every selected partition: one token each, in the order context, zone,
    /// rollup, partition. An equal job that has not ended is joined: its token is given again.
    ///
    /// Without contexts the empty one is meant, without zones those of the scheduler. With
    /// [`Selection::if_stale`] there may be nothing to do, and no token.
    ///
    /// # Errors
    /// See [`RefreshError`]; nothing was enqueued then.
    pub async fn post(&self, selection: Selection) -> Result<Vec<JobId>, RefreshError> {
        let plan = self.resolve(&selection).await?;
        let models = &plan.models;
        let mut groups = jobs::GroupNames::new(selection.atomic);
        let jobs: Vec<NewJob> = plan
            .contexts
            .iter()
            .flat_map(|(context, at)| {
                let PlannedModel { rollups, tables } = &models[*at];
                tables.iter().map(move |(target, chosen)| (context, rollups, target, chosen))
            })
            .flat_map(|(context, rollups, target, chosen)| {
                let group = groups.of(rollups, target);
                new_jobs(&selection, (context, group), target, chosen)
            })
            .collect();
        // Those of a group are claimed with its publish.
        let mut claims_now = |rollups: &Rollups, (target, chosen): &(Target, Chosen)| {
            target.granularity.is_some() && !chosen.buckets.is_empty() && groups.of(rollups, target).is_none()
        };
        let mut states: Vec<(TableId, TableState)> = Vec::new();
        for PlannedModel { rollups, tables } in plan.models {
            let of_model = tables.into_iter().filter(|table| claims_now(&rollups, table));
            states.extend(of_model.map(|(target, chosen)| (target.table, chosen.state)));
        }
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.store_and_enqueue(states, jobs).await?;
        self.inner.pulse();
        Ok(ids)
    }

    /// What [`Refresher::post`] would build, in its order. Changes nothing.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn preview(&self, selection: &Selection) -> Result<Vec<Preview>, RefreshError> {
        let plan = self.resolve(selection).await?;
        let mut found = Vec::with_capacity(plan.models.len());
        for PlannedModel { rollups, tables } in &plan.models {
            let mut of_model = Vec::with_capacity(tables.len());
            for (target, chosen) in tables {
                of_model.push(self.look_up(rollups, target, &chosen.buckets).await?);
            }
            found.push(of_model);
        }
        let mut previews = Vec::new();
        for (context, at) in &plan.contexts {
            for ((target, chosen), found) in plan.models[*at].tables.iter().zip(&found[*at]) {
                for (bucket, (published, freshness)) in chosen.buckets.iter().zip(found) {
                    previews.push(Preview {
                        preagg: target.path.clone(),
                        table: target.table.clone(),
                        timezone: target.zone.name().to_owned(),
                        context: context.clone(),
                        bucket: *bucket,
                        freshness: *freshness,
                        published: published.clone(),
                    });
                }
            }
        }
        Ok(previews)
    }

    /// Enqueues what a failed or cancelled job was for, as a new job; one that is live already is joined. With a job of
    /// a group all of them are enqueued, as one other group. None when the job is not known, is live or is done.
    ///
    /// # Errors
    /// The store failed.
    pub async fn retry(&self, id: &JobId) -> Result<Option<JobId>, RefreshError> {
        let (store, clock, id) = (self.inner.parts.store.clone(), self.inner.parts.clock, id.clone());
        let retried = blocking(move || -> Result<Option<JobId>, StorageError> {
            let Some(job) = store.find_job(&id)? else { return Ok(None) };
            match job.state {
                JobState::Queued | JobState::Running | JobState::Done { .. } => return Ok(None),
                JobState::Failed { .. } | JobState::Cancelled => {}
            }
            let jobs = match &job.group {
                None => vec![job],
                Some(group) => store.jobs()?.into_iter().filter(|other| other.group.as_ref() == Some(group)).collect(),
            };
            let at = jobs.iter().position(|job| job.id == id).unwrap_or(0);
            let jobs: Vec<NewJob> = jobs.into_iter().map(jobs::anew).collect();
            let ids = store.enqueue(&jobs, clock.now())?;
            Ok(ids.get(at).cloned())
        })
        .await?;
        self.inner.pulse();
        Ok(retried)
    }

    /// The jobs that are kept, newest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(&self, filter: &JobFilter) -> Result<JobPage, RefreshError> {
        let store = self.inner.parts.store.clone();
        let records = blocking(move || store.jobs()).await?;
        let rollups = self.inner.only_rollups();
        let admits = |names: &[String], name: &str| names.is_empty() || names.iter().any(|known| known == name);
        let fits = |view: &JobView| {
            let cube = MemberPath::parse(&view.preagg).map(|path| path.cube().to_owned()).unwrap_or_default();
            admits(&filter.states, view.state_word())
                && admits(&filter.preaggs, &view.preagg)
                && admits(&filter.cubes, &cube)
                && admits(&filter.timezones, &view.timezone)
                && admits(&filter.groups, view.record.group.as_deref().unwrap_or_default())
        };
        let views =
            records.into_iter().map(|record| jobs::view(record, rollups.as_deref().map(Rollups::model))).filter(fits);
        let (mut page, mut total) = (Vec::new(), 0);
        for view in views {
            if total >= filter.offset && page.len() < filter.limit {
                let progress = self.inner.parts.store.progress(&view.record.id);
                page.push(JobView { progress, ..view });
            }
            total += 1;
        }
        Ok(JobPage { jobs: page, total })
    }

    /// The jobs of requests that wait for a webhook, by request: after a restart somebody has to go on waiting.
    ///
    /// # Errors
    /// The store failed.
    pub async fn unfinished_webhooks(&self) -> Result<Vec<(jobs::Webhook, Vec<JobId>)>, RefreshError> {
        let store = self.inner.parts.store.clone();
        let records = blocking(move || store.jobs()).await?;
        let mut found: Vec<(jobs::Webhook, Vec<JobId>, bool)> = Vec::new();
        for record in records {
            let Some(webhook) = jobs::Details::parse(&record.details).and_then(|details| details.webhook) else {
                continue;
            };
            let is_live = !record.state.has_ended();
            match found.iter_mut().find(|(known, ..)| known.request == webhook.request) {
                Some((_, ids, live)) => {
                    ids.push(record.id);
                    *live |= is_live;
                }
                None => found.push((webhook, vec![record.id], is_live)),
            }
        }
        Ok(found.into_iter().filter(|(.., live)| *live).map(|(webhook, ids, _)| (webhook, ids)).collect())
    }

    async fn resolve(&self, selection: &Selection) -> Result<Plan, RefreshError> {
        let contexts = match selection.contexts.as_slice() {
            [] => &[Value::Object(serde_json::Map::new())],
            contexts => contexts,
        };
        let mut plan = Plan { contexts: Vec::with_capacity(contexts.len()), models: Vec::new() };
        for context in contexts {
            let rollups = self.inner.parts.rollups_of(context).await?;
            let known = plan.models.iter().position(|model| Arc::ptr_eq(&model.rollups, &rollups));
            let at = known.unwrap_or(plan.models.len());
            if known.is_none() {
                let tables = self.tables(&rollups, selection).await?;
                plan.models.push(PlannedModel { rollups, tables });
            }
            plan.contexts.push((context.clone(), at));
        }
        check_selected(&plan.models, &selection.starts)?;
        if selection.if_stale {
            for PlannedModel { rollups, tables } in &mut plan.models {
                for (target, chosen) in tables {
                    let found = self.look_up(rollups, target, &chosen.buckets).await?;
                    let mut found = found.into_iter();
                    chosen.buckets.retain(|_| found.next().is_some_and(|(_, freshness)| freshness != Freshness::Fresh));
                }
            }
        }
        Ok(plan)
    }

    /// What a selection means of one model.
    async fn tables(&self, rollups: &Rollups, selection: &Selection) -> Result<Vec<(Target, Chosen)>, RefreshError> {
        let zones = if selection.zones.is_empty() { &self.inner.options.zones } else { &selection.zones };
        let targets = planning::targets(rollups, selection, zones)?;
        let wanted = Wanted { range: selection.range, starts: &selection.starts };
        stream::iter(targets)
            .map(|target| self.plan(rollups, target, wanted))
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await
    }

    /// What is published of each of these partitions, and what it needs.
    async fn look_up(
        &self,
        rollups: &Rollups,
        target: &Target,
        buckets: &[Option<Bounds>],
    ) -> Result<Vec<Found>, RefreshError> {
        let (inner, snapshot) = (&self.inner, self.inner.parts.store.snapshot());
        let table = snapshot.table(&target.table);
        let one = |bucket: Option<Bounds>| {
            let start = bucket.map_or(i64::MIN, |bucket| bucket.start);
            let found = table.and_then(|table| table.partitions.get(&start));
            let found = found.filter(|partition| partition.bucket == bucket).cloned();
            async move {
                let Some(partition) = found else { return Ok((None, Freshness::Missing)) };
                let span = Span::Partition(bucket);
                let value = inner.keys.value(&inner.parts, rollups, target, span, i64::MIN).await;
                // Who asks whether it is stale must not be told a guess.
                let value = value.map_err(|error| QueryError::Engine(EngineError::Execution(error.to_string())))?;
                let freshness = freshness(Some(&partition), &value);
                Ok((Some(partition), freshness))
            }
        };
        // Collected first: the futures of a lazy iterator cannot be told to be Send.
        let looks: Vec<_> = buckets.iter().map(|bucket| one(*bucket)).collect();
        stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await
    }

    async fn plan(
        &self,
        rollups: &Rollups,
        target: Target,
        wanted: Wanted<'_>,
    ) -> Result<(Target, Chosen), RefreshError> {
        let seen = planning::look(&self.inner.parts, rollups, &target, self.inner.options.timeout).await?;
        let stored = self.inner.stored_state(&target.table);
        let chosen = planning::choose(target.granularity, seen, stored, wanted, self.inner.options.max_partitions);
        let chosen = chosen.map_err(|error| RefreshError::too_many(&target.path, error))?;
        Ok((target, chosen))
    }

    /// States first: a partition published before its table's state is known would be of no use.
    async fn store_and_enqueue(
        &self,
        states: Vec<(TableId, TableState)>,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<JobId>, StorageError> {
        let (store, clock) = (self.inner.parts.store.clone(), self.inner.parts.clock);
        blocking(move || {
            for (table, state) in states {
                store.set_table_state(&table, state)?;
            }
            store.enqueue(&jobs, clock.now())
        })
        .await
    }
}

impl JobView {
    /// Where the job stands, in one word of ours.
    pub fn state_word(&self) -> &'static str {
        match self.record.state {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Done { .. } => "done",
            JobState::Failed { .. } => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// Something must be selected, and every partition that was named must be there.
fn check_selected(models: &[PlannedModel], starts: &[i64]) -> Result<(), RefreshError> {
    let tables = models.iter().flat_map(|model| &model.tables);
    let buckets: Vec<Option<Bounds>> = tables.flat_map(|(_, chosen)| chosen.buckets.iter().copied()).collect();
    if buckets.is_empty() && starts.is_empty() {
        return Err(RefreshError::NothingSelected);
    }
    let found: HashSet<i64> = buckets.into_iter().flatten().map(|bucket| bucket.start).collect();
    match starts.iter().find(|start| !found.contains(start)) {
        Some(start) => Err(RefreshError::NoPartition(format_local(*start))),
        None => Ok(()),
    }
}

fn new_jobs(
    selection: &Selection,
    (context, group): (&Value, Option<String>),
    target: &Target,
    chosen: &Chosen,
) -> Vec<NewJob> {
    let mut details = jobs::Details::new(target, context.clone(), !selection.gated);
    details.webhook.clone_from(&selection.webhook);
    let mut asker = jobs::context_digest(context);
    // Jobs are joined by who asks. One that is built under other rules, or that somebody waits to hear of, is
    // not the same job; queued ones of a partition are built together all the same.
    if selection.gated {
        asker.push_str("-gated");
    }
    if let Some(webhook) = &selection.webhook {
        asker.push('-');
        asker.push_str(&webhook.request);
    }
    if let Some(group) = &group {
        asker.push('-');
        asker.push_str(group);
    }
    if group.is_some() && target.granularity.is_some() {
        details.claim = Some(jobs::Claimed { before: chosen.before, after: chosen.state });
    }
    let details = details.to_text();
    let job = |bucket| NewJob {
        partition: PartitionKey { table: target.table.clone(), bucket },
        details: details.clone(),
        context: asker.clone(),
        group: group.clone(),
    };
    chosen.buckets.iter().copied().map(job).collect()
}
