//! Times and conditions in the other engine's SQL.

use super::ask::{Member, end_of, start_of};
use super::derive::literal;
use super::model::{Granularity, Kind, Model};
use super::tree::Refusal;

/// UTC as wall clock of a zone.
pub(crate) fn local(sql: &str, zone: &str) -> String {
    format!("((({sql}) AT TIME ZONE 'UTC') AT TIME ZONE '{zone}')")
}

/// Wall clock of a zone as UTC.
pub(crate) fn instant(wall: &str, zone: &str) -> String {
    format!("((TIMESTAMP '{wall}' AT TIME ZONE '{zone}') AT TIME ZONE 'UTC')")
}

/// The start of the bucket that a wall clock time lies in.
pub(crate) fn bucket(model: &Model, member: &Member, name: &str, local: &str) -> Result<String, Refusal> {
    const STANDARD: [&str; 8] = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"];
    if STANDARD.contains(&name) {
        return Ok(format!("date_trunc('{name}', {local})"));
    }
    let dimension = model.cubes[member.cube()].dimension(&member.name);
    let custom = dimension.and_then(|dimension| dimension.granularities.iter().find(|custom| custom.name == name));
    custom.map(|custom| custom_bucket(custom, local)).ok_or_else(|| Refusal::Open(format!("no granularity {name}")))
}

fn custom_bucket(custom: &Granularity, local: &str) -> String {
    let Granularity { count, unit, .. } = custom;
    if let (1, None) = (count, &custom.origin) {
        let (offset, of) = custom.offset.unwrap_or((0, "day"));
        return format!("(date_trunc('{unit}', {local} - INTERVAL '{offset} {of}') + INTERVAL '{offset} {of}')");
    }
    let (offset, of) = custom.offset.unwrap_or((0, "day"));
    let origin = custom.origin.as_deref().unwrap_or("1970-01-01");
    let origin = format!("(TIMESTAMP '{origin}' + INTERVAL '{offset} {of}')");
    let seconds = match *unit {
        "second" => Some(1),
        "minute" => Some(60),
        "hour" => Some(3600),
        _ => None,
    };
    if let Some(seconds) = seconds {
        let step = seconds * count * 1_000_000;
        let bins = format!("floor((epoch_us({local}) - epoch_us{origin})::DOUBLE / {step})");
        return format!("({origin} + to_microseconds(CAST({bins} AS BIGINT) * {step}))");
    }
    // The last start of a bucket that is not later, of all starts within the years of the data and before.
    let days = match *unit {
        "day" => 1,
        "week" => 7,
        "month" => 28,
        "quarter" => 90,
        _ => 365,
    };
    let many = 24_000 / (days * count) + 2;
    let starts = format!("SELECT {origin} + n * INTERVAL '{count} {unit}' AS s FROM range(-{many}, {many}) AS t(n)");
    format!("(SELECT max(s) FROM ({starts}) WHERE s <= {local})")
}

/// A condition of a query on an expression.
pub(crate) fn comparison(
    sql: &str,
    kind: Kind,
    operator: &str,
    values: &[Option<String>],
    zone: &str,
) -> Result<String, Refusal> {
    let given: Vec<&str> = values.iter().flatten().map(String::as_str).collect();
    let null = values.iter().any(Option::is_none);
    let constant = |value: &&str| match kind {
        Kind::Text => literal(value),
        Kind::Number | Kind::Boolean => (*value).to_owned(),
        Kind::Time => instant(&start_of(value), zone),
    };
    let constants: Vec<String> = given.iter().map(constant).collect();
    let (is_null, is_set) = (format!("{sql} IS NULL"), format!("{sql} IS NOT NULL"));
    let first = || constants.first().cloned().ok_or_else(|| Refusal::Open(format!("{operator} without values")));
    let date = |at: fn(&str) -> String, position: usize| {
        let value = given.get(position).or(given.last());
        value.map(|value| instant(&at(value), zone)).ok_or_else(|| Refusal::Open("no date".to_owned()))
    };
    Ok(match operator {
        "set" => is_set,
        "notSet" => is_null,
        "equals" if given.is_empty() => is_null,
        "notEquals" if given.is_empty() => is_set,
        "equals" if null => format!("{sql} IN ({}) OR {is_null}", constants.join(", ")),
        "equals" => format!("{sql} IN ({})", constants.join(", ")),
        "notEquals" if null => format!("{sql} NOT IN ({})", constants.join(", ")),
        "notEquals" => format!("{sql} NOT IN ({}) OR {is_null}", constants.join(", ")),
        "gt" => format!("{sql} > {}", first()?),
        "gte" => format!("{sql} >= {}", first()?),
        "lt" => format!("{sql} < {}", first()?),
        "lte" => format!("{sql} <= {}", first()?),
        "inDateRange" => format!("{sql} >= {} AND {sql} <= {}", date(start_of, 0)?, date(end_of, 1)?),
        "notInDateRange" => format!("{sql} < {} OR {sql} > {}", date(start_of, 0)?, date(end_of, 1)?),
        "onTheDate" => format!("{sql} >= {} AND {sql} <= {}", date(start_of, 0)?, date(end_of, 0)?),
        "beforeDate" => format!("{sql} < {}", date(start_of, 0)?),
        "beforeOrOnDate" => format!("{sql} <= {}", date(end_of, 0)?),
        "afterDate" => format!("{sql} > {}", date(end_of, 0)?),
        "afterOrOnDate" => format!("{sql} >= {}", date(start_of, 0)?),
        _ => return like(sql, operator, &given, null),
    })
}

/// Parts of texts, whatever their case.
fn like(sql: &str, operator: &str, given: &[&str], null: bool) -> Result<String, Refusal> {
    let (negated, function) = match operator {
        "contains" => (false, "contains"),
        "notContains" => (true, "contains"),
        "startsWith" => (false, "starts_with"),
        "notStartsWith" => (true, "starts_with"),
        "endsWith" => (false, "ends_with"),
        "notEndsWith" => (true, "ends_with"),
        other => return Err(Refusal::Open(format!("no operator {other}"))),
    };
    let tests = given.iter().map(|value| format!("{function}(lower({sql}), lower({}))", literal(value)));
    let mut tests: Vec<String> = tests.collect();
    Ok(match (negated, null) {
        (true, true) if tests.is_empty() => format!("{sql} IS NOT NULL"),
        (true, true) => format!("NOT ({})", tests.join(" OR ")),
        (true, false) => format!("NOT ({}) OR {sql} IS NULL", tests.join(" OR ")),
        (false, _) => {
            tests.extend(null.then(|| format!("{sql} IS NULL")));
            tests.join(" OR ")
        }
    })
}
