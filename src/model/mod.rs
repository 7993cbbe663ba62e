//! What exists: cubes, members, joins and rollup definitions, compiled from a project's model files.
//!
//! A [`Model`] is immutable, validated and versioned; a request takes one `Arc<Model>` and keeps it.
//! This room is pure data: it runs nothing, reads no data files and knows nothing of HTTP.
//! Start with [`compile::compile_project`]; every fault of every file comes back as a
//! [`diagnostic::Diagnostic`].

mod build;
mod build_member;
pub mod compile;
pub mod cube;
pub mod diagnostic;
pub mod expression;
mod fields;
mod files;
pub mod format;
mod front;
pub mod granularity;
mod graph;
mod inherit;
mod jinja;
pub mod join;
mod js;
mod kinds;
mod policies;
pub mod policy;
pub mod preagg;
pub mod quantile;
mod raw;
mod raw_dimension;
mod raw_granularity;
mod raw_link;
mod raw_measure;
mod raw_member;
mod raw_policy;
mod raw_preagg;
mod raw_refresh;
mod raw_rollup;
mod raw_view;
mod references;
pub mod refresh_key;
mod rollup;
pub mod rollup_join;
pub mod settings;
pub mod stage;
mod symbols;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
pub mod title;
pub mod view;
mod view_groups;
mod views;
mod yaml;

use std::collections::HashMap;

pub use cube::{
    AggKind, Case, CaseBranch, Cube, CubeId, CubeSource, DataType, Dimension, DimensionId, DimensionKind, Grain,
    Location, Measure, MeasureId, MeasureKind, MemberId, Segment, SegmentId,
};
pub use diagnostic::{Diagnostic, Severity};
pub use front::CompileContext;
pub use join::{Hint, Join, JoinEdge, JoinError, JoinTree, Relationship};
pub use preagg::{Preagg, PreaggId, PreaggIndex, PreaggKind, PreaggTime};
pub use refresh_key::{AppliedKey, RefreshKey};
pub use settings::{DefaultMasks, ModelSettings, NamedGranularity};
pub use stage::RollingWindow;
pub use template::{Part, Template};
pub use view::ViewGroup;

use crate::names::{MemberPath, nearest};

/// A compiled, valid data model.
#[derive(Debug)]
pub struct Model {
    version: u64,
    cubes: Vec<Cube>,
    by_name: HashMap<String, CubeId>,
    components: Vec<Option<u32>>,
    view_groups: Vec<ViewGroup>,
    masks: DefaultMasks,
}

/// A path that names nothing. The texts are Cube's (`http-api.md` §4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownMember {
    /// No cube of that name.
    #[error("Cube '{cube}' not found for path '{path}'")]
    Cube {
        /// The cube's name.
        cube: String,
        /// The whole path.
        path: String,
        /// The nearest cube there is.
        near: Option<String>,
    },
    /// The cube has no such member of the wanted kind.
    #[error("'{member}' not found for path '{path}'")]
    Member {
        /// The member's name.
        member: String,
        /// The whole path.
        path: String,
        /// The nearest member there is.
        near: Option<String>,
    },
}

impl Model {
    /// Puts compiled cubes together. `version` is a digest of the model's texts.
    pub(crate) fn new(version: u64, cubes: Vec<Cube>) -> Self {
        let by_name = cubes.iter().map(|cube| (cube.name.clone(), cube.id)).collect();
        let mut components = join::connected_components(&cubes);
        for cube in &cubes {
            if let Some(root) = cube.view().and_then(|view| view.roots.first()) {
                components[cube.id.index()] = components[root.index()];
            }
        }
        Self { version, cubes, by_name, components, view_groups: Vec::new(), masks: DefaultMasks::default() }
    }

    /// The same with groups of views.
    pub(crate) fn with_view_groups(self, view_groups: Vec<ViewGroup>) -> Self {
        Self { view_groups, ..self }
    }

    /// The same with masks for members that have none of their own.
    pub(crate) fn with_masks(self, masks: DefaultMasks) -> Self {
        Self { masks, ..self }
    }

    /// What stands for masked values of members that have no mask of their own.
    pub fn default_masks(&self) -> &DefaultMasks {
        &self.masks
    }

    /// Groups of views, in order.
    pub fn view_groups(&self) -> &[ViewGroup] {
        &self.view_groups
    }

    /// A digest of the model's texts: equal texts, equal version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All cubes, in the order of their ids.
    pub fn cubes(&self) -> &[Cube] {
        &self.cubes
    }

    /// The cube of an id of this model.
    pub fn cube(&self, id: CubeId) -> &Cube {
        &self.cubes[id.index()]
    }

    /// The cube of that name.
    pub fn find_cube(&self, name: &str) -> Option<&Cube> {
        self.by_name.get(name).map(|id| self.cube(*id))
    }

    /// The number of the cube's connected component in the join graph; none for a cube without joins.
    pub fn connected_component(&self, id: CubeId) -> Option<u32> {
        self.components[id.index()]
    }

