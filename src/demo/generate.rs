//! The sample data: two years of a retail chain, from a seed.
//!
//! Every month draws from a random stream of its own, so the months can be made in parallel, in any order, or
//! one alone, with the same rows. All arithmetic is in integers: prices are cents, chances are weights.
//! The shape is that of real sales: seasons, weekdays and hours, popular products, baskets, missing values.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arrow::array::{Array, ArrayRef, Decimal128Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use chrono::{Datelike as _, Months, NaiveDate};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::catalogue;
use crate::time::to_micros;

/// Months of data, from [`first_day`] of month 0.
pub(super) const MONTHS: u32 = 24;
/// Rows held in memory before they are encoded.
const BATCH_ROWS: usize = 1 << 16;
const HOUR_MICROS: i64 = 3_600_000_000;
const CUSTOMERS: i64 = 20_000;

/// How well each calendar month sells.
const SEASON: [u64; 12] = [78, 74, 88, 92, 98, 96, 90, 86, 95, 104, 138, 171];
/// Monday to Sunday.
const WEEKDAYS: [u64; 7] = [88, 84, 90, 97, 124, 152, 108];
const HOURS: [u64; 24] = [4, 2, 1, 1, 1, 2, 6, 14, 28, 44, 56, 62, 66, 60, 54, 54, 58, 66, 70, 62, 50, 38, 22, 10];
/// Chances of baskets of 1, 2, … lines.
const BASKETS: [u64; 7] = [45, 25, 13, 8, 4, 3, 2];
const CHANNELS: [(&str, u64); 3] = [("web", 46), ("shop", 39), ("app", 15)];
const STATUSES: [(&str, u64); 4] = [("completed", 86), ("returned", 6), ("shipped", 5), ("cancelled", 3)];
const COUPONS: [&str; 4] = ["WELCOME10", "SPRING", "BLACK-FRIDAY", "ÉTÉ"];
/// Texts that a careless server trips over.
const NOTES: [&str; 6] = [
    "gift 🎁",
    "Geschenk für Jürgen",
    "don't bend; don't stack",
    "配達は午後に",
    "100% \"as is\"",
    "c/o O'Brien \\ 2nd floor",
];

/// The first day of a month of the data.
pub(super) fn first_day(month: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2024, 1, 1).unwrap_or_default() + Months::new(month)
}

/// Picks an index by weight.
struct Weighted {
    cumulative: Vec<u64>,
}

impl Weighted {
    fn new(weights: impl IntoIterator<Item = u64>) -> Self {
        let mut sum = 0;
        let cumulative = weights.into_iter().map(|weight| {
            sum += weight;
            sum
        });
        Self { cumulative: cumulative.collect() }
    }

    fn pick(&self, rng: &mut ChaCha8Rng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1);
        let at = rng.random_range(0..total);
        self.cumulative.partition_point(|sum| *sum <= at)
    }
}

struct Product {
    name: String,
    category: usize,
    brand: Option<&'static str>,
    cents: i64,
}

/// What the rows of one month add up to; exact, to compare answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MonthTotals {
    /// Orders.
    pub(super) orders: u64,
    /// Order lines.
    pub(super) lines: u64,
    /// Sum of `amount`, in cents.
    pub(super) amount_cents: i128,
}

/// The generator: equal rows and seed give equal files.
pub(super) struct Generator {
    seed: u64,
    rows: u64,
    products: Vec<Product>,
}

/// A month being made.
struct Month {
    index: u32,
    rng: ChaCha8Rng,
    products: Weighted,
    customers: Weighted,
    stores: Weighted,
    channels: Weighted,
    statuses: Weighted,
    price_percent: i64,
}

impl Generator {
    /// A generator of so many order lines.
    pub(super) fn new(rows: u64, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self { seed, rows, products: make_products(&mut rng) }
    }

    /// Order lines of a month; over all months they add up to exactly the rows asked for.
    pub(super) fn lines_of(&self, month: u32) -> u64 {
        let weight = |m: u32| SEASON[m as usize % 12] * (100 + 2 * u64::from(m));
        let before = |m: u32| (0..m).map(weight).sum::<u64>();
        let upto = |m: u32| self.rows * before(m) / before(MONTHS);
        upto(month + 1) - upto(month)
    }

