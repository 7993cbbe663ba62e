//! Settings of SQL over PostgreSQL's wire protocol.

use super::reader::Reader;
use crate::hooks::CubeJs;

/// See [`super::Config::pg`].
#[derive(Debug, Clone, Default)]
pub struct PgOptions {
    /// `CUBEJS_PG_SQL_PORT`: the port; the protocol is not spoken without.
    pub port: Option<u16>,
    /// `CUBEJS_SQL_USER`: who may come in.
    pub user: Option<String>,
    /// `CUBEJS_SQL_PASSWORD`: and with which password.
    pub password: Option<String>,
    /// `CUBEJS_SQL_SUPER_USER`: who may act as other users, where no hook says so.
    pub superuser: Option<String>,
    /// `CUBEJS_MAX_SESSIONS`: most connections at the same time.
    pub max_sessions: usize,
    /// `CUBESQL_STREAM_MODE`: answers to SQL have no greatest number of rows.
    pub unbounded: bool,
}

/// Whether a `cube.js` decides which users of SQL come in.
pub(super) fn checks_users(cube: &CubeJs) -> bool {
    cube.options().has("checkSqlAuth")
}

impl Reader {
    pub(super) fn pg(&mut self, dev_mode: bool, users_are_checked: bool) -> PgOptions {
        const PORT: &str = "CUBEJS_PG_SQL_PORT";
        let port = self.text(PORT).map(|_| self.number(PORT, 0_u16, 0..=u16::MAX));
        let (user, password) = (self.text("CUBEJS_SQL_USER"), self.text("CUBEJS_SQL_PASSWORD"));
        if port.is_some() && !dev_mode && !users_are_checked && (user.is_none() || password.is_none()) {
            let missing = if user.is_none() { "CUBEJS_SQL_USER" } else { "CUBEJS_SQL_PASSWORD" };
            self.faults.push(format!(
                "{PORT} opens a port for SQL, and {missing} is not set, so anybody could come in: set both \
                 CUBEJS_SQL_USER and CUBEJS_SQL_PASSWORD, write a checkSqlAuth in cube.js, or use `quarry dev` on your \
                 own machine"
            ));
        }
        let unbounded = self.boolean("CUBESQL_STREAM_MODE", false);
        let max_sessions = self.number("CUBEJS_MAX_SESSIONS", 1024, 1..=100_000);
        let superuser = self.text("CUBEJS_SQL_SUPER_USER");
        PgOptions { port, user, password, superuser, max_sessions, unbounded }
    }
}
