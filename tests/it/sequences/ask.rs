//! Asks the server, and holds every answer against what should be stored.

use std::collections::BTreeSet;

use quarry::time::{format_local, to_micros};
use serde_json::{Value, json};

use super::belief::{TableKey, WHOLE};
use super::oracle::{Groups, Question};
use super::origins::{Origin, Reader};
use super::play::Player;
use super::slices::rows_of;
use super::world::{Kind, Rollup, ZONES};

/// Times on the wire are whole milliseconds.
const MILLISECOND: i64 = 1_000;

impl Player<'_> {
    /// Every table answers for what it should hold, and only for that.
    pub(super) fn check_tables(&mut self) -> Result<(), String> {
        for zone in ZONES {
            for index in 0..self.world.rollups.len() {
                let key = (index, zone);
                if zone == ZONES[0] || self.belief.tables.contains_key(&key) {
                    self.check_table(key).map_err(|fault| format!("{fault}\nwhile looking at {key:?}"))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_table(&mut self, key: TableKey) -> Result<(), String> {
        let rollup = &self.world.rollups[key.0];
        let table = self.belief.tables.get(&key);
        let mut ranges = vec![None];
        match rollup.kind {
            Kind::Places | Kind::PlaceRows => return self.check_places(key),
            // They answer as a whole or not at all.
            Kind::Rows => {}
            Kind::Groups { .. } => {
                ranges.splice(0..0, table.map(|table| table.stretches(rollup)).into_iter().flatten().map(Some));
            }
        }
        for range in ranges {
            let question = Question { range, ..self.probe(key) };
            self.ask(&question, Some(key))?;
        }
        Ok(())
    }

    /// Asks for the versions in each partition of a table; for all that it holds while that is in doubt.
    pub(super) fn probe(&self, key: TableKey) -> Question {
        let rollup = &self.world.rollups[key.0];
        let own = [key.0];
        let tables = self.world.lambda_of(key.0).map_or(&own[..], |lambda| &lambda.layers);
        let in_doubt = tables
            .iter()
            .filter_map(|index| self.belief.tables.get(&(*index, key.1)))
            .any(|table| table.parts.values().any(|part| part.contents.len() > 1));
        if in_doubt && rollup.kind != Kind::Rows {
            return Question::about_all(rollup, key.1);
        }
        // Later layers are of finer partitions.
        let finest = tables.last().map_or(rollup, |index| &self.world.rollups[*index]);
        Question::new(&rollup.marks, finest.partition, key.1)
    }

    /// Asks; the answer must be that of the source as the used partitions were built from it. `only` is the table
    /// that must answer when it holds what is asked for: nothing else can, but a lambda that stands for it.
    pub(super) fn ask(&mut self, question: &Question, only: Option<TableKey>) -> Result<(), String> {
        let query = question.json();
        let reply = self.server().ask(&query);
        let context = |fault: String| format!("{fault}\nquery: {query}\nanswer: {}", reply.body);
        let origins = self.belief.origins(self.world, self.version(), question);
        let required = only.and_then(|key| self.required(key, &origins));
        if reply.status != 200 {
            let expected = self.is_spoiled() && self.may_read_fact(required, &origins);
            return if expected { Ok(()) } else { Err(context(format!("status {}", reply.status))) };
        }
        let answer = reply.value();
        let used = self.used(&answer).map_err(&context)?;
        let given = answer["data"].as_array().ok_or_else(|| context("no rows".to_owned()))?;
        let given = question.read(given).map_err(&context)?;
        let mut faults = Vec::new();
        for (at, origin) in origins.iter().enumerate().filter(|(_, origin)| origin.used == used) {
            if required.is_some_and(|required| !required.may_be(origin)) {
                continue;
            }
            match self.check_origin((at, origin), (question, only), &given, &answer) {
                Ok(()) => {
                    self.count(origin);
                    return Ok(());
                }
                Err(fault) => faults.push(format!("{:?} {:?}: {fault}", origin.reader, origin.parts)),
            }
        }
        if faults.is_empty() {
            let names: Vec<String> = used.iter().map(|index| self.world.rollups[*index].path()).collect();
            faults.push(match required {
                Some(required) => format!("{names:?} answered where {:?} holds what is asked for", required.reader),
                None => format!("{names:?} does not hold what is asked for"),
            });
        }
        Err(context(faults.join("\n")))
    }

    /// Counts a question that can be answered from a copy.
    pub(super) fn count_copies(&mut self, question: &Question) {
        if !self.world.has_copies() {
            return;
        }
        let told = self.server().post("/quarry/v1/explain", &json!({"query": question.json()})).value();
        let copies = told["results"][0]["levels"][0]["chosen"]["indexCopies"].as_array().map_or(&[][..], Vec::as_slice);
        self.tally.copied += usize::from(copies.iter().any(|copy| copy["type"] == "aggregate"));
    }

    /// What must answer a probe of a table: the lambda in front of it, else the table.
    fn required<'o>(&self, key: TableKey, origins: &'o [Origin]) -> Option<&'o Origin> {
        let own = || origins.iter().filter(|origin| origin.is_of(key, self.world));
        own().find(|origin| origin.reader == Reader::Lambda).or_else(|| own().next())
    }

    /// Whether a question may have to be answered by the fact at the source.
    fn may_read_fact(&self, required: Option<&Origin>, origins: &[Origin]) -> bool {
        match required {
            Some(required) => required.reads_fact,
            None => origins.iter().any(|origin| origin.reads_fact),
        }
    }

    /// The rollups that an answer says it used.
    fn used(&self, answer: &Value) -> Result<BTreeSet<usize>, String> {
        let entries = answer["usedPreAggregations"].as_object().into_iter().flat_map(|used| used.values());
        let position = |entry: &Value| {
            let found = self.world.rollups.iter().position(|rollup| entry["preAggregationId"] == json!(rollup.path()));
            let index = found.ok_or_else(|| format!("used {entry}"))?;
            let rows = matches!(self.world.rollups[index].kind, Kind::Rows | Kind::PlaceRows);
            let kind = if rows { "originalSql" } else { "rollup" };
            if entry["type"] == json!(kind) { Ok(index) } else { Err(format!("{entry} is no {kind}")) }
        };
        entries.map(position).collect()
    }

    fn check_origin(
        &mut self,
        (at, origin): (usize, &Origin),
        (question, only): (&Question, Option<TableKey>),
        given: &Groups,
        answer: &Value,
    ) -> Result<(), String> {
        if self.is_spoiled() && origin.reads_fact {
            return Err("rows of an unreadable source".to_owned());
        }
        let in_doubt = |(key, start): &(TableKey, i64)| self.belief.tables[key].parts[start].contents.len() > 1;
        let told = if only.is_some() && origin.parts.iter().any(in_doubt) {
            self.tell(origin, question, given)?;
            let origins = self.belief.origins(self.world, self.version(), question);
            origins.into_iter().nth(at)
        } else {
            None
        };
        let origin = told.as_ref().unwrap_or(origin);
        question.compare(&question.answer(rows_of(&origin.slices, &self.states)), given)?;
        self.check_facts(origin, answer)
    }

    /// What an answer tells of partitions that may hold this or that.
    fn tell(&mut self, origin: &Origin, question: &Question, given: &Groups) -> Result<(), String> {
        for (key, start) in &origin.parts {
            if !self.is_told(*key, question) {
                continue;
            }
            let rollup = &self.world.rollups[key.0];
            let given = groups_within(given, rollup, *start);
            let mut faults = Vec::new();
            let part = self.belief.tables.get_mut(key).and_then(|table| table.parts.get_mut(start));
            let part = part.expect("origins are made of partitions");
            let states = &self.states;
            part.contents.retain(|content| {
                let compared = question.compare(&question.answer(rows_of(content, states)), &given);
                compared.map_err(|fault| faults.push(fault)).is_ok()
            });
            if part.contents.is_empty() {
                let (start, since) = (format_local(*start), format_local(part.built.0));
                return Err(format!("partition {start}, built from {since} on, is neither: {}", faults.join("; ")));
            }
        }
        Ok(())
    }

    /// Whether the groups of a question tell the partitions of a table apart.
    fn is_told(&self, key: TableKey, question: &Question) -> bool {
        let rollup = &self.world.rollups[key.0];
        let own = question.zone == key.1 || rollup.is_zoneless();
        own && (rollup.partition.is_none() || question.granularity.is_some())
            && matches!(rollup.kind, Kind::Groups { .. } | Kind::Rows)
    }

    /// Age and coverage, as told.
    fn check_facts(&self, origin: &Origin, answer: &Value) -> Result<(), String> {
        let windows = origin.parts.iter().map(|(key, start)| self.belief.tables[key].parts[start].built);
        if origin.used.is_empty() {
            return Ok(());
        }
        let gaps: Vec<&str> =
            answer["quarry"]["fromSource"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if gaps != origin.told_gaps() {
            return Err(format!("the source is said to add {gaps:?}, not {:?}", origin.told_gaps()));
        }
        let told = answer["quarry"]["partitions"].as_u64().ok_or("no number of partitions")?;
        if told > origin.parts.len() as u64 {
            return Err(format!("{told} partitions read, {} hold the range", origin.parts.len()));
        }
        let (Some(since), Some(until)) =
            (windows.clone().map(|window| window.0).min(), windows.map(|window| window.1).min())
        else {
            return Ok(());
        };
        let text = answer["lastRefreshTime"].as_str().ok_or("no lastRefreshTime")?;
        let at = text.trim_end_matches('Z').parse().map_err(|error| format!("lastRefreshTime {text}: {error}"))?;
        let at = to_micros(at);
        // Of a table that has nothing in the range any build may be told.
        let all_read = told == origin.parts.len() as u64
            && origin.used.iter().all(|used| origin.parts.iter().any(|(key, _)| key.0 == *used));
        if all_read && !(since - MILLISECOND..=until).contains(&at) {
            let (since, until) = (format_local(since), format_local(until));
            return Err(format!("the oldest build is of {since} to {until}, not of {text}"));
        }
        Ok(())
    }

    fn count(&mut self, origin: &Origin) {
        let tally = &mut self.tally;
        match origin.reader {
            Reader::Source if origin.used.is_empty() => tally.by_source += 1,
            Reader::Source => tally.by_rows += 1,
            Reader::Rollup => tally.by_rollup += 1,
            Reader::Lambda => tally.by_lambda += 1,
            Reader::Join => tally.by_join += 1,
        }
        tally.completed += usize::from(origin.reader == Reader::Lambda && origin.reads_fact);
    }

    /// The places that a table of them holds, asked for by what only it can tell.
    fn check_places(&mut self, key: TableKey) -> Result<(), String> {
        let is_rollup = self.world.rollups[key.0].kind == Kind::Places;
        let measure = if is_rollup { "places.count" } else { "places.letters" };
        let query = json!({"measures": [measure], "dimensions": ["places.id", "places.name"]});
        let reply = self.server().ask(&query);
        let context = |fault: String| format!("{fault}\nquery: {query}\nanswer: {}", reply.body);
        if reply.status != 200 {
            return Err(context(format!("status {}", reply.status)));
        }
        let answer = reply.value();
        let own = self.belief.tables.get(&key).is_some_and(|table| table.parts.contains_key(&WHOLE));
        let table = if own { Some(key) } else { self.belief.place_rows(self.world).map(|(key, _)| key) };
        let expected: BTreeSet<usize> = table.iter().map(|key| key.0).collect();
        let used = self.used(&answer).map_err(&context)?;
        if used != expected {
            return Err(context(format!("{used:?} answered, not {expected:?}")));
        }
        let cells =
            |row: &Value| ["places.id", "places.name", measure].map(|name| row[name].to_string().replace('"', ""));
        let given: BTreeSet<[String; 3]> = answer["data"].as_array().into_iter().flatten().map(cells).collect();
        let rows = |version: usize| -> BTreeSet<[String; 3]> {
            let places = self.states[version].places.iter().enumerate();
            let value = |name: &String| if is_rollup { "1".to_owned() } else { name.chars().count().to_string() };
            places.map(|(id, name)| [id.to_string(), name.clone(), value(name)]).collect()
        };
        let Some(key) = table else {
            let same = given == rows(self.version());
            return if same { Ok(()) } else { Err(context("not the places of the source".to_owned())) };
        };
        let contents = &self.belief.tables[&key].parts[&WHOLE].contents;
        // Those of equal names are one.
        let fitting: Vec<_> =
            contents.iter().filter(|content| rows(content[0].places) == given).take(1).cloned().collect();
        if fitting.is_empty() {
            return Err(context(format!("not the places as of {contents:?}")));
        }
        let table = self.belief.tables.get_mut(&key).expect("it is there");
        table.parts.get_mut(&WHOLE).expect("it is there").contents = fitting;
        Ok(())
    }
}

impl Origin {
    /// Whether another one answers as well where this one must.
    fn may_be(&self, other: &Self) -> bool {
        self.reader == other.reader || self.reader == Reader::Rollup && other.reader == Reader::Lambda
    }
}

/// The groups of a partition's time.
fn groups_within(groups: &Groups, rollup: &Rollup, start: i64) -> Groups {
    if rollup.partition.is_none() {
        return groups.clone();
    }
    let (from, until) = rollup.extent(start);
    let (from, until) = (format_local(from), format_local(until));
    let is_within = |key: &Vec<Option<String>>| {
        key.last().and_then(Option::as_ref).is_some_and(|time| from <= *time && *time < until)
    };
    groups.iter().filter(|(key, _)| is_within(key)).map(|(key, cells)| (key.clone(), cells.clone())).collect()
}
