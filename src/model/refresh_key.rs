//! Refresh keys: what tells that the data behind a rollup have changed (`pre-aggregations.md` §2.3, §8.1).

use super::Model;
use super::cube::CubeId;
use super::preagg::{Preagg, PreaggKind};
use super::template::Template;
use crate::time::{Interval, Zone, utc_to_local};

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;
/// Cron intervals are counted from here: Monday, 2018-01-01, in seconds since 1970.
pub(super) const CRON_ORIGIN: i64 = 1_514_764_800;

/// A `refresh_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshKey {
    /// A statement for the source; when its result differs the data have changed.
    Sql {
        /// The statement.
        sql: Template,
        /// It is run at most once in so long.
        every: Option<Every>,
    },
    /// The number of the interval of time that it is.
    Time(TimeKey),
    /// The data never change (cubes only).
    Immutable,
}

/// A key that changes with time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeKey {
    /// When it changes.
    pub schedule: Schedule,
    /// `incremental`: it stops to change for partitions that lie in the past.
    pub incremental: bool,
    /// How long after a partition's end that is.
    pub update_window: Option<Window>,
}

/// `update_window`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// As written.
    pub text: String,
    /// Its length.
    pub length: Interval,
}

/// When a key of time changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the multiples of an interval since 1970, in local time.
    Interval(Every),
    /// As a cron expression says.
    Cron(Cron),
}

/// A length of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Every {
    /// As written: `1 hour`.
    pub text: String,
    /// Its length, at least one.
    pub seconds: u32,
}

impl Every {
    fn known(text: &str, seconds: u32) -> Self {
        Self { text: text.to_owned(), seconds }
    }
}

/// A cron expression of equal intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    /// As written.
    pub text: String,
    /// `timezone`: stands for the rollup's zone.
    pub timezone: Option<Zone>,
    /// Seconds from one time to the next.
    pub seconds: u32,
    /// Seconds from Monday, 0:00, to the first time in the week.
    pub offset: u32,
}

impl Schedule {
    /// The number of the interval that `now` (UTC microseconds) lies in, by the offset that the zone has now.
    pub fn counter(&self, zone: Zone, now: i64) -> i64 {
        match self {
            Self::Interval(every) => utc_to_local(now, zone).div_euclid(i64::from(every.seconds) * SECOND),
            Self::Cron(cron) => {
                let origin = (CRON_ORIGIN + i64::from(cron.offset)) * SECOND;
                let passed = utc_to_local(now, self.zone(zone)) - origin;
                passed.div_euclid(i64::from(cron.seconds) * SECOND)
            }
        }
    }

    /// How long its intervals are, and how long after 1970 one of them begins: seconds of the local time.
    pub fn interval(&self) -> (i64, i64) {
        match self {
            Self::Interval(every) => (every.seconds.into(), 0),
            Self::Cron(cron) => {
                let seconds = i64::from(cron.seconds);
                (seconds, (CRON_ORIGIN + i64::from(cron.offset)).rem_euclid(seconds))
            }
        }
    }

    /// The zone whose time counts, where `asked` is that of who asks.
    pub fn zone(&self, asked: Zone) -> Zone {
        match self {
            Self::Interval(_) => asked,
            Self::Cron(cron) => cron.timezone.unwrap_or(asked),
        }
    }

    /// As written.
    pub fn text(&self) -> &str {
        match self {
            Self::Interval(every) => &every.text,
            Self::Cron(cron) => &cron.text,
        }
    }
}

/// A key of a rollup: its own, or one of a cube that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedKey {
    /// The cube whose names the key may use.
    pub owner: CubeId,
    /// The key; never [`RefreshKey::Immutable`].
    pub key: RefreshKey,
}

