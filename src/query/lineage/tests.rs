use std::path::PathBuf;

use super::*;
use crate::model::CompileContext;
use crate::model::compile::compile_sources;

fn model(source: &str) -> Model {
    let files = [(PathBuf::from("m.yml"), source.to_owned())];
    compile_sources(&files, &CompileContext::default()).expect("a sound model").model
}

fn table_text(table: &TableRef) -> String {
    let parts = [&table.database, &table.schema];
    parts.into_iter().flatten().chain([&table.table]).cloned().collect::<Vec<_>>().join(".")
}

fn texts(columns: &[ColumnRef]) -> Vec<String> {
    columns.iter().map(|column| format!("{}.{}", table_text(&column.table), column.column)).collect()
}

/// A cube over `source` (`sql: …` or `sql_table: …`) with one dimension: its tables and the columns of the dimension.
fn trace(source: &str, dimension: &str) -> (String, String) {
    let (key, sql) = source.split_once(": ").expect("a key and its value");
    let quoted = |text: &str| serde_json::json!(text).to_string();
    let model = model(&format!(
        "cubes:\n  - name: orders\n    {key}: {}\n    dimensions:\n      - {{name: d, type: string, sql: {}}}\n",
        quoted(sql),
        quoted(dimension)
    ));
    let lineage = Lineage::of(&model);
    let cube = lineage.cube(CubeId(0));
    let tables: Vec<String> = cube.tables.iter().map(table_text).collect();
    (tables.join(" "), texts(&cube.dimensions[0].columns).join(" "))
}

#[track_caller]
fn check(source: &str, dimension: &str, tables: &str, columns: &str) {
    assert_eq!(trace(source, dimension), (tables.to_owned(), columns.to_owned()), "{source} | {dimension}");
}

#[test]
fn tables_have_up_to_three_names() {
    check("sql_table: orders", "status", "orders", "orders.status");
    check("sql_table: public.orders", "{CUBE}.status", "public.orders", "public.orders.status");
    check("sql_table: db.public.orders", "status", "db.public.orders", "db.public.orders.status");
    check("sql_table: \"My Db\".\"Order.s\"", "\"A b\"", "My Db.Order.s", "My Db.Order.s.A b");
    check("sql_table: `p`.`d`.`t`", "`c`", "p.d.t", "p.d.t.c");
    check("sql: SELECT * FROM 'orders.parquet'", "c", "orders.parquet", "orders.parquet.c");
    check("sql_table: a.b.c.d", "x", "", "");
}

#[test]
fn expressions_name_columns_and_not_functions_or_words() {
    check("sql_table: t", "CASE WHEN a > 1 THEN lower(b) ELSE 'c' END", "t", "t.a t.b");
    check("sql_table: t", "{CUBE}.at::timestamp AT TIME ZONE 'UTC'", "t", "t.at");
    check("sql_table: t", "EXTRACT(year FROM at) + INTERVAL '1 day' + CURRENT_DATE", "t", "t.at");
    check("sql_table: t", "a || a || {CUBE}.a", "t", "t.a");
    check("sql_table: t", "coalesce(NULL, TRUE, 1, $1)", "t", "");
    check("sql_table: t", "row_number() OVER (PARTITION BY a ORDER BY b)", "t", "t.a t.b");
    check("sql_table: t", "orders.raw", "t", "t.raw");
    check("sql_table: t", "point.x", "t", "t.point");
    check("sql_table: t", "a -- b, c\n + /* d */ e", "t", "t.a t.e");
    check("sql_table: t", "count(*) FILTER (WHERE a > 0)", "t", "t.a");
    check("sql_table: t", "a IN (SELECT x FROM s.u WHERE u.y = {CUBE}.b)", "t", "t.a s.u.x s.u.y t.b");
}

