//! Fragments of SQL with references in braces → [`Template`]s (`data-model.md` §2, §11).

use serde_json::Value as Json;

use super::cube::{CubeId, MemberId};
use super::expression::{Expr, FormatPart, plain_text};
use super::fields::{ESCAPE_HINT, Place, Report, Text};
use super::symbols::{Reference, Symbols, Target, Unresolved};
use super::template::{Braced, Claim, ClaimUse, FilterColumn, FilterParam, Part, Piece, Template, pieces};
use super::yaml::Mark;
use crate::names::is_identifier;

/// Names of the security context.
const CLAIM_ROOTS: [&str; 3] = ["SECURITY_CONTEXT", "securityContext", "security_context"];

/// A resolved fragment with the place of each part.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) parts: Vec<(Part, Mark)>,
}

impl Resolved {
    pub(super) fn into_template(self) -> Template {
        Template { parts: self.parts.into_iter().map(|(part, _)| part).collect() }
    }
}

/// Why something between braces means nothing; none when it may be defined in a file that could not be read.
type Fault = Option<Unresolved>;

/// The names that a fragment may use.
struct Scope<'s, 'r> {
    symbols: &'s Symbols<'r>,
    owner: CubeId,
    /// Parameters of the function that it is the body of.
    parameters: &'s [String],
}

impl Symbols<'_> {
    /// Resolves a fragment of `owner`. What does not resolve is reported and left out.
    pub(super) fn template(&self, text: &Text, owner: CubeId, place: &Place, report: &mut Report) -> Resolved {
        let mut resolved = Resolved::default();
        let scope = Scope { symbols: self, owner, parameters: &[] };
        let pieces = pieces(&text.text).unwrap_or_else(|fault| {
            report.error(place, text.brace(fault.brace()), fault.message()).hint = Some(ESCAPE_HINT.to_owned());
            Vec::new()
        });
        for piece in pieces {
            match piece {
                Piece::Text(plain) => resolved.parts.push((Part::Text(plain), text.mark)),
                Piece::Braced(braced) => {
                    let mark = text.brace(braced.brace);
                    match scope.braced(&braced) {
                        Ok(parts) => resolved.parts.extend(parts.into_iter().map(|part| (part, mark))),
                        Err(None) => {}
                        Err(Some(why)) => report.error(place, mark, why.message).hint = why.hint,
                    }
                }
            }
        }
        resolved
    }
}

impl Scope<'_, '_> {
    fn braced(&self, braced: &Braced) -> Result<Vec<Part>, Fault> {
        let content = braced.content.as_str();
        let head = content.split('.').next().unwrap_or_default();
        let simple = content.split('.').all(|name| is_identifier(name.trim()));
        if simple && !is_special(head) {
            let path: Vec<&str> = content.split('.').map(str::trim).collect();
            return Ok(parts_of(self.symbols.resolve(&path, self.owner)?));
        }
        if content.is_empty() {
            let message = "a reference is missing between the braces".to_owned();
            return Err(Some(Unresolved { message, hint: Some(ESCAPE_HINT.to_owned()) }));
        }
        let parsed = Expr::parse(content)
            .map_err(|error| Some(Unresolved { message: error.to_string(), hint: Some(ESCAPE_HINT.to_owned()) }))?;
        self.expression(&parsed)
    }

    fn expression(&self, expression: &Expr) -> Result<Vec<Part>, Fault> {
        if let Some(path) = expression.path() {
            return self.path(&path);
        }
        match expression {
            Expr::Call(function, arguments) => self.call(function, arguments),
            Expr::Text(text) => Ok(vec![Part::Text(text.clone())]),
            Expr::Number(number) => Ok(vec![Part::Text(number.clone())]),
            Expr::Format(parts) => {
                let mut found = Vec::new();
                for part in parts {
                    match part {
                        FormatPart::Text(text) => found.push(Part::Text(text.clone())),
                        FormatPart::Value(value) => found.extend(self.expression(value)?),
                    }
                }
                Ok(found)
            }
            _ => fault("only references, texts and calls are possible in SQL"),
        }
    }

    fn path(&self, path: &[&str]) -> Result<Vec<Part>, Fault> {
        if let [name] = path
            && let Some(index) = self.parameters.iter().position(|parameter| parameter == name)
        {
            return Ok(vec![Part::Parameter(index)]);
        }
        let (head, rest) = path.split_first().ok_or(None)?;
        match *head {
            head if CLAIM_ROOTS.contains(&head) => {
                let path = rest.iter().map(|name| (*name).to_owned()).collect();
                Ok(vec![Part::Claim(Claim { path, usage: ClaimUse::Value })])
            }
            "COMPILE_CONTEXT" => Ok(vec![Part::Text(plain_text(&self.compile_context(rest)))]),
            "USER_CONTEXT" => fault("Support for USER_CONTEXT was removed, please migrate to SECURITY_CONTEXT."),
            "FILTER_PARAMS" => Err(Some(Unresolved {
                message: "FILTER_PARAMS needs a call".to_owned(),
                hint: Some("write '{FILTER_PARAMS.cube.member.filter('column')}'".to_owned()),
            })),
            "FILTER_GROUP" | "SQL_UTILS" => fault(&format!("{head} needs a call")),
            _ => Ok(parts_of(self.symbols.resolve(path, self.owner)?)),
        }
    }

