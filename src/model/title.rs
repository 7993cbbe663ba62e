//! Titles of cubes and members that were given none (`data-model.md` §12.2).

/// Words that stay in lower case unless they come first.
const SMALL_WORDS: [&str; 22] = [
    "and", "or", "nor", "a", "an", "the", "so", "but", "to", "of", "at", "by", "from", "into", "on", "onto", "off",
    "out", "in", "over", "with", "for",
];

/// The title shown for an identifier: `created_at` → `Created at`, `salesURL` → `Sales Url`.
pub fn titleize(name: &str) -> String {
    let mut title = String::with_capacity(name.len() + 8);
    for word in words(name) {
        if !title.is_empty() {
            title.push(' ');
        }
        match word.as_str() {
            "id" => title.push_str("ID"),
            "ids" => title.push_str("IDs"),
            small if !title.is_empty() && SMALL_WORDS.contains(&small) => title.push_str(small),
            _ => push_capitalised(&mut title, &word),
        }
    }
    title
}

/// The lower-case words of an identifier. A word begins after separators, at a capital that follows a small
/// letter, at the last capital of an acronym that a word follows (`HTTPServer`), and at a letter that follows a
/// digit (`7d`). Digits never begin a word: `count_7d` is `count7`, `d`.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let is_separator = |c: char| matches!(c, '_' | '-' | '.' | ' ');
    let mut words: Vec<String> = Vec::new();
    for (i, &c) in chars.iter().enumerate().filter(|(_, c)| !is_separator(**c)) {
        let begins = match i.checked_sub(1).map(|before| chars[before]) {
            None => true,
            Some(before) if is_separator(before) => !c.is_ascii_digit(),
            Some(before) => {
                let word_follows = chars.get(i + 1).is_some_and(char::is_ascii_lowercase);
                let capital = c.is_ascii_uppercase()
                    && (before.is_ascii_lowercase() || (before.is_ascii_uppercase() && word_follows));
                capital || (before.is_ascii_digit() && c.is_ascii_alphabetic())
            }
        };
        match words.last_mut() {
            Some(word) if !begins => word.push(c.to_ascii_lowercase()),
            _ => words.push(c.to_ascii_lowercase().to_string()),
        }
    }
    words
}

fn push_capitalised(title: &mut String, word: &str) {
    let mut chars = word.chars();
    if let Some(first) = chars.next() {
        title.push(first.to_ascii_uppercase());
        title.push_str(chars.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, title: &str) {
        assert_eq!(titleize(name), title, "{name}");
    }

    #[test]
    fn titles_follow_the_observed_table() {
        check("count", "Count");
        check("line_items", "Line Items");
        check("created_at", "Created at");
        check("orders_by_month", "Orders by Month");
        check("count_7d", "Count7 D");
        check("x1y2", "X1 Y2");
        check("first2Go", "First2 Go");
        check("utm_source_2", "Utm Source2");
        check("orderID", "Order ID");
        check("user_id", "User ID");
        check("userId", "User ID");
        check("Ids", "IDs");
        check("XL", "Xl");
        check("salesURL", "Sales Url");
        check("HTTPServer", "Http Server");
        check("UPPER_CASE", "Upper Case");
        check("ipv4Address", "Ipv4 Address");
        check("of_the_day", "Of the Day");
        check("day_of_week", "Day of Week");
        check("big_or", "Big or");
        check("by", "By");
        check("_private", "Private");
    }

    #[test]
    fn odd_identifiers_have_titles_too() {
        check("", "");
        check("a", "A");
        check("_", "");
        check("__a__b__", "A B");
        check("_7", "7");
        check("7d", "7 D");
        check("name__double", "Name Double");
        check("id", "ID");
    }
}
