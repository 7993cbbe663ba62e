//! Display formats of members: which are legal, and what named ones stand for (`data-model.md` §5.2, §12.3).

use serde_json::Value as Json;

use super::cube::DataType;

/// What a format is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatOf {
    /// A measure of that type.
    Measure(DataType),
    /// A dimension of that type.
    Dimension(DataType),
}

/// The words that stay as they are for dimensions.
const DIMENSION_WORDS: [&str; 6] = ["imageUrl", "link", "currency", "percent", "number", "id"];
/// The words that stay as they are for measures.
const MEASURE_WORDS: [&str; 3] = ["percent", "currency", "number"];
/// Named numeric formats; each also with `_0` to `_6`, the number of decimals.
const NAMED: [&str; 6] = ["number", "percent", "currency", "decimal", "abbr", "accounting"];
/// Types of d3's numeric formats.
const NUMERIC_TYPES: &str = "efgrs%pbodxXcn";
/// Codes of currencies (ISO 4217), those that were given up lately among them.
const CURRENCIES: &str = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN \
    BZD CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD \
    FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS \
    KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN \
    MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR \
    SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD \
    USN UYI UYU UYW UZS VED VES VND VUV WST XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU \
    XTS XUA XXX YER ZAR ZMW ZWG ZWL";
/// Letters of strftime, and d3's own.
const TIME_LETTERS: &str = "aAbBcdefgGHIjLmMpqQsSuUVwWxXyYzZ%";

impl FormatOf {
    /// Whether a word is shown as it stands.
    pub fn keeps(self, word: &str) -> bool {
        match self {
            Self::Measure(_) => MEASURE_WORDS.contains(&word),
            Self::Dimension(_) => DIMENSION_WORDS.contains(&word),
        }
    }

    /// The type of the values.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Measure(data_type) | Self::Dimension(data_type) => data_type,
        }
    }

    /// What is wrong with a format, if anything.
    pub fn fault(self, format: &Json) -> Option<String> {
        let text = match format {
            Json::String(text) => text,
            Json::Object(link) if matches!(self, Self::Dimension(_)) => {
                let is_link = link.get("type").and_then(Json::as_str) == Some("link");
                let has_label = link.get("label").is_some_and(Json::is_string) && link.len() == 2;
                return (!is_link || !has_label)
                    .then(|| format!("(format = {format}) must be a text, or a map with 'type: link' and 'label'"));
            }
            other => return Some(format!("(format = {other}) must be a text")),
        };
        if self.keeps(text) {
            return None;
        }
        match self {
            Self::Measure(DataType::Time) | Self::Dimension(DataType::Time) => time_fault(text),
            Self::Measure(_) | Self::Dimension(DataType::Number) => numeric_fault(text),
            Self::Dimension(DataType::String | DataType::Boolean) => {
                Some(format!("(format = {text}) must be one of [{}]", DIMENSION_WORDS.join(", ")))
            }
        }
    }
}

/// Whether a text is the code of a currency; case does not matter.
pub(super) fn is_currency(code: &str) -> bool {
    CURRENCIES.split(' ').any(|known| known.eq_ignore_ascii_case(code))
}

/// The d3 specifier of a named numeric format, such as `abbr` or `percent_1`; none for other texts.
pub fn named_specifier(name: &str) -> Option<String> {
    match name {
        "id" => return Some(".0f".to_owned()),
        "abbr" | "accounting" | "decimal" => return named_specifier(&format!("{name}_2")),
        _ => {}
    }
    let (name, digits) = name.rsplit_once('_')?;
    if !matches!(digits, "0" | "1" | "2" | "3" | "4" | "5" | "6") {
        return None;
    }
    Some(match name {
        "number" | "decimal" => format!(",.{digits}~f"),
        "percent" => format!(".{digits}~%"),
        "currency" => format!("$,.{digits}~f"),
        "abbr" => format!(".{digits}~s"),
        "accounting" => format!("(,.{digits}~f"),
        _ => return None,
    })
}

fn numeric_fault(text: &str) -> Option<String> {
    if named_specifier(text).is_some() {
        return None;
    }
    let is_word = text.len() > 1 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_word && text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Some(format!(
            "\"{text}\" is not a valid named numeric format. It is one of id, {}, or one of these with _0 to _6",
            NAMED.join(", ")
        ));
    }
    let why = match numeric_parts(text) {
        Some((true, Some(letter))) if !NUMERIC_TYPES.contains(letter) => {
            format!("Unknown type character '{letter}'")
        }
        Some((true, _)) => return None,
        Some((false, _)) => "It says nothing".to_owned(),
        None => "It must be a specifier of d3-format, like \".2f\", \"$,.2f\" or \".0%\"".to_owned(),
    };
    Some(format!("Invalid numeric format \"{text}\". {why}"))
}

