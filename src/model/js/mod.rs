//! Model files in JavaScript → documents like those of YAML files (`data-model.md` §1.5).
//!
//! Files run in one sandbox. Names that nobody declared become references (`prelude.js`); what `cube` and `view` were
//! given comes back as JSON, and [`nodes`] makes a tree of it, with places read from the text of the calls.

mod files;
mod nodes;

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value as Json;

use self::files::ModelFiles;
use super::front::CompileContext;
use super::yaml::{Document, Mark};
use crate::script::outline::{Call, Shape, calls, position};
use crate::script::{Fault, FaultKind, Limits, Place, Position, Sandbox, on_own_stack};

/// What definitions are made with.
const FUNCTIONS: [&str; 4] = ["cube", "view", "view_group", "viewGroup"];

/// Most calls of `asyncModule`: each may lead to another.
const MOST_POSTPONED: usize = 1_000;

/// A file that a model file may import, or run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script<'a> {
    /// Its path with `/`.
    pub(super) name: &'a str,
    pub(super) text: &'a str,
}

/// Something to tell the author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) file: String,
    pub(super) mark: Mark,
    /// `cube` and `member`, as far as known.
    pub(super) owner: Vec<String>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) is_warning: bool,
}

/// What the files define.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// By file; none for files that define nothing.
    pub(super) documents: BTreeMap<String, Document>,
    pub(super) findings: Vec<Finding>,
    /// Files that did not come to their end: what they define is not known.
    pub(super) broken: Vec<String>,
}

/// What was handed to `cube`, `view` or `view_group`.
struct Definition {
    kind: String,
    name: String,
    /// The name is ours.
    generated: bool,
    place: Place,
    body: Json,
    faults: Vec<PartFault>,
}

/// A part of a definition that cannot be data.
struct PartFault {
    path: Vec<String>,
    message: String,
    place: Option<Place>,
}

