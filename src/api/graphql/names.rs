//! What of a model one caller sees, under the names that GraphQL gives it (`http-api.md` §11.2).

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Cube, DataType, MemberId, Model};
use crate::query::policy::{Asker, may_select};

/// The cubes and views with a visible member, in the order of the model.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) cubes: Vec<CubeNames>,
}

/// A cube or view.
#[derive(Debug, Clone)]
pub(super) struct CubeNames {
    /// The name of fields: the first letter in lower case.
    pub(super) field: String,
    /// What names of types begin with.
    pub(super) stem: String,
    pub(super) description: Option<String>,
    /// In the order of the model: measures, then dimensions.
    pub(super) members: Vec<MemberNames>,
}

/// A visible member.
#[derive(Debug, Clone)]
pub(super) struct MemberNames {
    pub(super) name: String,
    /// `cube.member`.
    pub(super) path: String,
    pub(super) is_measure: bool,
    pub(super) kind: Kind,
    pub(super) description: Option<String>,
}

/// What values a member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Time,
    /// Everything else is written as text.
    Text,
}

impl Kind {
    fn of(data_type: DataType) -> Self {
        match data_type {
            DataType::Number => Self::Number,
            DataType::Time => Self::Time,
            DataType::String | DataType::Boolean => Self::Text,
        }
    }
}

/// The members that a caller may see, which decide what the schema is.
pub(super) fn visible(model: &Model, asker: &Asker) -> Vec<MemberId> {
    let mut found = Vec::new();
    for cube in model.cubes().iter().filter(|cube| cube.public) {
        let measures = cube.measures.iter().filter(|m| m.public).map(|m| MemberId::Measure(m.id));
        let dimensions = cube.dimensions.iter().filter(|d| d.public).map(|d| MemberId::Dimension(d.id));
        found.extend(measures.chain(dimensions).filter(|member| may_select(model, asker, *member)));
    }
    found
}

impl Names {
    /// Of the visible members. Where two cubes would have one name, the first has it.
    pub(super) fn of(model: &Model, visible: &[MemberId]) -> Self {
        let mut by_cube: BTreeMap<_, Vec<MemberId>> = BTreeMap::new();
        for member in visible {
            by_cube.entry(member.cube()).or_default().push(*member);
        }
        let (mut fields, mut stems) = (BTreeSet::new(), BTreeSet::new());
        let mut cubes = Vec::new();
        for (id, members) in by_cube {
            let cube = model.cube(id);
            let field = first_lower(&cube.name);
            let members: Vec<MemberNames> = members.into_iter().filter_map(|id| member(model, cube, id)).collect();
            // Names that begin so, and those of conditions, are the language's own.
            let taken = field.starts_with("__") || ["AND", "OR"].contains(&field.as_str());
            if members.is_empty() || taken || !fields.insert(field.clone()) {
                continue;
            }
            let mut stem = upper_camel(&cube.name);
            if !stems.insert(stem.clone()) {
                stem.clone_from(&cube.name);
                stems.insert(stem.clone());
            }
            cubes.push(CubeNames { field, stem, description: cube.description.clone(), members });
        }
        Self { cubes }
    }

    /// The cube of a field's name.
    pub(super) fn find(&self, field: &str) -> Option<&CubeNames> {
        self.cubes.iter().find(|cube| cube.field == field)
    }
}

impl CubeNames {
    /// The member of a field's name.
    pub(super) fn find(&self, name: &str) -> Option<&MemberNames> {
        self.members.iter().find(|member| member.name == name)
    }
}

fn member(model: &Model, cube: &Cube, id: MemberId) -> Option<MemberNames> {
    let (name, is_measure, data_type, description) = match id {
        MemberId::Measure(id) => {
            let measure = model.measure(id);
            (&measure.name, true, measure.kind.data_type(), &measure.description)
        }
        MemberId::Dimension(id) => {
            let dimension = model.dimension(id);
            (&dimension.name, false, dimension.data_type, &dimension.description)
        }
        MemberId::Segment(_) => return None,
    };
    (!name.starts_with("__")).then(|| MemberNames {
        name: name.clone(),
        path: format!("{}.{name}", cube.name),
        is_measure,
        kind: Kind::of(data_type),
        description: description.clone(),
    })
}

fn first_lower(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// `order_items` as `OrderItems`.
fn upper_camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    };
    name.split('_').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_as_observed() {
        for (name, field, stem) in [
            ("orders", "orders", "Orders"),
            ("order_items", "order_items", "OrderItems"),
            ("Orders", "orders", "Orders"),
            ("LineItems2", "lineItems2", "LineItems2"),
        ] {
            assert_eq!((first_lower(name).as_str(), upper_camel(name).as_str()), (field, stem), "{name}");
        }
    }
}
