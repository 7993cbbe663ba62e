//! What a client asks, in the shape of Cube's query format but with names still text
//! (`http-api.md` §5.2). [`crate::api`] makes it from JSON; [`super::normalize`] gives it meaning.

use crate::time::Zone;

/// A query object of a request: well formed, nothing resolved.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// Measure names; none when the key is absent (it is echoed so).
    pub measures: Option<Vec<String>>,
    /// Names `cube.member` or `cube.member.granularity`.
    pub dimensions: Vec<String>,
    /// Segment names; none when the key is absent.
    pub segments: Option<Vec<String>>,
    /// Filters; all must hold.
    pub filters: Vec<FilterNode>,
    /// Conditions of the server beside those of the client, whose members need nobody's leave.
    pub imposed: Vec<FilterNode>,
    /// Time dimensions.
    pub time_dimensions: Vec<TimeDimensionRequest>,
    /// Order; none when the key is absent (the default order applies), empty when empty (no order).
    pub order: Option<Vec<OrderRequest>>,
    /// Row limit.
    pub limit: Option<u64>,
    /// Rows to skip; none when the key is absent.
    pub offset: Option<u64>,
    /// Whether the total is wanted; none when the key is absent.
    pub total: Option<bool>,
    /// Zone; the default when absent.
    pub timezone: Option<Zone>,
    /// Raw rows; none when the key is absent.
    pub ungrouped: Option<bool>,
    /// Shape of the rows.
    pub response_format: Option<ResponseFormat>,
    /// How fresh the answer must be; none when neither the query nor the request beside it says.
    pub cache: Option<CacheMode>,
    /// Paths of cube names that the joins must follow, before those of the members.
    pub join_hints: Vec<Vec<String>>,
}

/// `timeDimensions[i]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TimeDimensionRequest {
    /// `cube.member`.
    pub dimension: String,
    /// The granularity's name.
    pub granularity: Option<String>,
    /// The range as sent.
    pub date_range: Option<DateRange>,
    /// `compareDateRange` as sent.
    pub compare_date_range: Option<Vec<DateRange>>,
}

/// A date range as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DateRange {
    /// One text: a date, or words such as `last week`.
    Text(String),
    /// One or two texts: start and end, both inclusive.
    Bounds(Vec<String>),
}

/// An entry of `order`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRequest {
    /// `cube.member`, `cube.member.granularity` or any other text (which matches nothing).
    pub member: String,
    /// Greatest first.
    pub descending: bool,
}

/// An element of `filters`.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterNode {
    /// One condition.
    Leaf(FilterLeaf),
    /// `{"and": […]}`.
    And(Vec<FilterNode>),
    /// `{"or": […]}`.
    Or(Vec<FilterNode>),
}

/// A condition that a model gives in the query's own format. Values are texts; numbers and booleans are taken as
/// written.
///
/// # Errors
/// It is no condition.
pub fn filter_node(json: &serde_json::Value) -> Result<FilterNode, super::QueryError> {
    use serde_json::Value as Json;
    let invalid = |what: &str| super::QueryError::Model(format!("a condition of the model {what}: {json}"));
    for (key, make) in [("and", FilterNode::And as fn(Vec<FilterNode>) -> FilterNode), ("or", FilterNode::Or)] {
        if let Some(Json::Array(parts)) = json.get(key) {
            return Ok(make(parts.iter().map(filter_node).collect::<Result<_, _>>()?));
        }
    }
    let member = json.get("member").and_then(Json::as_str).ok_or_else(|| invalid("names no member"))?;
    let operator = json.get("operator").and_then(Json::as_str).and_then(Operator::parse);
    let value = |value: &Json| match value {
        Json::Null => None,
        Json::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let values = json.get("values").and_then(Json::as_array).map(|list| list.iter().map(value).collect());
    Ok(FilterNode::Leaf(FilterLeaf {
        member: member.to_owned(),
        operator: operator.ok_or_else(|| invalid("has no known operator"))?,
        values,
    }))
}

impl FilterNode {
    /// The JSON it is echoed as.
    pub fn to_json(&self) -> serde_json::Value {
        let group = |key: &str, children: &[Self]| {
            let children = children.iter().map(Self::to_json).collect();
            serde_json::Value::Object([(key.to_owned(), serde_json::Value::Array(children))].into_iter().collect())
        };
        match self {
            Self::Leaf(leaf) => leaf.to_json(),
            Self::And(children) => group("and", children),
            Self::Or(children) => group("or", children),
        }
    }
}

/// One condition of `filters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterLeaf {
    /// `cube.member`.
    pub member: String,
    /// The operator.
    pub operator: Operator,
    /// Values as texts, null kept; none when the key is absent.
    pub values: Option<Vec<Option<String>>>,
}

