// Runs the published JavaScript clients against a server: a task on standard input, what each step gave on standard
// output. The folder with the packages is the first argument. A step that fails gives what its error says.
const { createRequire } = require('node:module');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const packages = createRequire(join(process.argv[2], 'package.json'));
const core = packages('@cubejs-client/core');
const WebSocketTransport = packages('@cubejs-client/ws-transport');

const task = JSON.parse(readFileSync(0, 'utf8'));
const sockets = [];

function client(step) {
  const options = { ...step.options };
  if (step.socket) {
    options.transport = new WebSocketTransport({
      authorization: step.token ?? task.token, apiUrl: task.socket, ...step.transport,
    });
    sockets.push(options.transport);
  } else {
    options.apiUrl = task.api;
  }
  return core.default(step.token ?? task.token, options);
}

function failure(error) {
  return { name: error.constructor.name, message: error.message, status: error.status, response: error.response };
}

// What methods of an object give: [[name, ...arguments]].
function views(object, wanted) {
  return (wanted ?? []).map(([name, ...args]) => object[name](...args));
}

const steps = {
  async load(step) {
    const result = await client(step).load(step.query, step.load);
    const found = { views: views(result, step.views) };
    if (step.decompose) {
      found.parts = result.decompose().map((part) => views(part, step.decompose));
    }
    if (step.drill) {
      found.drill = result.drillDown(step.drill);
      found.drilled = (await client(step).load(found.drill)).rawData();
    }
    return found;
  },
  async sql(step) {
    return { sql: (await client(step).sql(step.query)).sql() };
  },
  async meta(step) {
    const meta = await client(step).meta();
    return {
      cubes: meta.cubes.map((cube) => cube.name),
      measures: meta.membersForQuery({}, 'measures').map((member) => member.name).sort(),
      time: meta.defaultTimeDimensionNameFor('events.count'),
      operators: meta.filterOperatorsForMember('events.count', 'measures').map((operator) => operator.name),
      title: meta.resolveMember('events.kind', 'dimensions').title,
    };
  },
  async dryRun(step) {
    const { queryType, normalizedQueries, queryOrder, pivotQuery } = await client(step).dryRun(step.query);
    return { queryType, queries: normalizedQueries.length, queryOrder, pivot: pivotQuery };
  },
  // A load that is given up at once.
  async abort(step) {
    const controller = new AbortController();
    const loading = client(step).load(step.query, { signal: controller.signal });
    controller.abort();
    return { views: views(await loading, step.views) };
  },
  // Subscribes; when the first result is there, posts `jobs` and waits for the next; ends with the subscription.
  async subscribe(step) {
    const seen = [];
    let wake;
    const next = () => new Promise((resolve) => { wake = resolve; });
    let coming = next();
    const subscription = client(step).subscribe(step.query, step.load ?? {}, (error, result) => {
      seen.push(error ? failure(error) : views(result, step.views));
      wake();
    });
    await coming;
    coming = next();
    let posted;
    if (step.jobs) {
      const headers = { authorization: task.token, 'content-type': 'application/json' };
      const post = (body) => fetch(`${task.api}/pre-aggregations/jobs`, { method: 'POST', headers, body });
      const tokens = await (await post(JSON.stringify({ action: 'post', selector: step.jobs }))).json();
      const get = JSON.stringify({ action: 'get', tokens });
      while (!(await (await post(get)).json()).every((job) => job.status === 'done')) {
        await new Promise((resolve) => { setTimeout(resolve, 10); });
      }
      posted = Date.now();
    }
    await coming;
    await subscription.unsubscribe();
    return { seen, milliseconds: posted && Date.now() - posted };
  },
  // How often a load that is not ready at once is told of.
  async wait(step) {
    let waits = 0;
    const began = Date.now();
    const result = await client(step).load(step.query, { progressCallback: () => { waits += 1; } });
    return { waits, milliseconds: Date.now() - began, views: views(result, step.views) };
  },
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
  await Promise.all(sockets.map((socket) => socket.close()));
  process.stdout.write(JSON.stringify(results), () => process.exit(0));
})();
