//! One QuickJS runtime with its limits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rquickjs::context::EvalOptions;
use rquickjs::promise::PromiseState;
use rquickjs::{Context, Ctx, Error, Exception, Function, Object, Promise, Runtime, Value};
use serde_json::Value as Json;

use super::{Fault, FaultKind, Files, Limits, Place, Position, modules, outline};

/// Names of files that are ours begin so; they are left out of places.
const OWN_FILES: &str = "quarry:";
/// What a file is wrapped in; the first part, and the prologue behind it, stand in its first line.
const WRAPPER: (&str, &str) =
    ("(function (exports, require, module, __filename, __dirname, __import, __e, __dyn_) {", "\n})");
/// Longest pause between two looks at what there is to do.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Longest message that is kept, in characters.
const MAX_MESSAGE: usize = 2_000;
/// Stack of the thread that runs scripts, beyond what the scripts may use.
const THREAD_STACK: usize = 4 << 20;

/// Runs `work` on a thread whose stack is large enough for [`Limits::stack`].
///
/// # Errors
/// The system gives no thread.
pub fn on_own_stack<T: Send>(limits: Limits, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("script".to_owned()).stack_size(limits.stack + THREAD_STACK);
        let running = thread.spawn_scoped(scope, work)?;
        match running.join() {
            Ok(result) => Ok(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Starts a thread whose stack is large enough for [`Limits::stack`].
///
/// # Errors
/// The system gives no thread.
pub fn spawn_on_own_stack(
    limits: Limits,
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(limits.stack + THREAD_STACK).spawn(work)
}

/// Scripts run here; several files share one sandbox. Lives on one thread.
pub struct Sandbox {
    /// Always there until the end.
    engine: Option<(Context, Runtime)>,
    shared: Rc<Shared>,
    limits: Limits,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What the sandbox and the functions it gives to scripts both look at.
struct Shared {
    files: Rc<dyn Files>,
    deadline: Cell<Option<Instant>>,
    /// The deadline came.
    expired: Cell<bool>,
    /// A script was cut off in the middle: memory, stack or time ran out.
    cut_off: Cell<bool>,
    /// Characters in front of the first line of each file.
    prologues: RefCell<HashMap<String, usize>>,
    /// The last import that failed: who asked, for what, and the message.
    unresolved: RefCell<Option<(String, String, String)>>,
    /// Promises that failed with nobody looking.
    unheard: RefCell<Vec<Fault>>,
}

impl Shared {
    fn is_late(&self) -> bool {
        let late = self.deadline.get().is_some_and(|deadline| Instant::now() >= deadline);
        if late {
            self.expired.set(true);
            self.cut_off.set(true);
        }
        late
    }

    fn resolve(&self, ctx: &Ctx<'_>, from: &str, specifier: &str) -> rquickjs::Result<String> {
        self.files.resolve(from, specifier).map_err(|message| {
            let thrown = Exception::throw_message(ctx, &message);
            *self.unresolved.borrow_mut() = Some((from.to_owned(), specifier.to_owned(), message));
            thrown
        })
    }

    fn text(&self, ctx: &Ctx<'_>, name: &str) -> rquickjs::Result<&str> {
        self.files.text(name).ok_or_else(|| Exception::throw_message(ctx, &format!("the file '{name}' is not there")))
    }
}

impl Sandbox {
    /// An empty sandbox.
    ///
    /// # Errors
    /// The memory limit is too small for the engine itself.
    pub fn new(limits: Limits, files: Rc<dyn Files>) -> Result<Self, Fault> {
        let shared = Rc::new(Shared {
            files,
            deadline: Cell::new(None),
            expired: Cell::new(false),
            cut_off: Cell::new(false),
            prologues: RefCell::default(),
            unresolved: RefCell::new(None),
            unheard: RefCell::new(Vec::new()),
        });
        let runtime = Runtime::new().map_err(|error| start_fault(&error))?;
        runtime.set_memory_limit(limits.memory);
        runtime.set_max_stack_size(limits.stack);
        let handler = Rc::clone(&shared);
        runtime.set_interrupt_handler(Some(Box::new(move || handler.is_late())));
        let tracker = Rc::clone(&shared);
        runtime.set_host_promise_rejection_tracker(Some(Box::new(move |ctx, _promise, reason, handled| {
            let fault = describe(&ctx, &reason, &tracker);
            let mut unheard = tracker.unheard.borrow_mut();
            match unheard.iter().rposition(|other| *other == fault) {
                Some(at) if handled => drop(unheard.remove(at)),
                None if !handled => unheard.push(fault),
                _ => {}
            }
        })));
        let context = Context::full(&runtime).map_err(|error| start_fault(&error))?;
        let sandbox = Self { engine: Some((context, runtime)), shared, limits };
        sandbox.within(|ctx| {
            let host = host(ctx, &sandbox.shared)?;
            let bootstrap: Function<'_> = eval(ctx, "quarry:bootstrap", include_str!("bootstrap.js"))?;
            bootstrap.call::<_, ()>((host,))
        })?;
        Ok(sandbox)
    }

    /// Runs a script of our own, in the global scope.
    ///
    /// # Errors
    /// It does not come to its end.
    pub fn prepare(&self, name: &str, source: &str) -> Result<(), Fault> {
        self.within(|ctx| eval::<Value<'_>>(ctx, &format!("{OWN_FILES}{name}"), source).map(drop))
    }

    /// Runs a file, unless another one has imported it already, and what it leaves to be done later.
    ///
    /// # Errors
    /// It does not come to its end.
    pub fn run(&self, name: &str) -> Result<(), Fault> {
        self.within(|ctx| {
            ctx.globals().get::<_, Function<'_>>("__load")?.call::<_, Value<'_>>((name,))?;
            self.finish_jobs(ctx)
        })
        .map_err(|mut fault| {
            // It has not run; a fault of that is a consequence.
            let _ = self.call("__unload", &[name.into()]);
            // There was no memory to note the place either.
            if fault.kind == FaultKind::Memory && fault.place.is_none() {
                let at = self.shared.files.text(name).and_then(outline::only_loop);
                fault.place = at.map(|at| Place { file: name.to_owned(), at });
            }
            fault
        })?;
        let Some(mut fault) = self.shared.unheard.take().into_iter().next() else { return Ok(()) };
        self.shared.explain(&mut fault, self.limits);
        Err(fault)
    }

    /// Calls a global function with JSON and gives its answer as JSON; waits for promises.
    ///
    /// # Errors
    /// There is no such function, it throws, or its answer cannot be JSON.
    pub fn call(&self, function: &str, arguments: &[Json]) -> Result<Json, Fault> {
        self.within(|ctx| {
            let mut values = rquickjs::function::Args::new(ctx.clone(), arguments.len());
            for argument in arguments {
                values.push_arg(ctx.json_parse(argument.to_string())?)?;
            }
            let mut answer: Value<'_> = ctx.globals().get::<_, Function<'_>>(function)?.call_arg(values)?;
            if let Some(promise) = answer.as_promise() {
                answer = self.shared.settle(ctx, promise)?;
            }
            let text = match ctx.json_stringify(answer)? {
                Some(text) => text.to_string()?,
                None => return Ok(Json::Null),
            };
            serde_json::from_str(&text).map_err(|error| Exception::throw_message(ctx, &error.to_string()))
        })
    }

    /// The innermost place in a file of the author's that a stack names.
    pub fn place(&self, stack: &str) -> Option<Place> {
        stack.lines().find_map(|line| place_of(line, &self.shared))
    }

    /// Lets go of all files that have run, so that their memory can be taken back.
    ///
    /// # Errors
    /// There is not even the memory for that.
    pub fn unload(&self) -> Result<(), Fault> {
        self.call("__unload", &[]).map(drop)
    }

    /// Bytes that are taken now.
    pub fn used_bytes(&self) -> usize {
        let (_, runtime) = self.engine.as_ref().expect("there until the end");
        usize::try_from(runtime.memory_usage().malloc_size).unwrap_or(usize::MAX)
    }

    fn finish_jobs(&self, ctx: &Ctx<'_>) -> rquickjs::Result<()> {
        while !self.shared.is_late() {
            if !ctx.execute_pending_job() {
                return Ok(());
            }
        }
        Err(Exception::throw_message(ctx, "interrupted"))
    }

    /// Does work within the limits of time, and explains its failure.
    fn within<T>(&self, work: impl for<'js> FnOnce(&Ctx<'js>) -> rquickjs::Result<T>) -> Result<T, Fault> {
        let (context, runtime) = self.engine.as_ref().expect("there until the end");
        self.shared.deadline.set(Instant::now().checked_add(self.limits.time));
        self.shared.expired.set(false);
        self.shared.unresolved.take();
        self.shared.unheard.take();
        let result = context.with(|ctx| {
            work(&ctx).map_err(|error| {
                let mut fault = match error {
                    Error::Exception => describe(&ctx, &ctx.catch(), &self.shared),
                    Error::Allocation => {
                        self.shared.cut_off.set(true);
                        memory_fault()
                    }
                    Error::WouldBlock => pending_fault(),
                    other => Fault { kind: FaultKind::Thrown, message: other.to_string(), place: None },
                };
                self.shared.explain(&mut fault, self.limits);
                fault
            })
        });
        self.shared.deadline.set(None);
        if self.shared.cut_off.get() {
            runtime.run_gc();
        }
        result
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // At its end QuickJS ends the whole process when it finds something left over, which a script that was cut
        // off may leave behind. What remains after the collection is little: it stays.
        if self.shared.cut_off.get()
            && let Some(engine) = self.engine.take()
        {
            engine.1.run_gc();
            std::mem::forget(engine);
        }
    }
}

impl Shared {
    /// Works until the promise is settled.
    fn settle<'js>(&self, ctx: &Ctx<'js>, promise: &Promise<'js>) -> rquickjs::Result<Value<'js>> {
        loop {
            match promise.state() {
                PromiseState::Pending if self.is_late() => return Err(Exception::throw_message(ctx, "interrupted")),
                PromiseState::Pending if ctx.execute_pending_job() => {}
                PromiseState::Pending => match idle(ctx)? {
                    Some(pause) => self.rest(pause),
                    None => return Err(Error::WouldBlock),
                },
                PromiseState::Resolved => return promise.result().unwrap_or(Err(Error::WouldBlock)),
                PromiseState::Rejected => {
                    let result = promise.result().unwrap_or(Err(Error::WouldBlock));
                    // It is heard of here.
                    self.unheard.borrow_mut().clear();
                    return result;
                }
            }
        }
    }

    /// Lets time pass, to the deadline at most.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        let until = self.deadline.get().map_or(until, |deadline| until.min(deadline));
        // May wake early: who rests looks again.
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }

    /// Puts what is known of the limits and of failed imports into a fault.
    fn explain(&self, fault: &mut Fault, limits: Limits) {
        if self.expired.get() {
            fault.kind = FaultKind::Time;
            if let Some(place) = &mut fault.place
                && let Some(at) = self.files.text(&place.file).and_then(|source| outline::loop_behind(source, place.at))
            {
                place.at = at;
            }
            fault.message = format!("the script did not end within {}", seconds(limits.time));
            return;
        }
        match fault.kind {
            FaultKind::Memory => {
                fault.message = format!("the script uses more than {} MB of memory", limits.memory >> 20)
            }
            FaultKind::Stack => {
                fault.message = "the script calls too deep: it seems to call itself without end".to_owned()
            }
            _ => {}
        }
        let unresolved = self.unresolved.take();
        if let Some((from, specifier, message)) = unresolved.filter(|(_, _, message)| *message == fault.message) {
            fault.kind = FaultKind::Import;
            fault.message = message;
            let at = self.files.text(&from).and_then(|source| outline::import_of(source, &specifier));
            if let Some(at) = at {
                fault.place = Some(Place { file: from, at });
            }
        }
    }
}

/// How long to wait before there is more to do, where the global function `__idle` is there to say so. In models every
/// name that nobody declared is there, but says no number.
fn idle(ctx: &Ctx<'_>) -> rquickjs::Result<Option<Duration>> {
    let Some(ask) = ctx.globals().get::<_, Option<Function<'_>>>("__idle")? else { return Ok(None) };
    let millis: Value<'_> = ask.call(())?;
    Ok(millis.as_number().and_then(|millis| Duration::try_from_secs_f64(millis / 1_000.0).ok()))
}

/// The functions that the bootstrap builds on.
fn host<'js>(ctx: &Ctx<'js>, shared: &Rc<Shared>) -> rquickjs::Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    host.set("log", Function::new(ctx.clone(), log)?)?;
    let own = Rc::clone(shared);
    let resolve = move |ctx: Ctx<'js>, from: String, wanted: String| own.resolve(&ctx, &from, &wanted);
    host.set("resolve", Function::new(ctx.clone(), resolve)?)?;
    let own = Rc::clone(shared);
    let json = move |ctx: Ctx<'js>, name: String| {
        let text = own.text(&ctx, &name)?;
        ctx.json_parse(text)
    };
    host.set("json", Function::new(ctx.clone(), json)?)?;
    let own = Rc::clone(shared);
    let compile = move |ctx: Ctx<'js>, name: String| {
        let body = modules::body(own.text(&ctx, &name)?);
        let prologue = format!("{}{}", WRAPPER.0, body.prologue);
        own.prologues.borrow_mut().insert(name.clone(), prologue.chars().count());
        let compiled = Object::new(ctx.clone())?;
        compiled.set("isModule", body.is_module)?;
        let source = format!("{prologue}{}{}", body.text, WRAPPER.1);
        compiled.set("body", eval::<Value<'js>>(&ctx, &name, &source)?)?;
        Ok::<_, Error>(compiled)
    };
    host.set("compile", Function::new(ctx.clone(), compile)?)?;
    Ok(host)
}