    /// Writes all tables below `project/data`. `progress` is told of order lines as they are written.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn write_all(
        &self,
        project: &Path,
        progress: &(dyn Fn(u64) + Sync),
    ) -> anyhow::Result<Vec<MonthTotals>> {
        for table in ["orders", "order_lines"] {
            let folder = project.join("data").join(table);
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let file = |table: &str| project.join("data").join(format!("{table}.parquet"));
        write_file(&file("stores"), &stores_batch()?)?;
        write_file(&file("products"), &self.products_batch()?)?;
        write_file(&file("customers"), &self.customers_batch()?)?;
        (0..MONTHS).into_par_iter().map(|month| self.write_month(project, month, 100, progress)).collect()
    }

    /// Writes the orders and order lines of one month, all prices at `price_percent` of what they were.
    /// A file appears under its name when it is whole.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn write_month(
        &self,
        project: &Path,
        index: u32,
        price_percent: i64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> anyhow::Result<MonthTotals> {
        let mut month = self.month(index, price_percent);
        let mut left = self.lines_of(index);
        let mut baskets = Vec::new();
        let sizes = Weighted::new(BASKETS);
        while left > 0 {
            let size = (sizes.pick(&mut month.rng) as u64 + 1).min(left);
            left -= size;
            baskets.push(size);
        }
        let times = month.order_times(baskets.len());

        let mut orders = TableFile::create(project, "orders", index, Orders::new())?;
        let mut lines = TableFile::create(project, "order_lines", index, Lines::new())?;
        let mut totals = MonthTotals { orders: baskets.len() as u64, lines: 0, amount_cents: 0 };
        for (number, (size, time)) in (1_i64..).zip(baskets.into_iter().zip(times)) {
            // Readable and unique: year, month, running number.
            let day = first_day(index);
            let order = (i64::from(day.year()) * 100 + i64::from(day.month())) * 100_000_000 + number;
            month.push_order(&mut orders.columns, order, time);
            for line in 1..=size.cast_signed() {
                let cents = month.push_line(&mut lines.columns, &self.products, order, (line, time));
                totals.amount_cents += i128::from(cents);
            }
            totals.lines += size;
            orders.flush_full()?;
            progress(lines.flush_full()?);
        }
        orders.finish()?;
        progress(lines.finish()?);
        Ok(totals)
    }

    fn month(&self, index: u32, price_percent: i64) -> Month {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::from(index) + 1);
        let calendar = first_day(index).month0() as usize;
        let demand = |(rank, product): (usize, &Product)| {
            2_000_000 / (rank as u64 + 5) * catalogue::CATEGORIES[product.category].season[calendar / 3] / 100
        };
        Month {
            index,
            rng,
            products: Weighted::new(self.products.iter().enumerate().map(demand)),
            customers: Weighted::new((0..CUSTOMERS.unsigned_abs()).map(|rank| 1_000_000 / (rank + 400))),
            stores: Weighted::new((0..catalogue::STORES.len() as u64).map(|rank| 1000 / (rank + 4))),
            channels: Weighted::new(CHANNELS.map(|c| c.1)),
            statuses: Weighted::new(STATUSES.map(|s| s.1)),
            price_percent,
        }
    }

    fn products_batch(&self) -> anyhow::Result<RecordBatch> {
        let (mut ids, mut names, mut categories) = (Int64Builder::new(), StringBuilder::new(), StringBuilder::new());
        let (mut brands, mut prices) = (StringBuilder::new(), money_builder());
        for (id, product) in (1..).zip(&self.products) {
            ids.append_value(id);
            names.append_value(&product.name);
            categories.append_value(catalogue::CATEGORIES[product.category].name);
            brands.append_option(product.brand);
            prices.append_value(i128::from(product.cents));
        }
        batch([
            column("product_id", false, ids.finish()),
            column("name", false, names.finish()),
            column("category", false, categories.finish()),
            column("brand", true, brands.finish()),
            column("list_price", false, prices.finish()),
        ])
    }

    fn customers_batch(&self) -> anyhow::Result<RecordBatch> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::from(MONTHS) + 1);
        let (mut ids, mut names, mut segments) = (Int64Builder::new(), StringBuilder::new(), StringBuilder::new());
        let (mut countries, mut since) = (StringBuilder::new(), TimestampMicrosecondBuilder::new());
        let joined = to_micros(first_day(0).into()) - 4 * 365 * 24 * HOUR_MICROS;
        for id in 1..=CUSTOMERS {
            let first = catalogue::FIRST_NAMES[rng.random_range(0..catalogue::FIRST_NAMES.len())];
            let last = catalogue::LAST_NAMES[rng.random_range(0..catalogue::LAST_NAMES.len())];
            ids.append_value(id);
            names.append_value(format!("{first} {last}"));
            segments.append_value(
                ["consumer", "consumer", "consumer", "business", "public sector"][rng.random_range(0..5)],
            );
            let country = catalogue::STORES[rng.random_range(0..catalogue::STORES.len())].country;
            countries.append_option((!rng.random_ratio(1, 20)).then_some(country));
            since.append_value(joined + rng.random_range(0..4 * 365 * 24 * HOUR_MICROS));
        }
        batch([
            column("customer_id", false, ids.finish()),
            column("name", false, names.finish()),
            column("segment", false, segments.finish()),
            column("country", true, countries.finish()),
            column("signed_up_at", false, since.finish()),
        ])
    }
}

