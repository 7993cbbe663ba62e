//! Plans of several levels → one statement of common table expressions (`data-model.md` §19–21).

use std::collections::HashMap;

use super::expr::{Base, Scope, aggregate};
use super::rollup::{RollupScan, rollup_sql};
use super::source::{Output, SourceSelect, column_alias, condition, measure_filters, source_sql};
use super::windows::Rolled;
use super::{CubeTables, Literals, Statement, group_by, quote, quote_text, same, tail};
use crate::model::{AggKind, DimensionId, DimensionKind, MeasureId, MeasureKind, Model, Preagg};
use crate::preagg::layout;
use crate::query::members::resolve_alias;
use crate::query::plan::{Leaf, Node, NodeKind, Plan, Stages, SubQueryPlan};
use crate::query::{Column, Filter, OutputColumn, Query};
use crate::time::Zone;

/// Where one level of a plan is answered.
#[derive(Debug, Clone)]
pub enum LeafSource<'a> {
    /// From the source's tables.
    Source,
    /// From a rollup.
    Rollup {
        /// The definition.
        preagg: &'a Preagg,
        /// The zone that it was built for.
        zone: Zone,
        /// Whether every group of the answer is one stored row.
        exact: bool,
        /// What stands after FROM for its rows.
        table: String,
    },
}

/// Where a plan is answered.
#[derive(Debug, Clone, Default)]
pub struct Origins<'a> {
    /// Of its levels, in order; those beyond are the source's.
    pub leaves: Vec<LeafSource<'a>>,
    /// Tables that stand for cubes' own SQL at the source.
    pub cubes: CubeTables,
}

/// Name of the table that the n-th level of a plan reads when it is answered by a rollup.
pub fn rollup_table(level: usize) -> String {
    if level == 0 { "rollup".to_owned() } else { format!("rollup_{level}") }
}

/// The statement of a plan, answered from `origins`. `with_tail` says whether `ORDER BY`, `LIMIT` and `OFFSET` are
/// written.
pub fn plan_statement(model: &Model, plan: &Plan, origins: &Origins<'_>, with_tail: bool) -> Statement {
    let literals = Literals::over(&origins.cubes);
    let mut writer = Writer::new(model, &literals, origins.leaves.iter());
    let mut sql = writer.plan(plan);
    if with_tail {
        sql.push_str(&tail(query_of(plan)));
    }
    Statement::new(sql, literals)
}

fn query_of(plan: &Plan) -> &Query {
    match plan {
        Plan::Leaf(leaf) => &leaf.query,
        Plan::Stages(stages) => &stages.query,
    }
}

/// The text of a sub-query dimension: its keys and the column `value`.
pub(super) fn sub_query_sql(scope: &Scope<'_>, sub_query: &SubQueryPlan) -> String {
    let (model, literals) = (scope.model, scope.literals);
    let DimensionKind::SubQuery(definition) = &model.dimension(sub_query.dimension).kind else { return String::new() };
    let mut writer = Writer::new(model, literals, [].iter());
    let inner = writer.plan(&sub_query.plan);
    let query = query_of(&sub_query.plan);
    let columns = |column: OutputColumn| format!("\"inner\".{}", quote(&column_alias(model, column)));
    let leaves = query.measures.iter().map(|id| (*id, columns(OutputColumn::Measure(*id)))).collect();
    let groups = query.group_columns().into_iter().map(|column| (column, columns(column))).collect();
    let outer = Scope { model, query, literals, base: Base::Groups { leaves: &leaves, groups: &groups } };
    let keys = sub_query.keys.iter().map(|key| quote(&column_alias(model, *key)));
    let keys: Vec<String> = keys.map(|key| format!("\"inner\".{key} AS {key}")).collect();
    let value = outer.template(sub_query.dimension.cube, &definition.sql);
    let columns = [keys, vec![format!("{value} AS \"value\"")]].concat();
    format!("SELECT {} FROM ({inner}) AS \"inner\"", columns.join(", "))
}

pub(super) struct Writer<'a, 's> {
    pub(super) model: &'a Model,
    pub(super) literals: &'a Literals,
    /// Of the levels that are still to be written.
    sources: std::slice::Iter<'s, LeafSource<'s>>,
    /// How many plans of the statement this one stands in.
    depth: usize,
}

