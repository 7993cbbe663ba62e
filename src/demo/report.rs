//! What the demo prints: sections, small tables, commands to try.

use std::io::{self, Write};

/// Writes to a terminal or a file.
pub(super) struct Report<W> {
    out: W,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// A line.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// An empty line and a heading.
    pub(super) fn section(&mut self, title: &str) -> io::Result<()> {
        writeln!(self.out, "\n== {title}")?;
        self.out.flush()
    }

    /// An aligned table; columns of numbers to the right.
    pub(super) fn table(&mut self, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| cell_width(&row[column]));
            cells.chain([cell_width(header[column])]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let numeric: Vec<bool> = (0..header.len()).map(|column| rows.iter().all(|r| is_number(&r[column]))).collect();
        let mut write_row = |cells: &[&str]| {
            let pad = |column: usize, text: &str| {
                let spaces = " ".repeat(widths[column].saturating_sub(cell_width(text)));
                if numeric[column] { format!("{spaces}{text}") } else { format!("{text}{spaces}") }
            };
            let cells: Vec<String> = cells.iter().enumerate().map(|(column, text)| pad(column, text)).collect();
            writeln!(self.out, "  {}", cells.join("  ").trim_end())
        };
        write_row(header)?;
        let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        write_row(&rules.iter().map(String::as_str).collect::<Vec<_>>())?;
        for row in rows {
            write_row(&row.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        self.out.flush()
    }
}

/// Cells a text takes on a terminal, as far as the demo's data go: East Asian letters take two.
fn cell_width(text: &str) -> usize {
    text.chars().map(|c| if ('\u{1100}'..='\u{115f}').contains(&c) || c >= '\u{2e80}' { 2 } else { 1 }).sum()
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches('-').trim_end_matches('%');
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b',')
}

/// Thousands in groups; the sign and the fraction stay as they are.
pub(super) fn group_digits(number: &str) -> String {
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

/// Cents of a decimal text with any number of digits after the point; none when it is no number or has
/// parts of a cent.
pub(super) fn parse_cents(text: &str) -> Option<i128> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (cents, rest) = fraction.split_at_checked(2).unwrap_or((fraction, ""));
    let all_digits = [whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()));
    if whole.is_empty() || !all_digits || rest.bytes().any(|b| b != b'0') {
        return None;
    }
    let cents: i128 = format!("{cents:0<2}").parse().ok()?;
    whole.parse::<i128>().ok()?.checked_mul(100)?.checked_add(cents)?.checked_mul(sign)
}

/// Cents as a decimal text with thousands in groups.
pub(super) fn format_cents(cents: i128) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    group_digits(&format!("{sign}{}.{:02}", cents / 100, cents % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_numbers_stand_right() {
        let mut out = Vec::new();
        let rows = [["東京", "1,234.50"], ["Zürich", "-7"]].map(|row| row.map(str::to_owned).to_vec());
        Report::new(&mut out).table(&["store", "revenue"], &rows).unwrap();
        let expected = "  store    revenue\n  ──────  ────────\n  東京    1,234.50\n  Zürich        -7\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[track_caller]
    fn check_group(number: &str, expected: &str) {
        assert_eq!(group_digits(number), expected);
    }

    #[test]
    fn digits_are_grouped_in_threes() {
        check_group("0", "0");
        check_group("999", "999");
        check_group("1000", "1,000");
        check_group("-1234567.8912", "-1,234,567.8912");
        check_group("100000", "100,000");
    }

    #[track_caller]
    fn check_cents(text: &str, expected: Option<i128>) {
        assert_eq!(parse_cents(text), expected, "{text}");
    }

    #[test]
    fn cents_are_read_exactly_or_not_at_all() {
        check_cents("12.34", Some(1234));
        check_cents("12.3", Some(1230));
        check_cents("12", Some(1200));
        check_cents("-0.05", Some(-5));
        check_cents("12.3400", Some(1234));
        check_cents("12.345", None);
        check_cents("", None);
        check_cents("1e3", None);
        check_cents("é.é", None);
        assert_eq!(format_cents(123_456_789), "1,234,567.89");
        assert_eq!(format_cents(-5), "-0.05");
    }
}
