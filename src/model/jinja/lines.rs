//! From a line of rendered text back to the line of the template.
//!
//! Before rendering, each line that ends in plain text gets a mark with its number, made of characters that no one
//! writes; they come through rendering and are taken out again. Where a mark could change what is rendered (next to
//! whitespace control, in blocks whose text may be compared) there is none.

use super::super::yaml::{Document, Mark, Node, Value};

/// Begins a mark; digits of base 16 follow.
const START: char = '\u{E5E0}';
const DIGITS: u32 = 0xE5D0;

/// Blocks whose content is a value, which templates may compare.
const VALUE_BLOCKS: [&str; 4] = ["macro", "set", "filter", "call"];

/// The template with marks.
pub(super) fn marked(source: &str) -> String {
    let is_ours = |c: char| c == START || digit(c).is_some();
    if source.contains(is_ours) {
        return source.to_owned();
    }
    let mut written = String::with_capacity(source.len() + source.len() / 8);
    let (mut at, mut line, mut depth) = (0, 1, 0_usize);
    while let Some(step) = source[at..].find(['{', '\n']) {
        let here = at + step;
        written.push_str(&source[at..here]);
        let rest = &source[here..];
        let length = match opening(rest) {
            Some(tag) => {
                let length = tag_length(rest, tag);
                depth = depth_after(&rest[..length], tag, depth);
                length
            }
            None => {
                if rest.starts_with('\n') && depth == 0 && ends_in_text(source, here) {
                    put_mark(&mut written, line);
                }
                1
            }
        };
        line += rest[..length].matches('\n').count();
        written.push_str(&rest[..length]);
        at = here + length;
    }
    written.push_str(&source[at..]);
    // A last line break is not rendered, so that nothing may stand behind it.
    if depth == 0 && !source.is_empty() && !source.ends_with('\n') {
        put_mark(&mut written, line);
    }
    written
}

/// The closing sign of the tag or comment that begins here.
fn opening(rest: &str) -> Option<&'static str> {
    ["{{", "{%", "{#"].iter().zip(["}}", "%}", "#}"]).find(|(open, _)| rest.starts_with(**open)).map(|(_, close)| close)
}

/// Length of a tag with its closing sign; signs in quotes do not close it.
fn tag_length(rest: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(2) {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, _) if rest[at..].starts_with(close) => return at + close.len(),
            (None, '"' | '\'') if close != "#}" => quote = Some(c),
            (None, _) => {}
        }
    }
    rest.len()
}

/// How many blocks that are values are open behind this tag.
fn depth_after(tag: &str, close: &str, depth: usize) -> usize {
    if close != "%}" {
        return depth;
    }
    let content = tag[2..].trim_end_matches("%}").trim_matches(|c: char| matches!(c, '-' | '+') || c.is_whitespace());
    let word = content.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    let opens = VALUE_BLOCKS.contains(&word) && !(word == "set" && content.contains('='));
    let closes = word.strip_prefix("end").is_some_and(|block| VALUE_BLOCKS.contains(&block));
    if closes { depth.saturating_sub(1) } else { depth + usize::from(opens) }
}

/// Whether no whitespace control reaches the line break at this byte.
fn ends_in_text(source: &str, newline: usize) -> bool {
    let before = source[..newline].trim_end();
    let behind = source[newline..].trim_start();
    !["-%}", "-}}", "-#}"].iter().any(|end| before.ends_with(end))
        && !["{%-", "{{-", "{#-"].iter().any(|start| behind.starts_with(start))
}

fn put_mark(written: &mut String, line: usize) {
    let carriage = written.ends_with('\r');
    if carriage {
        written.pop();
    }
    written.push(START);
    let digits = format!("{line:x}");
    written.extend(digits.chars().filter_map(|c| char::from_u32(DIGITS + c.to_digit(16)?)));
    if carriage {
        written.push('\r');
    }
}

fn digit(c: char) -> Option<usize> {
    u32::from(c).checked_sub(DIGITS).filter(|digit| *digit < 16).map(|digit| digit as usize)
}

/// A rendered text, and where its lines come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// The template's line of each line.
    lines: Vec<usize>,
}

/// Takes the marks out of a rendered text.
pub(super) fn unmarked(rendered: &str) -> Rendered {
    let mut text = String::with_capacity(rendered.len());
    let mut lines: Vec<Option<usize>> = vec![None];
    let mut chars = rendered.chars().peekable();
    while let Some(c) = chars.next() {
        if c == START {
            let mut number = 0_usize;
            while let Some(digit) = chars.peek().copied().and_then(digit) {
                number = (number << 4) | digit;
                chars.next();
            }
            if let Some(line) = lines.last_mut() {
                line.get_or_insert(number);
            }
            continue;
        }
        text.push(c);
        if c == '\n' {
            lines.push(None);
        }
    }
    // What has no mark of its own was written by a tag: on the line whose end comes next.
    let last = lines.iter().rev().find_map(|line| *line).unwrap_or(1);
    let mut next = last;
    let mut known = Vec::with_capacity(lines.len());
    for line in lines.into_iter().rev() {
        next = line.unwrap_or(next);
        known.push(next);
    }
    known.reverse();
    Rendered { text, lines: known }
}

