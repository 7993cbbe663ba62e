//! Data and queries of the property test, from a seed.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::answers::group_columns;
use crate::server::Project;
use crate::tables::{DAY, SECOND, micros, money, timestamps, write_table};

/// Zones with rollups.
pub(crate) const ZONES: [&str; 3] = ["America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata"];
/// Local days on which clocks change in one of [`ZONES`], and ends of months and years.
const EDGE_DAYS: [&str; 12] = [
    "2024-03-10",
    "2024-03-11",
    "2024-03-31",
    "2024-04-01",
    "2024-10-27",
    "2024-10-28",
    "2024-11-03",
    "2024-11-04",
    "2024-01-01",
    "2024-02-29",
    "2024-03-01",
    "2024-12-31",
];
const TEXTS: [&str; 14] = [
    "O'Brien",
    "say \"hi\"",
    "back\\slash",
    "100%",
    "under_score",
    "Zürich",
    "東京",
    "naïve café",
    "",
    " space ",
    "null",
    "😀 smile",
    "x' OR '1'='1",
    "plain",
];
const STATUSES: [&str; 5] = ["new", "shipped", "returned", "it's late", "NEW"];
const FIRST_DAY: &str = "2023-12-20";
const DAYS: i64 = 380;

/// A generator; equal seeds make equal data and queries.
#[derive(Debug)]
pub(crate) struct Generator {
    random: ChaCha8Rng,
}

/// Members that queries of one kind are made of.
struct Family {
    measures: &'static [&'static str],
    dimensions: &'static [&'static str],
    segments: &'static [&'static str],
    times: &'static [&'static str],
    /// The finest granularity asked for, as a position in [`GRANULARITIES`].
    finest: usize,
    /// Whether filters may look at more than the members above.
    any_filter: bool,
}

const GRANULARITIES: [&str; 8] = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"];
const HOUR: usize = 2;
const A_DAY: usize = 3;

/// What each rollup of the fixture stores: queries made of these alone are served by it.
const ROLLUPS: [Family; 8] = [
    Family {
        measures: &[
            "orders.count",
            "orders.total",
            "orders.least",
            "orders.most",
            "orders.mean",
            "orders.returned",
            "orders.returned_share",
            "orders.buyers",
            "orders.buyers_about",
            "orders.amounts",
            "orders.names_of_returned",
            "orders.count_per_buyer",
            "orders.about_median",
        ],
        dimensions: &["orders.status", "customers.city", "customers.vip"],
        segments: &["orders.big"],
        times: &["orders.created_at"],
        finest: A_DAY,
        any_filter: false,
    },
    Family {
        measures: &["orders.count", "orders.total", "orders.buyers", "orders.moments", "orders.count_per_buyer"],
        dimensions: &["orders.status"],
        segments: &[],
        times: &["orders.created_at"],
        finest: HOUR,
        any_filter: false,
    },
    Family {
        measures: &["orders.count", "orders.most", "orders.mean"],
        dimensions: &["customers.name"],
        segments: &[],
        times: &["orders.created_at"],
        finest: HOUR,
        any_filter: false,
    },
    Family {
        measures: &[
            "orders.count",
            "orders.total",
            "orders.least",
            "orders.mean",
            "orders.buyers",
            "orders.buyers_about",
        ],
        dimensions: &["orders.status"],
        segments: &["orders.big", "orders.odd"],
        times: &[],
        finest: A_DAY,
        any_filter: false,
    },
    Family {
        measures: &[
            "line_items.count",
            "line_items.quantity_sum",
            "line_items.revenue",
            "line_items.mean_price",
            "line_items.highest_price",
            "line_items.refunds",
            "line_items.products_sold",
            "line_items.categories",
        ],
        dimensions: &["products.category", "line_items.gift"],
        segments: &["line_items.refunded"],
        times: &["line_items.shipped_at"],
        finest: A_DAY,
        any_filter: false,
    },
    Family {
        measures: &[
            "line_items.products_sold",
            "line_items.weights",
            "line_items.statuses_about",
            "line_items.about_price",
        ],
        dimensions: &["products.category", "line_items.gift"],
        segments: &["line_items.refunded"],
        times: &["line_items.shipped_at"],
        finest: A_DAY,
        any_filter: false,
    },
    Family {
        measures: &[
            "line_items.count",
            "line_items.revenue",
            "line_items.quantity_sum",
            "line_items.products_sold",
            "orders.buyers",
        ],
        dimensions: &["products.name", "products.category", "orders.status"],
        segments: &[],
        times: &[],
        finest: A_DAY,
        any_filter: false,
    },
    Family {
        measures: &[
            "customers.count",
            "customers.balance",
            "customers.lowest",
            "customers.greatest_account",
            "customers.cities",
            "customers.kinds_of_vip",
        ],
        dimensions: &["customers.city", "customers.vip", "customers.mood"],
        segments: &["customers.debtors"],
        times: &[],
        finest: A_DAY,
        any_filter: false,
    },
];

