// What `cube.js` finds beside the sandbox's own: `process`, timers that run while a hook waits; and how its hooks are
// called. `__context` holds { env } and is gone afterwards.
(function () {
  'use strict';

  const { env } = globalThis.__context;
  delete globalThis.__context;
  const define = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true });

  define('process', {
    env,
    argv: ['quarry', 'cube.js'],
    platform: 'linux',
    cwd: () => '.',
    nextTick: (f, ...values) => { Promise.resolve().then(() => f(...values)); },
    on: () => globalThis.process,
    exit: () => { throw new Error("'process.exit' is not available here: cube.js cannot end the server"); },
  });

  // Timers of the hook that runs; nothing runs between two hooks.
  let timers = [];
  let lastTimer = 0;
  let running = false;
  const after = (f, delay = 0, ...values) => {
    if (!running) throw new Error("'setTimeout' runs only while a hook waits for it");
    lastTimer += 1;
    timers.push({ id: lastTimer, at: Date.now() + Math.max(0, Number(delay) || 0), run: () => f(...values) });
    return lastTimer;
  };
  define('setTimeout', after);
  define('setImmediate', (f, ...values) => after(f, 0, ...values));
  define('clearTimeout', (id) => { timers = timers.filter((timer) => timer.id !== id); });
  // Runs what is due; gives the time until the next one is, or null when there is none.
  define('__idle', () => {
    const now = Date.now();
    const due = timers.filter((timer) => timer.at <= now).sort((a, b) => a.at - b.at || a.id - b.id);
    timers = timers.filter((timer) => timer.at > now);
    for (const timer of due) {
      try { timer.run(); } catch (error) { console.error('a timer of cube.js failed:', String(error)); }
    }
    if (due.length > 0) return 0;
    return timers.length > 0 ? Math.min(...timers.map((timer) => timer.at)) - now : null;
  });

  const isObject = (value) => typeof value === 'object' && value !== null;

  // An option as JSON; what has no place in JSON is marked.
  const option = (value, depth = 0) => {
    if (depth > 20) return { $other: 'too deep' };
    if (typeof value === 'function') return { $function: true };
    if (value instanceof RegExp) return { $pattern: value.source, $flags: value.flags };
    if (Array.isArray(value)) return value.map((item) => option(item, depth + 1));
    if (isObject(value)) {
      const entries = Object.entries(value).filter(([, item]) => item !== undefined);
      return Object.fromEntries(entries.map(([key, item]) => [key, option(item, depth + 1)]));
    }
    if (typeof value === 'number' && !Number.isFinite(value)) return { $other: String(value) };
    return typeof value === 'bigint' || typeof value === 'symbol' ? { $other: typeof value } : value;
  };

  let config = {};
  // Lets go of everything, so that its memory can be taken back.
  define('__forget', () => { config = {}; timers = []; });

  // The hook that was called last, and what it threw.
  let last = { hook: '', thrown: null };
  define('__last', () => last);

  const describe = (error) => {
    const gateway = isObject(error) && error.isCubejsHandlerError === true;
    return {
      text: String(error),
      message: gateway ? String(error.message) : null,
      status: gateway && Number.isInteger(error.status) ? error.status : null,
    };
  };
  const has = (name) => typeof config[name] === 'function';
  const hook = async (name, values) => {
    last = { hook: name, thrown: null };
    running = true;
    timers = [];
    try {
      return await config[name](...values);
    } catch (error) {
      last.thrown = describe(error);
      throw error;
    } finally {
      running = false;
      timers = [];
    }
  };

  // What the file exports.
  define('__describe', async (file) => {
    const exports = globalThis.__load(file);
    config = isObject(exports) && exports.__esModule && isObject(exports.default) ? exports.default : exports;
    if (!isObject(config) || Array.isArray(config) || typeof config.then === 'function') {
      throw new Error(`module.exports has to be an object with options, not ${typeof config}`);
    }
    const described = option(config);
    // There is one orchestrator: its options can be asked for now, unless they depend on who asks.
    if (has('orchestratorOptions') && !has('contextToOrchestratorId')) {
      try {
        described.orchestratorOptions = option(await hook('orchestratorOptions', [{}]));
      } catch (error) {
        console.warn('orchestratorOptions of cube.js depends on who asks:', String(error));
      }
    }
    return described;
  });

  // Values that are kept between hooks are JSON: a function would be lost in silence.
  const plain = (value, what, depth = 0) => {
    if (typeof value === 'function' || typeof value === 'symbol' || typeof value === 'bigint') {
      throw new TypeError(`${what} is a ${typeof value}: it has to be JSON`);
    }
    if (!isObject(value) || depth > 50) return value;
    for (const [key, item] of Object.entries(value)) plain(item, `${what}.${key}`, depth + 1);
    return value;
  };

  const request = (facts) => {
    const req = { ...facts, originalUrl: facts.url };
    req.get = (name) => req.headers[String(name).toLowerCase()];
    req.header = req.get;
    Object.defineProperty(req, 'body', {
      get: () => { throw new Error("'req.body' is not available here: hooks see the head of a request"); },
    });
    return req;
  };

  // Who asks, in Cube's order: authentication, request context, scopes.
  define('__admit', async (input) => {
    const req = request(input.request);
    if (input.context !== null) req.securityContext = input.context;
    if (input.checks && has('checkAuth')) {
      const given = await hook('checkAuth', [req, input.token ?? undefined]);
      if (isObject(given) && given.security_context !== undefined && given.security_context !== null) {
        req.securityContext = given.security_context;
      } else if (req.securityContext === undefined) {
        req.securityContext = req.authInfo;
      }
    }
    req.authInfo = req.securityContext;
    const context = {
      securityContext: plain(req.securityContext, 'the security context'),
      authInfo: req.securityContext,
      requestId: input.requestId,
      signedWithPlaygroundAuthSecret: input.signedByPlayground,
    };
    if (has('extendContext')) {
      Object.assign(context, plain(await hook('extendContext', [req]), 'the result of extendContext'));
    }
    let scopes = null;
    if (input.scopes !== null && has('contextToApiScopes')) {
      const found = await hook('contextToApiScopes', [context.securityContext || {}, input.scopes]);
      scopes = Array.isArray(found) ? found.map((scope) => (typeof scope === 'string' ? scope : String(scope))) : false;
    }
    return { context, scopes };
  });

  // What belongs to a context. Each is there when its hook is.
  define('__belongings', async (context, names) => {
    const found = {};
    for (const name of names) found[name] = option(await hook(name, [context]));
    return found;
  });

  define('__rewrite', async (name, queries, context) => {
    const rewritten = [];
    for (const query of queries) {
      const given = await hook(name, [query, context]);
      if (!isObject(given) || Array.isArray(given)) {
        const error = new Error(`${name} of cube.js gave ${given === null ? 'null' : typeof given}, not a query`);
        last.thrown = describe(error);
        throw error;
      }
      rewritten.push(given);
    }
    return rewritten;
  });

  define('__call', async (name, values) => ({ given: await hook(name, values.map((value) => value ?? undefined)) }));
})();
