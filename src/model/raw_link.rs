//! Links of dimensions: each becomes a dimension of its own, which gives the address for a value
//! (`data-model.md` §4).

use serde_json::Value as Json;

use super::cube::DataType;
use super::fields::{Fields, Place, Report, Text};
use super::raw::RawCube;
use super::raw_dimension::RawDimension;
use super::raw_member::RawShown;
use crate::names::is_identifier;

/// An entry of `links`.
#[derive(Debug, Clone)]
pub(super) struct RawLink {
    name: String,
    /// SQL of the address.
    address: Text,
    /// Names and SQL of what follows the address.
    parameters: Vec<(String, Text)>,
}

/// The links under `links`, and how they are written.
pub(super) fn read_links(fields: &mut Fields, place: &Place, report: &mut Report) -> (Vec<RawLink>, Option<Json>) {
    let written = fields.json_of("links");
    let mut links: Vec<RawLink> = Vec::new();
    for node in fields.list("links", place, report) {
        let Some(link) = Fields::open(node, "an entry of links", place, report) else { continue };
        let mark = link.mark;
        let Some(link) = read_link(link, place, report) else { continue };
        if links.iter().any(|known| known.name == link.name) {
            report.error(place, mark, format!("Found duplicate link '{}'", link.name));
            continue;
        }
        links.push(link);
    }
    (links, written)
}

fn read_link(mut link: Fields, place: &Place, report: &mut Report) -> Option<RawLink> {
    link.check_keys(&["name", "label", "url", "dashboard", "params", "icon", "target", "primary"], place, report);
    let name = link.text("name", place, report);
    let Some(name) = name.filter(|name| is_identifier(&name.text)) else {
        report.error(place, link.mark, "a link needs a 'name' of letters, digits and '_'");
        return None;
    };
    if link.mark_of("label").is_none() {
        report.error(place, link.mark, format!("the link '{}' needs a 'label'", name.text));
    }
    let address = match (link.text("url", place, report), link.text("dashboard", place, report)) {
        (Some(url), None) => url,
        (None, Some(dashboard)) => Text {
            text: format!("'/dashboard/{}'", literal(&dashboard.text)),
            mark: dashboard.mark,
            braces: Vec::new(),
        },
        _ => {
            let message = format!("the link '{}' needs either 'url' or 'dashboard'", name.text);
            report.error(place, link.mark, message).hint =
                Some("'url' is SQL, like \"'https://example.com/' || {id}\"".to_owned());
            return None;
        }
    };
    let mut parameters = Vec::new();
    for node in link.list("params", place, report) {
        let Some(mut parameter) = Fields::open(node, "an entry of params", place, report) else { continue };
        parameter.check_keys(&["key", "value"], place, report);
        match (parameter.text("key", place, report), parameter.text("value", place, report)) {
            (Some(key), Some(value)) => parameters.push((key.text, value)),
            _ => {
                report.error(place, parameter.mark, "a parameter of a link needs 'key' and 'value'");
            }
        }
    }
    Some(RawLink { name: name.text, address, parameters })
}

/// The inside of an SQL text in which braces are braces.
fn literal(text: &str) -> String {
    text.replace('\'', "''").replace('{', "\\{").replace('}', "\\}")
}

impl RawLink {
    fn sql(&self) -> Text {
        if self.parameters.is_empty() {
            return self.address.clone();
        }
        let mut sql = format!("({})", self.address.text);
        let mut braces = self.address.braces.clone();
        for (n, (key, value)) in self.parameters.iter().enumerate() {
            let sign = if n == 0 { '?' } else { '&' };
            sql.push_str(&format!(
                " || '{sign}{}=' || COALESCE(url_part(CAST({} AS VARCHAR)), '')",
                literal(key),
                value.text
            ));
            braces.extend(&value.braces);
        }
        Text { text: sql, mark: self.address.mark, braces }
    }
}

/// Gives each cube the dimensions of its links, right after those that have the links.
pub(super) fn add_link_dimensions(cubes: &mut [RawCube]) {
    for cube in cubes.iter_mut().filter(|cube| cube.dimensions.iter().any(|dimension| !dimension.links.is_empty())) {
        let dimensions = std::mem::take(&mut cube.dimensions);
        for dimension in dimensions {
            let links: Vec<RawDimension> = dimension.links.iter().map(|link| of_link(&dimension, link)).collect();
            cube.dimensions.push(dimension);
            cube.dimensions.extend(links);
        }
    }
}

fn of_link(dimension: &RawDimension, link: &RawLink) -> RawDimension {
    let mut about = dimension.about.clone();
    about.name = format!("{}___link_{}_url", about.name, link.name);
    (about.title, about.description, about.meta) = (None, None, None);
    about.public = Some(dimension.about.public.unwrap_or(!dimension.primary_key));
    RawDimension {
        about,
        format: None,
        shown: RawShown { synthetic: true, ..RawShown::default() },
        data_type: Some(DataType::String),
        primary_key: false,
        suggest_filter_values: false,
        granularities: Vec::new(),
        offered: None,
        sql: Some(link.sql()),
        case: None,
        point: None,
        values: None,
        sub_query: None,
        mask: None,
        shifts: Vec::new(),
        links: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_one, model};

    const USERS: &str = "
cubes:
  - name: users
    sql_table: users
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - name: full_name
        sql: full_name
        type: string
        links:
          - {name: search, label: Search, url: \"'https://x/' || {full_name}\"}
          - {name: profile, label: Profile, dashboard: user_1, params: [{key: id, value: '{id}'}]}
  - {name: people, extends: users, dimensions: [{name: full_name, sql: n, type: string}]}
views:
  - {name: some, cubes: [{join_path: users, prefix: true, includes: [{name: full_name, alias: who}]}]}
  - {name: all, cubes: [{join_path: users, includes: '*', excludes: [id]}]}
  - {name: none, cubes: [{join_path: users, includes: [id]}]}
";

    #[test]
    fn each_link_is_a_dimension_that_follows_its_own_into_views() {
        let model = model(USERS);
        let names = |cube: &str| -> Vec<String> {
            let cube = model.find_cube(cube).expect("a cube");
            cube.dimensions.iter().map(|dimension| dimension.name.clone()).collect()
        };
        let links = ["full_name", "full_name___link_search_url", "full_name___link_profile_url"];
        assert_eq!(names("users")[1..], links);
        assert_eq!(names("people"), ["id", "full_name"], "a child's own dimension has its own links");
        assert_eq!(names("some"), ["users_who", "users_who___link_search_url", "users_who___link_profile_url"],);
        assert_eq!(names("all"), links);
        assert_eq!(names("none"), ["id"]);
    }

    #[test]
    fn faulty_links_are_told() {
        let check = |link: &str, expected: &str| {
            check_one(
                &format!(
                    "cubes: [{{name: a, sql_table: t, dimensions: [{{name: x, sql: x, type: string, links: [{link}]}}]}}]"
                ),
                expected,
            );
        };
        check("{name: l, label: L, url: x}", "");
        check("{name: l, url: x}", "error: a.x: the link 'l' needs a 'label'");
        check("{name: a-b, label: L, url: x}", "error: a.x: a link needs a 'name' of letters, digits and '_'");
        check(
            "{name: l, label: L}",
            "error: a.x: the link 'l' needs either 'url' or 'dashboard' | 'url' is SQL, like \"'https://example.com/' || {id}\"",
        );
        check(
            "{name: l, label: L, url: x, params: [{key: k}]}",
            "error: a.x: a parameter of a link needs 'key' and 'value'",
        );
    }
}
