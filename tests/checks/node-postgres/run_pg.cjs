// Runs node-postgres against a server: a task on standard input, what each step gave on standard output. The folder with
// the packages is the first argument. A step that fails gives what its error says.
const { createRequire } = require('node:module');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const packages = createRequire(join(process.argv[2], 'package.json'));
const { Client, Pool, Query } = packages('pg');
const Cursor = packages('pg-cursor');

const task = JSON.parse(readFileSync(0, 'utf8'));
const login = { host: '127.0.0.1', port: task.port, user: task.user, password: task.password, database: 'shop' };

// Values that JSON has no word for.
function value(given) {
  if (given !== null && typeof given === 'object' && typeof given.date === 'string') return new Date(given.date);
  return Array.isArray(given) ? given.map(value) : given;
}

function plain(found) {
  if (found instanceof Date) return { date: found.toISOString() };
  if (Buffer.isBuffer(found)) return { bytes: found.toString('hex') };
  return found;
}

function query(step) {
  const { text, name, rowMode, binary } = step;
  return { text, name, rowMode, binary, values: step.values && step.values.map(value) };
}

function result(found) {
  if (Array.isArray(found)) return found.map(result);
  const row = (cells) => (Array.isArray(cells)
    ? cells.map(plain)
    : Object.fromEntries(Object.entries(cells).map(([name, cell]) => [name, plain(cell)])));
  return {
    command: found.command,
    count: found.rowCount,
    types: found.fields.map((field) => field.dataTypeID),
    rows: found.rows.map(row),
  };
}

function failure({ code, severity, message }) {
  return { code, severity, message };
}

// Does something with a client of its own, which is closed then.
async function connected(step, act) {
  const client = new Client({ ...login, ...step.login });
  client.on('error', () => {});
  await client.connect();
  try {
    return await act(client);
  } finally {
    await client.end().catch(() => {});
  }
}

async function asked(client, step) {
  try {
    return result(await client.query(query(step)));
  } catch (error) {
    return { error: failure(error) };
  }
}

const steps = {
  // Queries one after the other on one connection; a failure does not end it.
  queries: (step) => connected(step, async (client) => {
    const results = [];
    for (const one of step.queries) results.push(await asked(client, one));
    return results;
  }),
  // Queries that are sent before the answers of those before have come.
  pipeline: (step) => connected({ login: { pipeline: true } }, (client) => (
    Promise.all(step.queries.map((one) => asked(client, one))))),
  // All at once, by a pool.
  async pool(step) {
    const pool = new Pool({ ...login, max: step.size });
    const found = await Promise.all(step.queries.map((one) => asked(pool, one)));
    const connections = pool.totalCount;
    await pool.end();
    return { connections, found };
  },
  // So many rows at a time.
  cursor: (step) => connected(step, async (client) => {
    const cursor = client.query(new Cursor(step.text, (step.values ?? []).map(value)));
    const sizes = [];
    for (;;) {
      const rows = await cursor.read(step.rows);
      sizes.push(rows.length);
      if (rows.length < step.rows || sizes.length === step.most) break;
    }
    await cursor.close();
    return { sizes, after: await asked(client, { text: 'SELECT 1 AS one' }) };
  }),
  // A query that other connections ask to cancel, again and again until it has ended.
  cancel: (step) => connected(step, async (client) => {
    const ended = await new Promise((resolve) => {
      const running = client.query(new Query({ text: step.text }, (error) => resolve(error ? failure(error) : 'rows')));
      const again = setInterval(() => {
        if (client.activeQuery !== running) return clearInterval(again);
        const other = new Client({ ...login });
        other.connection.on('error', () => {});
        return other.cancel(client, running);
      }, 100);
    });
    return { ended, after: await asked(client, { text: 'SELECT 1 AS one' }) };
  }),
};

(async () => {
  const results = [];
  for (const step of task.steps) {
    try {
      results.push(await steps[step.do](step));
    } catch (error) {
      results.push({ error: failure(error) });
    }
  }
  process.stdout.write(JSON.stringify(results), () => process.exit(0));
})();
