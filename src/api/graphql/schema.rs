//! The schema of what one caller sees of a model (`http-api.md` §11.2–§11.4): types, arguments, and how a row becomes
//! what is selected of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::dynamic::{
    Enum, Field, FieldFuture, FieldValue, InputObject, InputValue, Object, ResolverContext, Scalar, Schema,
    SchemaError, TypeRef,
};
use async_graphql::{Error, Pos, Value as Literal};
use serde_json::Value;

use super::names::{CubeNames, Kind, MemberNames, Names};
use super::selection::{Selected, Surroundings};
use super::values::shown;
use crate::time::Zone;

/// Levels of a document, those of the schema's own description included.
const MAX_DEPTH: usize = 24;
/// What a time dimension may be selected by, beside its value.
const GRANULARITIES: [&str; 8] = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"];

/// Rows of one query.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<Value>,
    pub(super) zone: Zone,
}

/// What one execution is for: first to learn what is asked, then to shape what was answered.
pub(super) enum Purpose {
    /// Collects the query of every `cube`.
    Collect(Mutex<Vec<Collected>>),
    /// Fills in rows, by the keys of the answer.
    Fill(HashMap<String, Arc<Rows>>),
}

/// A `cube` of a document.
pub(super) struct Collected {
    /// Its key in the answer.
    pub(super) key: String,
    pub(super) place: Pos,
    /// What is asked; the text says what cannot be.
    pub(super) selected: Result<Selected, String>,
}

impl Purpose {
    /// The queries that were collected; those of one key are one.
    pub(super) fn collected(&self) -> Vec<Collected> {
        let Self::Collect(found) = self else { return Vec::new() };
        let mut merged: Vec<Collected> = Vec::new();
        for cube in found.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            match merged.iter_mut().find(|known| known.key == cube.key) {
                None => merged.push(cube),
                Some(known) => match (&mut known.selected, cube.selected) {
                    (Ok(known), Ok(selected)) => known.merge(selected),
                    (known, Err(fault)) => *known = Err(fault),
                    (Err(_), Ok(_)) => {}
                },
            }
        }
        merged
    }
}

/// A row, or the cell of a time in it.
struct Cell {
    rows: Arc<Rows>,
    row: usize,
    member: Arc<str>,
}

impl Cell {
    fn at(&self, key: &str, kind: Kind) -> Literal {
        let cell = self.rows.rows.get(self.row).and_then(|row| row.get(key)).unwrap_or(&Value::Null);
        Literal::from_json(shown(kind, cell, self.rows.zone)).unwrap_or_default()
    }
}

/// Makes the schema.
///
/// # Errors
/// The names do not make one.
pub(super) fn build(names: &Arc<Names>) -> Result<Schema, SchemaError> {
    let mut result = Object::new("Result");
    let mut where_root = with_groups("RootWhereInput");
    let mut order_root = InputObject::new("RootOrderByInput");
    let mut schema = Schema::build("Query", None, None)
        .limit_depth(MAX_DEPTH)
        .limit_recursive_depth(2 * MAX_DEPTH)
        .register(Scalar::new("DateTime").description("An instant, in UTC."))
        .register(Enum::new("OrderBy").item("asc").item("desc"))
        .register(time_dimension());
    for filter in filter_types() {
        schema = schema.register(filter);
    }
    for cube in &names.cubes {
        let (where_type, order_type) = (format!("{}WhereInput", cube.stem), format!("{}OrderByInput", cube.stem));
        let mut conditions = with_groups(&where_type);
        let mut order = InputObject::new(&order_type);
        for member in &cube.members {
            if !["AND", "OR"].contains(&member.name.as_str()) {
                conditions = conditions.field(InputValue::new(&member.name, TypeRef::named(filter_type(member.kind))));
            }
            order = order.field(InputValue::new(&member.name, TypeRef::named("OrderBy")));
        }
        let field = Field::new(&cube.field, TypeRef::named_nn(members_type(cube)), |context| {
            FieldFuture::new(async move { Ok(Some(cell_of(&context, "")?)) })
        });
        let field = field
            .argument(InputValue::new("where", TypeRef::named(&where_type)))
            .argument(InputValue::new("orderBy", TypeRef::named(&order_type)));
        result = result.field(described(field, cube.description.as_deref()));
        where_root = where_root.field(InputValue::new(&cube.field, TypeRef::named(&where_type)));
        order_root = order_root.field(InputValue::new(&cube.field, TypeRef::named(&order_type)));
        schema = schema.register(members(cube)).register(conditions).register(order);
    }
    let query = Object::new("Query").field(root(Arc::clone(names)));
    schema.register(result).register(where_root).register(order_root).register(query).finish()
}

/// `cube(…): [Result!]!`.
fn root(names: Arc<Names>) -> Field {
    let field = Field::new("cube", TypeRef::named_nn_list_nn("Result"), move |context| {
        let names = Arc::clone(&names);
        FieldFuture::new(async move { answer(&context, &names).map(Some) })
    });
    let arguments = [
        ("where", "RootWhereInput"),
        ("limit", TypeRef::INT),
        ("offset", TypeRef::INT),
        ("timezone", TypeRef::STRING),
        ("renewQuery", TypeRef::BOOLEAN),
        ("cache", TypeRef::STRING),
        ("ungrouped", TypeRef::BOOLEAN),
        ("orderBy", "RootOrderByInput"),
    ];
    arguments.into_iter().fold(field, |field, (name, kind)| field.argument(InputValue::new(name, TypeRef::named(kind))))
}