/// Reads `[[fill]align][sign][symbol][0][width][,][.precision][~][type]`: whether it says more than how to align, and
/// its type; none when it is something else.
fn numeric_parts(text: &str) -> Option<(bool, Option<char>)> {
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    let chars: Vec<char> = text.chars().collect();
    let mut rest = match () {
        () if is_align(chars.get(1)) => &chars[2..],
        () if is_align(chars.first()) => &chars[1..],
        () => &chars[..],
    };
    let says_more = !rest.is_empty();
    for set in ["+-( ", "$#", "0"] {
        if rest.first().is_some_and(|c| set.contains(*c)) {
            rest = &rest[1..];
        }
    }
    let skip_digits = |rest: &mut &[char]| {
        let digits = rest.iter().take_while(|c| c.is_ascii_digit()).count();
        *rest = &rest[digits..];
        digits
    };
    skip_digits(&mut rest);
    rest = rest.strip_prefix(&[',']).unwrap_or(rest);
    if let Some(precision) = rest.strip_prefix(&['.']) {
        rest = precision;
        if skip_digits(&mut rest) == 0 {
            return None;
        }
    }
    rest = rest.strip_prefix(&['~']).unwrap_or(rest);
    match rest {
        [] => Some((says_more, None)),
        [letter] if letter.is_ascii_alphabetic() || *letter == '%' => Some((says_more, Some(*letter))),
        _ => None,
    }
}

fn time_fault(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let mut says_something = false;
    while let Some(c) = chars.next() {
        if c != '%' {
            continue;
        }
        let mut letter = chars.next();
        // How to pad.
        if matches!(letter, Some('-' | '_' | '0')) {
            letter = chars.next();
        }
        match letter {
            None => return Some(format!("Invalid time format \"{text}\". It ends within a specifier")),
            Some(letter) if !TIME_LETTERS.contains(letter) => {
                return Some(format!("Invalid time format \"{text}\". Unknown specifier '%{letter}'"));
            }
            Some(letter) => says_something |= letter != '%',
        }
    }
    (!says_something)
        .then(|| format!("Invalid time format \"{text}\". It needs a specifier of strftime, like %Y, %m or %d"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(of: FormatOf, good: &[&str], bad: &[(&str, &str)]) {
        for text in good {
            assert_eq!(of.fault(&json!(text)), None, "{text}");
        }
        for (text, start) in bad {
            let fault = of.fault(&json!(text)).unwrap_or_default();
            assert!(fault.starts_with(start) && !start.is_empty(), "{text}: {fault}");
        }
    }

    #[test]
    fn numbers_take_names_and_specifiers() {
        let good = [
            "percent",
            "currency",
            "number",
            "abbr",
            "id",
            "accounting_0",
            "number_6",
            "decimal",
            ".2f",
            ",.0f",
            "$,.2f",
            ".0%",
            ".2~s",
            "d",
            "*<10",
            "^12,",
            "+.3e",
            "(,.2f",
            "#x",
            "010d",
            "~s",
            " ",
        ];
        let bad = [
            ("number_7", "\"number_7\" is not a valid named numeric format. "),
            ("procent", "\"procent\" is not a valid named numeric format. "),
            (".f", "Invalid numeric format \".f\". "),
            ("", "Invalid numeric format \"\". "),
            ("<", "Invalid numeric format \"<\". "),
            (".2q", "Invalid numeric format \".2q\". Unknown type character 'q'"),
            ("%Y", "Invalid numeric format \"%Y\". "),
            ("é", "Invalid numeric format \"é\". "),
        ];
        check(FormatOf::Measure(DataType::Number), &good, &bad);
        check(FormatOf::Dimension(DataType::Number), &good, &bad);
        check(FormatOf::Dimension(DataType::Number), &["link", "imageUrl"], &[]);
        check(FormatOf::Measure(DataType::Number), &[], &[("imageUrl", "\"imageUrl\" is not a valid named")]);
    }

    #[test]
    fn times_take_strftime() {
        let of = FormatOf::Dimension(DataType::Time);
        let bad = [
            ("yyyy", "Invalid time format \"yyyy\". "),
            ("100%%", "Invalid time format \"100%%\". "),
            ("%Y-%", "Invalid time format \"%Y-%\". "),
            ("%Y %k", "Invalid time format \"%Y %k\". Unknown specifier '%k'"),
        ];
        check(of, &["%Y-%m-%d", "Q%q", "%-d. %b", "100%% %H", "number"], &bad);
    }

    #[test]
    fn other_dimensions_take_words_and_links() {
        let of = FormatOf::Dimension(DataType::String);
        check(
            of,
            &["link", "imageUrl", "id"],
            &[("abbr", "(format = abbr) must be one of [imageUrl, "), (".2f", "(format = ")],
        );
        assert_eq!(of.fault(&json!({"type": "link", "label": "L"})), None);
        for bad in [json!({"type": "link"}), json!({"type": "x", "label": "L"}), json!(7), json!([])] {
            assert!(of.fault(&bad).is_some(), "{bad}");
        }
        assert!(FormatOf::Measure(DataType::Number).fault(&json!({"type": "link", "label": "L"})).is_some());
    }

    #[test]
    fn currencies_are_those_of_iso_4217() {
        for good in ["EUR", "usd", "ZWL", "AED"] {
            assert!(is_currency(good), "{good}");
        }
        for bad in ["", "EU", "EURO", "ABC", " EUR", "AED AFN"] {
            assert!(!is_currency(bad), "{bad}");
        }
    }

    #[test]
    fn names_stand_for_specifiers() {
        for (name, specifier) in [
            ("abbr", Some(".2~s")),
            ("id", Some(".0f")),
            ("number_2", Some(",.2~f")),
            ("percent_0", Some(".0~%")),
            ("currency_1", Some("$,.1~f")),
            ("accounting", Some("(,.2~f")),
            ("number", None),
            ("percent", None),
            ("id_2", None),
            ("number_10", None),
        ] {
            assert_eq!(named_specifier(name).as_deref(), specifier, "{name}");
        }
    }
}
