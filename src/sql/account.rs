//! What a statement would do, line by line: `EXPLAIN`.

use super::relation::{Column, Relation};
use super::{Bound, SqlError, SqlService, Work};
use crate::query::execute::SqlPreview;

impl SqlService {
    /// Where the rows of a statement would come from, and what would be done with them; nothing is asked.
    ///
    /// # Errors
    /// See [`SqlError`].
    pub async fn account(&self, bound: &Bound) -> Result<Vec<String>, SqlError> {
        let (plan, leaves) = match &bound.work {
            Work::Question(relation) => return self.question(bound, relation, &relation.columns).await,
            Work::Above(plan, leaves) => (plan, leaves),
        };
        let mut lines: Vec<String> = plan.display_indent().to_string().lines().map(str::to_owned).collect();
        for (leaf, columns) in leaves.iter().zip(self.needed(bound, plan, leaves).await?) {
            let Some(columns) = columns else { continue };
            let wanted: Vec<Column> = columns.iter().filter_map(|at| leaf.columns.get(*at).copied()).collect();
            lines.extend(self.question(bound, &leaf.relation, &wanted).await?);
        }
        Ok(lines)
    }

    /// A question: who answers it, and the statement.
    async fn question(&self, bound: &Bound, relation: &Relation, wanted: &[Column]) -> Result<Vec<String>, SqlError> {
        let preview = self.preview_of(bound, relation, wanted).await?;
        let mut lines = vec![format!("Question answered by {}", origin(&preview))];
        lines.extend(preview.text.lines().map(|line| format!("  {line}")));
        for (at, value) in preview.params.iter().enumerate() {
            lines.push(format!("  ${} = '{value}'", at + 1));
        }
        Ok(lines)
    }
}

fn origin(preview: &SqlPreview) -> String {
    let rollups: Vec<&str> = preview.used.iter().map(|used| used.id.as_str()).collect();
    let source = format!("the source '{}'", preview.data_source);
    match (rollups.as_slice(), preview.from_source.is_empty()) {
        ([], _) => source,
        (rollups, true) => format!("stored rows of {}", rollups.join(", ")),
        (rollups, false) => format!("stored rows of {}, and {source}", rollups.join(", ")),
    }
}