impl Month {
    /// Times of so many orders, ascending, by the rhythm of weekdays and hours.
    fn order_times(&mut self, count: usize) -> Vec<i64> {
        let first = first_day(self.index);
        let days: Vec<NaiveDate> = first.iter_days().take_while(|day| day.month() == first.month()).collect();
        let day_picker = Weighted::new(days.iter().map(|day| WEEKDAYS[day.weekday().num_days_from_monday() as usize]));
        let hour_picker = Weighted::new(HOURS);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let day = days[day_picker.pick(&mut self.rng)];
            let hour = hour_picker.pick(&mut self.rng) as i64;
            let within = self.rng.random_range(0..HOUR_MICROS);
            times.push(to_micros(day.into()) + hour * HOUR_MICROS + within);
        }
        times.sort_unstable();
        times
    }

    fn push_order(&mut self, columns: &mut Orders, order: i64, time: i64) {
        let channel = CHANNELS[self.channels.pick(&mut self.rng)].0;
        let walk_in = channel == "shop" && self.rng.random_ratio(1, 3);
        let customer = self.customers.pick(&mut self.rng) as i64 + 1;
        let store = self.stores.pick(&mut self.rng) as i64 + 1;
        let coupon = self.rng.random_ratio(1, 12).then(|| COUPONS[self.rng.random_range(0..COUPONS.len())]);
        columns.order.append_value(order);
        columns.customer.append_option((!walk_in).then_some(customer));
        columns.store.append_value(store);
        columns.status.append_value(STATUSES[self.statuses.pick(&mut self.rng)].0);
        columns.channel.append_value(channel);
        columns.coupon.append_option(coupon);
        columns.ordered_at.append_value(time);
    }

    /// Adds line number `at.0` of an order made at `at.1`; gives its amount in cents.
    fn push_line(&mut self, columns: &mut Lines, products: &[Product], order: i64, at: (i64, i64)) -> i64 {
        let product = self.products.pick(&mut self.rng);
        let quantity = [1, 1, 1, 1, 1, 2, 2, 3, 4, 6][self.rng.random_range(0..10)];
        let second_year = self.index >= 12;
        let listed = products[product].cents * if second_year { 103 } else { 100 } / 100;
        let price = if self.rng.random_ratio(1, 8) { listed * 9 / 10 } else { listed };
        let discounted = self.rng.random_ratio(3, 20).then(|| self.rng.random_range(1..=5) * 5);
        // The discount is a fact of the day; a later correction of the price does not change it.
        let discount = discounted.map(|percent| price * quantity * percent / 100);
        let price = price * self.price_percent / 100;
        let amount = price * quantity - discount.unwrap_or(0);
        let note = self.rng.random_ratio(1, 50).then(|| NOTES[self.rng.random_range(0..NOTES.len())]);
        columns.line.append_value(order * 10 + at.0);
        columns.order.append_value(order);
        columns.product.append_value(product as i64 + 1);
        columns.quantity.append_value(quantity);
        columns.unit_price.append_value(i128::from(price));
        columns.discount.append_option(discount.map(i128::from));
        columns.amount.append_value(i128::from(amount));
        columns.note.append_option(note);
        columns.ordered_at.append_value(at.1);
        amount
    }
}