    /// The measure of an id of this model.
    pub fn measure(&self, id: MeasureId) -> &Measure {
        &self.cube(id.cube).measures[id.index as usize]
    }

    /// The dimension of an id of this model.
    pub fn dimension(&self, id: DimensionId) -> &Dimension {
        &self.cube(id.cube).dimensions[id.index as usize]
    }

    /// The segment of an id of this model.
    pub fn segment(&self, id: SegmentId) -> &Segment {
        &self.cube(id.cube).segments[id.index as usize]
    }

    /// The rollup definition of an id of this model.
    pub fn preagg(&self, id: PreaggId) -> &Preagg {
        &self.cube(id.cube).preaggs[id.index as usize]
    }

    /// `cube.rollup`.
    pub fn preagg_path(&self, id: PreaggId) -> String {
        format!("{}.{}", self.cube(id.cube).name, self.preagg(id).name)
    }

    /// Whether some cube or view has access policies; without any the feature is off.
    pub fn has_policies(&self) -> bool {
        self.cubes.iter().any(|cube| !cube.policies.is_empty())
    }

    /// The view's or cube's name as aliases show it: `sql_alias` where it is given.
    pub fn alias_path(&self, id: MemberId) -> String {
        let cube = self.cube(id.cube());
        let path = self.path_of(id);
        match &cube.sql_alias {
            Some(alias) => format!("{alias}{}", &path[cube.name.len()..]),
            None => path,
        }
    }

    /// `cube.member` of any kind of member.
    pub fn path_of(&self, id: MemberId) -> String {
        let name = match id {
            MemberId::Measure(id) => &self.measure(id).name,
            MemberId::Dimension(id) => &self.dimension(id).name,
            MemberId::Segment(id) => &self.segment(id).name,
        };
        format!("{}.{}", self.cube(id.cube()).name, name)
    }

    /// Resolves a measure.
    ///
    /// # Errors
    /// No such cube, or the cube has no measure of that name.
    pub fn resolve_measure(&self, path: &MemberPath) -> Result<MeasureId, UnknownMember> {
        let cube = self.resolve_cube(path)?;
        let found = cube.measures.iter().find(|m| m.name == path.member()).map(|m| m.id);
        found.ok_or_else(|| unknown(path, cube.measures.iter().map(|m| m.name.as_str())))
    }

    /// Resolves a dimension.
    ///
    /// # Errors
    /// No such cube, or the cube has no dimension of that name.
    pub fn resolve_dimension(&self, path: &MemberPath) -> Result<DimensionId, UnknownMember> {
        let cube = self.resolve_cube(path)?;
        let found = cube.dimensions.iter().find(|d| d.name == path.member()).map(|d| d.id);
        found.ok_or_else(|| unknown(path, cube.dimensions.iter().map(|d| d.name.as_str())))
    }

    /// Resolves a segment.
    ///
    /// # Errors
    /// No such cube, or the cube has no segment of that name.
    pub fn resolve_segment(&self, path: &MemberPath) -> Result<SegmentId, UnknownMember> {
        let cube = self.resolve_cube(path)?;
        let found = cube.segments.iter().find(|s| s.name == path.member()).map(|s| s.id);
        found.ok_or_else(|| unknown(path, cube.segments.iter().map(|s| s.name.as_str())))
    }

    /// Resolves a member of any kind: measure, dimension, then segment.
    ///
    /// # Errors
    /// No such cube, or the cube has no member of that name.
    pub fn resolve_member(&self, path: &MemberPath) -> Result<MemberId, UnknownMember> {
        let cube = self.resolve_cube(path)?;
        cube.find_member(path.member()).ok_or_else(|| {
            let measures = cube.measures.iter().map(|m| m.name.as_str());
            let dimensions = cube.dimensions.iter().map(|d| d.name.as_str());
            unknown(path, measures.chain(dimensions))
        })
    }

    /// Resolves `cube.rollup`.
    pub fn find_preagg(&self, path: &MemberPath) -> Option<PreaggId> {
        self.find_cube(path.cube())?.preaggs.iter().find(|p| p.name == path.member()).map(|p| p.id)
    }

    /// The join tree over the cubes hinted, in hint order (`data-model.md` §7).
    ///
    /// # Errors
    /// No path along declared joins reaches all of them.
    pub fn join_tree(&self, hints: &[Hint]) -> Result<JoinTree, JoinError> {
        join::build_tree(self, hints)
    }

    fn resolve_cube(&self, path: &MemberPath) -> Result<&Cube, UnknownMember> {
        self.find_cube(path.cube()).ok_or_else(|| UnknownMember::Cube {
            cube: path.cube().to_owned(),
            path: path.to_string(),
            near: nearest(path.cube(), self.cubes.iter().map(|c| c.name.as_str())).map(str::to_owned),
        })
    }
}

fn unknown<'a>(path: &MemberPath, names: impl Iterator<Item = &'a str>) -> UnknownMember {
    UnknownMember::Member {
        member: path.member().to_owned(),
        path: path.to_string(),
        near: nearest(path.member(), names).map(|near| format!("{}.{near}", path.cube())),
    }
}