    fn compile_context(&self, path: &[&str]) -> Json {
        let mut value = &self.symbols.context;
        let rest = match path {
            ["securityContext" | "security_context", rest @ ..] => rest,
            _ => return Json::Null,
        };
        for name in rest {
            match value.get(name) {
                Some(inner) => value = inner,
                None => return Json::Null,
            }
        }
        value.clone()
    }

    fn call(&self, function: &Expr, arguments: &[Expr]) -> Result<Vec<Part>, Fault> {
        let path = function.path().ok_or_else(|| Some(Unresolved::new("the call of a call is not possible")))?;
        match path.as_slice() {
            ["FILTER_GROUP"] => self.filter_group(arguments),
            ["FILTER_PARAMS", rest @ ..] => Ok(vec![Part::Filters(vec![self.filter_param(rest, arguments)?])]),
            ["SQL_UTILS", "convertTz" | "convert_tz"] => match arguments {
                [argument] => Ok(vec![Part::Local(Box::new(Template { parts: self.expression(argument)? }))]),
                _ => fault("SQL_UTILS.convertTz takes one argument"),
            },
            [root, rest @ .., method] if CLAIM_ROOTS.contains(root) => self.claim(rest, method, arguments),
            [rest @ .., "sql"] if arguments.is_empty() && !rest.is_empty() => {
                match self.symbols.resolve(rest, self.owner)?.target {
                    Target::Cube(cube) => Ok(vec![Part::Source(cube)]),
                    Target::Member(_) | Target::Time(..) => fault(&format!("'{}' is not a cube", rest.join("."))),
                }
            }
            path => Err(Some(Unresolved {
                message: format!("'{}' cannot be called", path.join(".")),
                hint: Some(
                    "calls are possible on FILTER_PARAMS, FILTER_GROUP, SECURITY_CONTEXT, SQL_UTILS and \
                            'cube.sql()'"
                        .to_owned(),
                ),
            })),
        }
    }

    fn filter_group(&self, arguments: &[Expr]) -> Result<Vec<Part>, Fault> {
        let mut params = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match argument {
                Expr::Call(function, arguments) => match function.path().as_deref() {
                    Some(["FILTER_PARAMS", rest @ ..]) => params.push(self.filter_param(rest, arguments)?),
                    _ => return fault("FILTER_GROUP expects FILTER_PARAMS args to be passed."),
                },
                _ => return fault("FILTER_GROUP expects FILTER_PARAMS args to be passed."),
            }
        }
        Ok(vec![Part::Filters(params)])
    }

    fn filter_param(&self, path: &[&str], arguments: &[Expr]) -> Result<FilterParam, Fault> {
        let ([cube, member, "filter"], [column]) = (path, arguments) else {
            return Err(Some(Unresolved {
                message: "FILTER_PARAMS is used as 'FILTER_PARAMS.cube.member.filter(column)'".to_owned(),
                hint: None,
            }));
        };
        match self.symbols.resolve(&[cube, member], self.owner)?.target {
            Target::Member(member) => Ok(FilterParam { member, column: self.column(column)? }),
            Target::Cube(_) | Target::Time(..) => fault(&format!("'{cube}.{member}' is not a member")),
        }
    }

    /// The argument of `filter`: a column's text, or a function of the values.
    fn column(&self, argument: &Expr) -> Result<FilterColumn, Fault> {
        match argument {
            Expr::Text(text) => Ok(FilterColumn::Column(text.clone())),
            Expr::Lambda(names, body) => {
                let scope = Scope { symbols: self.symbols, owner: self.owner, parameters: names };
                Ok(FilterColumn::Function(names.len(), Template { parts: scope.expression(body)? }))
            }
            other => {
                let parts = self.expression(other)?;
                Ok(FilterColumn::Function(0, Template { parts }))
            }
        }
    }

    fn claim(&self, path: &[&str], method: &str, arguments: &[Expr]) -> Result<Vec<Part>, Fault> {
        let usage = match (method, arguments) {
            ("unsafeValue" | "unsafe_value", []) => ClaimUse::Unsafe,
            ("filter", [column]) => ClaimUse::Filter { column: self.column(column)?, required: false },
            ("requiredFilter" | "required_filter", [column]) => {
                ClaimUse::Filter { column: self.column(column)?, required: true }
            }
            _ => {
                return Err(Some(Unresolved {
                    message: format!("SECURITY_CONTEXT has no method '{method}' with {} arguments", arguments.len()),
                    hint: Some("there are filter(column), requiredFilter(column) and unsafeValue()".to_owned()),
                }));
            }
        };
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        Ok(vec![Part::Claim(Claim { path, usage })])
    }
}

fn is_special(head: &str) -> bool {
    CLAIM_ROOTS.contains(&head)
        || matches!(head, "COMPILE_CONTEXT" | "USER_CONTEXT" | "FILTER_PARAMS" | "FILTER_GROUP" | "SQL_UTILS")
}

fn fault<T>(message: &str) -> Result<T, Fault> {
    Err(Some(Unresolved::new(message)))
}

fn parts_of(Reference { path, target }: Reference) -> Vec<Part> {
    let last = match target {
        Target::Cube(cube) => Part::Cube(cube),
        Target::Member(member) => Part::Member(member),
        Target::Time(dimension, grain) => Part::Time(dimension, grain),
    };
    if path.is_empty() { vec![last] } else { vec![Part::Path(path), last] }
}

/// The member of a reference to one.
pub(super) fn member_of(target: Target) -> Option<MemberId> {
    match target {
        Target::Member(member) => Some(member),
        Target::Time(dimension, _) => Some(MemberId::Dimension(dimension)),
        Target::Cube(_) => None,
    }
}