/// Wider questions: every join, and fan-out in both directions.
const FAMILIES: [Family; 5] = [
    Family {
        measures: &["orders.count", "orders.total", "orders.mean", "orders.buyers_about", "orders.returned_share"],
        dimensions: &[
            "orders.status",
            "customers.city",
            "customers.name",
            "customers.mood",
            "orders.id",
            "orders.amount",
        ],
        segments: &["orders.big", "orders.odd", "customers.debtors"],
        times: &["orders.created_at"],
        finest: 0,
        any_filter: true,
    },
    Family {
        measures: &[
            "line_items.count",
            "line_items.revenue",
            "line_items.products_sold",
            "products.count",
            "products.mean_weight",
            "products.heaviest",
        ],
        dimensions: &["products.category", "products.weight", "line_items.gift", "line_items.quantity"],
        segments: &["line_items.refunded"],
        times: &["line_items.shipped_at"],
        finest: HOUR,
        any_filter: true,
    },
    // Measures of the "one" side beside rows of the "many" side.
    Family {
        measures: &[
            "line_items.count",
            "line_items.revenue",
            "orders.count",
            "orders.total",
            "orders.mean",
            "customers.count",
            "customers.balance",
            "customers.cities",
            "orders.returned_share",
        ],
        dimensions: &["products.category", "customers.city", "orders.status", "customers.vip"],
        segments: &["orders.big", "line_items.refunded"],
        times: &["orders.created_at", "line_items.shipped_at"],
        finest: A_DAY,
        any_filter: true,
    },
    // A one_to_many join.
    Family {
        measures: &[
            "orders.count",
            "orders.total",
            "orders.most",
            "payments.count",
            "payments.paid",
            "customers.balance",
        ],
        dimensions: &["payments.method", "orders.status", "customers.city"],
        segments: &["orders.big"],
        times: &["orders.created_at"],
        finest: A_DAY,
        any_filter: true,
    },
    Family {
        measures: &["customers.count", "customers.greatest_account", "customers.balance", "customers.cities"],
        dimensions: &["customers.name", "customers.account", "customers.id", "customers.vip"],
        segments: &["customers.debtors"],
        times: &[],
        finest: A_DAY,
        any_filter: true,
    },
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Number,
    Boolean,
    Time,
}

fn kind_of(member: &str) -> Kind {
    match member {
        "customers.vip" | "line_items.gift" => Kind::Boolean,
        "orders.created_at" | "line_items.shipped_at" => Kind::Time,
        "orders.status" | "customers.city" | "customers.name" | "customers.mood" | "products.category"
        | "products.name" | "payments.method" => Kind::Text,
        _ => Kind::Number,
    }
}

