//! Bounds of a document, checked before anything looks at all of it: what is short may still be deep, or become huge
//! when its fragments are put in.

use std::collections::HashMap;

use async_graphql::Name;
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};

/// Bytes of a document.
const MAX_BYTES: usize = 1 << 20;
/// Brackets within brackets; the parser goes down with each.
const MAX_NESTING: usize = 48;
/// Fields, with those of fragments once for every place that they are put in.
const MAX_FIELDS: usize = 5_000;
/// Lists of types, fields or arguments within one another in a question about the schema; each multiplies the answer.
const MAX_LISTS: usize = 2;
const LISTS: &[&str] = &["fields", "inputFields", "interfaces", "possibleTypes"];

/// Refuses texts that are too long or too deep to be parsed.
///
/// # Errors
/// The reason.
pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.len() > MAX_BYTES {
        return Err(format!("The document is too long: {} bytes, at most {MAX_BYTES} are read", text.len()));
    }
    let (mut depth, mut rest) = (0_usize, text);
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '#' => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            '"' => text_length(rest),
            '{' | '[' | '(' => {
                depth += 1;
                1
            }
            '}' | ']' | ')' => {
                depth = depth.saturating_sub(1);
                1
            }
            _ => c.len_utf8(),
        };
        if depth > MAX_NESTING {
            return Err(format!("The document is nested too deeply: at most {MAX_NESTING} levels are read"));
        }
        rest = &rest[skipped..];
    }
    Ok(())
}

/// Bytes of the string that `rest` begins with.
fn text_length(rest: &str) -> usize {
    if let Some(block) = rest.strip_prefix("\"\"\"") {
        let mut at = 0;
        while let Some(end) = block[at..].find("\"\"\"") {
            if !block[..at + end].ends_with('\\') {
                return 3 + at + end + 3;
            }
            at += end + 3;
        }
        return rest.len();
    }
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' | '\n' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Refuses documents that are too large when their fragments are put in, and questions about the schema with answers
/// that are.
///
/// # Errors
/// The reason.
pub(super) fn check_document(document: &ExecutableDocument) -> Result<(), String> {
    let mut sizes = Sizes { document, known: HashMap::new() };
    let mut fields = 0_usize;
    for (_, operation) in document.operations.iter() {
        fields = fields.saturating_add(sizes.of(&operation.node.selection_set.node)?);
    }
    if fields > MAX_FIELDS {
        return Err(format!("The document is too large: {fields} fields, at most {MAX_FIELDS} are answered"));
    }
    // What is put in is bounded now, and has an end.
    for (_, operation) in document.operations.iter() {
        check_lists(document, &operation.node.selection_set.node, &mut Vec::new())?;
    }
    Ok(())
}

/// Numbers of fields, those of fragments counted once.
struct Sizes<'d> {
    document: &'d ExecutableDocument,
    /// None while it is being counted.
    known: HashMap<&'d Name, Option<usize>>,
}

impl<'d> Sizes<'d> {
    fn of(&mut self, selection: &'d SelectionSet) -> Result<usize, String> {
        let mut fields = 0_usize;
        for item in &selection.items {
            let more = match &item.node {
                Selection::Field(field) => self.of(&field.node.selection_set.node)?.saturating_add(1),
                Selection::InlineFragment(inline) => self.of(&inline.node.selection_set.node)?,
                Selection::FragmentSpread(spread) => self.of_fragment(&spread.node.fragment_name.node)?,
            };
            fields = fields.saturating_add(more);
        }
        Ok(fields)
    }

    fn of_fragment(&mut self, name: &'d Name) -> Result<usize, String> {
        match self.known.get(name) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(format!("Cannot spread fragment \"{name}\" within itself.")),
            None => {}
        }
        // One that is not there is told of by the rules.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(1) };
        self.known.insert(name, None);
        let size = self.of(&fragment.node.selection_set.node)?;
        self.known.insert(name, Some(size));
        Ok(size)
    }
}

fn check_lists<'d>(
    document: &'d ExecutableDocument,
    selection: &'d SelectionSet,
    lists: &mut Vec<&'d str>,
) -> Result<(), String> {
    for item in &selection.items {
        match &item.node {
            Selection::Field(field) => {
                let name = field.node.name.node.as_str();
                let listed = LISTS.contains(&name);
                if listed {
                    lists.push(name);
                }
                if lists.len() > MAX_LISTS {
                    return Err("Maximum introspection depth exceeded".to_owned());
                }
                check_lists(document, &field.node.selection_set.node, lists)?;
                if listed {
                    lists.pop();
                }
            }
            Selection::InlineFragment(inline) => check_lists(document, &inline.node.selection_set.node, lists)?,
            Selection::FragmentSpread(spread) => {
                if let Some(fragment) = document.fragments.get(&spread.node.fragment_name.node) {
                    check_lists(document, &fragment.node.selection_set.node, lists)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        check_text(text)?;
        check_document(&async_graphql::parser::parse_query(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn deep_documents_are_refused_before_they_are_parsed() {
        let deep = |open: &str, close: &str, levels: usize| open.repeat(levels) + &close.repeat(levels);
        assert_eq!(check_text(&deep("{", "}", MAX_NESTING)), Ok(()));
        for (open, close) in [("{", "}"), ("[", "]"), ("(", ")"), ("{a", "}"), ("{a(b:[", "])}")] {
            let refused = check_text(&deep(open, close, 200_000 / open.len())).expect_err("too deep");
            assert!(refused.starts_with("The document is nested too deeply"), "{refused}");
        }
        // Brackets in texts and comments are none.
        let brackets = "{".repeat(100);
        for text in [format!("\"{brackets}\\\"{brackets}\""), format!("\"\"\"{brackets}\"{brackets}\"\"\"")] {
            assert_eq!(check_text(&format!("{{a(b:{text})}}")), Ok(()), "{text}");
        }
        assert_eq!(check_text(&format!("# {brackets}\n{{a}}")), Ok(()));
        let long = check_text(&" ".repeat(MAX_BYTES + 1)).expect_err("too long");
        assert!(long.starts_with("The document is too long"), "{long}");
        for text in ["\"", "\"\"\"", "\"\\", "#", "\"\"\" \\\"\"\"", "ü\"ü"] {
            assert_eq!(check_text(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn fragments_count_for_every_place_that_they_are_put_in() {
        use std::fmt::Write as _;
        let mut text = "{ ...f0 }".to_owned();
        for level in 0..30 {
            write!(text, " fragment f{level} on X {{ ...f{next} ...f{next} }}", next = level + 1).expect("a text");
        }
        text.push_str(" fragment f30 on X { a }");
        let refused = check(&text).expect_err("2 to the power of 30 fields");
        assert!(refused.starts_with("The document is too large: 1073741824 fields"), "{refused}");
        let refused = check("{ ...a } fragment a on X { b { ...c } } fragment c on X { ...a }").expect_err("no end");
        assert_eq!(refused, "Cannot spread fragment \"a\" within itself.");
        assert_eq!(check("{ a ...b } fragment b on X { c d }"), Ok(()));
        assert!(check(&format!("{{ {} }}", "a ".repeat(MAX_FIELDS + 1))).is_err());
    }

    #[test]
    fn questions_about_the_schema_do_not_multiply() {
        assert_eq!(check("{ __schema { types { fields { type { ofType { name } } } } } }"), Ok(()));
        let refused = check("{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }");
        assert_eq!(refused, Err("Maximum introspection depth exceeded".to_owned()));
    }
}