fn make_products(rng: &mut ChaCha8Rng) -> Vec<Product> {
    let mut products = Vec::new();
    for (index, category) in catalogue::CATEGORIES.iter().enumerate() {
        for noun in category.nouns {
            for style in catalogue::STYLES {
                let (low, high) = category.cents;
                // Three uniform draws multiplied lean towards the cheap end, as shelves do; prices end in 9.
                let lean = rng.random_range(0..=100) * rng.random_range(0..=100) * rng.random_range(0..=100);
                let cents = (low + (high - low) * lean / 1_000_000) / 10 * 10 + 9;
                let brand = catalogue::BRANDS[rng.random_range(0..catalogue::BRANDS.len())];
                products.push(Product { name: format!("{style} {noun}"), category: index, brand, cents });
            }
        }
    }
    // Popularity goes by position: shuffled, so that no category takes all of it.
    for last in (1..products.len()).rev() {
        products.swap(last, rng.random_range(0..=last));
    }
    products
}

fn stores_batch() -> anyhow::Result<RecordBatch> {
    let (mut ids, mut names, mut cities) = (Int64Builder::new(), StringBuilder::new(), StringBuilder::new());
    let (mut regions, mut countries) = (StringBuilder::new(), StringBuilder::new());
    for (id, store) in (1..).zip(&catalogue::STORES) {
        ids.append_value(id);
        names.append_value(format!("{} {}", store.city, store.place));
        cities.append_value(store.city);
        regions.append_value(store.region);
        countries.append_value(store.country);
    }
    batch([
        column("store_id", false, ids.finish()),
        column("name", false, names.finish()),
        column("city", false, cities.finish()),
        column("region", false, regions.finish()),
        column("country", false, countries.finish()),
    ])
}

/// Columns being filled.
trait Columns {
    fn rows(&self) -> usize;
    fn take(&mut self) -> anyhow::Result<RecordBatch>;
}

struct Orders {
    order: Int64Builder,
    customer: Int64Builder,
    store: Int64Builder,
    status: StringBuilder,
    channel: StringBuilder,
    coupon: StringBuilder,
    ordered_at: TimestampMicrosecondBuilder,
}

impl Orders {
    fn new() -> Self {
        Self {
            order: Int64Builder::new(),
            customer: Int64Builder::new(),
            store: Int64Builder::new(),
            status: StringBuilder::new(),
            channel: StringBuilder::new(),
            coupon: StringBuilder::new(),
            ordered_at: TimestampMicrosecondBuilder::new(),
        }
    }
}

impl Columns for Orders {
    fn rows(&self) -> usize {
        self.order.values_slice().len()
    }

    fn take(&mut self) -> anyhow::Result<RecordBatch> {
        batch([
            column("order_id", false, self.order.finish()),
            column("customer_id", true, self.customer.finish()),
            column("store_id", false, self.store.finish()),
            column("status", false, self.status.finish()),
            column("channel", false, self.channel.finish()),
            column("coupon", true, self.coupon.finish()),
            column("ordered_at", false, self.ordered_at.finish()),
        ])
    }
}

struct Lines {
    line: Int64Builder,
    order: Int64Builder,
    product: Int64Builder,
    quantity: Int64Builder,
    unit_price: Decimal128Builder,
    discount: Decimal128Builder,
    amount: Decimal128Builder,
    note: StringBuilder,
    ordered_at: TimestampMicrosecondBuilder,
}

impl Lines {
    fn new() -> Self {
        Self {
            line: Int64Builder::new(),
            order: Int64Builder::new(),
            product: Int64Builder::new(),
            quantity: Int64Builder::new(),
            unit_price: money_builder(),
            discount: money_builder(),
            amount: money_builder(),
            note: StringBuilder::new(),
            ordered_at: TimestampMicrosecondBuilder::new(),
        }
    }
}