fn answer<'a>(context: &ResolverContext<'a>, names: &Names) -> Result<FieldValue<'a>, Error> {
    let field = &context.ctx.item.node;
    let key = field.response_key().node.to_string();
    match context.data::<Arc<Purpose>>()?.as_ref() {
        Purpose::Collect(found) => {
            let env = context.ctx.query_env;
            let defaults = env.operation.node.variable_definitions.iter().filter_map(|variable| {
                let default = variable.node.default_value.as_ref()?;
                Some((variable.node.name.node.as_str(), default.node.clone()))
            });
            let around = Surroundings {
                names,
                fragments: &env.fragments,
                variables: &env.variables,
                defaults: defaults.collect(),
            };
            let selected = Selected::of(field, &context.args, &around);
            let place = context.ctx.item.pos;
            found.lock().unwrap_or_else(PoisonError::into_inner).push(Collected { key, place, selected });
            Ok(FieldValue::list(Vec::<FieldValue<'_>>::new()))
        }
        Purpose::Fill(answers) => match answers.get(&key) {
            Some(rows) => {
                let member: Arc<str> = "".into();
                Ok(FieldValue::list((0..rows.rows.len()).map(|row| {
                    FieldValue::owned_any(Cell { rows: Arc::clone(rows), row, member: Arc::clone(&member) })
                })))
            }
            None => Err(Error::new("the query was not answered")),
        },
    }
}

/// The parent's row, for a member of it.
fn cell_of<'a>(context: &ResolverContext<'a>, member: &str) -> Result<FieldValue<'a>, Error> {
    let cell: &Cell = context.parent_value.try_downcast_ref()?;
    Ok(FieldValue::owned_any(Cell { rows: Arc::clone(&cell.rows), row: cell.row, member: member.into() }))
}

fn members_type(cube: &CubeNames) -> String {
    format!("{}Members", cube.stem)
}

fn members(cube: &CubeNames) -> Object {
    let object = Object::new(members_type(cube));
    let object = match &cube.description {
        Some(text) => object.description(text),
        None => object,
    };
    cube.members.iter().fold(object, |object, member| object.field(member_field(member)))
}

fn member_field(member: &MemberNames) -> Field {
    let (path, kind) = (member.path.clone(), member.kind);
    let output = match kind {
        Kind::Number => TypeRef::FLOAT,
        Kind::Time => "TimeDimension",
        Kind::Text => TypeRef::STRING,
    };
    let field = Field::new(&member.name, TypeRef::named(output), move |context| {
        let resolved = match kind {
            Kind::Time => cell_of(&context, &path),
            Kind::Number | Kind::Text => {
                context.parent_value.try_downcast_ref::<Cell>().map(|cell| FieldValue::value(cell.at(&path, kind)))
            }
        };
        FieldFuture::new(async move { resolved.map(Some) })
    });
    described(field, member.description.as_deref())
}

fn described(field: Field, text: Option<&str>) -> Field {
    match text {
        Some(text) => field.description(text),
        None => field,
    }
}

fn time_dimension() -> Object {
    let field = |name: &'static str| {
        Field::new(name, TypeRef::named("DateTime"), move |context| {
            let resolved = context.parent_value.try_downcast_ref::<Cell>().map(|cell| {
                let key = if name == "value" { cell.member.to_string() } else { format!("{}.{name}", cell.member) };
                FieldValue::value(cell.at(&key, Kind::Time))
            });
            FieldFuture::new(async move { resolved.map(Some) })
        })
    };
    let object = Object::new("TimeDimension").field(field("value"));
    GRANULARITIES.into_iter().fold(object, |object, name| object.field(field(name)))
}

fn with_groups(name: &str) -> InputObject {
    ["AND", "OR"].into_iter().fold(InputObject::new(name), |object, group| {
        object.field(InputValue::new(group, TypeRef::named_nn_list(name)))
    })
}

fn filter_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Number => "FloatFilter",
        Kind::Time => "DateTimeFilter",
        Kind::Text => "StringFilter",
    }
}

fn filter_types() -> [InputObject; 3] {
    let filter = |name: &str, of: &str, one: &[&str], many: &[&str]| {
        let object = InputObject::new(name);
        let object = one.iter().fold(object, |o, operator| o.field(InputValue::new(*operator, TypeRef::named(of))));
        let object =
            many.iter().fold(object, |o, operator| o.field(InputValue::new(*operator, TypeRef::named_list(of))));
        object.field(InputValue::new("set", TypeRef::named(TypeRef::BOOLEAN)))
    };
    let texts = ["contains", "notContains", "startsWith", "notStartsWith", "endsWith", "notEndsWith"];
    let texts: Vec<&str> = ["in", "notIn"].into_iter().chain(texts).collect();
    [
        filter("FloatFilter", TypeRef::FLOAT, &["equals", "notEquals", "gt", "gte", "lt", "lte"], &["in", "notIn"]),
        filter("StringFilter", TypeRef::STRING, &["equals", "notEquals"], &texts),
        filter(
            "DateTimeFilter",
            TypeRef::STRING,
            &["beforeDate", "beforeOrOnDate", "afterDate", "afterOrOnDate"],
            &["equals", "notEquals", "in", "notIn", "inDateRange", "notInDateRange"],
        ),
    ]
}