impl<'a, 'l> Writer<'a, 'l> {
    fn new(model: &'a Model, literals: &'a Literals, sources: std::slice::Iter<'l, LeafSource<'l>>) -> Self {
        Self { model, literals, sources, depth: literals.depth.get() }
    }

    /// The name of a node's table expression. Those of a plan inside another plan must differ from its.
    pub(super) fn cte(&self, node: usize) -> String {
        match self.depth {
            0 => quote(&format!("cte_{node}")),
            depth => quote(&format!("cte_{depth}_{node}")),
        }
    }

    fn plan(&mut self, plan: &Plan) -> String {
        self.literals.depth.set(self.depth + 1);
        let sql = match plan {
            Plan::Leaf(leaf) => self.leaf(leaf),
            Plan::Stages(stages) => self.stages(stages),
        };
        self.literals.depth.set(self.depth);
        sql
    }

    fn leaf(&mut self, leaf: &Leaf) -> String {
        let model = self.model;
        let outputs: Vec<Output> = leaf.query.measures.iter().flat_map(|id| self.outputs(leaf, *id)).collect();
        match self.sources.next().unwrap_or(&LeafSource::Source) {
            LeafSource::Source => {
                let select =
                    SourceSelect { model, query: &leaf.query, shape: &leaf.shape, outputs: &outputs, tail: false };
                source_sql(select, self.literals)
            }
            LeafSource::Rollup { preagg, zone, exact, table } => {
                let scan = RollupScan {
                    model,
                    query: &leaf.query,
                    preagg,
                    zone: *zone,
                    exact: *exact,
                    table,
                    outputs: &outputs,
                };
                rollup_sql(scan, self.literals)
            }
        }
    }

    /// What is merged further comes out as states where its values do not merge.
    fn outputs(&self, leaf: &Leaf, id: MeasureId) -> Vec<Output> {
        let apart = match &self.model.measure(id).kind {
            MeasureKind::Aggregate { agg, .. } => {
                matches!(agg, AggKind::Avg | AggKind::CountDistinct | AggKind::CountDistinctApprox)
            }
            MeasureKind::Calculated { .. } | MeasureKind::Rank(_) | MeasureKind::Switch(_) => false,
        };
        match (leaf.merged && apart, leaf.arguments) {
            (true, _) => {
                let states = layout::states(&self.model.measure(id).kind);
                states.iter().map(|state| Output::State(id, *state)).collect()
            }
            (false, true) => vec![Output::Argument(id)],
            (false, false) => vec![Output::Measure(id)],
        }
    }

    fn stages(&mut self, stages: &Stages) -> String {
        let mut parts = Vec::with_capacity(stages.nodes.len());
        for (number, node) in stages.nodes.iter().enumerate() {
            let sql = self.node(stages, node);
            parts.push(format!("{} AS ({sql})", self.cte(number)));
        }
        let root = &stages.nodes[stages.root];
        let (leaves, groups) = self.columns(root, "answer");
        let query = &stages.query;
        let scope = self.scope(query, &leaves, &groups);
        let columns = query.columns().into_iter().map(|column| {
            let sql = match column {
                OutputColumn::Measure(id) => scope.measure(id),
                group => groups.get(&group).cloned().unwrap_or_default(),
            };
            format!("{sql} AS {}", quote(&column_alias(self.model, column)))
        });
        let columns: Vec<String> = columns.collect();
        let mut sql = format!(
            "WITH {} SELECT {} FROM {} AS \"answer\"",
            parts.join(", "),
            columns.join(", "),
            self.cte(stages.root)
        );
        if !query.measure_filters.is_empty() {
            sql.push_str(&format!(" WHERE {}", measure_filters(&scope, query)));
        }
        sql
    }

