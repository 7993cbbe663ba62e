//! The eight tables of TPC-H at scale 0.01, from a seed: sizes, domains and formulas of the specification (clause
//! 4.2.3), random numbers of our own.
//!
//! Days are `Date32`, as in TPC-H: a `time` dimension takes a plain date column as its SQL.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, StringArray};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::words::{
    COLOURS, COMMENT_WORDS, CONTAINERS, INSTRUCTIONS, MODES, NATIONS, PRIORITIES, REGIONS, SEGMENTS, TYPES,
};
use crate::tables::{DAY, micros, write_table};

/// Equal seeds make equal files.
const SEED: u64 = 19_920_101;
const SUPPLIERS: i64 = 100;
const PARTS: i64 = 2_000;
const SUPPLIERS_OF_A_PART: i64 = 4;
const CUSTOMERS: i64 = 1_500;
const ORDERS: i64 = 15_000;
const CLERKS: i64 = 10;
/// Of the suppliers, how many some customer complains about, and how many one recommends. The specification has 5 in
/// 10,000 each, which is none at this scale.
const REMARKED: i64 = 5;

/// Writes `data/*.parquet` of a project.
pub(super) fn write_tables(project: &Path) {
    write_table(project, "region", regions());
    write_table(project, "nation", nations());
    write_table(project, "supplier", suppliers());
    write_table(project, "part", parts());
    write_table(project, "partsupp", partsupps());
    write_table(project, "customer", customers());
    let (orders, lines) = orders_and_lines();
    write_table(project, "orders", orders.columns());
    write_table(project, "lineitem", lines.columns());
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn keys(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

fn small(values: Vec<i32>) -> ArrayRef {
    Arc::new(Int32Array::from(values))
}

fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// `DECIMAL(15, 2)` from hundredths.
fn decimals(hundredths: Vec<i64>) -> ArrayRef {
    let values = Decimal128Array::from_iter_values(hundredths.into_iter().map(i128::from));
    Arc::new(values.with_precision_and_scale(15, 2).expect("15 digits are enough for TPC-H"))
}

fn dates(days: Vec<i32>) -> ArrayRef {
    Arc::new(Date32Array::from(days))
}

/// Days since 1970.
fn day(text: &str) -> i32 {
    i32::try_from(micros(text) / DAY).expect("days of TPC-H are small numbers")
}

/// Random numbers of one table, so that a change of one leaves the others alone.
struct Random {
    numbers: ChaCha8Rng,
    /// What comments are made of.
    words: Vec<&'static str>,
}

impl Random {
    fn of(table: u64) -> Self {
        Self { numbers: ChaCha8Rng::seed_from_u64(SEED + table), words: COMMENT_WORDS.split_whitespace().collect() }
    }

    fn between(&mut self, least: i64, most: i64) -> i64 {
        self.numbers.random_range(least..=most)
    }

    fn days(&mut self, least: i32, most: i32) -> i32 {
        self.numbers.random_range(least..=most)
    }

    fn nation(&mut self) -> i32 {
        self.numbers.random_range(0..25)
    }

    fn pick(&mut self, list: &[&'static str]) -> &'static str {
        list.choose(&mut self.numbers).expect("no list of words is empty")
    }

    fn words(&mut self, lists: &[&[&'static str]]) -> String {
        lists.iter().map(|list| self.pick(list)).collect::<Vec<_>>().join(" ")
    }

    /// Words of a length within these bounds; the last may be cut.
    fn comment(&mut self, least: usize, most: usize) -> String {
        let length = self.numbers.random_range(least..=most);
        let mut text = String::with_capacity(length + 12);
        while text.len() < length {
            text.push_str(self.words.choose(&mut self.numbers).expect("comments have words"));
            text.push(' ');
        }
        text.truncate(length);
        text.truncate(text.trim_end().len());
        text
    }

    fn address(&mut self) -> String {
        const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,";
        let length = self.numbers.random_range(10..=40);
        (0..length).map(|_| char::from(*LETTERS.choose(&mut self.numbers).expect("letters"))).collect()
    }

    fn phone(&mut self, nation: i32) -> String {
        let (area, exchange, number) = (self.between(100, 999), self.between(100, 999), self.between(1000, 9999));
        format!("{}-{area}-{exchange}-{number}", nation + 10)
    }

    fn balance(&mut self) -> i64 {
        self.between(-99_999, 999_999)
    }
}

fn regions() -> Columns {
    let mut random = Random::of(1);
    vec![
        ("r_regionkey", small((0..).take(REGIONS.len()).collect())),
        ("r_name", texts(REGIONS)),
        ("r_comment", texts(REGIONS.map(|_| random.comment(31, 115)))),
    ]
}

fn nations() -> Columns {
    let mut random = Random::of(2);
    vec![
        ("n_nationkey", small((0..).take(NATIONS.len()).collect())),
        ("n_name", texts(NATIONS.map(|(name, _)| name))),
        ("n_regionkey", small(NATIONS.map(|(_, region)| region).to_vec())),
        ("n_comment", texts(NATIONS.map(|_| random.comment(31, 114)))),
    ]
}

fn suppliers() -> Columns {
    let mut random = Random::of(3);
    let keys_of = 1..=SUPPLIERS;
    let nations: Vec<i32> = keys_of.clone().map(|_| random.nation()).collect();
    let phones: Vec<String> = nations.iter().map(|nation| random.phone(*nation)).collect();
    let comments: Vec<String> = keys_of.clone().map(|key| supplier_comment(key, &mut random)).collect();
    vec![
        ("s_suppkey", keys(keys_of.clone().collect())),
        ("s_name", texts(keys_of.clone().map(|key| format!("Supplier#{key:09}")))),
        ("s_address", texts(keys_of.clone().map(|_| random.address()))),
        ("s_nationkey", small(nations)),
        ("s_phone", texts(phones)),
        ("s_acctbal", decimals(keys_of.map(|_| random.balance()).collect())),
        ("s_comment", texts(comments)),
    ]
}

/// Every so many suppliers a complaint, and between them a recommendation.
fn supplier_comment(key: i64, random: &mut Random) -> String {
    let step = SUPPLIERS / REMARKED;
    let remark = match key % step {
        0 => "Complaints",
        1 => "Recommends",
        _ => return random.comment(25, 100),
    };
    let (before, between, after) = (random.comment(5, 20), random.comment(0, 25), random.comment(5, 20));
    format!("{before} Customer {between} {remark} {after}")
}

/// The price of a part, in hundredths.
fn retail_price(part: i64) -> i64 {
    90_000 + (part / 10) % 20_001 + 100 * (part % 1_000)
}

/// The supplier of a part, of four.
fn supplier_of(part: i64, which: i64) -> i64 {
    (part + which * (SUPPLIERS / SUPPLIERS_OF_A_PART + (part - 1) / SUPPLIERS)) % SUPPLIERS + 1
}

fn parts() -> Columns {
    let mut random = Random::of(4);
    let all = 1..=PARTS;
    let colours: Vec<&str> = COLOURS.split_whitespace().collect();
    let mut name = |_| colours.choose_multiple(&mut random.numbers, 5).copied().collect::<Vec<_>>().join(" ");
    let names: Vec<String> = all.clone().map(&mut name).collect();
    let makers: Vec<i64> = all.clone().map(|_| random.between(1, 5)).collect();
    let brands: Vec<String> = makers.iter().map(|maker| format!("Brand#{maker}{}", random.between(1, 5))).collect();
    vec![
        ("p_partkey", keys(all.clone().collect())),
        ("p_name", texts(names)),
        ("p_mfgr", texts(makers.iter().map(|maker| format!("Manufacturer#{maker}")))),
        ("p_brand", texts(brands)),
        ("p_type", texts(all.clone().map(|_| random.words(&TYPES)))),
        ("p_size", small(all.clone().map(|_| random.days(1, 50)).collect())),
        ("p_container", texts(all.clone().map(|_| random.words(&CONTAINERS)))),
        ("p_retailprice", decimals(all.clone().map(retail_price).collect())),
        ("p_comment", texts(all.map(|_| random.comment(5, 22)))),
    ]
}

fn partsupps() -> Columns {
    let mut random = Random::of(5);
    let all: Vec<(i64, i64)> = (1..=PARTS)
        .flat_map(|part| (0..SUPPLIERS_OF_A_PART).map(move |which| (part, supplier_of(part, which))))
        .collect();
    vec![
        ("ps_partkey", keys(all.iter().map(|(part, _)| *part).collect())),
        ("ps_suppkey", keys(all.iter().map(|(_, supplier)| *supplier).collect())),
        ("ps_availqty", keys(all.iter().map(|_| random.between(1, 9_999)).collect())),
        ("ps_supplycost", decimals(all.iter().map(|_| random.between(100, 100_000)).collect())),
        ("ps_comment", texts(all.iter().map(|_| random.comment(49, 198)))),
    ]
}

fn customers() -> Columns {
    let mut random = Random::of(6);
    let all = 1..=CUSTOMERS;
    let nations: Vec<i32> = all.clone().map(|_| random.nation()).collect();
    let phones: Vec<String> = nations.iter().map(|nation| random.phone(*nation)).collect();
    vec![
        ("c_custkey", keys(all.clone().collect())),
        ("c_name", texts(all.clone().map(|key| format!("Customer#{key:09}")))),
        ("c_address", texts(all.clone().map(|_| random.address()))),
        ("c_nationkey", small(nations)),
        ("c_phone", texts(phones)),
        ("c_acctbal", decimals(all.clone().map(|_| random.balance()).collect())),
        ("c_mktsegment", texts(all.clone().map(|_| random.pick(&SEGMENTS)))),
        ("c_comment", texts(all.map(|_| random.comment(29, 116)))),
    ]
}

#[derive(Default)]
struct Orders {
    key: Vec<i64>,
    customer: Vec<i64>,
    status: Vec<&'static str>,
    total: Vec<i64>,
    date: Vec<i32>,
    priority: Vec<&'static str>,
    clerk: Vec<String>,
    comment: Vec<String>,
}

#[derive(Default)]
struct Lines {
    order: Vec<i64>,
    part: Vec<i64>,
    supplier: Vec<i64>,
    number: Vec<i64>,
    quantity: Vec<i64>,
    price: Vec<i64>,
    discount: Vec<i64>,
    tax: Vec<i64>,
    returned: Vec<&'static str>,
    status: Vec<&'static str>,
    shipped: Vec<i32>,
    committed: Vec<i32>,
    received: Vec<i32>,
    instruction: Vec<&'static str>,
    mode: Vec<&'static str>,
    comment: Vec<String>,
}

/// Days of the specification.
struct Calendar {
    first: i32,
    last_order: i32,
    /// Lines that were received by this day may have come back; lines that were shipped by it are closed.
    today: i32,
}

fn orders_and_lines() -> (Orders, Lines) {
    let calendar = Calendar { first: day("1992-01-01"), last_order: day("1998-08-02"), today: day("1995-06-17") };
    let (mut random, mut line_random) = (Random::of(7), Random::of(8));
    let (mut orders, mut lines) = (Orders::default(), Lines::default());
    for index in 0..ORDERS {
        // Eight keys of every 32 are in use.
        let key = index / 8 * 32 + index % 8 + 1;
        let date = random.days(calendar.first, calendar.last_order);
        let first = lines.order.len();
        let count = random.between(1, 7);
        let total: i64 = (1..=count).map(|number| lines.push((key, number), date, &calendar, &mut line_random)).sum();
        orders.key.push(key);
        orders.customer.push(buyer(&mut random));
        orders.status.push(order_status(&lines.status[first..]));
        orders.total.push(total);
        orders.date.push(date);
        orders.priority.push(random.pick(&PRIORITIES));
        orders.clerk.push(format!("Clerk#{:09}", random.between(1, CLERKS)));
        orders.comment.push(order_comment(&mut random));
    }
    (orders, lines)
}

/// Every third customer never buys.
fn buyer(random: &mut Random) -> i64 {
    let nth = random.between(0, CUSTOMERS / 3 * 2 - 1);
    nth / 2 * 3 + nth % 2 + 1
}

fn order_status(lines: &[&str]) -> &'static str {
    match (lines.contains(&"F"), lines.contains(&"O")) {
        (true, true) => "P",
        (true, false) => "F",
        (false, _) => "O",
    }
}

/// One comment of fifty speaks of special requests for sure, others by chance.
fn order_comment(random: &mut Random) -> String {
    if random.between(1, 50) > 1 {
        return random.comment(19, 78);
    }
    let (before, between, after) = (random.comment(3, 20), random.comment(0, 20), random.comment(3, 20));
    format!("{before} special {between} requests {after}")
}

impl Lines {
    /// Adds a line of an order's day; gives what it adds to the order's price, in hundredths.
    fn push(&mut self, (order, number): (i64, i64), date: i32, calendar: &Calendar, random: &mut Random) -> i64 {
        let part = random.between(1, PARTS);
        let quantity = random.between(1, 50);
        let price = quantity * retail_price(part);
        let (discount, tax) = (random.between(0, 10), random.between(0, 8));
        let shipped = date + random.days(1, 121);
        let received = shipped + random.days(1, 30);
        let returned = if received <= calendar.today { random.pick(&["A", "R"]) } else { "N" };
        self.order.push(order);
        self.part.push(part);
        self.supplier.push(supplier_of(part, random.between(0, SUPPLIERS_OF_A_PART - 1)));
        self.number.push(number);
        self.quantity.push(quantity * 100);
        self.price.push(price);
        self.discount.push(discount);
        self.tax.push(tax);
        self.returned.push(returned);
        self.status.push(if shipped > calendar.today { "O" } else { "F" });
        self.shipped.push(shipped);
        self.committed.push(date + random.days(30, 90));
        self.received.push(received);
        self.instruction.push(random.pick(&INSTRUCTIONS));
        self.mode.push(random.pick(&MODES));
        self.comment.push(random.comment(10, 43));
        // Rounded to hundredths.
        (price * (100 + tax) * (100 - discount) + 5_000) / 10_000
    }

    fn columns(self) -> Columns {
        vec![
            ("l_orderkey", keys(self.order)),
            ("l_partkey", keys(self.part)),
            ("l_suppkey", keys(self.supplier)),
            ("l_linenumber", keys(self.number)),
            ("l_quantity", decimals(self.quantity)),
            ("l_extendedprice", decimals(self.price)),
            ("l_discount", decimals(self.discount)),
            ("l_tax", decimals(self.tax)),
            ("l_returnflag", texts(self.returned)),
            ("l_linestatus", texts(self.status)),
            ("l_shipdate", dates(self.shipped)),
            ("l_commitdate", dates(self.committed)),
            ("l_receiptdate", dates(self.received)),
            ("l_shipinstruct", texts(self.instruction)),
            ("l_shipmode", texts(self.mode)),
            ("l_comment", texts(self.comment)),
        ]
    }
}

impl Orders {
    fn columns(self) -> Columns {
        let rows = self.key.len();
        vec![
            ("o_orderkey", keys(self.key)),
            ("o_custkey", keys(self.customer)),
            ("o_orderstatus", texts(self.status)),
            ("o_totalprice", decimals(self.total)),
            ("o_orderdate", dates(self.date)),
            ("o_orderpriority", texts(self.priority)),
            ("o_clerk", texts(self.clerk)),
            ("o_shippriority", small(vec![0; rows])),
            ("o_comment", texts(self.comment)),
        ]
    }
}
