//! How members are described alike in metadata and annotations: types, formats, links (`http-api.md` §5.11, §7.3).

use serde_json::{Value, json};

use crate::model::format::{FormatOf, named_specifier};
use crate::model::{DataType, Dimension, DimensionKind, Measure, MemberId, Model};

/// A member's display properties.
pub(super) struct Shown {
    /// `format`.
    pub(super) format: Option<Value>,
    /// `formatDescription`.
    pub(super) description: Option<Value>,
    /// `currency`.
    pub(super) currency: Option<Value>,
}

impl Shown {
    pub(super) fn of_measure(measure: &Measure) -> Self {
        let of = FormatOf::Measure(measure.kind.data_type());
        Self::new(of, measure.format.as_ref(), measure.shown.currency.as_deref())
    }

    pub(super) fn of_dimension(dimension: &Dimension) -> Self {
        let of = FormatOf::Dimension(dimension.data_type);
        Self::new(of, dimension.format.as_ref(), dimension.shown.currency.as_deref())
    }

    fn new(of: FormatOf, written: Option<&Value>, currency: Option<&str>) -> Self {
        let format = written.map(|written| shown_format(of, written));
        let description = description(of.data_type(), format.as_ref(), currency);
        Self { format, description, currency: currency.map(Value::from) }
    }
}

/// A format as clients see it: words and links as written, the rest taken apart.
fn shown_format(of: FormatOf, written: &Value) -> Value {
    let Some(text) = written.as_str() else { return written.clone() };
    if let Some(specifier) = named_specifier(text) {
        return json!({"type": "custom-numeric", "value": specifier, "alias": text});
    }
    match (of, of.data_type()) {
        _ if of.keeps(text) => written.clone(),
        (_, DataType::Time) => json!({"type": "custom-time", "value": text}),
        (FormatOf::Measure(_), _) | (_, DataType::Number) => json!({"type": "custom-numeric", "value": text}),
        (FormatOf::Dimension(_), DataType::String | DataType::Boolean) => written.clone(),
    }
}

/// `formatDescription`: how a front end writes numbers (d3 notation).
fn description(data_type: DataType, format: Option<&Value>, currency: Option<&str>) -> Option<Value> {
    if data_type != DataType::Number {
        return None;
    }
    let custom = format.filter(|format| format["type"] == "custom-numeric");
    let (name, specifier) = match (custom, format.and_then(Value::as_str)) {
        (Some(custom), _) => {
            (custom["alias"].as_str().unwrap_or("custom"), custom["value"].as_str().unwrap_or_default())
        }
        (None, Some("percent")) => ("percent", ".2~%"),
        (None, Some("currency")) => ("currency", "$,.2~f"),
        (None, _) => ("number", ",.2~f"),
    };
    let mut description = json!({"name": name, "specifier": specifier});
    if let Some(currency) = currency {
        description["currency"] = json!(currency);
    }
    Some(description)
}

/// The type of a dimension: that of its values, or `geo`.
pub(super) fn dimension_type(model: &Model, dimension: &Dimension) -> &'static str {
    match &dimension.kind {
        DimensionKind::Geo { .. } => "geo",
        DimensionKind::Sql(sql) => match sql.as_member() {
            Some(MemberId::Dimension(source)) if model.cube(dimension.id.cube).view().is_some() => {
                dimension_type(model, model.dimension(source))
            }
            _ => dimension.data_type.as_str(),
        },
        _ => dimension.data_type.as_str(),
    }
}

/// Links of a dimension, without what only the model needs.
pub(super) fn links(written: &Value) -> Value {
    let link = |written: &Value| {
        let mut link = json!({});
        for key in ["name", "label", "dashboard", "icon", "target", "primary"] {
            if let Some(value) = written.get(key) {
                link[key] = value.clone();
            }
        }
        let keys = written.get("params").and_then(Value::as_array).into_iter().flatten();
        let keys: Vec<&Value> = keys.filter_map(|param| param.get("key")).collect();
        if !keys.is_empty() {
            link["params"] = json!(keys);
        }
        link
    };
    written.as_array().into_iter().flatten().map(link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(of: FormatOf, written: &Value, format: &Value, description: Option<(&str, &str)>) {
        let shown = Shown::new(of, Some(written), None);
        assert_eq!(shown.format.as_ref(), Some(format), "{written}");
        let description = description.map(|(name, specifier)| json!({"name": name, "specifier": specifier}));
        assert_eq!(shown.description, description, "{written}");
    }

    #[test]
    fn formats_are_shown_as_observed() {
        let number = [FormatOf::Measure(DataType::Number), FormatOf::Dimension(DataType::Number)];
        for of in number {
            check(of, &json!("percent"), &json!("percent"), Some(("percent", ".2~%")));
            check(of, &json!("currency"), &json!("currency"), Some(("currency", "$,.2~f")));
            let abbr = json!({"type": "custom-numeric", "value": ".2~s", "alias": "abbr"});
            check(of, &json!("abbr"), &abbr, Some(("abbr", ".2~s")));
            let id = json!({"type": "custom-numeric", "value": ".0f", "alias": "id"});
            check(of, &json!("id"), &id, Some(("id", ".0f")));
            let d3 = json!({"type": "custom-numeric", "value": "+.1f"});
            check(of, &json!("+.1f"), &d3, Some(("custom", "+.1f")));
        }
        let time = json!({"type": "custom-time", "value": "%Y"});
        check(FormatOf::Dimension(DataType::Time), &json!("%Y"), &time, None);
        check(FormatOf::Dimension(DataType::String), &json!("link"), &json!("link"), None);
        let link = json!({"type": "link", "label": "L"});
        check(FormatOf::Dimension(DataType::String), &link, &link, None);
    }

    #[test]
    fn the_currency_is_told_with_every_format() {
        let of = FormatOf::Measure(DataType::Number);
        let shown = Shown::new(of, None, Some("EUR"));
        assert_eq!(shown.description, Some(json!({"name": "number", "specifier": ",.2~f", "currency": "EUR"})));
        assert_eq!(shown.currency, Some(json!("EUR")));
    }

    #[test]
    fn links_lose_their_inside() {
        let written =
            json!([{"name": "a", "label": "A", "url": "x", "params": [{"key": "k", "value": "v"}], "icon": "i"}]);
        assert_eq!(links(&written), json!([{"name": "a", "label": "A", "icon": "i", "params": ["k"]}]));
    }
}