#[test]
fn names_are_followed_through_queries() {
    check("sql: SELECT a AS b, c FROM s.t", "b", "s.t", "s.t.a");
    check("sql: SELECT a AS b, c FROM s.t", "{CUBE}.c", "s.t", "s.t.c");
    check("sql: SELECT a AS b FROM t", "z", "t", "");
    check("sql: SELECT *, a + b AS c FROM t", "c", "t", "t.a t.b");
    check("sql: SELECT *, a + b AS c FROM t", "d", "t", "t.d");
    check("sql: SELECT x.a, y.b AS c FROM s.t x JOIN s.u AS y ON x.id = y.id", "a + c", "s.t s.u", "s.t.a s.u.b");
    check("sql: SELECT x.*, y.b FROM t x LEFT JOIN u y USING (id)", "a + b", "t u", "t.a u.b");
    check("sql: SELECT t.a, u.b FROM s.t, s.u", "a + b", "s.t s.u", "s.t.a s.u.b");
    check("sql: SELECT s.t.a FROM s.t", "a", "s.t", "s.t.a");
    check("sql: SELECT q.n FROM (SELECT name AS n FROM t WHERE x > 1) q", "n", "t", "t.name");
    check("sql: SELECT n FROM (SELECT name AS n FROM t) q, u", "n", "t u", "t.name");
    check("sql: SELECT (SELECT max(u.at) FROM u WHERE u.id = t.id) AS last FROM t", "last", "t u", "u.at u.id t.id");
    check("sql: SELECT n FROM (t JOIN u ON t.id = u.id)", "n", "t u", "");
    check("sql: SELECT q.c FROM t, LATERAL (SELECT t.a + u.b AS c FROM u) q", "c", "t u", "t.a u.b");
    check("sql: SELECT v.a FROM (VALUES (1), (2)) v(a)", "a", "", "");
    check("sql: SELECT g.n FROM generate_series(1, 3) g(n)", "n", "", "");
    check("sql: SELECT b FROM t, UNNEST(t.list) AS x(b)", "b", "t", "");
}

#[test]
fn names_are_followed_through_common_table_expressions() {
    check("sql: WITH q AS (SELECT a AS b FROM s.t) SELECT b AS c FROM q", "c", "s.t", "s.t.a");
    check("sql: WITH q(x, y) AS (SELECT a, b FROM t) SELECT * FROM q", "y", "t", "t.b");
    check("sql: WITH q AS (SELECT a FROM t), r AS (SELECT a FROM q) SELECT Q.a FROM r AS q", "a", "t", "t.a");
    check(
        "sql: WITH RECURSIVE q AS (SELECT id, up FROM t UNION ALL SELECT t.id, q.up FROM t JOIN q ON t.up = q.id) \
         SELECT * FROM q",
        "up",
        "t",
        "t.up",
    );
    // A table that is called like one outside of it.
    check("sql: SELECT * FROM (WITH q AS (SELECT 1 AS a) SELECT a FROM q) x, q", "b", "q", "q.b");
}

#[test]
fn unions_are_read_column_by_column() {
    check("sql: SELECT a AS x, 1 FROM t UNION ALL SELECT b, c FROM u", "x", "t u", "t.a u.b");
    check("sql: SELECT a FROM t UNION (SELECT a FROM u EXCEPT SELECT c FROM v)", "a", "t u v", "t.a u.a v.c");
    let many = vec!["SELECT a FROM t"; 1000].join(" UNION ALL ");
    check(&format!("sql: {many}"), "a", "t", "t.a");
}

#[test]
fn what_several_tables_may_have_is_not_guessed() {
    check("sql: SELECT a FROM t, u", "a", "t u", "");
    check("sql: SELECT * FROM t, u", "a", "t u", "");
    check("sql: SELECT * FROM t, (SELECT a FROM u) q", "a", "t u", "u.a");
}

#[test]
fn what_does_not_parse_has_no_lineage() {
    check("sql: SELEKT a FROM t", "a", "", "");
    check("sql: SELECT a FROM t; DROP TABLE t", "a", "", "");
    check("sql: SELECT a FROM", "a", "", "");
    check("sql_table: t WHERE (", "a", "", "");
    check("sql_table: t", "a +", "t", "");
    check("sql_table: t", "a b c", "t", "");
    check("sql_table: t", "'", "t", "");
    check("sql: SELECT a FROM t;", "a", "t", "t.a");
}

#[test]
fn hostile_texts_end() {
    let deep = format!("{}a{}", "(".repeat(3000), ")".repeat(3000));
    check("sql_table: t", &deep, "t", "");
    let long = vec!["a"; 15_000].join("+");
    check("sql_table: t", &long, "t", "t.a");
    let longer = vec!["a"; 100_000].join("+");
    check("sql_table: t", &longer, "t", "");
    let mut doubled = "WITH q0 AS (SELECT * FROM t)".to_owned();
    for level in 1..40 {
        doubled.push_str(&format!(", q{level} AS (SELECT * FROM q{0} x, q{0} y)", level - 1));
    }
    check(&format!("sql: {doubled} SELECT * FROM q39"), "a", "t", "");
}