impl Rendered {
    /// Turns the places of a document into places of the template.
    pub(super) fn locate(&self, document: &mut Document, template: &str) {
        if template.strip_suffix('\n').unwrap_or(template) == self.text {
            return;
        }
        let origin =
            Origin { lines: &self.lines, rendered: self.text.lines().collect(), template: template.lines().collect() };
        if let Some(root) = &mut document.root {
            origin.node(root);
        }
        for fault in &mut document.faults {
            fault.mark = origin.mark(fault.mark);
            fault.hint = fault.hint.take().map(|hint| origin.hint(hint));
        }
    }
}

struct Origin<'a> {
    lines: &'a [usize],
    rendered: Vec<&'a str>,
    template: Vec<&'a str>,
}

impl Origin<'_> {
    fn mark(&self, mark: Mark) -> Mark {
        let line = self.lines.get(mark.line - 1).or(self.lines.last()).copied().unwrap_or(1);
        let rendered = self.rendered.get(mark.line - 1).copied().unwrap_or_default();
        let template = self.template.get(line - 1).copied().unwrap_or_default();
        let mut pairs = rendered.chars().zip(template.chars()).take(mark.column - 1);
        let same = rendered == template || pairs.all(|(a, b)| a == b) && template.chars().count() + 1 >= mark.column;
        let first = template.chars().take_while(|c| c.is_whitespace()).count() + 1;
        Mark { line, column: if same { mark.column } else { first } }
    }

    /// A hint may name a line.
    fn hint(&self, hint: String) -> String {
        let line = hint.split(" line ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        match line {
            Some(line) => {
                let place = self.mark(Mark { line, column: 1 });
                hint.replacen(&format!(" line {line} "), &format!(" line {} ", place.line), 1)
            }
            None => hint,
        }
    }

    fn node(&self, node: &mut Node) {
        node.mark = self.mark(node.mark);
        match &mut node.value {
            Value::Scalar(scalar) => {
                for brace in &mut scalar.braces {
                    *brace = self.mark(*brace);
                }
            }
            Value::List(nodes) => nodes.iter_mut().for_each(|node| self.node(node)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.key_mark = self.mark(entry.key_mark);
                    self.node(&mut entry.value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let shown: String = marked(source)
            .chars()
            .map(|c| match digit(c) {
                _ if c == START => "‹".to_owned(),
                Some(digit) => format!("{digit:x}"),
                None => c.to_string(),
            })
            .collect();
        assert_eq!(shown, expected, "{source}");
        assert_eq!(unmarked(&marked(source)).text, source);
    }

    #[test]
    fn lines_that_end_in_text_are_marked() {
        check("a\nb {{ c }}\nd", "a‹1\nb {{ c }}‹2\nd‹3");
        check("a {# x\ny #} b\nc\n", "a {# x\ny #} b‹2\nc‹3\n");
        check("{{ '}}\n' }}\nb\n", "{{ '}}\n' }}‹2\nb‹3\n");
        check("a\r\nb", "a‹1\r\nb‹2");
        check("{% raw %}\n{{\n{% endraw %}\n", "{% raw %}‹1\n{{\n{% endraw %}\n");
    }

    #[test]
    fn whitespace_control_and_values_are_left_alone() {
        check("a\n{%- if x -%}\n\nb\n{% endif %}\n", "a\n{%- if x -%}\n\nb‹4\n{% endif %}‹5\n");
        check("{% set x %}\na\n{% endset %}\nb\n", "{% set x %}\na\n{% endset %}‹3\nb‹4\n");
        check(
            "{% set x = 1 %}\n{% macro f() %}\na\n{% endmacro %}\n",
            "{% set x = 1 %}‹1\n{% macro f() %}\na\n{% endmacro %}‹4\n",
        );
    }

    #[test]
    fn lines_without_a_mark_take_the_next() {
        let mut text = String::from("a");
        put_mark(&mut text, 3);
        text.push_str("\nb\nc\n");
        put_mark(&mut text, 17);
        text.push_str("\nd");
        assert_eq!(unmarked(&text), Rendered { text: "a\nb\nc\n\nd".to_owned(), lines: vec![3, 17, 17, 17, 17] });
    }
}
