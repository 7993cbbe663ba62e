//! The sample project's model and settings, as texts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// First line of every model file of the demo: tells a folder of the demo from somebody's work.
const MARK: &str = "# Written by `quarry demo`.";

/// The rollup that the questions and the partial rebuild use.
pub(super) const SALES_DAILY: &str = "order_lines.sales_daily";
/// The rollup without partitions.
pub(super) const BY_STATUS: &str = "orders.by_status";
/// The rollup in quarters.
pub(super) const STORE_MONTHS: &str = "orders.store_months";

const MODEL: [(&str, &str); 5] = [
    ("order_lines", ORDER_LINES),
    ("orders", ORDERS),
    ("customers", CUSTOMERS),
    ("products", PRODUCTS),
    ("stores", STORES),
];

/// Refuses a folder that holds something else than an earlier demo.
///
/// # Errors
/// The folder is not empty and not the demo's, or cannot be read.
pub(super) fn check_folder(project: &Path) -> anyhow::Result<()> {
    let Ok(mut entries) = fs::read_dir(project) else { return Ok(()) };
    if entries.next().is_none() {
        return Ok(());
    }
    let ours = fs::read_to_string(model_file(project, "order_lines")).is_ok_and(|text| text.starts_with(MARK));
    if !ours {
        bail!("{} is not empty and not of an earlier demo; name another folder", project.display());
    }
    Ok(())
}

