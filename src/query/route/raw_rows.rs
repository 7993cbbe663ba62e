//! Ungrouped queries: stored rows are the query's rows when every one of these has a group of its own
//! (`pre-aggregations.md` §4.9).

use super::Reason;
use super::fit::Fit;
use super::reason::Culprit;
use crate::model::{CubeId, MeasureKind, MemberId, Relationship};
use crate::preagg::layout::{StateColumn, states};
use crate::query::plan::Shape;

impl Fit<'_> {
    /// The joins must be alike, the keys of all cubes whose rows decide how many there are stored, and the measures
    /// such that the state of one row is its value.
    pub(super) fn check_rows(&self, shape: &Shape, stored: &Shape) -> Result<(), Reason> {
        self.check_tree(shape, stored)?;
        let splits = |cube: CubeId| {
            stored.tree.edges.iter().any(|edge| {
                edge.to == cube && self.model.cube(edge.from).joins[edge.join].relationship == Relationship::OneToMany
            })
        };
        for cube in stored.tree.cubes().filter(|cube| *cube == stored.tree.root || splits(*cube)) {
            let name = &self.model.cube(cube).name;
            if !shape.tree.cubes().any(|asked| asked == cube) {
                return Err(Reason::Ungrouped(format!("they are joined to '{name}'")));
            }
            let mut keys = self.model.cube(cube).primary_key().peekable();
            if keys.peek().is_none() {
                return Err(Reason::Ungrouped(format!("'{name}' has no primary key")));
            }
            if let Some(key) = keys.find(|key| !self.is_stored(key.id)) {
                return Err(Reason::UngroupedKey(self.dimension(key.id)));
            }
        }
        if let Some(keyed) = shape.keyed.iter().flat_map(|keyed| &keyed.measures).next() {
            return Err(Reason::Multiplied(Culprit::measure(self.model, *keyed)));
        }
        for leaf in self.leaves() {
            let kind = &self.model.measure(leaf).kind;
            let plain = |state: &StateColumn| {
                matches!(state, StateColumn::Count | StateColumn::Sum | StateColumn::Min | StateColumn::Max)
            };
            let single = matches!(kind, MeasureKind::Aggregate { .. }) && states(kind).iter().all(plain);
            if !single {
                let name = self.model.path_of(MemberId::Measure(leaf));
                return Err(Reason::Ungrouped(format!("of measure '{name}' there is no value a row")));
            }
        }
        Ok(())
    }
}
