//! The line with a real clock: what must come is waited for long, what must not come is given a moment.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use tokio::sync::oneshot;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(30);
const NOW: Duration = Duration::ZERO;

fn queue(concurrency: usize, orphaned: Duration) -> Queue<u32> {
    let options = QueueOptions { concurrency, timeout: LONG, orphaned, most: 3, ready_bytes: 100 };
    Queue::new(options, Tasks::new(), |result| *result as usize)
}

fn ask(key: u128, request_id: &str, patience: Duration) -> Ask<'_> {
    Ask { key, request_id, until: Instant::now() + patience }
}

/// Work that ends when it is told to, and how often it was begun.
#[derive(Clone, Default)]
struct Begun(Arc<AtomicUsize>);

impl Begun {
    fn work(&self, done: oneshot::Receiver<u32>) -> impl FnOnce() -> BoxFuture<'static, u32> + Send + use<> {
        let begun = Arc::clone(&self.0);
        move || {
            begun.fetch_add(1, Ordering::SeqCst);
            async move { done.await.unwrap_or(0) }.boxed()
        }
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn never() -> BoxFuture<'static, u32> {
    std::future::pending().boxed()
}

fn boom() -> u32 {
    panic!("boom")
}

/// Asks until the work is done.
async fn fetch(queue: &Queue<u32>, key: u128) -> Outcome<u32> {
    queue.ask(ask(key, "fetch", LONG), || panic!("it was there")).await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[track_caller]
fn check_runs(outcome: Outcome<u32>) {
    assert!(matches!(outcome, Outcome::Waiting(Stage::Running(_))), "{outcome:?}");
}

/// §6.3: the same work asked for again joins what runs; its result lies ready for who comes back, once.
#[tokio::test]
async fn equal_work_is_done_once_and_its_result_lies_ready() {
    let (queue, begun) = (queue(1, LONG), Begun::default());
    let (finish, done) = oneshot::channel();
    check_runs(queue.ask(ask(1, "a-span-1", MOMENT), begun.work(done)).await);
    check_runs(queue.ask(ask(1, "b-span-1", MOMENT), || panic!("it runs already")).await);
    finish.send(7).expect("the work waits");
    until("the result", || queue.shared.lock().ready_bytes == 7).await;
    let again = queue.ask(ask(1, "a-span-2", NOW), || panic!("it is done")).await;
    assert_eq!((again, begun.count()), (Outcome::Done(7), 1));
    // It was fetched: who asks now wants another.
    let (_finish, done) = oneshot::channel();
    check_runs(queue.ask(ask(1, "a-span-3", MOMENT), begun.work(done)).await);
    assert_eq!(begun.count(), 2);
}

#[tokio::test]
async fn all_who_wait_get_the_result() {
    let (queue, begun) = (queue(1, LONG), Begun::default());
    let (finish, done) = oneshot::channel();
    let one = queue.ask(ask(1, "a", LONG), begun.work(done));
    let two = queue.ask(ask(1, "b", LONG), || panic!("it runs already"));
    let (one, two, ()) = tokio::join!(one, two, async { finish.send(3).expect("the work waits") });
    assert_eq!((one, two, begun.count()), (Outcome::Done(3), Outcome::Done(3), 1));
    assert!(queue.shared.lock().entries.is_empty());
}

/// §6.4: the rest waits in line; what is asked for goes before what is not, and first come, first served.
#[tokio::test]
async fn work_waits_in_line_by_urgency_and_arrival() {
    let queue = queue(1, LONG);
    let order = Arc::new(Mutex::new(Vec::new()));
    let noting = |name: &'static str| {
        let order = Arc::clone(&order);
        move || {
            order.lock().expect("no panic").push(name);
            async { 1 }.boxed()
        }
    };
    let (finish, done) = oneshot::channel();
    check_runs(queue.ask(ask(1, "a", NOW), Begun::default().work(done)).await);
    queue.start(2, noting("background"));
    let second = queue.ask(ask(3, "b", NOW), noting("asked first")).await;
    assert_eq!(second, Outcome::Waiting(Stage::InLine(1)));
    let third = queue.ask(ask(4, "c", NOW), noting("asked second")).await;
    assert_eq!(third, Outcome::Waiting(Stage::InLine(2)));
    assert_eq!(queue.ask(ask(5, "d", NOW), noting("no room")).await, Outcome::Full);
    finish.send(1).expect("the work waits");
    assert_eq!(fetch(&queue, 4).await, Outcome::Done(1));
    until("the background", || order.lock().expect("no panic").len() == 3).await;
    assert_eq!(*order.lock().expect("no panic"), ["asked first", "asked second", "background"]);
}

