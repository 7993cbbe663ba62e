//! What the metadata endpoints say, and to whom: `/v1/meta`, `/v1/data-sources`, `/v1/entities`.

use serde_json::{Value, json};

use crate::server::{Project, Reply, SECRET, Server, printed, run, sign};

const META: &str = "/cubejs-api/v1/meta";
const ENTITIES: &str = "/cubejs-api/v1/entities";

const MODEL: &str = r#"
cubes:
  - name: users
    sql: SELECT id, town AS city, mail FROM crm.people
    data_source: crm
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: city, sql: city, type: string}
      - {name: email, sql: "lower({CUBE}.mail)", type: string}
    access_policy:
      - {group: "*", member_level: {excludes: [email]}}
      - {group: admin}
  - name: orders
    sql_table: shop.orders
    refresh_key: {every: 1 hour}
    joins:
      - {name: users, sql: "{CUBE}.user_id = {users}.id", relationship: many_to_one}
    dimensions:
      - {name: id, sql: id, type: number, primary_key: true}
      - {name: at, sql: created_at, type: time, format: "%Y-%m"}
      - {name: who, sql: "{users.email} || {CUBE}.note", type: string}
    measures:
      - {name: count, type: count}
      - {name: revenue, sql: "{CUBE}.qty * price", type: sum, format: currency_0, currency: eur}
  - name: internal
    sql_table: internal
    public: false
    measures: [{name: n, type: count}]
views:
  - name: sales
    cubes:
      - {join_path: orders, includes: [revenue, at]}
      - {join_path: orders.users, prefix: true, includes: [city]}
    folders:
      - {name: Where, includes: [{name: Town, includes: [users_city]}, at]}
view_groups:
  - {name: main, title: Main, includes: [sales]}
"#;

fn project() -> Project {
    let project = Project::empty();
    project.write("model/shop.yml", MODEL);
    project
}

fn as_group(server: &Server, path: &str, group: &str) -> Reply {
    server.call("GET", path).token(&sign(&json!({ "groups": [group] }), SECRET)).send()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(|item| item["name"].as_str()).collect()
}

#[test]
fn entities_tell_their_lineage() {
    let server = Server::start(&project());
    let all = server.get(&format!("{ENTITIES}/all")).value();
    assert_eq!(all["pagination"], json!({"offset": 0, "limit": 100, "total": 3}));
    assert_eq!(names(&all["data"]), ["users", "orders", "sales"]);
    let [users, orders, sales] = all["data"].as_array().expect("a list").as_slice() else { panic!("three: {all}") };

    let table = json!({"schema": "crm", "table": "people"});
    assert_eq!((&users["type"], &users["table_references"]), (&json!("cube"), &json!([table])));
    assert_eq!(users["data_source"], json!("crm"));
    let town = json!([{"schema": "crm", "table": "people", "column": "town"}]);
    assert_eq!(names(&users["dimensions"]), ["city"]);
    assert_eq!(users["dimensions"][0]["column_references"], town);
    assert_eq!(users["dimensions"][0]["is_primary_key"], json!(false));

    let column = |name: &str| json!({"schema": "shop", "table": "orders", "column": name});
    assert_eq!(orders["measures"][1]["column_references"], json!([column("qty"), column("price")]));
    assert_eq!(orders["measures"][1]["member_references"], json!([]));
    assert_eq!(orders["measures"][1]["currency"], json!("EUR"));
    assert_eq!(orders["cube_references"], json!([{"cube": "users"}]));
    let key = json!({"schema": "crm", "table": "people", "column": "id"});
    assert_eq!(orders["joins"][0]["column_references"], json!([column("user_id"), key]));
    // What nobody granted is not named either.
    assert_eq!(names(&orders["dimensions"]), ["at", "who"]);
    assert_eq!(orders["dimensions"][1]["member_references"], json!([]));
    assert_eq!(orders["dimensions"][1]["column_references"], json!([column("note")]));

    assert_eq!((&sales["type"], &sales["table_references"]), (&json!("view"), &json!([])));
    assert_eq!(sales["cube_references"], json!([{"cube": "orders"}, {"cube": "users"}]));
    assert_eq!(names(&sales["dimensions"]), ["at", "users_city"]);
    assert_eq!(sales["dimensions"][1]["member_references"], json!([{"cube": "users", "member": "city"}]));
    server.assert_alive();
}

#[test]
fn entities_come_one_by_one_and_in_pages() {
    let server = Server::start(&project());
    let one = server.get(&format!("{ENTITIES}/orders"));
    assert_eq!((one.status, &one.value()["data"]["name"]), (200, &json!("orders")));
    for missing in ["nosuch", "internal", "orders%20", "ORDERS"] {
        let reply = server.get(&format!("{ENTITIES}/{missing}"));
        assert_eq!((reply.status, reply.error()), (404, format!("Entity '{missing}' not found")));
    }
    let list = server.get(&format!("{ENTITIES}?offset=1&limit=1")).value();
    assert_eq!(list["pagination"], json!({"offset": 1, "limit": 1, "total": 3}));
    let head = json!([{"name": "orders", "type": "cube", "title": "Orders", "isVisible": true, "public": true,
        "connectedComponent": 1, "data_source": "default"}]);
    assert_eq!(list["data"], head);
    // Clients of the original post an empty body and put the page into the URL.
    let posted = server.post(&format!("{ENTITIES}/all?offset=2&limit=5"), &json!({})).value();
    assert_eq!(names(&posted["data"]), ["sales"]);
    let posted = server.post(ENTITIES, &json!({"limit": 2})).value();
    assert_eq!(names(&posted["data"]), ["users", "orders"]);
    assert_eq!(server.get(&format!("{ENTITIES}?offset=9")).value()["data"], json!([]));
    for (query, text) in [
        ("limit=0", "\"limit\" must be a number from 1 to 10000"),
        ("limit=x", "\"limit\" must be a number from 1 to 10000"),
        ("offset=-1", "\"offset\" must be a number from 0"),
    ] {
        let reply = server.get(&format!("{ENTITIES}/all?{query}"));
        assert_eq!((reply.status, reply.error()), (400, text.to_owned()), "{query}");
    }
}