impl FilterLeaf {
    /// The JSON it is echoed as.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({ "member": self.member, "operator": self.operator.as_str() });
        if let Some(values) = &self.values {
            json["values"] = serde_json::json!(values);
        }
        json
    }
}

/// Filter operators (`http-api.md` §5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named as on the wire")]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Contains,
    NotContains,
    StartsWith,
    NotStartsWith,
    EndsWith,
    NotEndsWith,
    Gt,
    Gte,
    Lt,
    Lte,
    Set,
    NotSet,
    InDateRange,
    NotInDateRange,
    OnTheDate,
    BeforeDate,
    BeforeOrOnDate,
    AfterDate,
    AfterOrOnDate,
    MeasureFilter,
}

impl Operator {
    /// Every operator with its word on the wire.
    pub const ALL: [(&'static str, Self); 24] = [
        ("equals", Self::Equals),
        ("notEquals", Self::NotEquals),
        ("in", Self::In),
        ("notIn", Self::NotIn),
        ("contains", Self::Contains),
        ("notContains", Self::NotContains),
        ("startsWith", Self::StartsWith),
        ("notStartsWith", Self::NotStartsWith),
        ("endsWith", Self::EndsWith),
        ("notEndsWith", Self::NotEndsWith),
        ("gt", Self::Gt),
        ("gte", Self::Gte),
        ("lt", Self::Lt),
        ("lte", Self::Lte),
        ("set", Self::Set),
        ("notSet", Self::NotSet),
        ("inDateRange", Self::InDateRange),
        ("notInDateRange", Self::NotInDateRange),
        ("onTheDate", Self::OnTheDate),
        ("beforeDate", Self::BeforeDate),
        ("beforeOrOnDate", Self::BeforeOrOnDate),
        ("afterDate", Self::AfterDate),
        ("afterOrOnDate", Self::AfterOrOnDate),
        ("measureFilter", Self::MeasureFilter),
    ];

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, operator)| operator)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, operator)| *operator == self).map_or("", |(name, _)| name)
    }
}

/// `cache`: how fresh an answer must be (`http-api.md` §5.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// A stale answer only when a fresh one takes too long.
    #[default]
    StaleIfSlow,
    /// A stale answer at once; a fresh one is made behind it.
    StaleWhileRevalidate,
    /// A fresh answer.
    MustRevalidate,
    /// An answer that was kept is not even looked at.
    NoCache,
}

impl CacheMode {
    /// Every mode, in the order of Cube's texts.
    pub const ALL: [Self; 4] = [Self::StaleIfSlow, Self::StaleWhileRevalidate, Self::MustRevalidate, Self::NoCache];

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaleIfSlow => "stale-if-slow",
            Self::StaleWhileRevalidate => "stale-while-revalidate",
            Self::MustRevalidate => "must-revalidate",
            Self::NoCache => "no-cache",
        }
    }
}

/// `responseFormat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseFormat {
    /// Rows as objects.
    #[default]
    Default,
    /// `members` and rows as arrays.
    Compact,
    /// `members` and one array a column.
    Columnar,
}