impl Columns for Lines {
    fn rows(&self) -> usize {
        self.line.values_slice().len()
    }

    fn take(&mut self) -> anyhow::Result<RecordBatch> {
        batch([
            column("line_id", false, self.line.finish()),
            column("order_id", false, self.order.finish()),
            column("product_id", false, self.product.finish()),
            column("quantity", false, self.quantity.finish()),
            column("unit_price", false, self.unit_price.finish()),
            column("discount", true, self.discount.finish()),
            column("amount", false, self.amount.finish()),
            column("note", true, self.note.finish()),
            column("ordered_at", false, self.ordered_at.finish()),
        ])
    }
}

/// A month's file of a table: filled in batches beside the data folder, renamed into it when whole.
struct TableFile<C> {
    columns: C,
    temporary: PathBuf,
    path: PathBuf,
    writer: ArrowWriter<File>,
}

impl<C: Columns> TableFile<C> {
    fn create(project: &Path, table: &str, month: u32, mut columns: C) -> anyhow::Result<Self> {
        let name = format!("{}.parquet", first_day(month).format("%Y-%m"));
        let temporary = project.join(format!(".{table}-{name}.tmp"));
        let writer = open_writer(&temporary, columns.take()?.schema())?;
        Ok(Self { columns, temporary, path: project.join("data").join(table).join(name), writer })
    }

    /// Encodes the columns when they are many; gives the rows encoded.
    fn flush_full(&mut self) -> anyhow::Result<u64> {
        if self.columns.rows() < BATCH_ROWS { Ok(0) } else { self.flush() }
    }

    fn flush(&mut self) -> anyhow::Result<u64> {
        let batch = self.columns.take()?;
        self.writer.write(&batch).with_context(|| format!("write {}", self.temporary.display()))?;
        Ok(batch.num_rows() as u64)
    }

    fn finish(mut self) -> anyhow::Result<u64> {
        let rows = self.flush()?;
        self.writer.close().with_context(|| format!("write {}", self.temporary.display()))?;
        fs::rename(&self.temporary, &self.path).with_context(|| format!("create {}", self.path.display()))?;
        Ok(rows)
    }
}

fn open_writer(path: &Path, schema: SchemaRef) -> anyhow::Result<ArrowWriter<File>> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    ArrowWriter::try_new(file, schema, Some(properties)).with_context(|| format!("write {}", path.display()))
}

