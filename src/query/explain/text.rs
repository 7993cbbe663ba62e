//! An explanation for people.

use std::fmt;

use super::{AnsweredBy, Chosen, Explanation, Level, Misfit, Verdict};
use crate::time::format_local;

/// Most partitions that are listed one by one.
const LISTED: usize = 6;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.levels.len() > 1;
        let rows = self.stored_rows.join(", ");
        match self.by {
            AnsweredBy::Rollups => writeln!(f, "answered by pre-aggregations")?,
            AnsweredBy::StoredRows => writeln!(f, "answered by the rows stored by {rows}")?,
            AnsweredBy::Source if rows.is_empty() => writeln!(f, "answered by the source")?,
            AnsweredBy::Source => writeln!(f, "answered by the source, and by the rows stored by {rows}")?,
        }
        if several && self.by != AnsweredBy::Rollups {
            writeln!(f, "(all parts of a query are answered alike, so that they show one state)")?;
        }
        for (number, level) in self.levels.iter().enumerate() {
            if several {
                writeln!(f, "\npart {}: {}", number + 1, level.columns.join(", "))?;
            }
            write!(f, "{level}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(chosen) = &self.chosen {
            write!(f, "{chosen}")?;
        }
        for Verdict { rollup, outcome } in &self.verdicts {
            match outcome {
                Ok(_) if self.chosen.as_ref().is_some_and(|chosen| chosen.rollup == *rollup) => {}
                Ok(rows) => writeln!(f, "  fits too  {rollup}: would read {rows} rows")?,
                Err(misfit) => write_misfit(f, rollup, misfit)?,
            }
        }
        if self.verdicts.is_empty() {
            writeln!(f, "  no pre-aggregation is defined in the query's cubes")?;
        }
        if let Some(suggestion) = &self.suggestion {
            writeln!(f, "  this pre-aggregation would fit:")?;
            suggestion.lines().try_for_each(|line| writeln!(f, "      {line}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = if self.exact { ", one stored row a group" } else { "" };
        writeln!(f, "  uses      {} of zone {}{exact}", self.rollup, self.zone)?;
        let (count, before, after) = (self.partitions.len(), self.rows_before, self.rows_after);
        writeln!(f, "            {count} partition(s), {after} of {before} rows")?;
        let buckets = self.partitions.iter().flatten();
        for bucket in buckets.clone().take(LISTED) {
            writeln!(f, "              {} to {}", format_local(bucket.start), format_local(bucket.end - 1))?;
        }
        if count > LISTED && buckets.clone().next().is_some() {
            writeln!(f, "              and {} more", count - LISTED)?;
        }
        for copy in &self.copies {
            let kind = if copy.aggregate { "with rows put together" } else { "in another order" };
            writeln!(f, "            or the copy {}, {kind}: {} rows", copy.index, copy.rows)?;
        }
        writeln!(f, "            why: {}", self.why)
    }
}

fn write_misfit(f: &mut fmt::Formatter<'_>, rollup: &str, misfit: &Misfit) -> fmt::Result {
    writeln!(f, "  passes by {rollup}: {} [{}]", misfit.reason, misfit.reason.code())?;
    for edit in misfit.edits.iter().flatten() {
        let word = match edit.change {
            super::Change::Add => format!("add to {}:", edit.key),
            super::Change::Set => "set:".to_owned(),
        };
        match edit.yaml.lines().collect::<Vec<_>>().as_slice() {
            [line] => writeln!(f, "            {word} {line}")?,
            lines => {
                writeln!(f, "            {word}")?;
                lines.iter().try_for_each(|line| writeln!(f, "              {line}"))?;
            }
        }
    }
    match &misfit.remedy {
        Some(remedy) => writeln!(f, "            {remedy}"),
        None => Ok(()),
    }
}
