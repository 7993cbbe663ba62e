//! Access policies and masks (`data-model.md` §10).

use super::cube::MemberId;
use super::expression::Expr;
use super::template::Template;

/// What a member shows to those who may not see its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// A text.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// A truth value.
    Boolean(bool),
    /// An expression; of a measure: aggregated.
    Sql(Template),
}

/// An entry of `access_policy`.
#[derive(Debug, Clone)]
pub struct Policy {
    /// It applies to users in one of these groups; `*` is everyone.
    pub groups: Vec<String>,
    /// All must be true of the security context.
    pub conditions: Vec<Expr>,
    /// Members that it grants; none when it does not say.
    pub members: Option<MemberSet>,
    /// Members that it grants masked; none when it does not say.
    pub masked: Option<MemberSet>,
    /// The rows that it grants; all when none.
    pub rows: Option<Vec<RowFilter>>,
}

impl Policy {
    /// Whether it grants the member, masked or not (`data-model.md` §10.3 rule 1).
    pub fn grants(&self, member: MemberId) -> bool {
        match (&self.members, &self.masked) {
            (None, None) => true,
            (members, masked) => [members, masked].into_iter().flatten().any(|set| set.contains(member)),
        }
    }

    /// Whether it grants the member's own value.
    pub fn grants_unmasked(&self, member: MemberId) -> bool {
        match (&self.members, &self.masked) {
            (None, None) => true,
            (members, _) => members.as_ref().is_some_and(|set| set.contains(member)),
        }
    }
}

/// Some of a cube's members.
#[derive(Debug, Clone, Default)]
pub struct MemberSet {
    /// These; all when none.
    pub includes: Option<Vec<MemberId>>,
    /// But not these.
    pub excludes: Vec<MemberId>,
}

impl MemberSet {
    /// Whether the member is in it.
    pub fn contains(&self, member: MemberId) -> bool {
        self.includes.as_ref().is_none_or(|set| set.contains(&member)) && !self.excludes.contains(&member)
    }
}

/// A condition on rows.
#[derive(Debug, Clone)]
pub enum RowFilter {
    /// All must hold.
    And(Vec<RowFilter>),
    /// One must hold.
    Or(Vec<RowFilter>),
    /// One condition.
    Leaf {
        /// A dimension or measure of the cube.
        member: MemberId,
        /// The operator's word, checked.
        operator: String,
        /// Values: expressions over the security context; none when the operator needs none.
        values: Option<Vec<Expr>>,
    },
}