fn eval<'js, V: rquickjs::FromJs<'js>>(ctx: &Ctx<'js>, name: &str, source: &str) -> rquickjs::Result<V> {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(name.to_owned());
    ctx.eval_with_options(source, options)
}

#[expect(clippy::needless_pass_by_value, reason = "arguments of scripts come as values")]
fn log(level: String, text: String) {
    let text: String = text.chars().take(MAX_MESSAGE).collect();
    match level.as_str() {
        "debug" => tracing::debug!(target: "script", "{text}"),
        "warn" => tracing::warn!(target: "script", "{text}"),
        "error" => tracing::error!(target: "script", "{text}"),
        _ => tracing::info!(target: "script", "{text}"),
    }
}

/// What was thrown, as a fault.
fn describe<'js>(ctx: &Ctx<'js>, thrown: &Value<'js>, shared: &Shared) -> Fault {
    let fault = match thrown.as_object().cloned().and_then(Exception::from_object) {
        Some(exception) => {
            let name = exception.get::<_, String>("name").unwrap_or_default();
            let message = exception.message().unwrap_or_default();
            let stack = exception.stack().unwrap_or_default();
            // The place of a fault of syntax stands alone; that of a call is in brackets.
            let first = stack.lines().next().unwrap_or_default();
            let is_syntax = name == "SyntaxError" && !first.contains('(') && place_of(first, shared).is_some();
            let kind = match (name.as_str(), message.as_str()) {
                ("InternalError", "out of memory") => FaultKind::Memory,
                (_, message) if message.contains("call stack size exceeded") || message == "stack overflow" => {
                    FaultKind::Stack
                }
                _ if is_syntax => FaultKind::Syntax,
                _ => FaultKind::Thrown,
            };
            let is_plain = matches!(name.as_str(), "" | "Error") || kind == FaultKind::Syntax;
            let message =
                if is_plain || is_unresolved(shared, &message) { message } else { format!("{name}: {message}") };
            Fault { kind, message, place: stack.lines().find_map(|line| place_of(line, shared)) }
        }
        // So QuickJS says that there is no memory for the error either.
        None if thrown.is_null() => memory_fault(),
        None => {
            let text = thrown.as_string().and_then(|text| text.to_string().ok());
            let json = || ctx.json_stringify(thrown.clone()).ok().flatten().and_then(|text| text.to_string().ok());
            let text = text.or_else(json).unwrap_or_else(|| thrown.type_name().to_owned());
            Fault { kind: FaultKind::Thrown, message: format!("thrown: {text}"), place: None }
        }
    };
    // Getters of what was thrown may have thrown in turn.
    ctx.catch();
    if matches!(fault.kind, FaultKind::Memory | FaultKind::Stack) {
        shared.cut_off.set(true);
    }
    let message = fault.message.chars().take(MAX_MESSAGE).collect();
    Fault { message, ..fault }
}