/// The keys of a rollup over `cubes` (§8.1); none when its data never change. `refreshed_for` hears of cubes without
/// a key of their own that make it change every 10 seconds.
pub fn applied_keys(
    model: &Model,
    preagg: &Preagg,
    cubes: &[CubeId],
    refreshed_for: &mut dyn FnMut(CubeId),
) -> Vec<AppliedKey> {
    let owner = preagg.id.cube;
    if let Some(key) = &preagg.refresh_key {
        return vec![AppliedKey { owner, key: key.clone() }];
    }
    let hourly = || vec![AppliedKey { owner, key: interval(Every::known("1 hour", 3_600)) }];
    let own = model.cube(owner).refresh_key.as_ref();
    let cubes = if preagg.kind == PreaggKind::OriginalSql { &[owner] } else { cubes };
    let is_sql = |cube: &CubeId| matches!(model.cube(*cube).refresh_key, Some(RefreshKey::Sql { .. }));
    if own.is_none() && !cubes.iter().any(is_sql) {
        return hourly();
    }
    let mut found: Vec<AppliedKey> = Vec::new();
    for cube in cubes {
        let key = match &model.cube(*cube).refresh_key {
            Some(RefreshKey::Immutable) => continue,
            Some(key) => key.clone(),
            None => {
                refreshed_for(*cube);
                interval(Every::known("10 second", 10))
            }
        };
        // Keys of time do not depend on whose they are.
        let is_known = matches!(key, RefreshKey::Time(_)) && found.iter().any(|known| known.key == key);
        if !is_known {
            found.push(AppliedKey { owner: *cube, key });
        }
    }
    found
}

