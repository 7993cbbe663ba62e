//! Measures over windows (§19) and over moved times (§20.5).

use super::ask::{Ask, Group, Member, Time};
use super::derive::{Part, Rows, aggregate, aggregates, hints};
use super::expression::{bucket, local};
use super::model::{Agg, Extent, Form, Model, Reach, Special, Window};
use super::tree::Refusal;

const CALENDAR: [&str; 5] = ["day", "week", "month", "quarter", "year"];

fn open<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::Open(why.to_owned()))
}

fn same(left: &Member, right: &Member) -> bool {
    left.cube() == right.cube() && left.name == right.name
}

pub(crate) fn special(model: &Model, ask: &Ask, unit: &Member) -> Result<Part, Refusal> {
    let timed =
        |group: &&Group| group.granularity.is_none() && ask.times.iter().any(|t| same(&t.member, &group.member));
    let tested = ask.filters.iter().flat_map(|filter| filter.members());
    if ask.groups.iter().any(|group| timed(&group))
        || tested.into_iter().any(|m| ask.times.iter().any(|t| same(&t.member, m)))
    {
        return open("a time dimension is used in two ways");
    }
    if ask.times.iter().any(|time| time.range.is_some()) && propagates(model, ask) {
        return open("which range a sub-query dimension gets");
    }
    let part = match &model.measure(unit).special {
        Special::Shift(count, of) => shifted(model, ask, unit, &format!("INTERVAL '{count} {of}'")),
        Special::Rolling(window) => match ask.times.iter().filter(|time| time.granularity.is_some()).count() {
            0 => one_window(model, ask, unit, window),
            _ => windows(model, ask, unit, window),
        },
        Special::No => open("nothing special"),
    };
    match part {
        Err(Refusal::NoPath) => open("whether conditions on cubes out of reach are left out"),
        part => part,
    }
}

/// Whether a sub-query dimension takes over conditions of the query.
fn propagates(model: &Model, ask: &Ask) -> bool {
    let filtered = ask.filters.iter().flat_map(|filter| filter.members());
    let groups = ask.groups.iter().map(|group| &group.member);
    let mut found = Vec::new();
    for member in groups.chain(filtered).chain(&ask.segments).chain(ask.measures.iter().map(|(_, member)| member)) {
        model.sub_queries(member, &mut found);
    }
    found.iter().any(|member| {
        let dimension = model.cubes[member.cube()].dimension(&member.name);
        matches!(dimension.map(|dimension| &dimension.form), Some(Form::SubQuery(_, true)))
    })
}

/// The measure under a moved one, all time dimensions moved.
fn shifted(model: &Model, ask: &Ask, unit: &Member, by: &str) -> Result<Part, Refusal> {
    let references = model.references(unit);
    let tree = model.tree(&hints(model, ask, &references))?;
    let rows = Rows { model, ask, tree, moved: Some(by.to_owned()) };
    let sql = rows.select(&references, None, true)?;
    let names: Vec<String> = (0..ask.groups.len()).map(|n| format!("g{n}")).collect();
    Ok(Part { sql: aggregates(model, &sql, &names, &references), units: vec![unit.clone()] })
}

fn reach(extent: &Extent, base: &str, sign: char) -> Option<String> {
    match extent {
        None => Some(base.to_owned()),
        Some(Reach::Unbounded) => None,
        Some(Reach::Units(count, unit)) => Some(format!("({base} {sign} INTERVAL '{count} {unit}')")),
    }
}

/// Which times belong to the window of a bucket.
fn predicate(window: &Window, t: &str, from: &str, to: &str) -> String {
    let (low, high) = match window {
        Window::ToDate(unit) => (Some(format!("{t} >= date_trunc('{unit}', {from})")), Some(format!("{t} <= {to}"))),
        Window::Fixed { trailing, leading, from_start: false } => (
            reach(trailing, to, '-').map(|low| format!("{t} > {low}")),
            reach(leading, to, '+').map(|high| format!("{t} <= {high}")),
        ),
        Window::Fixed { trailing, leading, from_start: true } => (
            reach(trailing, from, '-').map(|low| format!("{t} >= {low}")),
            reach(leading, from, '+').map(|high| format!("{t} < {high}")),
        ),
    };
    // A row without time is in no window, not even in one without ends.
    [Some(format!("{t} IS NOT NULL")), low, high].into_iter().flatten().collect::<Vec<_>>().join(" AND ")
}