fn is_unresolved(shared: &Shared, message: &str) -> bool {
    shared.unresolved.borrow().as_ref().is_some_and(|(_, _, known)| known == message)
}

/// `    at name (file:3:5)` or `    at file:3:5`, when the file is one of the author's.
fn place_of(line: &str, shared: &Shared) -> Option<Place> {
    let frame = line.trim().strip_prefix("at ")?;
    let inner = frame.strip_suffix(')').and_then(|frame| frame.rsplit_once(" (")).map_or(frame, |(_, inner)| inner);
    let mut parts = inner.rsplitn(3, ':');
    let column: usize = parts.next()?.parse().ok()?;
    let line: usize = parts.next()?.parse().ok()?;
    let file = parts.next()?;
    shared.files.text(file)?;
    let before = shared.prologues.borrow().get(file).copied().filter(|_| line == 1).unwrap_or(0);
    let column = column.saturating_sub(before);
    Some(Place { file: file.to_owned(), at: Position { line, column: column.max(1) } })
}

fn memory_fault() -> Fault {
    Fault { kind: FaultKind::Memory, message: "out of memory".to_owned(), place: None }
}

fn pending_fault() -> Fault {
    let message = "the script waits for a promise that nothing will settle".to_owned();
    Fault { kind: FaultKind::Pending, message, place: None }
}