impl Generator {
    /// Of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        *list.choose(&mut self.random).expect("lists of this file are not empty")
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn some_of(&mut self, list: &[&'static str], least: usize, most: usize) -> Vec<&'static str> {
        let mut list = list.to_vec();
        list.shuffle(&mut self.random);
        let most = most.min(list.len());
        let count = if most <= least { most } else { self.random.random_range(least..=most) };
        list.truncate(count);
        list
    }

    fn maybe<T>(&mut self, null_percent: u32, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(null_percent) { None } else { Some(value(self)) }
    }

    fn column<T>(&mut self, rows: i64, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..rows).map(|_| value(self)).collect()
    }

    /// UTC: often within an hour of a local midnight on an edge day, else anywhere.
    fn instant(&mut self) -> i64 {
        if self.chance(45) {
            let zone = self.pick(&ZONES).parse().expect("a zone");
            let local = micros(self.pick(&EDGE_DAYS));
            let around = [0, 1, -1, -1_000, SECOND, 1800 * SECOND, -1800 * SECOND, 3 * 3600 * SECOND, 5400 * SECOND];
            quarry::time::local_to_utc(local, zone) + self.pick(&around)
        } else {
            micros(FIRST_DAY) + self.random.random_range(0..DAYS * DAY / SECOND) * SECOND
        }
    }

    /// Writes the tables of `fixtures/property`.
    pub(crate) fn write_data(&mut self, project: &Project) {
        let (customers, products, orders, items, payments) = (60, 25, 900, 2400, 700);
        let ids = |count: i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(1..=count)) };
        let text = |this: &mut Self, rows, nulls, words: &'static [&'static str]| -> ArrayRef {
            Arc::new(StringArray::from(this.column(rows, |this| this.maybe(nulls, |this| this.pick(words)))))
        };
        let flag = |this: &mut Self, rows| -> ArrayRef {
            Arc::new(BooleanArray::from(this.column(rows, |this| this.maybe(20, |this| this.chance(50)))))
        };
        let key = |this: &mut Self, rows, nulls, most: i64| -> ArrayRef {
            Arc::new(Int64Array::from(this.column(rows, |this| {
                // Some keys point to nothing.
                this.maybe(nulls, |this| this.random.random_range(1..=most + 2))
            })))
        };
        let cents = |this: &mut Self, rows, nulls, range: std::ops::Range<i64>| -> ArrayRef {
            money(this.column(rows, |this| this.maybe(nulls, |this| this.random.random_range(range.clone()))))
        };
        let big = 9_007_199_254_740_993;
        let accounts = self.column(customers, |this| this.maybe(10, |this| big + this.random.random_range(-3..3_i64)));
        let columns = vec![
            ("id", ids(customers)),
            ("name", text(self, customers, 5, &TEXTS)),
            ("city", text(self, customers, 15, &TEXTS[5..11])),
            ("vip", flag(self, customers)),
            ("account", Arc::new(Int64Array::from(accounts)) as ArrayRef),
            ("balance", cents(self, customers, 10, -100_000..100_000)),
        ];
        write_table(project.path(), "customers", columns);
        let weights =
            self.column(products, |this| this.maybe(10, |this| f64::from(this.random.random_range(-900..900)) / 8.0));
        let columns = vec![
            ("id", ids(products)),
            ("name", text(self, products, 5, &TEXTS)),
            ("category", text(self, products, 10, &TEXTS[..6])),
            ("weight", Arc::new(Float64Array::from(weights)) as ArrayRef),
        ];
        write_table(project.path(), "products", columns);
        let columns = vec![
            ("id", ids(orders)),
            ("customer_id", key(self, orders, 5, customers)),
            ("status", text(self, orders, 10, &STATUSES)),
            ("created_at", timestamps(self.column(orders, |this| Some(this.instant())))),
            ("amount", cents(self, orders, 5, -5_000..50_000)),
        ];
        write_table(project.path(), "orders", columns);
        let quantities = self.column(items, |this| this.maybe(3, |this| this.random.random_range(-3..20_i64)));
        let columns = vec![
            ("id", ids(items)),
            ("order_id", key(self, items, 2, orders)),
            ("product_id", key(self, items, 2, products)),
            ("quantity", Arc::new(Int64Array::from(quantities)) as ArrayRef),
            ("price", cents(self, items, 3, 1..20_000)),
            ("gift", flag(self, items)),
            ("shipped_at", timestamps(self.column(items, |this| this.maybe(8, Self::instant)))),
        ];
        write_table(project.path(), "line_items", columns);
        let columns = vec![
            ("id", ids(payments)),
            ("order_id", key(self, payments, 2, orders)),
            ("method", text(self, payments, 5, &["card", "cash", "It's owed"])),
            ("amount", cents(self, payments, 2, -1_000..30_000)),
        ];
        write_table(project.path(), "payments", columns);
    }

    /// A query.
    pub(crate) fn query(&mut self) -> Value {
        let family = if self.chance(60) {
            let index = self.random.random_range(0..ROLLUPS.len());
            &ROLLUPS[index]
        } else {
            let index = self.random.random_range(0..FAMILIES.len());
            &FAMILIES[index]
        };
        let mut query = Map::new();
        let least = usize::from(self.chance(95));
        let mut measures = self.some_of(family.measures, least, 3);
        let dimensions = self.some_of(family.dimensions, 0, 2);
        let times = self.times(family);
        if measures.is_empty() && dimensions.is_empty() {
            measures = self.some_of(family.measures, 1, 1);
        }
        if !measures.is_empty() {
            query.insert("measures".to_owned(), json!(measures));
        }
        if !dimensions.is_empty() {
            query.insert("dimensions".to_owned(), json!(dimensions));
        }
        if !times.is_empty() {
            query.insert("timeDimensions".to_owned(), json!(times));
        }
        if self.chance(20) && !family.segments.is_empty() {
            query.insert("segments".to_owned(), json!([self.pick(family.segments)]));
        }
        let filters = self.filters(family, &measures);
        if !filters.is_empty() {
            query.insert("filters".to_owned(), json!(filters));
        }
        let zone = if self.chance(92) { self.pick(&ZONES) } else { "UTC" };
        query.insert("timezone".to_owned(), json!(zone));
        let mut query = Value::Object(query);
        self.order_and_limit(&mut query, &measures);
        query
    }

    fn times(&mut self, family: &Family) -> Vec<Value> {
        let mut times = Vec::new();
        for time in family.times {
            if !self.chance(75) {
                continue;
            }
            let granularity = self.chance(70).then(|| {
                let index = self.random.random_range(family.finest..GRANULARITIES.len());
                GRANULARITIES[index]
            });
            let mut dimension = json!({"dimension": time});
            if let Some(granularity) = granularity {
                dimension["granularity"] = json!(granularity);
            }
            if self.chance(65) || granularity.is_none() {
                dimension["dateRange"] = self.range();
            }
            times.push(dimension.clone());
            if self.chance(8) && granularity.is_some() {
                dimension["granularity"] = json!("month");
                times.push(dimension);
            }
        }
        times
    }

    fn day(&mut self) -> String {
        if self.chance(40) {
            return self.pick(&EDGE_DAYS).to_owned();
        }
        let day = micros(FIRST_DAY) + self.random.random_range(0..DAYS) * DAY;
        quarry::time::format_local(day)[..10].to_owned()
    }

    fn range(&mut self) -> Value {
        let (mut start, mut end) = (self.day(), self.day());
        if start > end && self.chance(95) {
            std::mem::swap(&mut start, &mut end);
        }
        match self.random.random_range(0..10) {
            0..=4 => json!([start, end]),
            5 | 6 => {
                let month = &start[..7];
                json!([format!("{month}-01"), format!("{month}-28")])
            }
            7 => json!([start]),
            8 => {
                // Whole hours of one day, clock changes included.
                let (from, length) = (self.random.random_range(0..12), self.random.random_range(0..12));
                json!([format!("{start}T{from:02}:00:00.000"), format!("{start}T{:02}:59:59.999", from + length)])
            }
            _ => json!([format!("{start}T10:17:00"), format!("{end}T23:10:30.500")]),
        }
    }

    fn filters(&mut self, family: &Family, measures: &[&'static str]) -> Vec<Value> {
        let mut members = family.dimensions.to_vec();
        if family.any_filter {
            members.extend_from_slice(family.times);
        }
        let mut filters = Vec::new();
        for _ in 0..self.pick(&[0, 0, 0, 1, 1, 2]) {
            filters.push(self.tree(&members, 2));
        }
        if self.chance(12) && !measures.is_empty() {
            let member = self.pick(measures);
            filters.push(self.leaf(member));
        }
        filters
    }

    fn tree(&mut self, members: &[&'static str], depth: u32) -> Value {
        if depth == 0 || self.chance(70) {
            let member = self.pick(members);
            return self.leaf(member);
        }
        let key = self.pick(&["and", "or"]);
        let children: Vec<Value> =
            (0..self.random.random_range(1..=3)).map(|_| self.tree(members, depth - 1)).collect();
        json!({key: children})
    }

    fn leaf(&mut self, member: &'static str) -> Value {
        let kind = kind_of(member);
        if self.chance(10) {
            return json!({"member": member, "operator": self.pick(&["set", "notSet"])});
        }
        let (operator, mut values): (&str, Vec<Value>) = match kind {
            Kind::Text => {
                let operators = [
                    "equals",
                    "notEquals",
                    "contains",
                    "notContains",
                    "startsWith",
                    "notStartsWith",
                    "endsWith",
                    "notEndsWith",
                    "equals",
                ];
                let words = if member == "orders.status" { &STATUSES[..] } else { &TEXTS[..] };
                let operator = self.pick(&operators);
                let word = self.pick(words);
                // Part of a word, cut at characters.
                let part: String = word.chars().skip(usize::from(operator.contains("nds"))).take(3).collect();
                let value = if operator.to_lowercase().contains("equals") { word.to_owned() } else { part };
                (operator, vec![json!(value), json!(self.pick(words))])
            }
            Kind::Number => {
                let operator = self.pick(&["equals", "notEquals", "gt", "gte", "lt", "lte"]);
                let values = ["0", "-5", "100", "99.99", "3", "17", "9007199254740993", "-12.5", "1"];
                (operator, vec![json!(self.pick(&values)), json!(self.pick(&values))])
            }
            Kind::Boolean => (self.pick(&["equals", "notEquals"]), vec![json!(self.pick(&["true", "false"]))]),
            Kind::Time => {
                let one = ["beforeDate", "beforeOrOnDate", "afterDate", "afterOrOnDate", "onTheDate"];
                if self.chance(50) {
                    (self.pick(&one), vec![json!(self.day())])
                } else {
                    let (start, end) = (self.day(), self.day());
                    (
                        self.pick(&["inDateRange", "notInDateRange"]),
                        vec![json!(start.clone().min(end.clone())), json!(start.max(end))],
                    )
                }
            }
        };
        let list = matches!(kind, Kind::Text | Kind::Boolean) || operator.to_lowercase().ends_with("equals");
        if list && self.chance(60) {
            values.truncate(1);
        }
        if list && self.chance(10) {
            values.push(Value::Null);
        }
        json!({"member": member, "operator": operator, "values": values})
    }

    /// An order, or none; with a limit always one that no rows tie in.
    fn order_and_limit(&mut self, query: &mut Value, measures: &[&'static str]) {
        let mut keys = group_columns(query);
        let limited = self.chance(30);
        if limited || self.chance(30) {
            keys.shuffle(&mut self.random);
            if !measures.is_empty() && self.chance(50) {
                keys.insert(0, self.pick(measures).to_owned());
            }
            let pairs: Vec<(String, &str)> =
                keys.into_iter().map(|key| (key, if self.chance(50) { "asc" } else { "desc" })).collect();
            query["order"] = if self.chance(50) {
                json!(pairs)
            } else {
                pairs.into_iter().map(|(key, direction)| (key, json!(direction))).collect::<Map<_, _>>().into()
            };
        } else if self.chance(10) {
            query["order"] = json!([]);
        }
        if limited {
            query["limit"] = json!(self.random.random_range(0..20));
            if self.chance(50) {
                query["offset"] = json!(self.random.random_range(0..10));
            }
        }
        if self.chance(15) {
            query["total"] = json!(true);
        }
    }
}

/// Every query that is one step simpler.
pub(crate) fn simpler(query: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for key in ["total", "offset", "limit", "order"] {
        found.extend(without(query, key));
    }
    for key in ["filters", "measures", "dimensions", "timeDimensions", "segments"] {
        for (index, item) in query[key].as_array().into_iter().flatten().enumerate() {
            let mut replace = |item: Option<Value>| {
                let mut query = query.clone();
                let list = query[key].as_array_mut().expect("seen as a list above");
                match item {
                    Some(item) => list[index] = item,
                    None => drop(list.remove(index)),
                }
                found.push(query);
            };
            replace(None);
            for group in ["and", "or"] {
                item[group].as_array().into_iter().flatten().for_each(|child| replace(Some(child.clone())));
            }
            for part in ["granularity", "dateRange"] {
                without(item, part).into_iter().for_each(|item| replace(Some(item)));
            }
            for value in item["values"].as_array().into_iter().flatten() {
                let mut one = item.clone();
                one["values"] = json!([value]);
                if one != *item {
                    replace(Some(one));
                }
            }
        }
    }
    found
}

fn without(value: &Value, key: &str) -> Option<Value> {
    let mut value = value.clone();
    value.as_object_mut()?.remove(key)?;
    Some(value)
}

#[test]
fn equal_seeds_make_equal_queries_of_every_kind() {
    let queries = |seed| {
        let mut generator = Generator::new(seed);
        (0..400).map(|_| generator.query()).collect::<Vec<_>>()
    };
    assert_eq!(queries(7), queries(7));
    assert_ne!(queries(7), queries(8));
    let all = json!(queries(7)).to_string();
    for word in
        ["\"or\"", "notContains", "O'Brien", "2024-03-10", "\"total\"", "\"offset\"", "null", "week", "payments.paid"]
    {
        assert!(all.contains(word), "{word} never comes up");
    }
    for query in queries(7).iter().filter(|query| query.get("limit").is_some()) {
        assert!(crate::answers::RowOrder::of(query).total, "{query}");
    }
}

#[test]
fn simpler_queries_lack_one_thing() {
    let query = json!({"measures": ["a.b"], "limit": 1, "filters": [{"or": [{"member": "x.y", "operator": "equals",
        "values": ["1", "2"]}]}]});
    let simpler = simpler(&query);
    assert_eq!(simpler.len(), 4, "{simpler:?}");
    assert!(
        simpler.contains(&json!({"measures": ["a.b"], "limit": 1, "filters": [{"member": "x.y", "operator": "equals",
        "values": ["1", "2"]}]}))
    );
}