/// Runs model files in the order given; `importable` holds them and the other files that they may import.
pub(super) fn evaluate(
    models: &[&str],
    importable: &[Script<'_>],
    root: &str,
    context: &CompileContext,
    limits: Limits,
) -> Outcome {
    let ran = on_own_stack(limits, || {
        let files = Rc::new(ModelFiles::new(importable, root));
        let mut run = Run { outcome: Outcome::default(), files: Rc::clone(&files), conditions: Vec::new() };
        let first = models.first().copied().unwrap_or_default();
        match Sandbox::new(limits, files) {
            Ok(sandbox) => run.all(&sandbox, models, context),
            Err(fault) => run.break_off(first, &fault),
        }
        run.outcome
    });
    ran.unwrap_or_else(|error| {
        let file = models.first().copied().unwrap_or_default().to_owned();
        let message = format!("JavaScript cannot be run: {error}");
        let finding = Finding { file, mark: Mark::START, owner: Vec::new(), message, hint: None, is_warning: false };
        let broken = models.iter().map(|name| (*name).to_owned()).collect();
        Outcome { findings: vec![finding], broken, ..Outcome::default() }
    })
}

struct Run {
    outcome: Outcome,
    files: Rc<ModelFiles>,
    /// Conditions whose text was read: their file, and from where to where.
    conditions: Vec<(String, Position, Position)>,
}

impl Run {
    fn all(&mut self, sandbox: &Sandbox, models: &[&str], context: &CompileContext) {
        let known = serde_json::json!({ "security_context": context.security_context, "env": context.env });
        let prepared = sandbox
            .prepare("context", &format!("globalThis.__context = {known};"))
            .and_then(|()| sandbox.prepare("model", include_str!("prelude.js")));
        if let Err(fault) = prepared {
            let all: Vec<_> = models.iter().map(|name| (*name).to_owned()).collect();
            self.break_off(models.first().copied().unwrap_or_default(), &fault);
            self.outcome.broken = all;
            return;
        }
        for name in models {
            let ran = sandbox.call("__enter", &[Json::from(*name)]).and_then(|_| sandbox.run(name));
            if let Err(fault) = ran {
                self.break_off(name, &fault);
            }
        }
        self.work_off(sandbox);
        let definitions = self.definitions(sandbox, models);
        self.documents(definitions);
        self.leftovers(sandbox);
    }

    /// Runs what was handed to `asyncModule`, one after another; one may postpone more.
    fn work_off(&mut self, sandbox: &Sandbox) {
        for done in 0..MOST_POSTPONED {
            let Ok(Json::Array(files)) = sandbox.call("__postponed", &[]) else { return };
            let Some(file) = files.get(done) else { return };
            if let Err(fault) = sandbox.call("__work", &[Json::from(done)]) {
                self.break_off(file.as_str().unwrap_or_default(), &fault);
            }
        }
        if let Ok(Json::Array(files)) = sandbox.call("__postponed", &[])
            && let Some(file) = files.get(MOST_POSTPONED)
        {
            let message = format!("asyncModule is called more than {MOST_POSTPONED} times");
            let fault = Fault { kind: FaultKind::Thrown, message, place: None };
            self.break_off(file.as_str().unwrap_or_default(), &fault);
        }
    }

    fn definitions(&mut self, sandbox: &Sandbox, models: &[&str]) -> Vec<Definition> {
        let mut definitions = Vec::new();
        let listed = sandbox.call("__definitions", &[]).unwrap_or_else(|fault| {
            for name in models {
                self.break_off(name, &fault);
            }
            Json::Null
        });
        for (index, listed) in listed.as_array().into_iter().flatten().enumerate() {
            let text = |key: &str| listed[key].as_str().unwrap_or_default().to_owned();
            let place = sandbox.place(&text("stack"));
            let place = place.unwrap_or(Place { file: text("file"), at: Position { line: 1, column: 1 } });
            if self.outcome.broken.contains(&text("file")) || self.outcome.broken.contains(&place.file) {
                continue;
            }
            let mut dumped = match sandbox.call("__dump", &[Json::from(index)]) {
                Ok(dumped) => dumped,
                Err(mut fault) => {
                    fault.place.get_or_insert(place.clone());
                    self.break_off(&place.file, &fault);
                    continue;
                }
            };
            let faults = dumped["faults"].as_array().into_iter().flatten().map(|fault| part_fault(fault, sandbox));
            let faults = faults.collect();
            let generated = listed["generated"] == Json::Bool(true);
            let body = dumped["body"].take();
            definitions.push(Definition { kind: text("kind"), name: text("name"), generated, place, body, faults });
        }
        definitions
    }

    fn documents(&mut self, definitions: Vec<Definition>) {
        let mut calls_of: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        for definition in definitions {
            let file = definition.place.file.clone();
            let calls = calls_of
                .entry(file.clone())
                .or_insert_with(|| calls(self.files.source(&file).unwrap_or_default(), &FUNCTIONS));
            let call = call_around(calls, definition.place.at);
            let shape = call.and_then(|call| call.arguments.last());
            for fault in &definition.faults {
                self.outcome.findings.push(part_finding(&definition, fault, shape));
            }
            let source = self.files.source(&file).unwrap_or_default();
            let nodes::Tree { node, faults, conditions } = nodes::definition(&definition, call, source);
            let ends = conditions.iter().map(|range| (position(source, range.start), position(source, range.end)));
            self.conditions.extend(ends.map(|(from, to)| (file.clone(), from, to)));
            for (mark, message) in faults {
                let owner = vec![definition.name.clone()];
                let finding = Finding { file: file.clone(), mark, owner, message, hint: None, is_warning: false };
                self.outcome.findings.push(finding);
            }
            let document = self.outcome.documents.entry(file).or_default();
            if definition.generated {
                document.anonymous.push((definition.name, node));
            } else {
                nodes::add(document, &definition.kind, node);
            }
        }
    }

    /// What was said in vain.
    fn leftovers(&mut self, sandbox: &Sandbox) {
        let listed = |function| match sandbox.call(function, &[]) {
            Ok(Json::Array(entries)) => entries,
            _ => Vec::new(),
        };
        for entry in listed("__unused") {
            let place = sandbox.place(entry["stack"].as_str().unwrap_or_default());
            let is_read = |place: &Place| {
                self.conditions.iter().any(|(file, from, to)| *file == place.file && (*from..=*to).contains(&place.at))
            };
            if place.as_ref().is_some_and(is_read) {
                continue;
            }
            let expression = entry["expression"].as_str().unwrap_or_default();
            let hint = format!(
                "put it into a text, where it is evaluated for each request: `… ${{{expression}}} …`, or as a condition \
                 `if: '{expression} == 1'`"
            );
            let message =
                format!("{expression} has a value only when someone asks: here it is compared, tested or left unused");
            self.tell(sandbox, &entry, message, Some(hint), false);
        }
        for entry in listed("__ignored") {
            let what = entry["what"].as_str().unwrap_or_default();
            self.tell(sandbox, &entry, format!("{what} has no effect in this version"), None, true);
        }
    }

    fn tell(&mut self, sandbox: &Sandbox, entry: &Json, message: String, hint: Option<String>, is_warning: bool) {
        let Some(place) = sandbox.place(entry["stack"].as_str().unwrap_or_default()) else { return };
        if self.outcome.broken.contains(&place.file) {
            return;
        }
        let finding = Finding { file: place.file, mark: mark(place.at), owner: Vec::new(), message, hint, is_warning };
        if !self.outcome.findings.contains(&finding) {
            self.outcome.findings.push(finding);
        }
    }

    /// Notes that the file did not come to its end. A file that fails in each that imports it is told of once.
    fn break_off(&mut self, file: &str, fault: &Fault) {
        self.outcome.broken.push(file.to_owned());
        let place = fault.place.clone().unwrap_or(Place { file: file.to_owned(), at: Position { line: 1, column: 1 } });
        let line = self.files.source(&place.file).unwrap_or_default().lines().nth(place.at.line - 1);
        let line: String = line.unwrap_or_default().chars().take(200).collect();
        let mut hint = hint(fault).map(str::to_owned);
        let message = match fault.kind {
            FaultKind::Syntax => {
                if line.contains("await ") {
                    hint = Some("wait inside a function: asyncModule(async () => { … })".to_owned());
                }
                let caret = " ".repeat(place.at.column.min(200) - 1);
                format!("Syntax error during '{}' parsing: {}\n    {line}\n    {caret}^", place.file, fault.message)
            }
            _ => fault.message.clone(),
        };
        let mark = mark(place.at);
        let finding = Finding { file: place.file, mark, owner: Vec::new(), message, hint, is_warning: false };
        if !self.outcome.findings.contains(&finding) {
            self.outcome.findings.push(finding);
        }
    }
}

fn hint(fault: &Fault) -> Option<&'static str> {
    match fault.kind {
        FaultKind::Time => Some("look for a loop without end here; a model file has to come to its end by itself"),
        FaultKind::Memory => Some("look for a list or a text that grows without end here"),
        FaultKind::Stack => Some("look for a function that calls itself without a condition to stop"),
        FaultKind::Pending => Some("there are no timers and no network here: settle the promise from code that runs"),
        FaultKind::Import if fault.message.starts_with("Package") => Some(
            "packages are not installed for model files: copy what is needed into the model folder and import it with './'",
        ),
        FaultKind::Import if fault.message.ends_with("restricted") => {
            Some("model files import from the model folder only")
        }
        FaultKind::Import => Some("paths begin with './' or '../' and are relative to the file that imports"),
        FaultKind::Syntax | FaultKind::Thrown => None,
    }
}

