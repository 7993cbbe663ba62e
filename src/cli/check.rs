//! `quarry check`: every fault of the settings, of `cube.js` and of the data model.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, Overrides};
use crate::model::{Severity, compile};

pub(super) fn run(project: &Path) -> anyhow::Result<ExitCode> {
    // The model alone is checked: no secret is needed for that.
    let overrides = Overrides { dev_mode: Some(true), ..Overrides::default() };
    let config = Config::load(project, &overrides)?;
    let mut out = std::io::stdout().lock();
    let compiled = compile::compile_project(&config.project, &config.model_dir, &config.compile_context());
    let mut of_drivers = Vec::new();
    let (diagnostics, summary) = match compiled {
        Ok(compiled) => {
            let model = &compiled.model;
            if let Some(cube) = &config.cube {
                let sources = model.cubes().iter().map(|cube| cube.data_source.clone()).collect();
                of_drivers =
                    cube.folders(&sources).map_err(|error| anyhow::anyhow!("{error} ({})", error.place()))?.warnings;
            }
            let members = |cube: &crate::model::Cube| cube.measures.len() + cube.dimensions.len() + cube.segments.len();
            let count: usize = model.cubes().iter().map(members).sum();
            let rollups: usize = model.cubes().iter().map(|cube| cube.preaggs.len()).sum();
            let cubes = model.cubes().len();
            (compiled.warnings, format!("{cubes} cube(s), {count} member(s), {rollups} rollup(s)"))
        }
        Err(faults) => (faults, String::new()),
    };
    for warning in config.cube.iter().flat_map(crate::hooks::CubeJs::warnings).chain(of_drivers) {
        writeln!(out, "warning: {warning}")?;
    }
    for diagnostic in &diagnostics {
        writeln!(out, "{diagnostic}")?;
    }
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = diagnostics.len() - errors;
    if errors > 0 {
        writeln!(out, "{errors} error(s), {warnings} warning(s)")?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "the data model is valid: {summary}, {warnings} warning(s)")?;
    Ok(ExitCode::SUCCESS)
}
