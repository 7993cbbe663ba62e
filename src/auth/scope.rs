//! API scopes: which endpoints a caller may use (`http-api.md` §3).

use std::fmt;

use super::AuthError;

/// What an endpoint declares that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// GraphQL.
    Graphql,
    /// The description of the model.
    Meta,
    /// Rows.
    Data,
    /// The SQL that would run.
    Sql,
    /// Builds of rollups. Closed by default.
    Jobs,
    /// All rows of a query, without a limit: our own, closed by default.
    Export,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Graphql, Self::Meta, Self::Data, Self::Sql, Self::Jobs, Self::Export];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Graphql => "graphql",
            Self::Meta => "meta",
            Self::Data => "data",
            Self::Sql => "sql",
            Self::Jobs => "jobs",
            Self::Export => "export",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scopes that callers have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Default for Scopes {
    /// All but `jobs` and `export`.
    fn default() -> Self {
        Self(vec![Scope::Graphql, Scope::Meta, Scope::Data, Scope::Sql])
    }
}

impl Scopes {
    /// From words; blanks around them do not matter, and words that are no scope open nothing.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self(words.into_iter().filter_map(|word| Scope::parse(word.trim())).collect())
    }

    /// The words on the wire.
    pub fn words(&self) -> Vec<&'static str> {
        self.0.iter().map(|scope| scope.as_str()).collect()
    }

    /// Lets an endpoint's callers in.
    ///
    /// # Errors
    /// [`AuthError::Scope`] when the scope is not among these.
    pub fn check(&self, needed: Scope) -> Result<(), AuthError> {
        if self.0.contains(&needed) { Ok(()) } else { Err(AuthError::Scope(needed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_exports_are_closed_by_default() {
        let scopes = Scopes::default();
        let closed = [Scope::Jobs, Scope::Export];
        assert!(Scope::ALL.into_iter().all(|scope| scopes.check(scope).is_ok() != closed.contains(&scope)));
        assert_eq!(scopes.check(Scope::Export).expect_err("closed").to_string(), "API scope is missing: export");
        assert_eq!(scopes.check(Scope::Jobs).expect_err("closed").to_string(), "API scope is missing: jobs");
    }

    #[test]
    fn words_are_trimmed_and_strangers_ignored() {
        let scopes = Scopes::from_words(["meta", " data ", "everything", ""]);
        assert_eq!(scopes, Scopes(vec![Scope::Meta, Scope::Data]));
        assert!(scopes.check(Scope::Sql).is_err());
    }
}