/// Trap 48: only what waits in line is dropped when nobody asks any more.
#[tokio::test]
async fn orphans_in_line_are_dropped_and_running_work_is_not() {
    let (queue, begun, dropped) = (queue(1, MOMENT), Begun::default(), Begun::default());
    let (finish, done) = oneshot::channel();
    check_runs(queue.ask(ask(1, "a", NOW), begun.work(done)).await);
    let (_never, waits) = oneshot::channel();
    let _ = queue.ask(ask(2, "b", NOW), dropped.work(waits)).await;
    tokio::time::sleep(2 * MOMENT).await;
    assert_eq!(queue.shared.lock().entries.len(), 2);
    let (first, ()) = tokio::join!(fetch(&queue, 1), async {
        tokio::task::yield_now().await;
        finish.send(5).expect("what runs is not dropped");
    });
    assert_eq!((first, dropped.count()), (Outcome::Done(5), 0), "the other one was an orphan");
    assert!(queue.shared.lock().entries.is_empty());
}

/// Whoever waits at this moment is no orphan, however long that takes.
#[tokio::test]
async fn who_waits_keeps_the_work_in_line() {
    let queue = queue(1, MOMENT);
    let (finish, done) = oneshot::channel();
    check_runs(queue.ask(ask(1, "a", NOW), Begun::default().work(done)).await);
    let waits = queue.ask(ask(2, "b", LONG), || async { 4 }.boxed());
    let (outcome, ()) = tokio::join!(waits, async {
        tokio::time::sleep(3 * MOMENT).await;
        finish.send(1).expect("the work waits");
    });
    assert_eq!(outcome, Outcome::Done(4));
}

#[tokio::test]
async fn results_that_nobody_fetches_go() {
    let queue = queue(4, 100 * MOMENT);
    let ready = || {
        let line = queue.shared.lock();
        (line.ready_bytes, line.entries.len())
    };
    for key in 1..=3 {
        let (finish, done) = oneshot::channel();
        check_runs(queue.ask(ask(key, "a", NOW), Begun::default().work(done)).await);
        finish.send(30 + u32::try_from(key).expect("small")).expect("the work waits");
        // Of 31, 32 and 33 bytes, and room for 100, all stay.
        until("the result", || ready().1 == usize::try_from(key).expect("small") && !runs(&queue)).await;
    }
    assert_eq!(ready(), (96, 3));
    queue.shared.lock().make_room(40, 100);
    assert_eq!(ready(), (33, 1), "the oldest had to go");
    until("the last one to go", || ready() == (0, 0)).await;
}

fn runs(queue: &Queue<u32>) -> bool {
    queue.shared.lock().running > 0
}

#[tokio::test]
async fn a_result_that_was_had_elsewhere_is_forgotten() {
    let queue = queue(1, LONG);
    let (finish, done) = oneshot::channel();
    check_runs(queue.ask(ask(1, "a", NOW), Begun::default().work(done)).await);
    queue.forget_ready(1);
    assert!(runs(&queue), "only results are forgotten");
    finish.send(5).expect("the work waits");
    until("the result", || queue.shared.lock().ready_bytes == 5).await;
    queue.forget_ready(1);
    assert!(queue.shared.lock().entries.is_empty());
}

#[tokio::test]
async fn work_has_a_limit() {
    let options = QueueOptions { concurrency: 1, timeout: MOMENT, orphaned: LONG, most: 3, ready_bytes: 100 };
    let queue: Queue<u32> = Queue::new(options, Tasks::new(), |result| *result as usize);
    assert_eq!(queue.ask(ask(1, "a", LONG), never).await, Outcome::TimedOut);
    // Its place is free again.
    assert_eq!(queue.ask(ask(2, "a", LONG), || async { 1 }.boxed()).await, Outcome::Done(1));
}

/// §7.7: by the exact id; work that another client wants too goes on.
#[tokio::test]
async fn work_is_cancelled_by_the_id_of_its_request() {
    let queue = queue(1, LONG);
    let _ = queue.ask(ask(1, "a-span-1", NOW), never).await;
    let _ = queue.ask(ask(2, "a-span-1", NOW), never).await;
    let _ = queue.ask(ask(2, "b-span-1", NOW), never).await;
    assert_eq!(queue.cancel("a"), []);
    let cancelled = queue.cancel("a-span-1");
    let told: Vec<(u128, &[String])> = cancelled.iter().map(|c| (c.key, c.requests.as_slice())).collect();
    assert_eq!(told, [(1, &["a-span-1".to_owned()][..])]);
    // The other one gets the place.
    until("the place", || matches!(queue.shared.lock().stage(2), Stage::Running(_))).await;
    check_runs(queue.ask(ask(2, "b-span-2", NOW), never).await);
    let waits = queue.ask(ask(2, "b-span-3", LONG), never);
    let (outcome, cancelled) = tokio::join!(waits, async { queue.cancel("b-span-2").len() });
    assert_eq!((outcome, cancelled), (Outcome::Cancelled, 1));
}

#[tokio::test]
async fn a_panic_frees_its_place() {
    let queue = queue(1, LONG);
    assert_eq!(queue.ask(ask(1, "a", LONG), || async { boom() }.boxed()).await, Outcome::Lost);
    assert_eq!(queue.ask(ask(2, "a", LONG), || async { 1 }.boxed()).await, Outcome::Done(1));
}
