//! Links of dimensions (`data-model.md` §4): each is a dimension that gives an address.

use serde_json::{Value, json};

use super::{by, check, shop_and, with};

const PEOPLE: &str = r#"
cubes:
  - name: towns
    sql_table: towns
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: name, sql: name, type: string}
  - name: people
    sql_table: people
    joins: [{name: towns, relationship: many_to_one, sql: "{CUBE}.town_id = {towns.id}"}]
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - name: full_name
        sql: "first_name || ' ' || last_name"
        type: string
        links:
          - {name: search, label: Search, url: "'https://x.example/' || {full_name}", icon: search}
          - {name: profile, label: Profile, dashboard: user_1}
          - name: town
            label: Town
            dashboard: towns
            params: [{key: town, value: "{towns.name}"}, {key: id, value: "{id}"}]
views:
  - name: directory
    cubes: [{join_path: people, prefix: true, includes: [full_name]}]
"#;

const ROWS: &[(&str, &str)] =
    &[("towns", "id,name\n1,New York\n"), ("people", "id,first_name,last_name,town_id\n1,Ann,Ää,1\n2,Bob,Bo,\n")];

#[test]
fn links_are_selected_like_other_dimensions() {
    let server = shop_and(PEOPLE, ROWS);
    let links = ["search", "profile", "town"];
    for name in ["people.full_name", "directory.people_full_name"] {
        let names: Vec<String> = links.iter().map(|link| format!("{name}___link_{link}_url")).collect();
        let names: Vec<&str> = std::iter::once(name).chain(names.iter().map(String::as_str)).collect();
        let query = with(&by(&[], &names), &json!({"order": {name: "asc"}}));
        let expected = json!([
            ["Ann Ää", "https://x.example/Ann Ää", "/dashboard/user_1", "/dashboard/towns?town=New%20York&id=1"],
            ["Bob Bo", "https://x.example/Bob Bo", "/dashboard/user_1", "/dashboard/towns?town=&id=2"],
        ]);
        check(&server, &query, &expected);
    }
}

#[test]
fn metadata_marks_the_dimensions_of_links() {
    let server = shop_and(PEOPLE, ROWS);
    let meta = server.get("/cubejs-api/v1/meta").value();
    let dimensions = |cube: &str| -> Vec<Value> {
        let cubes = meta["cubes"].as_array().expect("cubes");
        let cube = cubes.iter().find(|found| found["name"] == json!(cube)).expect("the cube");
        cube["dimensions"].as_array().expect("dimensions").clone()
    };
    for (cube, name) in [("people", "people.full_name"), ("directory", "directory.people_full_name")] {
        let all = dimensions(cube);
        let own = all.iter().find(|dimension| dimension["name"] == json!(name)).expect("the dimension");
        assert_eq!(
            own["links"][2],
            json!({"name": "town", "label": "Town", "dashboard": "towns", "params": ["town", "id"]})
        );
        assert_eq!(own["links"].as_array().map(Vec::len), Some(3));
        let link = all.iter().find(|dimension| dimension["name"] == json!(format!("{name}___link_search_url")));
        let link = link.expect("the link");
        assert_eq!((&link["synthetic"], &link["type"]), (&json!(true), &json!("string")));
        assert_eq!(own.get("synthetic"), None);
    }
}