#[test]
fn references_of_the_model_are_read_too() {
    let model = model(
        "cubes:\n\
         \x20 - name: users\n    sql: SELECT key AS id, town FROM crm.people\n    dimensions:\n\
         \x20     - {name: id, sql: id, type: number, primary_key: true}\n\
         \x20     - {name: city, sql: town, type: string}\n\
         \x20 - name: orders\n    sql_table: shop.orders\n    joins:\n\
         \x20     - {name: users, relationship: many_to_one, sql: '{CUBE}.user_id = {users}.id'}\n\
         \x20   dimensions:\n\
         \x20     - {name: id, sql: id, type: number, primary_key: true}\n\
         \x20     - {name: at, sql: created, type: time}\n\
         \x20     - {name: place, sql: \"{users.city} || {CUBE}.street || {at.month}\", type: string}\n\
         \x20     - name: size\n        type: string\n        case:\n\
         \x20         when: [{sql: '{CUBE}.qty > 9', label: bulk}]\n          else: {label: {sql: fallback}}\n\
         \x20   measures:\n\
         \x20     - {name: count, type: count}\n\
         \x20     - {name: total, type: sum, sql: amount, filters: [{sql: '{CUBE}.paid'}]}\n\
         \x20     - {name: mean, type: number, sql: '{total} / {count}'}\n\
         \x20     - {name: prior, type: number, sql: '{mean}', multi_stage: true, add_group_by: [size], \
         time_shift: [{time_dimension: at, interval: 1 year, type: prior}]}\n\
         \x20   segments:\n      - {name: big, sql: '{CUBE}.qty > 9 AND {place} IS NOT NULL'}\n\
         \x20 - name: recent\n    sql: \"SELECT o.id, o.qty AS n FROM {orders.sql()} o WHERE \
         {FILTER_PARAMS.recent.n.filter('o.qty')}\"\n    dimensions:\n\
         \x20     - {name: n, sql: n, type: number}\n\
         views:\n\
         \x20 - name: sales\n    cubes:\n\
         \x20     - {join_path: orders, includes: [total, place]}\n\
         \x20     - {join_path: orders.users, prefix: true, includes: '*'}\n",
    );
    let lineage = Lineage::of(&model);
    let of = |name: &str| lineage.cube(model.find_cube(name).expect("a cube").id);
    let names = |cubes: &[CubeId]| cubes.iter().map(|id| model.cube(*id).name.clone()).collect::<Vec<_>>().join(" ");
    let shown = |member: &MemberLineage| {
        let members: Vec<String> = member.members.iter().map(|id| model.path_of(*id)).collect();
        format!("{} | {}", members.join(" "), texts(&member.columns).join(" "))
    };
    let users = of("users");
    assert_eq!(users.dimensions.iter().map(&shown).collect::<Vec<_>>(), [" | crm.people.key", " | crm.people.town"]);
    let orders = of("orders");
    assert_eq!(names(&orders.cubes), "users");
    assert_eq!(texts(&orders.joins[0]), ["shop.orders.user_id", "crm.people.key"]);
    let dimensions: Vec<String> = orders.dimensions.iter().map(&shown).collect();
    let expected = [
        " | shop.orders.id",
        " | shop.orders.created",
        "users.city orders.at | shop.orders.street",
        " | shop.orders.qty shop.orders.fallback",
    ];
    assert_eq!(dimensions, expected);
    let measures: Vec<String> = orders.measures.iter().map(&shown).collect();
    let expected = [
        " | ",
        " | shop.orders.amount shop.orders.paid",
        "orders.total orders.count | ",
        "orders.mean orders.size orders.at | ",
    ];
    assert_eq!(measures, expected);
    assert_eq!(shown(&orders.segments[0]), "orders.place | shop.orders.qty");
    let recent = of("recent");
    assert_eq!(names(&recent.cubes), "orders");
    assert_eq!(recent.tables.iter().map(table_text).collect::<Vec<_>>(), ["shop.orders"]);
    assert_eq!(shown(&recent.dimensions[0]), " | shop.orders.qty");
    let sales = of("sales");
    assert!(sales.tables.is_empty());
    assert_eq!(names(&sales.cubes), "orders users");
    assert_eq!(shown(&sales.measures[0]), "orders.total | ");
    assert_eq!(shown(&sales.dimensions[2]), "users.city | ");
}