/// Without buckets there is one window at the end of the range; without range there is none.
fn one_window(model: &Model, ask: &Ask, unit: &Member, window: &Window) -> Result<Part, Refusal> {
    let units = std::slice::from_ref(unit);
    let tree = model.tree(&hints(model, ask, units))?;
    let rows = Rows { model, ask, tree, moved: None };
    let [Time { member, range: Some((from, to)), .. }] = ask.times.as_slice() else {
        if !ask.times.is_empty() {
            return open("a window over two time dimensions");
        }
        return whole(model, ask, unit, &rows.select(units, None, true)?);
    };
    if matches!(window, Window::Fixed { trailing: Some(Reach::Unbounded), leading: Some(Reach::Unbounded), .. }) {
        return open("whether rows without time are in a window without ends");
    }
    let t = local(&rows.dimension(member), &ask.zone);
    let inside = predicate(window, &t, &format!("TIMESTAMP '{from}'"), &format!("TIMESTAMP '{to}'"));
    whole(model, ask, unit, &rows.select(units, Some(&inside), false)?)
}

fn whole(model: &Model, ask: &Ask, unit: &Member, rows: &str) -> Result<Part, Refusal> {
    let names: Vec<String> = (0..ask.groups.len()).map(|n| format!("g{n}")).collect();
    Ok(Part { sql: aggregates(model, rows, &names, std::slice::from_ref(unit)), units: vec![unit.clone()] })
}

/// What rows are grouped by before they are put into windows.
fn base_grain(window: &Window, finest: &str) -> Option<&'static str> {
    let mut units = vec![finest];
    match window {
        Window::ToDate(unit) => units.push(unit),
        Window::Fixed { trailing, leading, .. } => {
            for extent in [trailing, leading] {
                if let Some(Reach::Units(_, unit)) = extent {
                    units.push(unit);
                }
            }
        }
    }
    if units.iter().any(|unit| !CALENDAR.contains(unit)) {
        return None;
    }
    let all = |names: &[&str]| units.iter().all(|unit| names.contains(unit));
    Some(match () {
        () if all(&["week"]) => "week",
        () if all(&["year"]) => "year",
        () if all(&["quarter", "year"]) => "quarter",
        () if all(&["month", "quarter", "year"]) => "month",
        () => "day",
    })
}

