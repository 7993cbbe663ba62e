//! The catalog that statements see: cubes and views in schema `public`, and the system's schemas.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList as _, MemoryCatalogProviderList, SchemaProvider, TableProvider,
};
use datafusion::error::Result;
use datafusion::execution::{FunctionRegistry as _, SessionState};

use super::session_functions::Facts;
use super::system::Seen;
use super::tables::CubeTable;
use super::{Session, functions, session_functions, system};
use crate::model::Model;

/// The schema of cubes and views.
pub(super) const PUBLIC: &str = "public";
/// Schemas of the system.
const SYSTEM: [&str; 2] = ["information_schema", "pg_catalog"];

/// What one session may see of a model.
#[derive(Debug)]
pub(super) struct Catalog {
    view: Arc<View>,
}

#[derive(Debug)]
struct View {
    model: Arc<Model>,
    session: Session,
    /// Hidden members too.
    all: bool,
}

impl Catalog {
    pub(super) fn new(model: Arc<Model>, session: Session, all: bool) -> Self {
        Self { view: Arc::new(View { model, session, all }) }
    }
}

/// Gives a state the catalog, and the functions that planning resolves.
///
/// # Errors
/// A function cannot be registered.
pub(super) fn register(state: &mut SessionState, catalog: Arc<Catalog>) -> Result<()> {
    let session = &catalog.view.session;
    let facts = Arc::new(Facts {
        database: session.database.clone(),
        user: session.user.clone().unwrap_or_else(|| "cube".to_owned()),
        tables: catalog.view.seen().into_iter().map(|seen| seen.name).collect(),
    });
    let list = MemoryCatalogProviderList::new();
    let name = state.config_options().catalog.default_catalog.clone();
    list.register_catalog(name, catalog);
    state.register_catalog_list(Arc::new(list));
    state.register_udaf(functions::measure())?;
    for function in functions::clock_names().into_iter().chain(session_functions::functions(&facts)) {
        state.register_udf(function)?;
    }
    Ok(())
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        SYSTEM.into_iter().chain([PUBLIC]).map(str::to_owned).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let view = || Arc::clone(&self.view);
        match SYSTEM.into_iter().find(|schema| *schema == name) {
            Some(name) => Some(Arc::new(SystemSchema { name, view: view() })),
            None => (name == PUBLIC).then(|| Arc::new(PublicSchema(view())) as Arc<dyn SchemaProvider>),
        }
    }
}

impl View {
    fn of(&self, name: &str) -> Option<CubeTable> {
        let cube = self.model.find_cube(name)?;
        CubeTable::of(&self.model, cube, &self.session.asker, self.all)
    }

    /// All tables that may be seen, by name.
    fn seen(&self) -> Vec<Seen> {
        let mut seen: Vec<Seen> = self
            .model
            .cubes()
            .iter()
            .filter_map(|cube| {
                let table = CubeTable::of(&self.model, cube, &self.session.asker, self.all)?;
                Some(Seen { name: cube.name.clone(), title: cube.description.clone(), table })
            })
            .collect();
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        seen
    }
}

#[derive(Debug)]
struct PublicSchema(Arc<View>);

#[async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        self.0.seen().into_iter().map(|seen| seen.name).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.0.of(name) {
            return Ok(Some(Arc::new(table)));
        }
        // Tables of the catalog need no schema before them.
        system::table("pg_catalog", name, &self.0.session, &self.0.seen())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.of(name).is_some() || system::table_names("pg_catalog").iter().any(|table| table == name)
    }
}

#[derive(Debug)]
struct SystemSchema {
    name: &'static str,
    view: Arc<View>,
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        system::table_names(self.name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        system::table(self.name, name, &self.view.session, &self.view.seen())
    }

    fn table_exist(&self, name: &str) -> bool {
        system::table_names(self.name).iter().any(|table| table == name)
    }
}