/// The call that the engine means by this place, which is that of the name or of something in the brackets: the
/// innermost one around it.
fn call_around(calls: &[Call], at: Position) -> Option<&Call> {
    calls.iter().rev().find(|call| (call.at..=call.end).contains(&at))
}

fn part_fault(fault: &Json, sandbox: &Sandbox) -> PartFault {
    let path = fault["path"].as_array().into_iter().flatten();
    PartFault {
        path: path.filter_map(Json::as_str).map(str::to_owned).collect(),
        message: fault["message"].as_str().unwrap_or_default().to_owned(),
        place: sandbox.place(fault["stack"].as_str().unwrap_or_default()),
    }
}

fn part_finding(definition: &Definition, fault: &PartFault, shape: Option<&Shape>) -> Finding {
    let mut at = shape.map_or(definition.place.at, |shape| shape.at);
    let mut inside = shape;
    for key in &fault.path {
        let Some(shape) = inside else { break };
        match shape.key(key) {
            Some((_, part)) => (at, inside) = (part.at, Some(part)),
            None => {
                inside = key.parse().ok().and_then(|index| shape.item(index));
                at = inside.map_or(at, |part| part.at);
            }
        }
    }
    let thrown = fault.place.as_ref().filter(|place| place.file == definition.place.file);
    let mut owner = vec![definition.name.clone()];
    if let [collection, member, ..] = fault.path.as_slice()
        && nodes::is_named(collection)
    {
        owner.push(member.clone());
    }
    let property = fault.path.last().filter(|_| thrown.is_none());
    let message = match property {
        Some(property) => format!("'{property}' is no data: {}", fault.message),
        None => fault.message.clone(),
    };
    let mark = mark(thrown.map_or(at, |place| place.at));
    Finding { file: definition.place.file.clone(), mark, owner, message, hint: None, is_warning: false }
}

fn mark(at: Position) -> Mark {
    Mark { line: at.line, column: at.column }
}
