//! The rows of a stored partition in another order, or put together by fewer columns (`pre-aggregations.md` §2.4).

use super::quote;
use super::rollup::merged_state;
use crate::model::Model;
use crate::preagg::indexes::IndexCopy;
use crate::preagg::layout;

/// The statement that gives the rows of a copy, sorted as it is; `table` stands for the partition after FROM.
pub fn copy_statement(model: &Model, copy: &IndexCopy, table: &str) -> String {
    let keys: Vec<String> = copy.sort_by.iter().map(|column| quote(column)).collect();
    let (columns, groups) = match &copy.states {
        None => ("*".to_owned(), String::new()),
        Some(states) => {
            let states = states.iter().map(|(measure, state)| {
                let column = quote(&layout::state_column(model, *measure, *state));
                format!("{} AS {column}", merged_state(*state, &column))
            });
            let columns: Vec<String> = keys.iter().cloned().chain(states).collect();
            (columns.join(", "), format!(" GROUP BY {}", keys.join(", ")))
        }
    };
    let order: Vec<String> = keys.iter().map(|key| format!("{key} ASC NULLS FIRST")).collect();
    let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
    format!("SELECT {columns} FROM {table}{groups}{order}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PreaggId;
    use crate::preagg::indexes::copies;
    use crate::query::sample;

    #[test]
    fn a_copy_is_sorted_and_its_states_are_merged() {
        let model = sample::model();
        let cubes = model.cubes().iter();
        let preagg = cubes.flat_map(|cube| &cube.preaggs).find(|preagg| !preagg.measures.is_empty()).expect("a rollup");
        let id: PreaggId = preagg.id;
        assert!(copies(&model, id).is_empty());
        let states = preagg
            .measures
            .iter()
            .flat_map(|id| layout::states(&model.measure(*id).kind).iter().map(move |state| (*id, *state)));
        let grouped =
            IndexCopy { index: "i".to_owned(), sort_by: vec!["a".to_owned()], states: Some(states.take(1).collect()) };
        let sql = copy_statement(&model, &grouped, "t");
        assert!(
            sql.starts_with("SELECT \"a\", ") && sql.ends_with(" FROM t GROUP BY \"a\" ORDER BY \"a\" ASC NULLS FIRST"),
            "{sql}"
        );
        let sorted = IndexCopy { sort_by: vec!["b".to_owned(), "a".to_owned()], states: None, ..grouped };
        assert_eq!(
            copy_statement(&model, &sorted, "t"),
            "SELECT * FROM t ORDER BY \"b\" ASC NULLS FIRST, \"a\" ASC NULLS FIRST"
        );
    }
}
