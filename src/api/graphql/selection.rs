//! What is selected under `cube` → one query, as `/v1/load` takes it (`http-api.md` §11.3–§11.5).

use std::collections::HashMap;

use async_graphql::dynamic::ObjectAccessor;
use async_graphql::parser::types::{Directive, Field, FragmentDefinition, Selection, SelectionSet};
use async_graphql::{Name, Positioned, Value as Literal, Variables};
use serde_json::{Map, Value, json};

use super::filters::{self, filters_of};
use super::names::{CubeNames, Kind, MemberNames, Names};

/// A value of a document with its variables put in. (A macro, because the library does not name the type.)
macro_rules! filled {
    ($value:expr, $around:expr) => {
        $value
            .node
            .clone()
            .into_const_with(|name| Ok::<_, std::convert::Infallible>($around.variable(&name)))
            .unwrap_or_else(|never| match never {})
    };
}

/// The document around a selection.
pub(super) struct Surroundings<'d> {
    pub(super) names: &'d Names,
    pub(super) fragments: &'d HashMap<Name, Positioned<FragmentDefinition>>,
    pub(super) variables: &'d Variables,
    /// Values of variables that the request leaves out.
    pub(super) defaults: HashMap<&'d str, Literal>,
}

/// A query in the making.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Selected {
    measures: Vec<String>,
    dimensions: Vec<String>,
    /// Member and granularity.
    times: Vec<(String, String)>,
    filters: Vec<Value>,
    order: Vec<(String, String)>,
    /// Keys of the query that are arguments of `cube`.
    plain: Map<String, Value>,
}

impl Selected {
    /// Reads the arguments of `cube` and what is selected below it.
    ///
    /// # Errors
    /// What the schema cannot say: the text tells.
    pub(super) fn of(field: &Field, args: &ObjectAccessor<'_>, around: &Surroundings<'_>) -> Result<Self, String> {
        let mut selected = Self::default();
        for (name, value) in args.iter() {
            let value = filters::to_json(value.as_value());
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("where", value) => selected.filters.extend(filters_of_root(around.names, &value)),
                ("orderBy", value) => {
                    for (cube, order) in value.as_object().into_iter().flatten() {
                        if let Some(cube) = around.names.find(cube) {
                            selected.add_order(cube, order);
                        }
                    }
                }
                (name, value) => {
                    selected.plain.insert(name.to_owned(), value);
                }
            }
        }
        around.visit(&field.selection_set.node, &mut |field| {
            let Some(cube) = around.names.find(field.name.node.as_str()) else { return Ok(()) };
            for (name, value) in &field.arguments {
                let value = filters::to_json(&filled!(value, around));
                match name.node.as_str() {
                    "where" => selected.filters.extend(filters_of(cube, &value)),
                    _ => selected.add_order(cube, &value),
                }
            }
            around.visit(&field.selection_set.node, &mut |member| {
                match cube.find(member.name.node.as_str()) {
                    Some(found) => selected.add_member(found, member, around),
                    // `__typename` needs no data.
                    None => Ok(()),
                }
            })
        })?;
        Ok(selected)
    }

    fn add_member(&mut self, member: &MemberNames, field: &Field, around: &Surroundings<'_>) -> Result<(), String> {
        let path = &member.path;
        match (member.is_measure, member.kind) {
            (true, Kind::Time) => {
                let measure = |field: &Field| match field.name.node.as_str() {
                    "value" | "__typename" => Ok(()),
                    granularity => Err(format!("'{path}' is a measure: it has a value and no {granularity}")),
                };
                add(&mut self.measures, path.clone());
                around.visit(&field.selection_set.node, &mut |field| measure(field))
            }
            (true, _) => {
                add(&mut self.measures, path.clone());
                Ok(())
            }
            (false, Kind::Time) => around.visit(&field.selection_set.node, &mut |field| {
                match field.name.node.as_str() {
                    "__typename" => {}
                    "value" => add(&mut self.dimensions, path.clone()),
                    granularity => add(&mut self.times, (path.clone(), granularity.to_owned())),
                }
                Ok(())
            }),
            (false, _) => {
                add(&mut self.dimensions, path.clone());
                Ok(())
            }
        }
    }

    fn add_order(&mut self, cube: &CubeNames, order: &Value) {
        for (name, direction) in order.as_object().into_iter().flatten() {
            if let (Some(member), Some(direction)) = (cube.find(name), direction.as_str()) {
                add(&mut self.order, (member.path.clone(), direction.to_owned()));
            }
        }
    }

    /// Puts the members of another one with the same arguments to it.
    pub(super) fn merge(&mut self, other: Self) {
        other.measures.into_iter().for_each(|member| add(&mut self.measures, member));
        other.dimensions.into_iter().for_each(|member| add(&mut self.dimensions, member));
        other.times.into_iter().for_each(|time| add(&mut self.times, time));
        other.order.into_iter().for_each(|key| add(&mut self.order, key));
        other.filters.into_iter().for_each(|filter| add(&mut self.filters, filter));
        self.plain.extend(other.plain);
    }

    /// The query; keys without content are left out.
    pub(super) fn into_query(self) -> Value {
        let Self { measures, dimensions, times, filters, order, plain } = self;
        let mut times: Vec<Value> = times
            .into_iter()
            .map(|(dimension, granularity)| json!({"dimension": dimension, "granularity": granularity}))
            .collect();
        let filters = filters::ranges_to_times(filters, &mut times);
        let mut query = Map::new();
        let mut put = |key: &str, list: Vec<Value>| {
            if !list.is_empty() {
                query.insert(key.to_owned(), Value::Array(list));
            }
        };
        put("measures", measures.into_iter().map(Value::String).collect());
        put("dimensions", dimensions.into_iter().map(Value::String).collect());
        put("timeDimensions", times);
        put("order", order.into_iter().map(|(member, direction)| json!([member, direction])).collect());
        put("filters", filters);
        query.extend(plain);
        Value::Object(query)
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn filters_of_root(names: &Names, value: &Value) -> Vec<Value> {
    filters::conditions(value, &|key, value| names.find(key).map(|cube| filters_of(cube, value)).unwrap_or_default())
}

impl Surroundings<'_> {
    /// Visits the fields of a selection, those of its fragments too, without those that directives leave out.
    fn visit(
        &self,
        selection: &SelectionSet,
        visitor: &mut dyn FnMut(&Field) -> Result<(), String>,
    ) -> Result<(), String> {
        for item in selection.items.iter().map(|item| &item.node) {
            if self.is_skipped(item.directives()) {
                continue;
            }
            match item {
                Selection::Field(field) => visitor(&field.node)?,
                Selection::InlineFragment(inline) => self.visit(&inline.node.selection_set.node, visitor)?,
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = self.fragments.get(&spread.node.fragment_name.node) {
                        self.visit(&fragment.node.selection_set.node, visitor)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `@skip(if: true)` and `@include(if: false)`.
    fn is_skipped(&self, directives: &[Positioned<Directive>]) -> bool {
        directives.iter().map(|directive| &directive.node).any(|directive| {
            let condition = directive.arguments.iter().find(|(name, _)| name.node == "if");
            let condition = condition.map(|(_, value)| filled!(value, self));
            match directive.name.node.as_str() {
                "skip" => condition == Some(Literal::Boolean(true)),
                "include" => condition == Some(Literal::Boolean(false)),
                _ => false,
            }
        })
    }

    /// The value of a variable.
    fn variable(&self, name: &Name) -> Literal {
        let given = self.variables.get(name).or_else(|| self.defaults.get(name.as_str()));
        given.cloned().unwrap_or(Literal::Null)
    }
}
