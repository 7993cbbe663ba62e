//! Threads that run hooks: never those of the async runtime, and enough of them that a slow hook does not stop the
//! others. Each has a sandbox of its own, with a `cube.js` of its own.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::Value as Json;
use tokio::sync::oneshot;

use super::HookError;
use super::project::{MAIN, ProjectFiles};
use crate::script::{Fault, FaultKind, Limits, Sandbox, spawn_on_own_stack};

/// Most threads.
const MAX_THREADS: usize = 8;
/// Most calls that wait for a thread; more are refused.
const MAX_WAITING: usize = 1_000;
/// What nobody waits for is not called when so many calls wait.
const MAX_TOLD: usize = 100;
/// A sandbox whose live values take more than this part of its memory begins anew: one in so many.
const FULL: usize = 2;

/// What every thread runs.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) files: ProjectFiles,
    /// What `process.env` shows.
    pub(super) env: Json,
    pub(super) limits: Limits,
}

/// A call of a function of `host.js`.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) function: &'static str,
    pub(super) arguments: Vec<Json>,
}

struct Job {
    call: Call,
    /// None when nobody waits for the answer.
    done: Option<oneshot::Sender<Result<Json, HookError>>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

struct Shared {
    program: Program,
    state: Mutex<State>,
    wake: Condvar,
}

/// The threads; they end with the last handle.
pub(super) struct Pool(Arc<Shared>);

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl Pool {
    /// Without threads: each is started when it is needed.
    pub(super) fn new(program: Program) -> Self {
        Self(Arc::new(Shared { program, state: Mutex::default(), wake: Condvar::new() }))
    }

    /// Calls a function on one of the threads. A call that nobody waits for any more is not begun.
    pub(super) async fn call(&self, call: Call) -> Result<Json, HookError> {
        let (done, result) = oneshot::channel();
        self.submit(Job { call, done: Some(done) })?;
        let limit = self.0.program.limits.time.saturating_mul(2);
        match tokio::time::timeout(limit, result).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_lost)) => Err(HookError::Lost),
            Err(_elapsed) => Err(HookError::Busy),
        }
    }

    /// Calls a function for which nobody waits; not at all when others already wait.
    pub(super) fn tell(&self, call: Call) {
        let waiting = self.0.lock().waiting.len();
        if waiting < MAX_TOLD {
            // It is only told.
            let _ = self.submit(Job { call, done: None });
        }
    }

    fn submit(&self, job: Job) -> Result<(), HookError> {
        let mut state = self.0.lock();
        if state.waiting.len() >= MAX_WAITING {
            return Err(HookError::Busy);
        }
        state.waiting.push_back(job);
        if state.waiting.len() > state.idle && state.threads < MAX_THREADS {
            let shared = Arc::clone(&self.0);
            let started = spawn_on_own_stack(shared.program.limits, "hooks", move || work(&shared));
            match started {
                Ok(_detached) => state.threads += 1,
                // The others, if there are any, do the work.
                Err(error) if state.threads > 0 => tracing::warn!(%error, "no further thread for hooks"),
                Err(error) => {
                    tracing::error!(%error, "no thread for hooks");
                    state.waiting.pop_back();
                    return Err(HookError::Lost);
                }
            }
        }
        drop(state);
        self.0.wake.notify_one();
        Ok(())
    }
}

impl Shared {
    /// The state is whole after every statement, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.waiting.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// Counts a thread as gone, however it ends.
struct Presence<'a>(&'a Shared);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
    }
}

fn work(shared: &Shared) {
    let _presence = Presence(shared);
    let mut ready: Option<Engine> = None;
    while let Some(Job { call, done }) = shared.next() {
        if done.as_ref().is_some_and(oneshot::Sender::is_closed) {
            continue;
        }
        let engine = match ready.take() {
            Some(engine) => Ok(engine),
            None => Engine::start(&shared.program).map(|(engine, _)| engine),
        };
        let outcome = engine.map_err(HookError::from).and_then(|engine| {
            let outcome = engine.call(&call);
            ready = engine.after(&outcome);
            outcome
        });
        match done {
            // Who asked may be gone.
            Some(done) => drop(done.send(outcome)),
            None => {
                if let Err(error) = outcome {
                    tracing::warn!(hook = error.place(), %error, "a hook of cube.js failed");
                }
            }
        }
    }
}

/// A sandbox with `cube.js` in it.
pub(super) struct Engine {
    sandbox: Sandbox,
    memory: usize,
}

impl Engine {
    /// Runs `cube.js`; with what it exports.
    pub(super) fn start(program: &Program) -> Result<(Self, Json), Fault> {
        let sandbox = Sandbox::new(program.limits, Rc::new(program.files.clone()))?;
        let context = serde_json::json!({ "env": program.env });
        sandbox.prepare("context", &format!("globalThis.__context = {context};"))?;
        sandbox.prepare("host", include_str!("host.js"))?;
        sandbox.run(MAIN)?;
        let exported = sandbox.call("__describe", &[MAIN.into()])?;
        Ok((Self { sandbox, memory: program.limits.memory }, exported))
    }

    /// Calls a function on this thread.
    pub(super) fn call(&self, call: &Call) -> Result<Json, HookError> {
        self.sandbox.call(call.function, &call.arguments).map_err(|fault| self.explain(fault))
    }

    fn explain(&self, fault: Fault) -> HookError {
        let last = self.sandbox.call("__last", &[]).unwrap_or_default();
        let hook = last["hook"].as_str().unwrap_or_default().to_owned();
        let thrown = &last["thrown"];
        match (fault.kind, thrown["text"].as_str()) {
            (FaultKind::Thrown, Some(text)) => HookError::Thrown {
                hook,
                text: text.to_owned(),
                place: fault.place.as_ref().map(ToString::to_string).unwrap_or_default(),
                status: thrown["status"].as_u64().and_then(|status| u16::try_from(status).ok()),
                message: thrown["message"].as_str().map(str::to_owned),
            },
            _ => HookError::Failed { hook, fault },
        }
    }

    /// The engine after a call; none when its memory is nearly full of what hooks keep.
    fn after(self, outcome: &Result<Json, HookError>) -> Option<Self> {
        let ran_out = matches!(outcome, Err(HookError::Failed { fault, .. }) if fault.kind == FaultKind::Memory);
        if !ran_out || self.sandbox.used_bytes() < self.memory / FULL {
            return Some(self);
        }
        tracing::warn!("cube.js has filled its memory: it begins anew");
        // What it does not let go of is lost to the process: see the sandbox's end.
        if let Err(fault) = self.sandbox.call("__forget", &[]).and_then(|_| self.sandbox.unload()) {
            tracing::warn!(%fault, "cube.js cannot be let go of");
        }
        None
    }
}