fn write_file(path: &Path, batch: &RecordBatch) -> anyhow::Result<()> {
    let mut writer = open_writer(path, batch.schema())?;
    writer.write(batch).with_context(|| format!("write {}", path.display()))?;
    writer.close().with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

fn money_builder() -> Decimal128Builder {
    Decimal128Builder::new().with_data_type(DataType::Decimal128(12, 2))
}

fn column(name: &str, nullable: bool, values: impl Array + 'static) -> (Field, ArrayRef) {
    (Field::new(name, values.data_type().clone(), nullable), Arc::new(values))
}

fn batch<const N: usize>(columns: [(Field, ArrayRef); N]) -> anyhow::Result<RecordBatch> {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray as _, RecordBatchReader as _};
    use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn read(path: &Path) -> RecordBatch {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
        let schema = reader.schema();
        let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        arrow::compute::concat_batches(&schema, &batches).unwrap()
    }

    fn write(rows: u64, seed: u64) -> (tempfile::TempDir, Vec<MonthTotals>) {
        let folder = tempfile::tempdir().unwrap();
        let totals = Generator::new(rows, seed).write_all(folder.path(), &|_| {}).unwrap();
        (folder, totals)
    }

    fn lines_file(folder: &Path, month: u32) -> PathBuf {
        folder.join(format!("data/order_lines/{}.parquet", first_day(month).format("%Y-%m")))
    }

    #[test]
    fn equal_seeds_give_equal_files_and_others_differ() {
        let ((a, totals), (b, same), (c, other)) = (write(5_000, 7), write(5_000, 7), write(5_000, 8));
        assert_eq!(totals, same);
        assert_ne!(totals, other);
        for table in ["data/products.parquet", "data/customers.parquet", "data/orders/2024-05.parquet"] {
            assert!(fs::read(a.path().join(table)).unwrap() == fs::read(b.path().join(table)).unwrap(), "{table}");
            assert!(fs::read(a.path().join(table)).unwrap() != fs::read(c.path().join(table)).unwrap(), "{table}");
        }
    }

    #[test]
    fn every_row_asked_for_is_written_in_its_month_and_in_order() {
        let told = std::sync::atomic::AtomicU64::new(0);
        let folder = tempfile::tempdir().unwrap();
        let count = |rows| {
            told.fetch_add(rows, std::sync::atomic::Ordering::Relaxed);
        };
        let totals = Generator::new(10_007, 1).write_all(folder.path(), &count).unwrap();
        assert_eq!(told.into_inner(), 10_007);
        assert_eq!(totals.iter().map(|t| t.lines).sum::<u64>(), 10_007);
        for (month, totals) in (0..).zip(&totals) {
            let batch = read(&lines_file(folder.path(), month));
            assert_eq!(batch.num_rows() as u64, totals.lines);
            let times = batch["ordered_at"].as_primitive::<TimestampMicrosecondType>().values();
            assert!(times.is_sorted(), "clustered by time");
            assert!(*times.first().unwrap() >= to_micros(first_day(month).into()));
            assert!(*times.last().unwrap() < to_micros(first_day(month + 1).into()));
        }
        assert!(totals[11].lines > 2 * totals[1].lines, "December sells more than February");
    }

    #[test]
    fn lines_are_consistent_and_some_values_are_missing() {
        let (folder, totals) = write(20_000, 3);
        let batch = read(&lines_file(folder.path(), 5));
        let money = |name: &str| batch[name].as_primitive::<Decimal128Type>().clone();
        let (price, discount, amount) = (money("unit_price"), money("discount"), money("amount"));
        let quantity = batch["quantity"].as_primitive::<Int64Type>();
        assert_eq!(amount.data_type(), &DataType::Decimal128(12, 2));
        for row in 0..batch.num_rows() {
            let off = if discount.is_null(row) { 0 } else { discount.value(row) };
            assert_eq!(amount.value(row), price.value(row) * i128::from(quantity.value(row)) - off);
            assert!(amount.value(row) > 0);
        }
        assert_eq!(amount.values().iter().sum::<i128>(), totals[5].amount_cents);
        for name in ["discount", "note"] {
            let nulls = batch[name].null_count();
            assert!(0 < nulls && nulls < batch.num_rows(), "{name}: {nulls} nulls");
        }
        let mut ids = batch["line_id"].as_primitive::<Int64Type>().values().to_vec();
        ids.dedup();
        assert_eq!(ids.len(), batch.num_rows(), "line ids are unique");
    }

    #[test]
    fn a_price_correction_changes_prices_and_nothing_else() {
        let (folder, before) = write(8_000, 4);
        let old = read(&lines_file(folder.path(), 14));
        let after = Generator::new(8_000, 4).write_month(folder.path(), 14, 90, &|_| {}).unwrap();
        let new = read(&lines_file(folder.path(), 14));
        assert_eq!((after.lines, after.orders), (before[14].lines, before[14].orders));
        assert!(after.amount_cents < before[14].amount_cents);
        for field in old.schema().fields() {
            let changed = ["unit_price", "amount"].contains(&field.name().as_str());
            let same = old[field.name().as_str()].to_data() == new[field.name().as_str()].to_data();
            assert_eq!(!same, changed, "{}", field.name());
        }
        let leftovers = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(leftovers, 1, "only data/");
    }

    #[test]
    fn popular_products_sell_much_more_than_others() {
        let (folder, _) = write(24_000, 5);
        let batch = read(&lines_file(folder.path(), 3));
        let ids = batch["product_id"].as_primitive::<Int64Type>().values();
        let top = ids.iter().filter(|id| **id <= 40).count();
        let tail = ids.iter().filter(|id| **id > 160 && **id <= 200).count();
        assert!(top > 3 * tail, "{top} against {tail}");
    }
}
