// What model files find: `cube`, `view`, `asyncModule` and so on, and a reference for every name that nobody declared.
// A reference stands for something that has a value only when a query is planned. Put into a text it leaves a mark;
// `model.rs` turns marks into the braces of YAML models.
(function () {
  'use strict';

  const OPEN = '\uE5F0';
  const CLOSE = '\uE5F1';
  const EXPRESSION = Symbol('expression');
  const NAME = /^[_a-zA-Z][_a-zA-Z0-9]*$/;
  // Their entries are keyed by name, so that a key in them is no property.
  const NAMED = new Set(['measures', 'dimensions', 'segments', 'joins', 'hierarchies', 'granularities', 'custom', 'indexes',
    'preAggregations', 'pre_aggregations']);
  const MOST_NESTED = 64;
  const MOST_CALLS = 8;
  // What these stand for is asked per request, so that comparing them while the model is compiled is always wrong.
  const PER_REQUEST = new Set(['SECURITY_CONTEXT', 'securityContext', 'security_context', 'userAttributes',
    'user_attributes', 'FILTER_PARAMS', 'FILTER_GROUP']);

  const CONDITION = /\b(securityContext|security_context|userAttributes|user_attributes)\b/;

  let file = '';
  let anonymous = 0;
  const definitions = [];
  const postponed = [];
  const ignored = [];
  const unused = new Map();
  const text = Function.prototype.call.bind(Function.prototype.toString);
  const isReference = (value) => typeof value === 'function' && value[EXPRESSION] !== undefined;

  // References -------------------------------------------------------------------------------------------------------

  const reference = (expression, stack) => {
    const target = () => {};
    target[EXPRESSION] = expression;
    target.stack = stack;
    if (stack !== undefined) unused.set(target, expression);
    return new Proxy(target, handler);
  };
  const inText = (target) => {
    unused.delete(target);
    return OPEN + target[EXPRESSION] + CLOSE;
  };
  const refuse = (what) => (target) => {
    unused.delete(target);
    throw new TypeError(`${target[EXPRESSION]} ${what}`);
  };
  const handler = {
    get(target, key) {
      if (key === EXPRESSION) return target[EXPRESSION];
      if (key === Symbol.toPrimitive) {
        return (hint) => {
          if (hint !== 'number') return inText(target);
          return refuse('has no value while the model is compiled: write the calculation in the SQL text')(target);
        };
      }
      if (typeof key === 'symbol' || key === 'then' || key === 'toJSON') return undefined;
      if (key === 'toString' || key === 'valueOf') return () => inText(target);
      if (!NAME.test(key)) throw new TypeError(`${target[EXPRESSION]} has no part '${key}': it is not a name`);
      unused.delete(target);
      return reference(`${target[EXPRESSION]}.${key}`, target.stack);
    },
    apply(target, _this, values) {
      const written = values.map(argument);
      unused.delete(target);
      return reference(`${target[EXPRESSION]}(${written.join(', ')})`, target.stack);
    },
    construct: refuse('cannot be constructed: it is the name of something in the model'),
    set: refuse('cannot be changed: it is the name of something in the model'),
    defineProperty: refuse('cannot be changed: it is the name of something in the model'),
    deleteProperty: refuse('cannot be changed: it is the name of something in the model'),
  };

  const escapes = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };
  const escape = (part, quote) =>
    part.replace(/[\\\n\r\t]/g, (c) => escapes[c]).replaceAll(quote, `\\${quote}`);
  // A text as an expression: with marks in it an f-string, else a plain one.
  const quoted = (value) => {
    if (!value.includes(OPEN)) return `'${escape(value, "'")}'`;
    const parts = value.split(OPEN).map((part, index) => {
      if (index === 0) return escape(part, '"').replace(/[{}]/g, '\\$&');
      const end = part.indexOf(CLOSE);
      return `{${part.slice(0, end)}}${escape(part.slice(end + 1), '"').replace(/[{}]/g, '\\$&')}`;
    });
    return `f"${parts.join('')}"`;
  };
  const argument = (value) => {
    if (isReference(value)) {
      const written = String(value);
      return written.slice(1, -1);
    }
    switch (typeof value) {
      case 'string': return quoted(value);
      case 'number': return String(value);
      case 'boolean': return value ? 'True' : 'False';
      case 'function': return lambda(value);
      default: throw new TypeError('arguments of references are texts, numbers, references and functions of them');
    }
  };
  const lambda = (fn) => {
    const names = parameters(fn);
    const result = fn(...names.map((name) => reference(name)));
    return `lambda${names.length ? ' ' : ''}${names.join(', ')}: ${argument(result)}`;
  };

  // The names of a function's parameters, read from its text.
  const parameters = (fn) => {
    const source = text(fn).replace(/\/\*[^]*?\*\//g, ' ').trim();
    const single = /^(?:async\s+)?([_$a-zA-Z][_$a-zA-Z0-9]*)\s*=>/.exec(source);
    if (single) return [single[1]];
    const names = [];
    let depth = 0;
    let current = '';
    for (const c of source.slice(source.indexOf('('))) {
      const closes = c === ')' || c === ']' || c === '}';
      if (closes) depth -= 1;
      if (depth === 0 || (depth === 1 && c === ',')) {
        if (current.trim() !== '') names.push(current);
        current = '';
        if (depth === 0 && closes) break;
      } else {
        current += c;
      }
      if (c === '(' || c === '[' || c === '{') depth += 1;
    }
    return names.map((written) => {
      const name = written.replace(/\/\/[^\n]*/g, '').split('=')[0].trim();
      if (!NAME.test(name)) throw new TypeError(`a function of the model takes plain names, not '${name}'`);
      return name;
    });
  };
  const call = (fn) => {
    const at = new Error().stack;
    return fn(...parameters(fn).map((name) => reference(name, PER_REQUEST.has(name) ? at : undefined)));
  };

  // What model files call --------------------------------------------------------------------------------------------

  const define = (kind) => function (...values) {
    const name = values.length > 1 || typeof values[0] === 'string' ? values.shift() : undefined;
    const body = values[0];
    if (name !== undefined && typeof name !== 'string' && !isReference(name)) {
      throw new TypeError(`the name of a ${kind} is a text`);
    }
    if (typeof body !== 'object' || body === null || Array.isArray(body)) {
      throw new TypeError(`a ${kind} takes its properties as an object`);
    }
    if (name === undefined && kind !== 'cube') throw new TypeError(`a ${kind} needs a name`);
    const shown = isReference(name) ? String(name).slice(1, -1) : name;
    const generated = shown === undefined;
    const own = generated ? `anonymous ${anonymous += 1}` : shown;
    definitions.push({ kind, name: own, generated, body, file, stack: new Error().stack });
    return reference(own);
  };
  const context = globalThis.__context;
  delete globalThis.__context;
  const security = context.security_context;
  const globals = {
    cube: define('cube'),
    view: define('view'),
    view_group: define('view_group'),
    viewGroup: define('view_group'),
    context(name) { ignored.push({ file, stack: new Error().stack, what: `context(${String(name)})` }); },
    asyncModule(work) {
      if (typeof work !== 'function') throw new TypeError('asyncModule takes a function');
      postponed.push({ work, file });
    },
    COMPILE_CONTEXT: { securityContext: security, security_context: security },
    process: { env: context.env },
  };
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true, enumerable: false });
  }
  Object.setPrototypeOf(globalThis, new Proxy(Object.create(Object.prototype), {
    get(target, key, receiver) {
      if (typeof key === 'symbol' || key in Object.prototype) return Reflect.get(target, key, receiver);
      return reference(key, PER_REQUEST.has(key) ? new Error().stack : undefined);
    },
  }));

  // What was defined, as data ----------------------------------------------------------------------------------------

  // Texts become 't…', references 'r…'; the rest is itself.
  const dump = (value, at, inData) => {
    switch (typeof value) {
      case 'string': return `t${value}`;
      case 'boolean': return value;
      case 'number':
        if (!Number.isFinite(value)) throw new TypeError(`${value} is not a number that a model can hold`);
        return value;
      case 'undefined': return undefined;
      case 'function': return dumpFunction(value, at, inData);
      case 'object': return dumpObject(value, at, inData);
      default: throw new TypeError(`a ${typeof value} is not something that a model can hold`);
    }
  };
  const dumpFunction = (value, at, inData) => {
    if (isReference(value)) {
      if (inData) throw new TypeError(`${argument(value)} has no value while the model is compiled, so that data cannot hold it`);
      return `r${argument(value)}`;
    }
    if (inData) throw new TypeError('data cannot hold a function');
    // A condition on what is known per request only: its text is read, since calling it would answer for nobody.
    if (at.path[at.path.length - 1] === 'if' && CONDITION.test(text(value))) return `f${text(value)}`;
    if (at.calls >= MOST_CALLS) throw new TypeError('the function gives functions without end');
    at.calls += 1;
    const dumped = dump(call(value), at, inData);
    at.calls -= 1;
    return dumped;
  };
  const dumpObject = (value, at, inData) => {
    if (value === null) return null;
    if (value instanceof Date) return `t${value.toISOString()}`;
    if (value instanceof String || value instanceof Number || value instanceof Boolean) return dump(value.valueOf(), at, inData);
    if (value instanceof Promise) throw new TypeError('a promise is not a value: wait for it inside asyncModule(async () => …)');
    for (const kind of [Map, Set, WeakMap, RegExp, Error]) {
      if (value instanceof kind) throw new TypeError(`a ${kind.name} is not something that a model can hold`);
    }
    if (at.open.includes(value)) throw new TypeError('the value contains itself');
    if (at.open.length >= MOST_NESTED) throw new TypeError(`values nest deeper than ${MOST_NESTED} levels`);
    at.open.push(value);
    const dumped = Array.isArray(value) ? [] : {};
    for (const key of Object.keys(value)) {
      at.path.push(key);
      const depth = at.open.length;
      try {
        const part = dump(value[key], at, inData || (key === 'meta' && !NAMED.has(at.path[at.path.length - 2])));
        if (part === undefined) { /* left out */ } else if (Array.isArray(value)) dumped.push(part); else dumped[`k${key}`] = part;
      } catch (error) {
        at.faults.push({ path: [...at.path], message: String(error?.message ?? error), stack: error?.stack ?? '', own: error instanceof TypeError });
        at.open.length = depth;
        at.calls = 0;
      }
      at.path.pop();
    }
    at.open.pop();
    return dumped;
  };

  globalThis.__enter = (name) => { file = name; };
  globalThis.__postponed = () => postponed.map((entry) => entry.file);
  globalThis.__work = (index) => {
    const { work, file: own } = postponed[index];
    file = own;
    return work();
  };
  globalThis.__definitions = () => definitions.map(({ kind, name, generated, file: own, stack }) => ({ kind, name, generated, file: own, stack }));
  globalThis.__ignored = () => ignored;
  globalThis.__dump = (index) => {
    const at = { path: [], faults: [], open: [], calls: 0 };
    const body = dump(definitions[index].body, at, false);
    return { body, faults: at.faults };
  };
  globalThis.__unused = () => [...unused].map(([target, expression]) => ({ expression, stack: target.stack }));
})();
