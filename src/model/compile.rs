//! Model files → [`Model`]: collects all diagnostics before failing.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::build::Builder;
use super::cube::CubeId;
use super::diagnostic::Severity;
use super::fields::Report;
use super::files;
use super::front::{self, CompileContext};
use super::graph::Graph;
use super::inherit;
use super::kinds;
use super::policies;
use super::raw::{RawCube, read_file};
use super::raw_link;
use super::raw_view::RawView;
use super::rollup::{self, RollupBuilder};
use super::settings::Granularities;
use super::symbols::Symbols;
use super::view_groups::{self, RawViewGroup};
use super::views::ViewBuilder;
use super::yaml::Document;
use super::{Cube, Diagnostic, Model};

/// A model, and the warnings about its files.
#[derive(Debug)]
pub struct Compiled {
    /// The model.
    pub model: Model,
    /// Things that have no effect or will fail when asked for; sorted by place.
    pub warnings: Vec<Diagnostic>,
}

/// Compiles every model file below `model_dir`. Locations are shown relative to `project`.
///
/// # Errors
/// All faults of all files (and the warnings), sorted by place.
pub fn compile_project(
    project: &Path,
    model_dir: &Path,
    context: &CompileContext,
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut report = Report::default();
    let sources = files::read_sources(project, model_dir, &mut report);
    let root = model_dir.strip_prefix(project).unwrap_or(model_dir);
    compile(&sources, root, context, report)
}

/// Compiles model files given as paths and texts; the paths are relative to the model folder and shown as they are.
/// The suffix of a path decides how its text is read.
///
/// # Errors
/// All faults of all files (and the warnings), sorted by place.
pub fn compile_sources(files: &[(PathBuf, String)], context: &CompileContext) -> Result<Compiled, Vec<Diagnostic>> {
    compile(files, Path::new(""), context, Report::default())
}

fn compile(
    files: &[(PathBuf, String)],
    root: &Path,
    context: &CompileContext,
    mut report: Report,
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut raw: Vec<RawCube> = Vec::new();
    let mut views: Vec<RawView> = Vec::new();
    let mut anonymous: Vec<RawCube> = Vec::new();
    let mut groups: Vec<RawViewGroup> = Vec::new();
    report.context = context.security_context.clone();
    report.unscheduled = !context.scheduled_refresh;
    let mut unread = report.doubt_all;
    let documents = front::read(files, root, context, &mut report);
    let version = version(files, &documents);
    for ((path, source), document) in files.iter().zip(documents) {
        let Some(document) = document else { continue };
        let file = read_file(path, document, &mut report);
        if !file.broken {
            raw.extend(file.cubes);
            anonymous.extend(file.anonymous);
            views.extend(file.views);
            groups.extend(file.view_groups);
        } else {
            unread = true;
            report.doubtful.extend(words(source).map(str::to_owned));
        }
    }
    inherit::resolve_cubes(&mut raw, &anonymous, &mut report);
    raw_link::add_link_dimensions(&mut raw);
    inherit::resolve_views(&mut views, &mut report);
    let symbols = Symbols::collect(&raw, &views, context.security_context.clone(), &mut report);
    let granularities = Granularities::read(&context.settings, &mut report);
    let builder = Builder { raw: &raw, symbols: &symbols, granularities: &granularities };
    let mut cubes: Vec<_> = (0..).map(CubeId).take(raw.len()).map(|id| builder.cube(id, &mut report)).collect();
    let mut graph = Graph::new(&raw, &cubes);
    graph.check(&mut report);
    graph.check_joins(&cubes, &mut report);
    let rollups = RollupBuilder { raw: &raw, symbols: &symbols, cubes: &cubes };
    let mut preaggs: Vec<_> = cubes.iter().map(|cube| rollups.rollups(cube.id, &mut report)).collect();
    kinds::resolve(&raw, &cubes, &mut preaggs, &mut report);
    for (cube, preaggs) in cubes.iter_mut().zip(preaggs) {
        cube.preaggs = preaggs;
    }
    let view_builder = ViewBuilder { symbols: &symbols, cubes: &cubes };
    let first = u32::try_from(cubes.len()).expect("fewer than 2^32 cubes");
    let built: Vec<Cube> =
        (first..).map(CubeId).zip(&views).map(|(id, view)| view_builder.view(id, view, &mut report)).collect();
    cubes.extend(built);
    let of_cubes = raw.iter().map(|cube| (&cube.policies, &cube.about.place));
    let of_views = views.iter().map(|view| (&view.policies, &view.about.place));
    for (cube, (raw, place)) in cubes.iter_mut().zip(of_cubes.chain(of_views)) {
        cube.policies = policies::resolve(cube, raw, place, &mut report);
    }
    let groups = view_groups::resolve(&groups, &cubes, &mut report);
    let model = Model::new(version, cubes).with_view_groups(groups).with_masks(context.settings.masks.clone());
    if !unread && builder.joins_are_known() {
        rollup::check_joins(&model, &raw, &graph, &mut report);
        kinds::check_joined(&model, &raw, &mut report);
        kinds::warn_unused(&model, &raw, &mut report);
    }
    let mut diagnostics = report.diagnostics;
    diagnostics.sort_by(|a, b| (&a.location, a.severity).cmp(&(&b.location, b.severity)));
    // What is inherited is looked at once for each heir.
    diagnostics.dedup_by(|a, b| a.location == b.location && a.message == b.message);
    if diagnostics.iter().any(|d| d.severity == Severity::Error) {
        return Err(diagnostics);
    }
    Ok(Compiled { model, warnings: diagnostics })
}