fn interval(every: Every) -> RefreshKey {
    RefreshKey::Time(TimeKey { schedule: Schedule::Interval(every), incremental: false, update_window: None })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{model, shop};
    use super::*;
    use crate::time::{local_to_utc, to_micros};

    fn at(text: &str) -> i64 {
        to_micros(text.parse().expect("a timestamp"))
    }

    fn zone(name: &str) -> Zone {
        name.parse().expect("a zone")
    }

    /// The schedule of a model's key.
    fn schedule(key: &str) -> Schedule {
        let model = model(&shop("", "", &format!("refresh_key: {{{key}}}")));
        match &model.find_cube("orders").expect("orders").refresh_key {
            Some(RefreshKey::Time(TimeKey { schedule, .. })) => schedule.clone(),
            other => panic!("{key} is {other:?}"),
        }
    }

    /// `local` is the moment of the zone at which the key changes: not before, and not again until the next.
    #[track_caller]
    fn check_flip(key: &str, name: &str, local: &str, next: &str) {
        let (schedule, zone) = (schedule(key), zone(name));
        let counter = |utc: i64| schedule.counter(zone, utc);
        let (flip, next) = (local_to_utc(at(local), zone), local_to_utc(at(next), zone));
        assert_eq!(counter(flip - 1) + 1, counter(flip), "{key} flips at {local}");
        assert_eq!(counter(flip), counter(next - 1), "{key} holds from {local}");
        assert_eq!(counter(flip) + 1, counter(next), "{key} flips next");
    }

    #[test]
    fn intervals_flip_at_multiples_in_the_zone_of_the_rollup() {
        check_flip("every: 1 second", "UTC", "2024-05-06T07:08:09", "2024-05-06T07:08:10");
        check_flip("every: 30 minutes", "Asia/Kolkata", "2024-05-06T07:30:00", "2024-05-06T08:00:00");
        check_flip("every: 1 hour", "Asia/Kolkata", "2024-05-06T07:00:00", "2024-05-06T08:00:00");
        check_flip("every: 1 day", "America/Los_Angeles", "2024-05-06T00:00:00", "2024-05-07T00:00:00");
        // T12: 1970 began on a Thursday.
        check_flip("every: 1 week", "UTC", "2024-05-09T00:00:00", "2024-05-16T00:00:00");
        assert_eq!(schedule("every: 1 hour").counter(Zone::UTC, at("1970-01-01T02:59:59")), 2);
        assert_eq!(schedule("every: 1 hour").counter(Zone::UTC, at("1969-12-31T23:59:59")), -1);
    }

    #[test]
    fn clock_changes_shift_the_boundaries_with_the_offset() {
        let hourly = schedule("every: 1 hour");
        let counter = |utc: &str| hourly.counter(zone("America/New_York"), at(utc));
        // In spring an hour is skipped, in autumn one is counted twice.
        assert_eq!(counter("2024-03-10T07:00:00") - counter("2024-03-10T06:59:59"), 2);
        assert_eq!(counter("2024-11-03T06:00:00") - counter("2024-11-03T05:59:59"), 0);
        check_flip("every: 1 day", "America/New_York", "2024-03-10T00:00:00", "2024-03-11T00:00:00");
        check_flip("every: 1 day", "America/New_York", "2024-11-03T00:00:00", "2024-11-04T00:00:00");
    }

    #[test]
    fn cron_flips_at_its_times() {
        check_flip("every: 0 8 * * *", "America/New_York", "2024-05-06T08:00:00", "2024-05-07T08:00:00");
        check_flip("every: 5 * * * *", "UTC", "2024-05-06T07:05:00", "2024-05-06T08:05:00");
        check_flip("every: '* * * * *'", "UTC", "2024-05-06T07:05:00", "2024-05-06T07:06:00");
        check_flip("every: 30 5 8 * * *", "UTC", "2024-05-06T08:05:30", "2024-05-07T08:05:30");
        // Weeks are anchored to a Monday: the week flips on the day that is named.
        check_flip("every: 30 5 * * 5", "UTC", "2024-05-10T05:30:00", "2024-05-17T05:30:00");
        check_flip("every: 0 0 * * 0", "UTC", "2024-05-12T00:00:00", "2024-05-19T00:00:00");
        check_flip(
            "every: 0 8 * * *, timezone: Asia/Tokyo",
            "America/New_York",
            "2024-05-05T19:00:00",
            "2024-05-06T19:00:00",
        );
        let Schedule::Cron(cron) = schedule("every: 0 8 * * *, timezone: America/New_York") else { panic!() };
        assert_eq!((cron.offset, cron.seconds), (28_800, 86_400));
    }

    /// `every` of the keys that apply to a rollup of `orders` joined with `users`, and the cubes heard of.
    #[track_caller]
    fn check_applied(users: &str, orders: &str, own: &str, expected: &[&str], heard_of: usize) {
        let rollup = format!("pre_aggregations: [{{name: main, measures: [total, users.user_count]{own}}}]\n{orders}");
        let source =
            shop("", "", &rollup).replacen("    sql_table: users\n", &format!("    sql_table: users\n{users}"), 1);
        let model = model(&source);
        let orders = model.find_cube("orders").expect("orders");
        let users = model.find_cube("users").expect("users").id;
        let mut heard = 0;
        let keys = applied_keys(&model, &orders.preaggs[0], &[orders.id, users], &mut |_| heard += 1);
        let words: Vec<&str> = keys
            .iter()
            .map(|applied| match &applied.key {
                RefreshKey::Sql { .. } => "sql",
                RefreshKey::Time(time) => time.schedule.text(),
                RefreshKey::Immutable => "immutable",
            })
            .collect();
        assert_eq!((words.as_slice(), heard), (expected, heard_of), "{orders:?}");
    }

    #[test]
    fn keys_come_from_the_rollup_or_from_its_cubes() {
        let daily = "    refresh_key: {every: 1 day}\n";
        let sql = "    refresh_key: {sql: SELECT 1}\n";
        check_applied(daily, "", ", refresh_key: {every: 5 minutes}", &["5 minutes"], 0);
        check_applied("", "", "", &["1 hour"], 0);
        // The defining cube has none: one hour whatever the others say, unless it is SQL.
        check_applied(daily, "", "", &["1 hour"], 0);
        check_applied(sql, "", "", &["10 second", "sql"], 1);
        // T11: the cube without a key makes it change every 10 seconds.
        check_applied("", "refresh_key: {every: 1 day}", "", &["1 day", "10 second"], 1);
        check_applied("", "refresh_key: {sql: SELECT 1}", "", &["sql", "10 second"], 1);
        check_applied(daily, "refresh_key: {every: 1 day}", "", &["1 day"], 0);
        check_applied(daily, "refresh_key: {immutable: true}", "", &["1 day"], 0);
        let immutable = "    refresh_key: {immutable: true}\n";
        check_applied(immutable, "refresh_key: {immutable: true}", "", &[], 0);
        check_applied(immutable, "refresh_key: {immutable: false}", "", &["1 hour"], 0);
    }
}