fn windows(model: &Model, ask: &Ask, unit: &Member, window: &Window) -> Result<Part, Refusal> {
    let time = &ask.times[0];
    if ask.times.iter().any(|other| !same(&other.member, &time.member)) {
        return open("a window over two time dimensions");
    }
    let [finest] = ask.times.iter().filter_map(|time| time.granularity.as_deref()).collect::<Vec<_>>()[..] else {
        return open("several granularities");
    };
    let measure = model.measure(unit);
    let units = std::slice::from_ref(unit);
    let tree = model.tree(&hints(model, ask, units))?;
    let multiplied = model.multiplies(&tree, unit.cube());
    let additive = matches!(measure.agg, Agg::Count | Agg::Sum | Agg::Min | Agg::Max);
    let grain = base_grain(window, finest);
    let custom = !CALENDAR.contains(&finest);
    if custom && (multiplied || base_grain(window, "day").is_none() || calendar(window)) {
        return open("windows of months or of multiplied rows by a granularity of one's own");
    }
    if custom && step(model, &time.member, finest).is_none_or(|(_, unit)| !CALENDAR.contains(&unit)) {
        return open("too many buckets");
    }
    if !additive && multiplied && measure.agg != Agg::CountDistinct {
        return open("an average over windows of multiplied rows");
    }
    let rows = Rows { model, ask, tree, moved: None };
    let t = local(&rows.dimension(&time.member), &ask.zone);
    let t = match grain.filter(|_| additive && !custom) {
        Some(grain) => format!("date_trunc('{grain}', {t})"),
        None => t,
    };
    let mut columns: Vec<String> = vec![format!("{t} AS t")];
    let others: Vec<usize> = (0..ask.groups.len()).filter(|n| ask.groups[*n].granularity.is_none()).collect();
    for n in &others {
        columns.push(format!("{} AS g{n}", rows.group(&ask.groups[*n])?));
    }
    columns.extend(rows.unit(0, unit)?);
    let rows_sql = format!("SELECT {} FROM {}{}", columns.join(", "), rows.from()?, rows.conditions(false)?);
    let mut names: Vec<String> = vec!["t".to_owned()];
    names.extend(others.iter().map(|n| format!("g{n}")));
    // Additive: values of groups, put together. Else rows, each key of a group once.
    let (base, agg) = if additive {
        let agg = if measure.agg == Agg::Count { Agg::Sum } else { measure.agg };
        (format!("SELECT {}, v0 AS a FROM ({})", names.join(", "), aggregates(model, &rows_sql, &names, units)), agg)
    } else {
        let keys = (0..model.cubes[unit.cube()].keys.len()).map(|key| format!("k0_{key}"));
        let keys: Vec<String> = names.iter().cloned().chain(keys).collect();
        (format!("SELECT DISTINCT {}, a0 AS a FROM ({rows_sql})", keys.join(", ")), measure.agg)
    };
    let (first, last) = match &time.range {
        Some((from, to)) => (format!("TIMESTAMP '{from}'"), format!("TIMESTAMP '{to}'")),
        None => ("(SELECT min(t) FROM base)".to_owned(), "(SELECT max(t) FROM base)".to_owned()),
    };
    let series = series(model, &time.member, finest, (&first, &last))?;
    let mut selected: Vec<String> = Vec::new();
    let mut by: Vec<String> = Vec::new();
    for n in 0..ask.groups.len() {
        let column = if others.contains(&n) { format!("base.g{n}") } else { "series.f".to_owned() };
        selected.push(format!("{column} AS g{n}"));
        by.push(column);
    }
    selected.push(format!("{} AS v0", aggregate(agg, "base.a")));
    let sql = format!(
        "WITH base AS ({base}), series AS ({series}) SELECT {} FROM series LEFT JOIN base ON {} GROUP BY {}",
        selected.join(", "),
        predicate(window, "base.t", "series.f", "series.l"),
        by.join(", ")
    );
    Ok(Part { sql, units: vec![unit.clone()] })
}

/// Whether a window is counted in months.
fn calendar(window: &Window) -> bool {
    let months = |extent: &Extent| matches!(extent, Some(Reach::Units(_, "month" | "quarter" | "year")));
    match window {
        Window::ToDate(_) => false,
        Window::Fixed { trailing, leading, .. } => months(trailing) || months(leading),
    }
}

/// The length of a granularity's buckets.
fn step<'a>(model: &'a Model, member: &Member, name: &'a str) -> Option<(i64, &'a str)> {
    if CALENDAR.contains(&name) {
        return Some((1, name));
    }
    let dimension = model.cubes[member.cube()].dimension(&member.name)?;
    dimension.granularities.iter().find(|custom| custom.name == name).map(|custom| (custom.count, custom.unit))
}

/// First instant `f` and last millisecond `l` of every bucket that the time from `first` to `last` touches.
fn series(model: &Model, member: &Member, name: &str, (first, last): (&str, &str)) -> Result<String, Refusal> {
    let Some((count, unit)) = step(model, member, name) else { return open("too many buckets") };
    if !CALENDAR.contains(&unit) {
        return open("too many buckets");
    }
    let starts =
        format!("SELECT unnest(generate_series({first}, {last}, INTERVAL '1 day')) AS x UNION ALL SELECT {last}");
    Ok(format!(
        "SELECT DISTINCT f, f + INTERVAL '{count} {unit}' - INTERVAL '1 millisecond' AS l FROM \
         (SELECT {} AS f FROM ({starts})) WHERE f IS NOT NULL",
        bucket(model, member, name, "x")?
    ))
}