/// Writes `model/` and `.env`. The secret of an earlier demo is kept.
///
/// # Errors
/// A file cannot be written.
pub(super) fn write(project: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(project.join("model/cubes")).with_context(|| format!("create {}", project.display()))?;
    for (cube, text) in MODEL {
        let path = model_file(project, cube);
        fs::write(&path, format!("{MARK}\n{text}")).with_context(|| format!("write {}", path.display()))?;
    }
    let path = project.join(".env");
    if !path.exists() {
        // Two random (version 4) UUIDs: 244 bits from the operating system.
        let secret = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        let text = format!(
            "{MARK}\n\
             # Signs and verifies tokens; `quarry token` makes one.\n\
             CUBEJS_API_SECRET={secret}\n\
             # Cube's default scopes, and `jobs` for the pre-aggregation jobs endpoint.\n\
             CUBEJS_DEFAULT_API_SCOPES=meta,data,graphql,sql,jobs\n"
        );
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn model_file(project: &Path, cube: &str) -> PathBuf {
    project.join(format!("model/cubes/{cube}.yml"))
}

const ORDER_LINES: &str = r#"cubes:
  - name: order_lines
    sql_table: order_lines
    title: Order lines
    description: One product of one order

    joins:
      - name: orders
        sql: "{CUBE}.order_id = {orders}.order_id"
        relationship: many_to_one
      - name: products
        sql: "{CUBE}.product_id = {products}.product_id"
        relationship: many_to_one

    dimensions:
      - name: line_id
        sql: line_id
        type: number
        primary_key: true
      - name: quantity
        sql: quantity
        type: number
      - name: note
        sql: note
        type: string
        description: What the customer wrote; mostly missing
      - name: price_band
        type: string
        case:
          when:
            - sql: "{CUBE}.unit_price < 20"
              label: low
            - sql: "{CUBE}.unit_price < 100"
              label: middle
          else:
            label: high
      - name: ordered_at
        sql: ordered_at
        type: time

    measures:
      - name: count
        type: count
      - name: units
        sql: quantity
        type: sum
      - name: revenue
        sql: amount
        type: sum
        format: currency
        description: What was paid, after discount
      - name: discounts
        sql: discount
        type: sum
        format: currency
      - name: average_price
        sql: unit_price
        type: avg
        format: currency
      - name: lowest_price
        sql: unit_price
        type: min
        format: currency
      - name: highest_price
        sql: unit_price
        type: max
        format: currency
      - name: products_sold
        sql: product_id
        type: count_distinct
      - name: discounted_count
        type: count
        filters:
          - sql: "{CUBE}.discount IS NOT NULL"
      - name: revenue_per_line
        sql: "{revenue} / NULLIF({count}, 0)"
        type: number
        format: currency

    segments:
      - name: discounted
        sql: "{CUBE}.discount IS NOT NULL"

    pre_aggregations:
      - name: sales_daily
        measures: [count, units, revenue, discounts, average_price, lowest_price, highest_price, discounted_count]
        dimensions: [products.category, stores.region, orders.channel]
        time_dimension: ordered_at
        granularity: day
        partition_granularity: month
        build_range_start:
          sql: "SELECT '2024-01-01'::timestamp"
        build_range_end:
          sql: "SELECT '2025-12-31T23:59:59.999'::timestamp"
        refresh_key:
          every: 1 hour
"#;

const ORDERS: &str = r#"cubes:
  - name: orders
    sql_table: orders

    joins:
      - name: customers
        sql: "{CUBE}.customer_id = {customers}.customer_id"
        relationship: many_to_one
      - name: stores
        sql: "{CUBE}.store_id = {stores}.store_id"
        relationship: many_to_one

    dimensions:
      - name: order_id
        sql: order_id
        type: number
        primary_key: true
      - name: status
        sql: status
        type: string
      - name: channel
        sql: channel
        type: string
      - name: coupon
        sql: coupon
        type: string
      - name: is_walk_in
        sql: "({CUBE}.customer_id IS NULL)"
        type: boolean
        description: Bought in a shop without an account
      - name: ordered_at
        sql: ordered_at
        type: time

    measures:
      - name: count
        type: count
        drill_members: [order_id, status, ordered_at]
      - name: buyers
        sql: customer_id
        type: count_distinct
      - name: cancelled_count
        type: count
        filters:
          - sql: "{CUBE}.status = 'cancelled'"
      - name: cancelled_percent
        sql: "100.0 * {cancelled_count} / NULLIF({count}, 0)"
        type: number
        format: percent

    segments:
      - name: online
        sql: "{CUBE}.channel IN ('web', 'app')"

    pre_aggregations:
      - name: by_status
        measures: [count, cancelled_count]
        dimensions: [status, channel]
        refresh_key:
          every: 1 hour
      - name: store_months
        measures: [count, cancelled_count]
        dimensions: [stores.name, stores.region]
        segments: [online]
        time_dimension: ordered_at
        granularity: month
        partition_granularity: quarter
        refresh_key:
          every: 1 hour
"#;

const CUSTOMERS: &str = r#"cubes:
  - name: customers
    sql_table: customers

    dimensions:
      - name: customer_id
        sql: customer_id
        type: number
        primary_key: true
      - name: name
        sql: name
        type: string
        meta: {pii: true}
      - name: segment
        sql: segment
        type: string
      - name: country
        sql: country
        type: string
      - name: signed_up_at
        sql: signed_up_at
        type: time

    measures:
      - name: count
        type: count
"#;

const PRODUCTS: &str = r#"cubes:
  - name: products
    sql_table: products

    dimensions:
      - name: product_id
        sql: product_id
        type: number
        primary_key: true
      - name: name
        sql: name
        type: string
      - name: category
        sql: category
        type: string
      - name: brand
        sql: brand
        type: string

    measures:
      - name: count
        type: count
      - name: average_list_price
        sql: list_price
        type: avg
        format: currency
"#;

const STORES: &str = r#"cubes:
  - name: stores
    sql_table: stores

    dimensions:
      - name: store_id
        sql: store_id
        type: number
        primary_key: true
      - name: name
        sql: name
        type: string
      - name: city
        sql: city
        type: string
      - name: region
        sql: region
        type: string
      - name: country
        sql: country
        type: string

    measures:
      - name: count
        type: count
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CompileContext;

    #[test]
    fn the_model_compiles_without_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let compiled = crate::model::compile::compile_project(
            folder.path(),
            &folder.path().join("model"),
            &CompileContext::default(),
        )
        .unwrap();
        assert!(compiled.warnings.is_empty(), "{:#?}", compiled.warnings);
        for name in [SALES_DAILY, BY_STATUS, STORE_MONTHS] {
            let path = crate::names::MemberPath::parse(name).unwrap();
            assert!(compiled.model.find_preagg(&path).is_some(), "{name}");
        }
    }

    #[test]
    fn a_secret_is_made_once_a_folder() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(a.path()).unwrap();
        write(b.path()).unwrap();
        let secret = |project: &Path| {
            let text = fs::read_to_string(project.join(".env")).unwrap();
            let found = text.lines().find_map(|line| line.strip_prefix("CUBEJS_API_SECRET="));
            found.unwrap().to_owned()
        };
        let first = secret(a.path());
        assert_eq!(first.len(), 64);
        assert_ne!(first, secret(b.path()));
        write(a.path()).unwrap();
        assert_eq!(first, secret(a.path()));
    }

    #[test]
    fn only_empty_folders_and_earlier_demos_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_folder(&folder.path().join("none")).is_ok());
        assert!(check_folder(folder.path()).is_ok());
        write(folder.path()).unwrap();
        assert!(check_folder(folder.path()).is_ok());
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("thesis.tex"), "").unwrap();
        assert!(check_folder(other.path()).is_err());
    }
}