    pub(super) fn scope<'s>(
        &'s self,
        query: &'s Query,
        leaves: &'s HashMap<MeasureId, String>,
        groups: &'s HashMap<OutputColumn, String>,
    ) -> Scope<'s> {
        Scope { model: self.model, query, literals: self.literals, base: Base::Groups { leaves, groups } }
    }

    /// The columns of a node under an alias.
    fn columns(&self, node: &Node, alias: &str) -> (HashMap<MeasureId, String>, HashMap<OutputColumn, String>) {
        let column = |name: &str| format!("{}.{}", quote(alias), quote(name));
        let values = node.values.iter().map(|id| (*id, column(&layout::measure_column(self.model, *id)))).collect();
        let groups = node.groups.iter().map(|group| (*group, column(&column_alias(self.model, *group)))).collect();
        (values, groups)
    }

    fn node(&mut self, stages: &Stages, node: &Node) -> String {
        match &node.kind {
            NodeKind::Leaf(leaf) => self.leaf(leaf),
            NodeKind::Join(parts) => self.join(stages, node, parts),
            NodeKind::Evaluate(input) => self.evaluate(stages, node, *input),
            NodeKind::Aggregate(input) => self.aggregate(stages, node, *input),
            NodeKind::Spread { rows, values } => self.spread(stages, node, *rows, *values),
            NodeKind::Rank { input, partition } => self.rank(stages, node, *input, partition),
            NodeKind::Rolling { base, series, window } => {
                self.rolling(stages, node, Rolled { base: *base, series: *series, window: *window })
            }
            NodeKind::Switch { input, switches, filters } => self.switch(stages, node, *input, switches, filters),
        }
    }

    fn group_list(&self, groups: &[OutputColumn], alias: &str) -> Vec<String> {
        let list = groups.iter().map(|group| quote(&column_alias(self.model, *group)));
        list.map(|column| format!("{}.{column} AS {column}", quote(alias))).collect()
    }

    /// All groups of all parts. A fact without rows for a group has no values there.
    fn join(&self, stages: &Stages, node: &Node, parts: &[usize]) -> String {
        let alias = |position: usize| quote(&format!("q_{position}"));
        let names: Vec<String> = node.groups.iter().map(|group| quote(&column_alias(self.model, *group))).collect();
        let coalesced = |name: &str, upto: usize| match upto {
            1 => format!("{}.{name}", alias(0)),
            _ => {
                let sides: Vec<String> = (0..upto).map(|position| format!("{}.{name}", alias(position))).collect();
                format!("COALESCE({})", sides.join(", "))
            }
        };
        let mut columns: Vec<String> =
            names.iter().map(|name| format!("{} AS {name}", coalesced(name, parts.len()))).collect();
        let mut seen: Vec<MeasureId> = Vec::new();
        let mut from = String::new();
        for (position, part) in parts.iter().enumerate() {
            let (table, alias) = (self.cte(*part), alias(position));
            for id in &stages.nodes[*part].values {
                if !seen.contains(id) {
                    seen.push(*id);
                    let column = quote(&layout::measure_column(self.model, *id));
                    columns.push(format!("{alias}.{column} AS {column}"));
                }
            }
            let equal: Vec<String> =
                names.iter().map(|name| same(&coalesced(name, position.max(1)), &format!("{alias}.{name}"))).collect();
            from.push_str(&match (position, equal.is_empty()) {
                (0, _) => format!("{table} AS {alias}"),
                (_, true) => format!(" CROSS JOIN {table} AS {alias}"),
                (_, false) => format!(" FULL JOIN {table} AS {alias} ON {}", equal.join(" AND ")),
            });
        }
        format!("SELECT {} FROM {from}", columns.join(", "))
    }

    fn evaluate(&self, stages: &Stages, node: &Node, input: usize) -> String {
        let (leaves, groups) = self.columns(&stages.nodes[input], "input");
        let scope = self.scope(&stages.query, &leaves, &groups);
        let mut columns = self.group_list(&node.groups, "input");
        for id in &node.values {
            columns.push(format!("{} AS {}", scope.measure(*id), quote(&layout::measure_column(self.model, *id))));
        }
        let columns = if columns.is_empty() { "1 AS \"one\"".to_owned() } else { columns.join(", ") };
        format!("SELECT {columns} FROM {} AS \"input\"", self.cte(input))
    }

    fn aggregate(&self, stages: &Stages, node: &Node, input: usize) -> String {
        let (leaves, groups) = self.columns(&stages.nodes[input], "input");
        let scope = self.scope(&stages.query, &leaves, &groups);
        let mut columns = self.group_list(&node.groups, "input");
        for id in &node.values {
            let measure = self.model.measure(*id);
            let agg = match &measure.kind {
                MeasureKind::Aggregate { agg, .. } => *agg,
                MeasureKind::Switch(switch) => switch.agg.unwrap_or(AggKind::Sum),
                MeasureKind::Calculated { .. } | MeasureKind::Rank(_) => AggKind::Max,
            };
            let sql = aggregate(agg, &scope.stage_argument(measure));
            columns.push(format!("{sql} AS {}", quote(&layout::measure_column(self.model, *id))));
        }
        format!("SELECT {} FROM {} AS \"input\"{}", columns.join(", "), self.cte(input), group_by(node.groups.len()))
    }

    fn spread(&self, stages: &Stages, node: &Node, rows: usize, values: usize) -> String {
        let mut columns = self.group_list(&node.groups, "rows");
        for id in &node.values {
            let column = quote(&layout::measure_column(self.model, *id));
            columns.push(format!("\"values\".{column} AS {column}"));
        }
        let on: Vec<String> = stages.nodes[values]
            .groups
            .iter()
            .map(|group| quote(&column_alias(self.model, *group)))
            .map(|name| same(&format!("\"rows\".{name}"), &format!("\"values\".{name}")))
            .collect();
        let (columns, rows, values) = (columns.join(", "), self.cte(rows), self.cte(values));
        if on.is_empty() {
            return format!("SELECT {columns} FROM {rows} AS \"rows\" CROSS JOIN {values} AS \"values\"");
        }
        let on = on.join(" AND ");
        format!("SELECT {columns} FROM {rows} AS \"rows\" LEFT JOIN {values} AS \"values\" ON {on}")
    }

    fn rank(&self, stages: &Stages, node: &Node, input: usize, partition: &[OutputColumn]) -> String {
        let (leaves, groups) = self.columns(&stages.nodes[input], "input");
        let scope = self.scope(&stages.query, &leaves, &groups);
        let mut columns = self.group_list(&node.groups, "input");
        for id in &node.values {
            let mut over = Vec::new();
            if !partition.is_empty() {
                let by: Vec<String> = partition.iter().filter_map(|group| groups.get(group).cloned()).collect();
                over.push(format!("PARTITION BY {}", by.join(", ")));
            }
            if let MeasureKind::Rank(keys) = &self.model.measure(*id).kind {
                let keys = keys.iter().map(|key| {
                    let direction = if key.descending { "DESC NULLS FIRST" } else { "ASC NULLS LAST" };
                    format!("{} {direction}", scope.template(id.cube, &key.sql))
                });
                over.push(format!("ORDER BY {}", keys.collect::<Vec<_>>().join(", ")));
            }
            let alias = quote(&layout::measure_column(self.model, *id));
            columns.push(format!("CAST(rank() OVER ({}) AS BIGINT) AS {alias}", over.join(" ")));
        }
        format!("SELECT {} FROM {} AS \"input\"", columns.join(", "), self.cte(input))
    }

    fn switch(
        &self,
        stages: &Stages,
        node: &Node,
        input: Option<usize>,
        switches: &[DimensionId],
        filters: &[Filter<Column>],
    ) -> String {
        let mut from = Vec::new();
        let mut columns = Vec::new();
        if let Some(input) = input {
            from.push(format!("{} AS \"input\"", self.cte(input)));
        }
        let mut groups: HashMap<OutputColumn, String> = HashMap::new();
        for (position, id) in switches.iter().enumerate() {
            let column = quote(&layout::dimension_column(self.model, *id));
            let DimensionKind::Switch(values) = &self.model.dimension(resolve_alias(self.model, *id)).kind else {
                continue;
            };
            let rows: Vec<String> = values.iter().map(|value| format!("({})", quote_text(value))).collect();
            let alias = quote(&format!("switch_{position}"));
            from.push(format!("(VALUES {}) AS {alias}({column})", rows.join(", ")));
            groups.insert(OutputColumn::Dimension(*id), format!("{alias}.{column}"));
        }
        for group in &node.groups {
            let column = quote(&column_alias(self.model, *group));
            let sql = groups.get(group).cloned().unwrap_or_else(|| format!("\"input\".{column}"));
            columns.push(format!("{sql} AS {column}"));
        }
        for id in &node.values {
            let column = quote(&layout::measure_column(self.model, *id));
            columns.push(format!("\"input\".{column} AS {column}"));
        }
        let leaves = HashMap::new();
        let scope = self.scope(&stages.query, &leaves, &groups);
        let conditions: Vec<String> = filters.iter().map(|filter| format!("({})", condition(&scope, filter))).collect();
        let filters =
            if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("SELECT {} FROM {}{filters}", columns.join(", "), from.join(" CROSS JOIN "))
    }
}
