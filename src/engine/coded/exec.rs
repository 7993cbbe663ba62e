//! The operator: the partial aggregation of a scan.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::plan_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, Partitioning, PhysicalExpr,
    PlanProperties,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::state::{Aggregate, State, Work};

/// Groups that are held at most. More are given on: the final aggregation puts equal ones together.
const MOST_GROUPS: usize = 1 << 19;

/// Filters, projects and aggregates a scan's rows, to partial states.
#[derive(Debug)]
pub(super) struct CodedAggregate {
    scan: Arc<dyn ExecutionPlan>,
    work: Arc<Work>,
    properties: Arc<PlanProperties>,
}

impl CodedAggregate {
    pub(super) fn new(scan: Arc<dyn ExecutionPlan>, work: Arc<Work>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&work.groups)),
            Partitioning::UnknownPartitioning(scan.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { scan, work, properties: Arc::new(properties) }
    }
}

impl DisplayAs for CodedAggregate {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.work.groups.fields().iter().take(self.work.keys.len()).map(|field| field.name().as_str());
        write!(f, "CodedAggregate: keys=[{}]", keys.collect::<Vec<_>>().join(", "))
    }
}

impl ExecutionPlan for CodedAggregate {
    fn name(&self) -> &'static str {
        "CodedAggregate"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([scan]) => Ok(Arc::new(Self::new(scan, Arc::clone(&self.work)))),
            Err(children) => plan_err!("an aggregation has one input, not {}", children.len()),
        }
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for expression in self.work.predicate.iter().chain(self.work.aggregates.iter().flat_map(Aggregate::expressions))
        {
            if visit(expression)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let reservation = MemoryConsumer::new(format!("CodedAggregate[{partition}]"))
            .with_can_spill(true)
            .register(context.memory_pool());
        let read = self.scan.schema();
        let running = Running {
            state: State::new(&self.work, &read)?,
            work: Arc::clone(&self.work),
            rows: self.scan.execute(partition, Arc::clone(&context))?,
            reservation,
            read,
        };
        let portion = context.session_config().batch_size().max(1);
        let groups = stream::try_unfold(Some(running), |running| async {
            let Some(running) = running else { return Ok(None) };
            running.next().await
        });
        let portions = move |groups: RecordBatch| {
            let starts = (0..groups.num_rows()).step_by(portion);
            let slices = starts.map(move |start| Ok(groups.slice(start, portion.min(groups.num_rows() - start))));
            stream::iter(slices)
        };
        let groups = groups.map_ok(portions).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.work.groups), groups.boxed())))
    }
}

/// One partition at work.
struct Running {
    rows: SendableRecordBatchStream,
    read: SchemaRef,
    work: Arc<Work>,
    state: State,
    reservation: MemoryReservation,
}

impl Running {
    /// The next groups; with none instead of itself, the last ones.
    async fn next(mut self) -> Result<Option<(RecordBatch, Option<Self>)>> {
        while let Some(rows) = self.rows.next().await {
            self.state.push(&self.work, &rows?)?;
            let is_much = self.state.len() >= MOST_GROUPS || self.reservation.try_resize(self.state.size()).is_err();
            if is_much {
                let fresh = State::new(&self.work, &self.read)?;
                let full = std::mem::replace(&mut self.state, fresh);
                self.reservation.free();
                if full.len() > 0 {
                    return Ok(Some((full.finish(&self.work)?, Some(self))));
                }
            }
        }
        if self.state.len() == 0 {
            return Ok(None);
        }
        Ok(Some((self.state.finish(&self.work)?, None)))
    }
}
