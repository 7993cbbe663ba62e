// What every file of a sandbox finds: `console`, `require`, and words for what is not there.
// `host` holds functions of the sandbox: log, resolve, json, compile.
(function (host) {
  'use strict';

  const show = (value) => {
    if (typeof value === 'string') return value;
    try {
      return JSON.stringify(value) ?? String(value);
    } catch (error) {
      return String(value);
    }
  };
  const logger = (level) => (...values) => host.log(level, values.map(show).join(' '));
  const console = {};
  for (const level of ['debug', 'info', 'warn', 'error']) console[level] = logger(level);
  console.log = console.info;
  console.trace = console.debug;

  // Files by name; one that imports itself in a circle sees what there is so far.
  const loaded = new Map();
  const busy = new Set();
  const folder = (name) => name.slice(0, Math.max(name.lastIndexOf('/'), 0));
  const requireFrom = (from) => (wanted) => load(host.resolve(from, String(wanted)));

  // What `import` and `export` statements become; see modules.rs.
  const get = (space, name, value) => {
    Object.defineProperty(space, '__esModule', { value: true, configurable: true });
    Object.defineProperty(space, name, { get: value, enumerable: true, configurable: true });
  };
  const importFrom = (from) => {
    const space = (wanted, names = []) => {
      const name = host.resolve(from, wanted);
      const found = load(name);
      const isObject = (typeof found === 'object' && found !== null) || typeof found === 'function';
      const all = isObject && found.__esModule ? found : { ...found, default: found };
      for (const wish of busy.has(name) ? [] : names) {
        if (!(wish in all)) throw new Error(`'${wanted}' does not export '${wish}'`);
      }
      return all;
    };
    space.get = get;
    space.all = (exports, wanted) => {
      const all = space(wanted);
      for (const name of Object.keys(all)) {
        if (name !== 'default' && !(name in exports)) get(exports, name, () => all[name]);
      }
    };
    return space;
  };

  const load = (name) => {
    const known = loaded.get(name);
    if (known) return known.exports;
    const module = { exports: {}, id: name, filename: name };
    loaded.set(name, module);
    busy.add(name);
    try {
      if (name.endsWith('.json')) {
        module.exports = host.json(name);
      } else {
        const run = host.compile(name);
        const space = importFrom(name);
        const later = (wanted) => Promise.resolve(wanted).then(space);
        if (run.isModule) Object.defineProperty(module.exports, '__esModule', { value: true, configurable: true });
        run.body.call(module.exports, module.exports, requireFrom(name), module, name, folder(name), space, module.exports, later);
      }
    } catch (error) {
      loaded.delete(name);
      throw error;
    } finally {
      busy.delete(name);
    }
    return module.exports;
  };

  const missing = (name) => () => {
    throw new Error(`'${name}' is not available here: scripts neither wait for time nor reach the network`);
  };
  const globals = { console, global: globalThis, window: undefined, document: undefined };
  for (const name of ['setTimeout', 'setInterval', 'setImmediate', 'clearTimeout', 'clearInterval', 'fetch',
    'XMLHttpRequest', 'WebSocket']) {
    globals[name] = missing(name);
  }
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true, enumerable: false });
  }
  for (const name of ['performance', 'navigator', 'escape', 'unescape']) delete globalThis[name];
  Object.defineProperty(globalThis, '__load', { value: load });
  // Forgets a file that was cut off in the middle; or all of them.
  const unload = (name) => {
    for (const names of [loaded, busy]) name === undefined ? names.clear() : names.delete(name);
  };
  Object.defineProperty(globalThis, '__unload', { value: unload });
  // Who waits for time puts a function here; names that are not there may mean something else to a model.
  Object.defineProperty(globalThis, '__idle', { value: null, configurable: true });
})