/// The words of a text that may be names.
fn words(source: &str) -> impl Iterator<Item = &str> {
    source.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// A digest of names, of texts and of what came of those that ask for more than their text; lengths keep borders apart.
fn version(files: &[(PathBuf, String)], documents: &[Option<Document>]) -> u64 {
    let mut digest = Xxh3::new();
    let mut add = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    for ((path, source), document) in files.iter().zip(documents) {
        add(path.as_os_str().as_encoded_bytes());
        add(source.as_bytes());
        if let Some(root) = document.as_ref().and_then(|document| document.root.as_ref())
            && front::asks(path, source)
        {
            add(root.to_json().to_string().as_bytes());
        }
    }
    digest.digest()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, compile, compile_files, diagnostics, model, render, shop};
    use super::super::{CubeSource, DataType, DimensionKind, MeasureKind};
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one file of faults and what is said of each")]
    fn all_faults_of_a_file_are_reported_in_order_with_their_places() {
        let source = "\
cubes:
  - name: orders
    sql_tabel: orders
    joins:
      - name: usres
        relationship: many_to_many
        sql: \"{CUBE}.user_id = {users.id}\"
    measures:
      - name: total
        type: smu
        sql: amount
      - name: share
        type: number
        sql: \"{totl} / {users.cuont}\"
      - name: 2x
        type: count
    dimensions:
      - {name: id, sql: id, type: number, primary_key: yes}
      - name: total
        sql: \"{FILTER_PARAMS.orders.total.filter('x')} + {users}.x\"
        type: string
        colour: red
  - name: users
    sql: SELECT * FROM users WHERE {CUBE}.x
    sql_table: users
    measures: {count: {type: count}}
    dimensions:
      - {name: id, sql: id, sql: id2, type: number}
      - {sql: id, type: text}
extra: 1
";
        let found = compile(source).expect_err("faults");
        let expected = "\
m.yml:2:5: error: orders: (value = [object Object]) must contain at least one of [sql, sqlTable]
    hint: add 'sql_table: a_table' or 'sql: SELECT …'
m.yml:3:5: error: orders: unknown key 'sql_tabel'
    hint: did you mean 'sql_table'?
m.yml:5:15: error: orders: Cube usres doesn't exist
    hint: did you mean 'users'?
m.yml:6:23: error: orders: (joins[0].relationship = many_to_many) must be one of [belongsTo, belongs_to, \
many_to_one, manyToOne, hasMany, has_many, one_to_many, oneToMany, hasOne, has_one, one_to_one, oneToOne]
    hint: did you mean 'many_to_one'?
m.yml:10:15: error: orders.total: (measures.total.type = smu) must be one of [count, number, string, boolean, time, \
sum, avg, min, max, countDistinct, countDistinctApprox]
    hint: did you mean 'sum'?
m.yml:14:15: error: orders.share: totl is not defined
    hint: did you mean 'total'?
m.yml:14:24: error: orders.share: users.cuont cannot be resolved. There's no such member or cube.
m.yml:15:15: error: orders.2x: (name = 2x) with value \"2x\" fails to match the identifier pattern
    hint: a name is made of letters, digits and '_', and does not begin with a digit
m.yml:18:56: error: orders.id: 'primary_key' must be true or false, not 'yes'
    hint: or an expression over COMPILE_CONTEXT
m.yml:19:9: error: orders.total: orders cube: total defined more than once
    hint: it is defined at m.yml:9 already
m.yml:20:58: error: orders.total: Member 'orders.total' references foreign cubes: users. Please split and move this \
definition to corresponding cubes.
    hint: reference members, like '{users.member}'
m.yml:22:9: error: orders.total: unknown key 'colour'
    hint: known keys here: name, type, sql, case, primary_key, title, description, format, currency, meta, public, \
shown, visible, suggest_filter_values, granularities, sub_query, propagate_filters_to_sub_query, multi_stage, \
add_group_by, grain, latitude, longitude, key, values, time_shift, mask, order, aliases, links, field_type, \
values_as_segments, enable_suggestions, filters
m.yml:24:5: error: users: You must use either sql or sqlTable within a model, but not both
m.yml:26:15: error: users: measures must be defined as array
    hint: write a list, one '- ' an entry; this is a map
m.yml:28:29: error: duplicate key 'sql'
    hint: it was given on line 28 already
m.yml:29:9: error: users: name isn't defined for dimension: {\"sql\":\"id\",\"type\":\"text\"}
m.yml:29:25: error: users: (dimensions.?.type = text) must be one of [string, number, boolean, time, geo, switch]
m.yml:30:1: error: Unexpected YAML key: extra. Only 'cubes', 'views', and 'view_groups' are allowed here.";
        assert_eq!(render(&found), expected);
    }

    #[test]
    fn faults_of_several_files_are_sorted_by_file() {
        let files = [("b.yml", "cubes: 1"), ("a/z.yml", "cubes: [1]"), ("c.js", "cube()"), ("d.yml", "a: {{ x }}")];
        let found = compile_files(&files).expect_err("faults");
        let expected = "\
a/z.yml:1:9: error: a cube must be a map, not a number
b.yml:1:8: error: cubes must be defined as array
    hint: write a list, one '- ' an entry; this is a number
c.js:1:1: error: TypeError: a cube takes its properties as an object
d.yml:1:7: error: 'x' is not defined";
        assert_eq!(render(&found), expected);
    }

    #[test]
    fn names_of_unreadable_files_are_not_called_unknown() {
        let sound = shop("- {name: per_item, type: number, sql: '{total} / {items.count}'}", "", "");
        let broken = "cubes:\n  - name: items\n   sql_table: items\n";
        let found = compile_files(&[("broken.yml", broken), ("m.yml", &sound)]).expect_err("faults");
        assert_eq!(found.len(), 1, "{}", render(&found));
        assert!(found[0].message.starts_with("invalid YAML: "), "{}", found[0].message);
    }

    #[test]
    fn a_broken_definition_makes_no_faults_elsewhere() {
        let measures = "- {nmae: lost, type: sum, sql: x}\n- {name: twice, type: number, sql: '{lost} * 2'}\n\
                        - {name: odd, type: median, sql: x}\n- {name: more, type: number, sql: '{odd} + 1'}";
        let found = diagnostics(&shop(measures, "", ""));
        assert_eq!(
            found,
            [
                "18:9: error: orders: name isn't defined for measure: {\"nmae\":\"lost\",\"type\":\"sum\",\"sql\":\"x\"}",
                "18:10: error: orders: unknown key 'nmae'",
                "20:27: error: orders.odd: (measures.odd.type = median) must be one of [count, number, string, \
                 boolean, time, sum, avg, min, max, countDistinct, countDistinctApprox]",
            ]
        );
    }

    #[test]
    fn both_spellings_of_keys_and_words_are_read() {
        let model = model(
            "cubes:\n  - name: a\n    sqlTable: s.a\n    dataSource: other\n    shown: false\n    dimensions:\n      \
             - {name: id, sql: id, type: number, primaryKey: true, suggestFilterValues: false}\n    measures:\n      \
             - {name: n, type: countDistinct, sql: x, drillMembers: [id]}\n",
        );
        let cube = &model.cubes()[0];
        assert_eq!((cube.data_source.as_str(), cube.public), ("other", false));
        assert!(matches!(&cube.source, CubeSource::Table(table) if table.as_text() == Some("s.a")));
        assert!(cube.dimensions[0].primary_key && !cube.dimensions[0].public);
        assert!(!cube.dimensions[0].suggest_filter_values);
        assert_eq!(cube.measures[0].kind.agg_type(), "countDistinct");
        assert_eq!(cube.measures[0].drill_members.len(), 1);
    }

    #[test]
    fn descriptions_and_meta_are_kept_as_given() {
        let model = model(&shop(
            "- {name: fee, type: number, sql: '{total} * 0.1', title: The fee, description: 'a \\{b\\}', format: percent, \
             meta: {a: [1, null, 'x'], sqlTable: {}}}",
            "- {name: key, sql: k, type: string, primary_key: true, public: true, format: {type: link, label: L}}",
            "title: Shop orders\nmeta: 7",
        ));
        let cube = model.find_cube("orders").expect("orders");
        assert_eq!((cube.title.as_str(), cube.meta.clone()), ("Shop orders", Some(serde_json::json!(7))));
        let fee = &cube.measures[2];
        assert_eq!(fee.short_title, "The fee");
        assert_eq!(fee.description.as_deref(), Some("a {b}"));
        assert_eq!(fee.format, Some(serde_json::json!("percent")));
        assert_eq!(fee.meta, Some(serde_json::json!({"a": [1, null, "x"], "sqlTable": {}})));
        assert!(matches!(fee.kind, MeasureKind::Calculated { data_type: DataType::Number, .. }));
        let key = &cube.dimensions[3];
        assert!(key.public && key.primary_key);
        assert_eq!(key.format, Some(serde_json::json!({"type": "link", "label": "L"})));
        assert!(matches!(&key.kind, DimensionKind::Sql(sql) if sql.as_column() == Some("k")));
        assert_eq!(key.short_title, "Key");
    }

    #[test]
    fn cube_keys_that_change_answers_are_faults_and_others_warnings() {
        check_one(
            &shop("", "", "access_policy: [{role: '*'}]"),
            "error: orders: \"accessPolicy[0]\" must contain at least one of [group, groups] | \"*\" is everyone\n\
             error: orders: \"accessPolicy[0].role\" is not allowed | write 'group' instead",
        );
        // What an unknown parent may define is not called unknown.
        check_one(
            &shop("- {name: x, type: number, sql: '{inherited}'}", "", "extends: base"),
            "error: orders: base is not defined",
        );
        check_one(
            &shop("", "", "rewrite_queries: true"),
            "warning: orders: 'rewrite_queries' has no effect in this version",
        );
        check_one(&shop("", "", "sql_alias: o\nhierarchies: []\ncalendar: true"), "");
        check_one(&shop("", "", "refresh_key: {immutable: true}"), "");
    }

    #[test]
    fn sources_are_tables_or_queries() {
        let cube = |sql: &str| format!("cubes:\n  - name: a\n    sql: {sql}\n");
        let source = |sql: &str| match &model(&cube(sql)).cubes()[0].source {
            CubeSource::Table(table) => format!("table {}", table.as_text().unwrap_or("?")),
            CubeSource::Query(sql) => format!("query {}", sql.as_text().unwrap_or("?")),
            CubeSource::View(_) => "view".to_owned(),
        };
        assert_eq!(source("SELECT * FROM s.t"), "table s.t");
        assert_eq!(source("'SELECT a, ''\\{\\}'' FROM t'"), "query SELECT a, '{}' FROM t");
        check_one(
            &cube("'SELECT * FROM t WHERE {FILTER_PARAMS.a.b.filter(\"c\")}'"),
            "error: a: a.b cannot be resolved. There's no such member or cube.",
        );
        check_one(
            &cube("'SELECT * FROM t WHERE {CUBE}.x'"),
            "error: a: the SQL of a cube cannot use the alias of a cube: a | write '{a.sql()}' to read that cube's rows",
        );
        check_one(&cube("''"), "error: a: 'sql' is empty");
    }

    #[test]
    fn duplicate_cubes_and_views_are_faults() {
        let source = "cubes:\n  - {name: a, sql_table: t}\n  - {name: a, sql_table: t}\n\
                      views:\n  - {name: a, cubes: []}\n  - {name: v}\n  - {name: v}\nview_groups: []\n";
        assert_eq!(
            diagnostics(source),
            [
                "3:5: error: a: Found duplicate cube name 'a'.",
                "5:5: error: a: Found conflicting cube and view name 'a'.",
                "7:5: error: v: Found duplicate view name 'v'.",
            ]
        );
        check_one(
            &shop("- {name: total, type: count}", "", ""),
            "error: orders.total: Member names must be unique within a cube. Found duplicate measure 'total' in cube \
             'orders'. | it is defined at m.yml:17 already",
        );
    }

    #[test]
    fn empty_files_and_files_without_cubes_are_legal() {
        for source in ["", " \n", "# nothing", "cubes:", "cubes: []\nviews:\n"] {
            assert!(model(source).cubes().is_empty(), "{source:?}");
        }
    }

    #[test]
    fn the_version_follows_names_and_texts() {
        let version = |path: &str, source: &str| compile_files(&[(path, source)]).expect("sound").model.version();
        assert_eq!(version("a.yml", ""), version("a.yml", ""));
        assert_ne!(version("a.yml", ""), version("b.yml", ""));
        assert_ne!(version("a.yml", ""), version("a.yml", " "));
        let asking = |value: &str| {
            let files = [(PathBuf::from("a.js"), "cube('a', { sql_table: process.env.T })".to_owned())];
            let env = [("T".to_owned(), value.to_owned())].into();
            let context = CompileContext { env, ..CompileContext::default() };
            compile_sources(&files, &context).expect("sound").model.version()
        };
        assert_ne!(asking("x"), asking("y"));
    }

    #[test]
    fn projects_are_read_recursively_and_other_files_ignored() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        write("model/b.yml", "cubes: [{name: b, sql_table: b}]");
        write("model/a/deep/a.yaml", "cubes: [{name: a, sql_table: a}]");
        for ignored in ["model/notes.md", "model/macros.jinja", "model/.hidden/c.yml", "model/.c.yml"] {
            write(ignored, "cubes: [");
        }
        let context = CompileContext::default();
        let compile = |dir: &str| compile_project(folder.path(), &folder.path().join(dir), &context);
        let compiled = compile("model").expect("sound");
        let cubes: Vec<_> = compiled.model.cubes().iter().map(|c| (c.name.as_str(), &c.location.file)).collect();
        assert_eq!(cubes, [("a", &PathBuf::from("model/a/deep/a.yaml")), ("b", &PathBuf::from("model/b.yml"))]);

        write("model/x.js", "cube(`x`, {})");
        write("model/y.yml.jinja", "{{ nope }}");
        std::fs::write(folder.path().join("model/z.yml"), [0xff, 0xfe]).expect("a file");
        let found = compile("model").expect_err("faults");
        let files: Vec<_> = found.iter().map(|d| d.location.file.display().to_string()).collect();
        assert_eq!(files, ["model/x.js", "model/y.yml.jinja", "model/z.yml"]);

        let missing = compile("schema").expect_err("no folder");
        assert!(render(&missing).starts_with("schema:1:1: error: the folder cannot be read: "), "{}", render(&missing));
    }
}