#[test]
fn data_sources_are_those_of_visible_cubes() {
    let server = Server::start(&project());
    let sources = json!([{"name": "crm", "type": "datafusion"}, {"name": "default", "type": "datafusion"}]);
    let reply = server.get("/cubejs-api/v1/data-sources");
    assert_eq!(reply.value(), json!({"data": {"data_sources": sources}}));
}

#[test]
fn metadata_need_a_token_and_the_scope() {
    let server = Server::start_with(&project(), &[("CUBEJS_DEFAULT_API_SCOPES", "data")]);
    let paths = [META.to_owned(), ENTITIES.to_owned(), format!("{ENTITIES}/all"), format!("{ENTITIES}/orders")];
    for path in paths.iter().map(String::as_str).chain(["/cubejs-api/v1/data-sources"]) {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.error()), (403, "API scope is missing: meta".to_owned()), "{path}");
        assert_eq!(server.call("GET", path).send().status, 403, "{path}");
    }
}

#[test]
fn policies_decide_what_metadata_show() {
    let server = Server::start(&project());
    for (group, visible) in [("guest", vec!["city"]), ("admin", vec!["city", "email"])] {
        let entity = as_group(&server, &format!("{ENTITIES}/users"), group).value();
        assert_eq!(names(&entity["data"]["dimensions"]), visible, "{group}");
        let meta = as_group(&server, META, group).value();
        let full: Vec<String> = visible.iter().map(|name| format!("users.{name}")).collect();
        assert_eq!(names(&meta["cubes"][0]["dimensions"]), full, "{group}");
    }
    let entity = as_group(&server, &format!("{ENTITIES}/orders"), "admin").value();
    let email = json!([{"cube": "users", "member": "email"}]);
    assert_eq!(entity["data"]["dimensions"][1]["member_references"], email);
}

#[test]
fn meta_shows_groups_folders_and_formats() {
    let server = Server::start_with(&project(), &[("CUBEJS_NESTED_FOLDERS_DELIMITER", " / ")]);
    let meta = server.get(META).value();
    let group = json!([{"name": "main", "title": "Main", "views": ["sales"], "includes": ["sales"]}]);
    assert_eq!(meta["viewGroups"], group);
    let sales = &meta["cubes"][2];
    assert_eq!(sales["viewGroups"], json!(["main"]));
    let folders = json!([{"name": "Where / Town", "members": ["sales.users_city"]},
        {"name": "Where", "members": ["sales.at"]}]);
    assert_eq!(sales["folders"], folders);
    let nested = json!([{"name": "Where", "members": [{"name": "Town", "members": ["sales.users_city"]}, "sales.at"]}]);
    assert_eq!(sales["nestedFolders"], nested);
    let revenue = &sales["measures"][0];
    assert_eq!(revenue["format"], json!({"type": "custom-numeric", "value": "$,.0~f", "alias": "currency_0"}));
    let description = json!({"name": "currency_0", "specifier": "$,.0~f", "currency": "EUR"});
    assert_eq!(revenue["formatDescription"], description);
    assert_eq!(sales["dimensions"][0]["format"], json!({"type": "custom-time", "value": "%Y-%m"}));
    let extended = server.get(&format!("{META}?extended")).value();
    assert!(extended.get("viewGroups").is_none());
    assert_eq!(extended["cubes"][1]["refreshKey"], json!({"every": "1 hour"}));
    assert_eq!(extended["cubes"][0]["sql"], json!("`SELECT id, town AS city, mail FROM crm.people`"));
    let views = server.get(&format!("{META}?onlyViews=true")).value();
    assert_eq!(names(&views["cubes"]), ["sales"]);
}

#[test]
fn bad_formats_are_faults_of_the_model() {
    let project = Project::empty();
    project.write(
        "model/m.yml",
        "cubes:\n  - name: a\n    sql_table: a\n    dimensions:\n      - {name: t, sql: t, type: time, format: yyyy}\n      \
         - {name: s, sql: s, type: string, currency: USD}\n    measures:\n      \
         - {name: n, type: count, format: '.2q'}\n      - {name: o, type: count, format: number_9}\n      \
         - {name: p, type: time, sql: MAX(t), currency: USD}\n",
    );
    let output = run(project.path(), &[], &["check"]);
    let text = printed(&output);
    assert!(!output.status.success(), "{text}");
    for fault in [
        "m.yml:5:47: error: a.t: Invalid time format \"yyyy\". ",
        "m.yml:6:51: error: a.s: \"currency\" property can only be used with dimensions of type \"number\"",
        "m.yml:8:40: error: a.n: Invalid numeric format \".2q\". ",
        "m.yml:9:40: error: a.o: \"number_9\" is not a valid named numeric format. ",
        "m.yml:10:54: error: a.p: \"currency\" property can only be used with numeric measures, actual type: time",
    ] {
        assert!(text.contains(fault), "{fault}\n{text}");
    }
}