fn start_fault(error: &Error) -> Fault {
    Fault { kind: FaultKind::Memory, message: format!("the JavaScript engine does not start: {error}"), place: None }
}

fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Folder(BTreeMap<&'static str, &'static str>);

    impl Files for Folder {
        fn resolve(&self, _from: &str, specifier: &str) -> Result<String, String> {
            let name = specifier.trim_start_matches("./");
            let found =
                [name.to_owned(), format!("{name}.js")].into_iter().find(|name| self.0.contains_key(name.as_str()));
            found.ok_or_else(|| format!("'{name}' is not there"))
        }

        fn text(&self, name: &str) -> Option<&str> {
            self.0.get(name).copied()
        }
    }

    const SMALL: Limits = Limits { time: Duration::from_millis(300), memory: 16 << 20, stack: 256 << 10 };

    fn sandbox(files: &[(&'static str, &'static str)]) -> Sandbox {
        Sandbox::new(SMALL, Rc::new(Folder(files.iter().copied().collect()))).expect("a sandbox")
    }

    /// Runs `main.js` and gives the global `out`, or the fault.
    fn run(files: &[(&'static str, &'static str)]) -> String {
        let sandbox = sandbox(files);
        sandbox.prepare("read", "globalThis.read = () => globalThis.out").expect("prepared");
        match sandbox.run("main.js") {
            Ok(()) => sandbox.call("read", &[]).expect("an answer").to_string(),
            Err(fault) => format!("{:?} {fault}", fault.kind),
        }
    }

    #[track_caller]
    fn check(main: &'static str, expected: &str) {
        assert_eq!(run(&[("main.js", main)]), expected, "{main}");
    }

    #[test]
    fn scripts_run_to_their_end() {
        check("globalThis.out = [1, 'a', {b: null}]", "[1,\"a\",{\"b\":null}]");
        check("Promise.resolve(7).then((n) => { globalThis.out = n })", "7");
        check("export const x = 1; globalThis.out = x", "1");
        check("console.log('hello', {a: 1}, undefined); globalThis.out = typeof window", "\"undefined\"");
        check("undeclared = 3; globalThis.out = undeclared", "3");
    }

    #[test]
    fn faults_have_their_place() {
        check("\n  throw new Error('no')", "Thrown main.js:2:13: no");
        check("let a;\nlet b = a.c.d;", "Thrown main.js:2:9: TypeError: cannot read property 'c' of undefined");
        check("null.x", "Thrown main.js:1:1: TypeError: cannot read property 'x' of null");
        check("throw 'a text'", "Thrown thrown: a text");
        check("throw {code: 1}", "Thrown thrown: {\"code\":1}");
        check("(async () => {\n  throw new Error('late') })()", "Thrown main.js:2:13: late");
        check(
            "setTimeout(() => {}, 1)",
            "Thrown main.js:1:1: 'setTimeout' is not available here: scripts neither wait for time nor reach the network",
        );
    }

    #[test]
    fn faults_of_syntax_have_their_place() {
        let fault = run(&[("main.js", "const a = 1;\nconst b = = 2;")]);
        assert!(fault.starts_with("Syntax main.js:2:11: "), "{fault}");
        let fault = run(&[("main.js", "import x from './a'\nexport default x"), ("a.js", "export const = 1")]);
        assert!(fault.starts_with("Syntax a.js:1:14: "), "{fault}");
        let fault = run(&[("main.js", "JSON.parse('{')")]);
        assert!(fault.starts_with("Thrown "), "{fault}");
    }

    #[test]
    fn runaway_scripts_are_stopped() {
        check("let n = 0;\nwhile (true) { n += 1 }", "Time main.js:2:1: the script did not end within 300 ms");
        check(
            "while (true) { try { while (true) {} } catch {} }",
            "Time main.js:1:1: the script did not end within 300 ms",
        );
        check("(async () => { for (;;) await null })()", "Time the script did not end within 300 ms");
        check("/(a+)+$/.test('a'.repeat(60) + 'b')", "Time main.js:1:31: the script did not end within 300 ms");
        check(
            "const f = () => 1 + f(); f()",
            "Stack main.js:1:20: the script calls too deep: it seems to call itself without end",
        );
        let fault = run(&[("main.js", "const a = [];\nfor (;;) a.push(new Array(1000).fill(1))")]);
        assert!(fault.starts_with("Memory main.js:2:") && fault.ends_with("more than 16 MB of memory"), "{fault}");
        let fault = run(&[("main.js", "let s = 'x'; for (;;) s = s + s;")]);
        assert!(fault.starts_with("Memory ") || fault.contains("string too long"), "{fault}");
    }

    #[test]
    fn a_sandbox_goes_on_after_a_fault() {
        let files = [
            ("loop.js", "for (;;) {}"),
            ("eat.js", "const a = []; for (;;) a.push(new Array(100).fill(a.length))"),
            ("deep.js", "(function f() { f() })()"),
            ("main.js", "globalThis.out = 1"),
        ];
        let sandbox = sandbox(&files);
        sandbox.prepare("read", "globalThis.read = () => globalThis.out").expect("prepared");
        for bad in ["loop.js", "eat.js", "deep.js", "eat.js"] {
            sandbox.run(bad).expect_err(bad);
        }
        sandbox.run("main.js").expect("sound");
        assert_eq!(sandbox.call("read", &[]).expect("an answer"), Json::from(1));
    }

    #[test]
    fn memory_may_end_anywhere() {
        let main =
            "export const m = new Map(); let s = ''; for (let i = 0; ; i++) { s += i; m.set(s, {s, f: () => s}); }";
        for kilobytes in (700..2_000).step_by(13) {
            let limits = Limits { memory: kilobytes << 10, ..SMALL };
            let Ok(sandbox) = Sandbox::new(limits, Rc::new(Folder([("main.js", main)].into()))) else { continue };
            let fault = sandbox.run("main.js").expect_err("no end of memory");
            assert_ne!(fault.kind, FaultKind::Syntax, "{kilobytes}: {fault}");
        }
    }

    #[test]
    fn hostile_scripts_are_faults_and_nothing_worse() {
        for main in [
            "throw { get message() { for (;;) {} } }",
            "throw new Proxy(new Error('x'), { get() { throw new Error('y') } })",
            "const e = new Error('x'); Object.defineProperty(e, 'stack', { get() { for (;;) {} } }); throw e",
            "Error.prepareStackTrace = () => { for (;;) {} }; null.x",
            "throw new Error('\\ud800')",
            "throw null",
            "throw undefined",
            "throw Symbol('x')",
            "new Function('for (;;) {}')()",
            "eval('for (;;) {}')",
            "[1, 2].sort(() => { for (;;) {} })",
            "JSON.parse('[1]', () => { for (;;) {} })",
            "'a'.replace(/a/, () => { for (;;) {} })",
            "new Array(2 ** 31).fill(0).map(() => 1)",
            "'x'.repeat(2 ** 30)",
            "new ArrayBuffer(2 ** 40)",
            "class A { constructor() { new A() } } new A()",
            "const p = new Proxy({}, {}); Object.setPrototypeOf(p, p); p.x",
            "let o = {}; for (let i = 0; i < 1e6; i++) o = { o }; JSON.stringify(o)",
            "function* g() { yield* g() } [...g()]",
            "[1].forEach(function f() { [1].forEach(f) })",
            "a\u{0}b",
        ] {
            let fault = run(&[("main.js", main)]);
            assert!(fault.contains(' ') && fault.len() < 300, "{main}: {fault}");
        }
        for text in ["[", "(", "{a:", "`${", "f(", "!", "x=>", "if(1)"] {
            let source: &'static str = Box::leak(text.repeat(50_000).into_boxed_str());
            let fault = run(&[("main.js", source)]);
            assert!(fault.starts_with("Syntax") || fault.starts_with("Stack"), "{text}: {fault}");
        }
        for odd in [
            "delete globalThis.__load",
            "Array.prototype.map = null; Object.defineProperty = null",
            "globalThis.JSON = 1",
        ] {
            run(&[("main.js", odd)]);
        }
    }

    #[test]
    fn files_import_each_other() {
        let helper = ("helper.js", "exports.a = 1; module.exports.b = () => 2;");
        check_files(&[("main.js", "const h = require('./helper'); globalThis.out = h.a + h.b()"), helper], "3");
        check_files(&[("main.js", "import { a, b } from './helper'; globalThis.out = [a, b()]"), helper], "[1,2]");
        check_files(&[("main.js", "import h from './helper'; globalThis.out = h.a"), helper], "1");
        let module = ("helper.js", "export const a = 1; export default 5;");
        check_files(&[("main.js", "import d, { a } from './helper'; globalThis.out = [d, a]"), module], "[5,1]");
        check_files(
            &[("main.js", "const h = require('./helper'); globalThis.out = [h.default, h.a]"), module],
            "[5,1]",
        );
        let data = ("data.json", "{\"x\": [1]}");
        check_files(&[("main.js", "import d from './data.json'; globalThis.out = d"), data], "{\"x\":[1]}");
        check_files(&[("main.js", "globalThis.out = require('./data.json').x"), data], "[1]");
        check_files(
            &[
                ("main.js", "exports.x = 1; globalThis.out = require('./o').y"),
                ("o.js", "exports.y = require('./main').x"),
            ],
            "1",
        );
    }

    #[test]
    fn files_may_import_each_other_in_circles() {
        let odd = ("odd.js", "import { even } from './main';\nexport const odd = (n) => n > 0 && even(n - 1);");
        let main = "import { odd } from './odd';\nexport function even(n) { return n === 0 || odd(n - 1) }\nglobalThis.out = even(10);";
        check_files(&[("main.js", main), odd], "true");
        check_files(
            &[
                (
                    "main.js",
                    "export { a as b } from './o'; export * from './o'; import * as me from './main'; globalThis.out = () => 1;\nglobalThis.out = [me.a, me.b, Object.keys(me)]",
                ),
                ("o.js", "export const a = 1; export default 2;"),
            ],
            "[1,1,[\"b\",\"a\"]]",
        );
        check_files(
            &[("main.js", "import('./o').then((o) => { globalThis.out = o.default })"), ("o.js", "export default 2;")],
            "2",
        );
        check_files(
            &[
                ("main.js", "import Base, { f } from './o'; class A extends Base {} globalThis.out = [new A().x, f()]"),
                ("o.js", "export default class Base { x = 1 }\nexport function f() { return 3 }"),
            ],
            "[1,3]",
        );
    }

    #[track_caller]
    fn check_files(files: &[(&'static str, &'static str)], expected: &str) {
        assert_eq!(run(files), expected, "{files:?}");
    }

    #[test]
    fn faults_of_imports_point_at_the_import() {
        check("\nconst x = require('./nowhere')", "Import main.js:2:19: 'nowhere' is not there");
        check("import x from './nowhere'", "Import main.js:1:15: 'nowhere' is not there");
        let broken = ("helper.js", "\nthrow new Error('broken')");
        check_files(&[("main.js", "require('./helper')"), broken], "Thrown helper.js:2:11: broken");
        let fault = run(&[("main.js", "import { b } from './helper'"), ("helper.js", "export const a = 1")]);
        assert_eq!(fault, "Thrown main.js:1:1: './helper' does not export 'b'");
    }

    #[test]
    fn a_file_runs_once() {
        let files = [
            ("main.js", "import './helper'; require('./old')"),
            ("helper.js", "globalThis.out = (globalThis.out ?? 0) + 1; export {}"),
            ("old.js", "globalThis.out += 10"),
        ];
        let sandbox = sandbox(&files);
        sandbox.prepare("read", "globalThis.read = () => globalThis.out").expect("prepared");
        for name in ["main.js", "helper.js", "old.js", "main.js"] {
            sandbox.run(name).expect("sound");
        }
        assert_eq!(sandbox.call("read", &[]).expect("an answer"), Json::from(11));
    }

    #[test]
    fn calls_pass_json_and_wait() {
        let sandbox = sandbox(&[]);
        sandbox
            .prepare(
                "f",
                "globalThis.f = async (a, b) => ({sum: a.x + b}); globalThis.g = () => { throw new TypeError('t') }",
            )
            .expect("prepared");
        let answer = sandbox.call("f", &[serde_json::json!({"x": 1}), Json::from(2)]).expect("an answer");
        assert_eq!(answer, serde_json::json!({"sum": 3}));
        assert_eq!(sandbox.call("g", &[]).expect_err("thrown").message, "TypeError: t");
        sandbox.prepare("h", "globalThis.h = () => new Promise(() => {})").expect("prepared");
        assert_eq!(sandbox.call("h", &[]).expect_err("never settled").kind, FaultKind::Pending);
    }
}
