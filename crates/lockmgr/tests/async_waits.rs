//! Async waits: under tokio, under smol and under nothing at all. A task that waits blocks no thread
//! of its runtime; dropping its future ends the wait at once and loses neither lock nor thread nor
//! descriptor; however many wait through one handle, one thread waits for all of them.

mod support;

use std::fs;
use std::future::{Future, IntoFuture};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{
    AcquireFuture, CancelToken, Error, FileLock, Mechanism, Mode, OwnedFileLockGuard, Result,
};
use support::futures::{block_on, poll_once};
use support::roles::{HOLD, TRY, holder, others_get_it, release};
use support::tasks::{status_field, this_thread, threads_named, threads_of, wait_until_queued};
use support::{
    BOUND, Worker, alone, descriptor_count, eventually, kernel_locks, say, serve, thread_count,
    wait_for_blocked,
};

#[test]
fn worker() {
    serve(&[
        HOLD,
        TRY,
        ("add", add),
        ("drops", drop_at_every_stage),
        ("crowd", crowd),
        ("shutdown", shut_down),
        ("signals", signals_of_the_waiter_thread),
    ]);
}

const MECHANISMS: [&str; 2] = ["flock", "ofd"];
const LATE: Duration = Duration::from_secs(10);
const FAR: Duration = Duration::from_secs(3600);

fn open(path: impl AsRef<Path>, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).open(path).unwrap()
}

fn poll_with(future: &mut AcquireFuture, waker: &Waker) -> Poll<Result<OwnedFileLockGuard>> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// A future that has been polled and waits.
fn waiting(lock: &FileLock) -> AcquireFuture {
    let mut future = lock.acquire().into_future();
    assert!(poll_once(&mut future).is_pending());
    future
}

fn tokio_threads(count: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(count).enable_time().build().unwrap()
}

fn tokio_here() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// What the lock protects. A step that others may run in lies between look and change.
#[derive(Default)]
struct Account {
    inside: AtomicUsize,
    count: AtomicUsize,
}

async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

const TASKS: usize = 12;
const ROUNDS: usize = 100;

/// Rounds of one task.
async fn work(lock: FileLock, account: Arc<Account>, number: usize) {
    for round in 0..ROUNDS {
        let guard = match (round + number) % 3 {
            0 => lock.acquire().timeout(BOUND).await.unwrap(),
            1 => lock.acquire().cancel(&CancelToken::new()).await.unwrap(),
            _ => lock.acquire().await.unwrap(),
        };
        assert_eq!(account.inside.fetch_add(1, Ordering::SeqCst), 0, "two tasks are inside");
        let count = account.count.load(Ordering::Relaxed);
        yield_now().await;
        account.count.store(count + 1, Ordering::Relaxed);
        account.inside.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        if round % 4 == 0 {
            yield_now().await;
        }
    }
}

/// Tasks that share a handle, or have one of three.
fn exclusion(run: impl Fn(Vec<Pin<Box<dyn Future<Output = ()> + Send>>>)) {
    for mechanism in MECHANISMS {
        for handles in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let handles: Vec<_> = (0..handles).map(|_| open(&path, mechanism)).collect();
            let account = Arc::new(Account::default());
            run((0..TASKS)
                .map(|number| {
                    let lock = handles[number % handles.len()].clone();
                    Box::pin(work(lock, Arc::clone(&account), number)) as _
                })
                .collect());
            assert_eq!(account.count.load(Ordering::Relaxed), TASKS * ROUNDS);
            for lock in handles {
                drop(lock.lock_timeout(BOUND).unwrap());
            }
            assert_eq!(kernel_locks(&path), (0, 0));
        }
    }
}

#[test]
fn tasks_exclude_each_other_under_tokio() {
    for threads in [1, 4] {
        exclusion(|tasks| {
            let runtime = tokio_threads(threads);
            let tasks: Vec<_> = tasks.into_iter().map(|task| runtime.spawn(task)).collect();
            for task in tasks {
                runtime.block_on(task).unwrap();
            }
        });
    }
}

#[test]
fn tasks_exclude_each_other_under_tokio_in_one_thread() {
    exclusion(|tasks| {
        let runtime = tokio_here();
        let tasks: Vec<_> = tasks.into_iter().map(|task| runtime.spawn(task)).collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn tasks_exclude_each_other_under_smol() {
    exclusion(|tasks| {
        let tasks: Vec<_> = tasks.into_iter().map(smol::spawn).collect();
        for task in tasks {
            smol::block_on(task);
        }
    });
}

#[test]
fn tasks_exclude_each_other_under_a_bare_block_on() {
    exclusion(|tasks| {
        let threads: Vec<_> =
            tasks.into_iter().map(|task| thread::spawn(move || block_on(task))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// In one queue, wherever they run.
#[test]
fn tasks_of_two_runtimes_exclude_each_other() {
    exclusion(|tasks| {
        let runtime = tokio_threads(2);
        let (mut spawned, mut threads) = (Vec::new(), Vec::new());
        for (number, task) in tasks.into_iter().enumerate() {
            if number % 2 == 0 {
                spawned.push(runtime.spawn(task));
            } else {
                threads.push(thread::spawn(move || block_on(task)));
            }
        }
        for task in spawned {
            runtime.block_on(task).unwrap();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Adds to a number in a file: some rounds as a thread, some as tasks.
fn add(args: &[String]) {
    let (lock, path) = (open(&args[0], &args[2]), args[1].clone());
    let step = move || {
        let number: usize = fs::read_to_string(&path).unwrap().parse().unwrap();
        fs::write(&path, (number + 1).to_string()).unwrap();
    };
    for _ in 0..50 {
        let guard = lock.lock_timeout(BOUND).unwrap();
        step();
        drop(guard);
    }
    tokio_threads(2).block_on(async {
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (lock, step) = (lock.clone(), step.clone());
                tokio::spawn(async move {
                    for _ in 0..10 {
                        let guard = lock.acquire().timeout(BOUND).await.unwrap();
                        step();
                        drop(guard);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    say("done");
}

#[test]
fn tasks_of_several_processes_exclude_each_other() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let (lock, number) = (dir.path().join("a.lock"), dir.path().join("number"));
        fs::write(&number, "0").unwrap();
        let args = [lock.to_str().unwrap(), number.to_str().unwrap(), mechanism];
        let workers: Vec<_> = (0..4).map(|_| Worker::spawn("add", &args)).collect();
        for worker in workers {
            worker.expect("done");
        }
        assert_eq!(fs::read_to_string(&number).unwrap(), "400");
    }
}

#[test]
fn a_waiting_task_blocks_no_thread_of_its_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut other = holder(&[path.to_str().unwrap(), "flock"]);
    let lock = open(&path, "flock");
    tokio_here().block_on(async {
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire().await.map(drop) }
        });
        // The only thread goes on meanwhile.
        while kernel_locks(&path).1 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!waiter.is_finished());
        release(&mut other);
        waiter.await.unwrap().unwrap();
    });
}

#[test]
fn select_and_timeout_end_a_wait() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut other = holder(&[path.to_str().unwrap(), mechanism]);
        let lock = open(&path, mechanism);
        for runtime in [tokio_here(), tokio_threads(2)] {
            runtime.block_on(async {
                let short = Duration::from_millis(20);
                let result = tokio::time::timeout(short, lock.acquire().into_future()).await;
                assert!(result.is_err());
                tokio::select! {
                    _ = lock.acquire().into_future() => panic!("it is held"),
                    () = tokio::time::sleep(short) => {}
                }
                // The same future goes on after a look elsewhere.
                let mut future = lock.acquire().into_future();
                tokio::select! {
                    _ = &mut future => panic!("it is held"),
                    () = tokio::time::sleep(short) => {}
                }
                drop(future);
            });
        }
        let timeout = async {
            smol::Timer::after(Duration::from_millis(20)).await;
            None
        };
        let wait = async { Some(lock.acquire().await) };
        assert!(smol::block_on(smol::future::or(wait, timeout)).is_none());
        eventually("nobody waits any more", || kernel_locks(&path) == (1, 0));
        release(&mut other);
        drop(block_on(lock.acquire().timeout(BOUND)).unwrap());
    }
}

#[test]
fn posix_locks_have_no_async_waits() {
    let dir = tempfile::tempdir().unwrap();
    let lock = open(dir.path().join("a.lock"), "posix");
    assert_eq!(lock.mechanism(), Mechanism::Posix);
    let error = block_on(lock.acquire()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    drop(lock.lock().unwrap());
}

#[test]
fn a_future_may_go_to_another_thread() {
    fn check(_: impl Send + Unpin + 'static) {}
    let dir = tempfile::tempdir().unwrap();
    let lock = open(dir.path().join("a.lock"), "flock");
    check(lock.acquire().into_future());
    let guard = block_on(lock.acquire()).unwrap();
    // Polled here, finished there.
    let mut future = waiting(&lock);
    let finisher = thread::spawn(move || block_on(&mut future).map(drop));
    drop(guard);
    finisher.join().unwrap().unwrap();
}

/// Waits in vain for the time that is given, and checks the time of the refusal.
fn waits_in_vain(lock: &FileLock, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    let result = block_on(lock.acquire().timeout(timeout));
    let now = Instant::now();
    assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
    assert!(now >= deadline, "{:?} early", deadline - now);
    assert!(now < deadline + LATE, "{:?} late", now - deadline);
}

const TIMEOUTS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_micros(12_300),
    Duration::from_millis(120),
];

#[test]
fn deadlines_hold_in_the_queue_and_in_the_kernel() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
        let guard = lock.acquire().wait_owned().unwrap();
        for timeout in TIMEOUTS {
            waits_in_vain(&lock, timeout);
            waits_in_vain(&other, timeout);
        }
        // Of many at once each has its own.
        thread::scope(|scope| {
            for number in 0..20 {
                let lock = if number % 2 == 0 { &lock } else { &other };
                scope.spawn(move || waits_in_vain(lock, Duration::from_millis(10 * (number % 7))));
            }
        });
        drop(guard);
        // A deadline that has passed is one attempt, and no thread is asked to wait.
        let guard = other.acquire().wait_owned().unwrap();
        for held in [&lock, &other] {
            let mut late = held.acquire().timeout(Duration::ZERO).into_future();
            let Poll::Ready(result) = poll_once(&mut late) else { panic!("it waits") };
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        }
        drop(guard);
        drop(block_on(lock.acquire().timeout(Duration::ZERO)).unwrap());
        drop(block_on(lock.acquire().deadline(Instant::now())).unwrap());
        // One that is never is none.
        let guard = other.acquire().wait_owned().unwrap();
        for timeout in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
            let mut queued = lock.acquire().timeout(timeout).into_future();
            assert!(poll_once(&mut queued).is_pending());
            let mut behind = lock.acquire().timeout(timeout).into_future();
            assert!(poll_once(&mut behind).is_pending());
        }
        drop(guard);
        drop(block_on(lock.acquire().timeout(BOUND)).unwrap());
    }
}

#[test]
fn a_token_cancels_tasks_in_the_queue_and_in_the_kernel() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut other = holder(&[path.to_str().unwrap(), mechanism]);
        let lock = open(&path, mechanism);
        let runtime = tokio_threads(2);
        let token = CancelToken::new();
        let tasks: Vec<_> = (0..10)
            .map(|number| {
                let (lock, token) = (lock.clone(), token.clone());
                runtime.spawn(async move {
                    let acquire = lock.acquire().cancel(&token);
                    let acquire = if number % 2 == 0 { acquire.timeout(FAR) } else { acquire };
                    acquire.await.map(drop)
                })
            })
            .collect();
        wait_for_blocked(&path, 1);
        token.cancel();
        for task in tasks {
            let result = runtime.block_on(task).unwrap();
            assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
        }
        assert_eq!(kernel_locks(&path), (1, 0));
        // It ends only what would wait.
        release(&mut other);
        drop(block_on(lock.acquire().cancel(&token)).unwrap());
    }
}

/// Cancels at the very moment in which the wait begins: no task sleeps through it.
#[test]
fn a_token_cancelled_as_the_wait_begins_is_not_missed() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
        let _guard = lock.acquire().wait_owned().unwrap();
        for (lock, longest) in [(&lock, 500), (&other, 3000)] {
            let tokens: Vec<CancelToken> = (0..1000).map(|_| CancelToken::new()).collect();
            let begun = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for (round, token) in tokens.iter().enumerate() {
                        while begun.load(Ordering::Acquire) <= round {
                            thread::yield_now();
                        }
                        spin(random(round as u64) % longest);
                        token.cancel();
                    }
                });
                for (round, token) in tokens.iter().enumerate() {
                    begun.store(round + 1, Ordering::Release);
                    // The deadline is only there so that a sleeper wakes up to fail.
                    let result = block_on(lock.acquire().cancel(token).timeout(BOUND));
                    if !matches!(result, Err(Error::Cancelled { .. })) {
                        // The other thread is to end as well.
                        begun.store(tokens.len(), Ordering::Release);
                        panic!("round {round}: {result:?}");
                    }
                }
            });
        }
    }
}

/// In a process of its own: nothing of a dropped future is left, whatever it was about to do.
fn drop_at_every_stage(args: &[String]) {
    let (path, mechanism) = (&args[0], &args[1]);
    let (lock, other) = (open(path, mechanism), open(path, mechanism));
    let no_threads = || threads_named("lockmgr-wait") + threads_named("lockmgr-time") == 0;
    let (threads, descriptors) = (thread_count(), descriptor_count());
    for timeout in [None, Some(FAR)] {
        let future = |lock: &FileLock| {
            let acquire = lock.acquire();
            timeout.map_or(acquire.clone(), |timeout| acquire.timeout(timeout)).into_future()
        };
        for _ in 0..8 {
            // Never polled.
            drop(future(&lock));

            // In the queue.
            let guard = lock.acquire().wait_owned().unwrap();
            let mut queued = future(&lock);
            assert!(poll_once(&mut queued).is_pending());
            drop(queued);
            drop(guard);
            assert!(lock.try_lock().is_ok());

            // In the queue, and its turn has come.
            let guard = lock.acquire().wait_owned().unwrap();
            let mut queued = future(&lock);
            assert!(poll_once(&mut queued).is_pending());
            drop(guard);
            assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
            drop(queued);
            assert!(lock.try_lock().is_ok());

            // In the kernel, alone and with one behind it.
            for behind in [false, true] {
                let guard = other.acquire().wait_owned().unwrap();
                let mut front = future(&lock);
                assert!(poll_once(&mut front).is_pending());
                wait_for_blocked(path.as_ref(), 1);
                let mut next = future(&lock);
                if behind {
                    assert!(poll_once(&mut next).is_pending());
                }
                let start = Instant::now();
                drop(front);
                assert!(start.elapsed() < LATE);
                if behind {
                    assert!(poll_once(&mut next).is_pending());
                } else {
                    eventually("nobody waits", || kernel_locks(path.as_ref()) == (1, 0));
                }
                drop(next);
                eventually("nobody waits", || kernel_locks(path.as_ref()) == (1, 0));
                drop(guard);
                // A thread that had only just begun may be granted it, and gives it back.
                eventually("it is free", || other.try_lock().is_ok());
                eventually("it is free", || lock.try_lock().is_ok());
            }

            // Granted, and nobody has come for it.
            let guard = other.acquire().wait_owned().unwrap();
            let mut front = future(&lock);
            assert!(poll_once(&mut front).is_pending());
            wait_for_blocked(path.as_ref(), 1);
            drop(guard);
            eventually("it is granted", || kernel_locks(path.as_ref()) == (1, 0));
            assert!(matches!(other.try_lock(), Err(Error::Busy { .. })));
            drop(front);
            eventually("it is free", || other.try_lock().is_ok());

            // Finished.
            let mut done = future(&lock);
            let Poll::Ready(guard) = poll_once(&mut done) else { panic!("it is free") };
            drop(done);
            assert!(guard.unwrap().is_held());
        }
        eventually("no thread is left", no_threads);
        eventually("no thread is left", || thread_count() == threads);
        eventually("no descriptor is left", || descriptor_count() <= descriptors);
        assert_eq!(kernel_locks(path.as_ref()), (0, 0));
    }
}

#[test]
fn a_dropped_future_leaves_nothing_behind() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        alone("drops", &[dir.path().join("a.lock").to_str().unwrap(), mechanism]);
    }
}

/// In a process of its own: how many threads a crowd of tasks takes.
fn crowd(args: &[String]) {
    let lock = open(&args[0], &args[1]);
    let threads = thread_count();
    let mut tasks: Vec<AcquireFuture> = (0..300)
        .map(|number| {
            let acquire = lock.acquire();
            let acquire = if number % 3 == 0 { acquire.timeout(FAR) } else { acquire };
            if number % 5 == 0 { acquire.shared() } else { acquire }.into_future()
        })
        .collect();
    for task in &mut tasks {
        assert!(poll_once(task).is_pending());
    }
    wait_for_blocked(args[0].as_ref(), 1);
    let waiters = || (threads_named("lockmgr-wait"), threads_named("lockmgr-time"));
    // A thread names itself when it has begun.
    eventually("two threads serve them all", || waiters() == (1, 1));
    assert_eq!(thread_count(), threads + 2);
    say("waiting");
    // All of them come in, one after the other or together.
    let mut left = tasks;
    let start = Instant::now();
    while !left.is_empty() {
        left.retain_mut(|task| match poll_once(task) {
            Poll::Ready(guard) => {
                drop(guard.unwrap());
                false
            }
            Poll::Pending => true,
        });
        assert!(start.elapsed() < BOUND, "{} are left", left.len());
        thread::yield_now();
    }
    eventually("no thread is left", || waiters() == (0, 0));
}

#[test]
fn a_crowd_of_tasks_takes_one_waiter_thread() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut other = holder(&[path.to_str().unwrap(), mechanism]);
        let worker = Worker::spawn("crowd", &[path.to_str().unwrap(), mechanism]);
        worker.expect("waiting");
        release(&mut other);
        assert!(worker.finish().success());
    }
}

/// In a process of its own: the runtime goes away under those who wait.
fn shut_down(args: &[String]) {
    let lock = open(&args[0], &args[1]);
    let threads = thread_count();
    for threads_of_runtime in [0, 2] {
        let runtime =
            if threads_of_runtime == 0 { tokio_here() } else { tokio_threads(threads_of_runtime) };
        let ended = Arc::new(AtomicBool::new(false));
        for _ in 0..10 {
            let (lock, ended) = (lock.clone(), Arc::clone(&ended));
            runtime.spawn(async move {
                drop(lock.acquire().timeout(FAR).await);
                ended.store(true, Ordering::SeqCst);
            });
        }
        runtime.block_on(async {
            while kernel_locks(args[0].as_ref()).1 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let start = Instant::now();
        drop(runtime);
        assert!(start.elapsed() < LATE);
        assert!(!ended.load(Ordering::SeqCst));
        eventually("nobody waits", || kernel_locks(args[0].as_ref()) == (1, 0));
        eventually("no thread is left", || thread_count() == threads);
    }
    say("shut down");
    drop(lock.lock_timeout(BOUND).unwrap());
}

#[test]
fn a_runtime_may_be_shut_down_while_tasks_wait() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut other = holder(&[path.to_str().unwrap(), mechanism]);
        let worker = Worker::spawn("shutdown", &[path.to_str().unwrap(), mechanism]);
        worker.expect("shut down");
        release(&mut other);
        assert!(worker.finish().success());
    }
}

/// In a process of its own: the threads of the library take none of the program's signals.
fn signals_of_the_waiter_thread(args: &[String]) {
    let lock = open(&args[0], "flock");
    let mut front = lock.acquire().timeout(FAR).into_future();
    assert!(poll_once(&mut front).is_pending());
    let mut queued = lock.acquire().timeout(FAR).into_future();
    assert!(poll_once(&mut queued).is_pending());
    wait_for_blocked(args[0].as_ref(), 1);
    let pid = std::process::id();
    eventually("both threads have their names", || {
        threads_named("lockmgr-wait") == 1 && threads_named("lockmgr-time") == 1
    });
    let mut seen = 0;
    for thread in threads_of(pid) {
        if !status_field(pid, thread, "Name").unwrap().starts_with("lockmgr-") {
            continue;
        }
        seen += 1;
        let blocked = u64::from_str_radix(&status_field(pid, thread, "SigBlk").unwrap(), 16);
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGUSR1,
            libc::SIGALRM,
            libc::SIGCHLD,
            libc::SIGRTMIN(),
        ] {
            assert!(blocked.as_ref().unwrap() & (1 << (signal - 1)) != 0, "{signal}");
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn the_threads_of_the_library_take_no_signals_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let _other = holder(&[path.to_str().unwrap(), "flock"]);
    alone("signals", &[path.to_str().unwrap()]);
}

/// Says how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_waker_of_the_last_poll_is_woken() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
        // Held through the same handle: in the queue. Through the other one: in the kernel.
        for held in [&lock, &other] {
            let guard = held.acquire().wait_owned().unwrap();
            let mut future = lock.acquire().into_future();
            let counts: Vec<_> = (0..5).map(|_| Arc::new(Count::default())).collect();
            for count in &counts {
                let waker = Arc::clone(count).into();
                assert!(poll_with(&mut future, &waker).is_pending());
                assert!(poll_with(&mut future, &waker).is_pending());
            }
            let last = counts.last().unwrap();
            assert_eq!(last.0.load(Ordering::SeqCst), 0);
            drop(guard);
            eventually("the last waker is woken", || last.0.load(Ordering::SeqCst) > 0);
            drop(block_on(&mut future).unwrap());
            // Wakers that are not needed any more are let go of.
            drop(future);
            for count in counts {
                eventually("the waker is dropped", || Arc::strong_count(&count) == 1);
            }
        }
    }
}

/// Wakers belong to the program, and dropping one may run any code: here it releases the lock that
/// the very future waits for.
#[test]
fn a_waker_may_own_the_guard_that_is_waited_for() {
    struct Keeper(#[expect(dead_code, reason = "it is there to be dropped")] OwnedFileLockGuard);
    impl Wake for Keeper {
        fn wake(self: Arc<Self>) {}
    }
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
        for held in [lock.clone(), other] {
            let (sender, done) = channel();
            let lock = lock.clone();
            thread::spawn(move || {
                let guard = held.acquire().wait_owned().unwrap();
                let mut future = lock.acquire().into_future();
                let waker = Arc::new(Keeper(guard)).into();
                assert!(poll_with(&mut future, &waker).is_pending());
                drop(waker);
                // The last one goes as it is replaced.
                let count = Arc::new(Count::default());
                if poll_with(&mut future, &Arc::clone(&count).into()).is_pending() {
                    eventually("it is woken", || count.0.load(Ordering::SeqCst) > 0);
                    drop(block_on(&mut future).unwrap());
                }
                sender.send(()).unwrap();
            });
            done.recv_timeout(BOUND).expect("it does not wait for itself");
        }
    }
}

/// Says that it was woken, and panics.
#[derive(Default)]
struct Panic(Arc<AtomicUsize>);

impl Wake for Panic {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a waker of the program's");
    }
}

/// Polls with a waker that panics; returns how often it was woken.
fn poll_with_panic(future: &mut AcquireFuture) -> Arc<AtomicUsize> {
    let woken = Arc::new(AtomicUsize::new(0));
    let waker = Arc::new(Panic(Arc::clone(&woken))).into();
    assert!(poll_with(future, &waker).is_pending());
    woken
}

fn await_wake(woken: &AtomicUsize) {
    eventually("the waker is called", || woken.load(Ordering::SeqCst) > 0);
}

#[test]
fn a_waker_that_panics_keeps_nobody_elses_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let lock = open(dir.path().join("a.lock"), "flock");
    let _held = lock.acquire().wait_owned().unwrap();
    let soon = Duration::from_millis(20);
    // Kept, so that the thread that keeps deadlines has something to do all the time.
    let mut later = lock.acquire().timeout(FAR).into_future();
    assert!(poll_once(&mut later).is_pending());
    let mut first = lock.acquire().timeout(soon).into_future();
    await_wake(&poll_with_panic(&mut first));
    let (sender, outcome) = channel();
    let other = lock.clone();
    thread::spawn(move || sender.send(block_on(other.acquire().timeout(soon))));
    let outcome = outcome.recv_timeout(BOUND).expect("its deadline is kept");
    assert!(matches!(outcome, Err(Error::TimedOut { .. })));
    let Poll::Ready(outcome) = poll_once(&mut first) else { panic!("its time is over") };
    assert!(matches!(outcome, Err(Error::TimedOut { .. })));
}

#[test]
fn a_waker_that_panics_loses_no_lock() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
        // In the queue, woken by whoever releases; in the kernel, woken by the thread that waits.
        for held in [&lock, &other] {
            let guard = held.acquire().wait_owned().unwrap();
            let mut future = lock.acquire().into_future();
            let woken = poll_with_panic(&mut future);
            // The panic is not this thread's.
            guard.unlock().unwrap();
            await_wake(&woken);
            drop(block_on(&mut future).unwrap());
            drop(held.try_lock().unwrap());
        }
        // Woken by the thread that waits in the kernel for another task: that one is told all the same.
        let guard = other.acquire().wait_owned().unwrap();
        let mut first = lock.acquire().shared().into_future();
        let count = Arc::new(Count::default());
        assert!(poll_with(&mut first, &Arc::clone(&count).into()).is_pending());
        let mut second = lock.acquire().shared().into_future();
        let woken = poll_with_panic(&mut second);
        drop(guard);
        await_wake(&woken);
        eventually("the first one is told", || count.0.load(Ordering::SeqCst) > 0);
        drop(block_on(&mut first).unwrap());
        drop(block_on(&mut second).unwrap());
        drop(other.try_lock().unwrap());
    }
}

#[test]
fn a_waker_that_panics_does_not_keep_a_cancellation_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let lock = open(dir.path().join("a.lock"), "flock");
    let _held = lock.acquire().wait_owned().unwrap();
    let cancel = CancelToken::new();
    let mut first = lock.acquire().cancel(&cancel).into_future();
    let woken = poll_with_panic(&mut first);
    let count = Arc::new(Count::default());
    let mut second = lock.acquire().cancel(&cancel).into_future();
    assert!(poll_with(&mut second, &Arc::clone(&count).into()).is_pending());
    cancel.cancel();
    assert_eq!(woken.load(Ordering::SeqCst), 1);
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert!(matches!(block_on(&mut second), Err(Error::Cancelled { .. })));
}

/// Small random numbers; the seed is the round, so that a failure can be seen again.
fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 32)
}

fn spin(turns: u64) {
    for _ in 0..turns {
        std::hint::spin_loop();
    }
}

/// Drops a future in the moment in which its lock is granted, in all orders.
fn race_of_drop_and_grant(waits: &FileLock, holds: &FileLock, rounds: u64, longest: u64) {
    let (guards, inbox) = channel::<(OwnedFileLockGuard, u64)>();
    let (outbox, released) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for (guard, pause) in inbox {
                spin(pause);
                drop(guard);
                outbox.send(()).unwrap();
            }
        });
        let mut granted = 0;
        for round in 0..rounds {
            let dice = random(round);
            let guard = holds.acquire().timeout(BOUND).wait_owned().unwrap();
            let mut front = waits.acquire().into_future();
            assert!(poll_once(&mut front).is_pending());
            let mut behind = waits.acquire().shared().into_future();
            let with_one_behind = dice & 1 == 0;
            if with_one_behind {
                assert!(poll_once(&mut behind).is_pending());
            }
            guards.send((guard, (dice >> 8) % longest)).unwrap();
            spin((dice >> 32) % longest);
            if let Poll::Ready(guard) = poll_once(&mut front) {
                granted += 1;
                drop(guard.unwrap());
            }
            drop(front);
            if with_one_behind {
                // It must come to the next one.
                let guard = smol::block_on(async {
                    let late = async {
                        smol::Timer::after(BOUND).await;
                        panic!("round {round}: the lock is lost");
                    };
                    smol::future::or(behind, late).await
                });
                assert_eq!(guard.unwrap().mode(), Mode::Shared);
            }
            released.recv_timeout(BOUND).unwrap();
        }
        assert!(granted < rounds);
        drop(guards);
    });
    drop(waits.lock_timeout(BOUND).unwrap());
    eventually("the lock is free", || holds.try_lock().is_ok());
}

#[test]
fn a_future_dropped_in_the_moment_of_the_grant_loses_no_lock_in_the_queue() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let lock = open(dir.path().join("a.lock"), mechanism);
        race_of_drop_and_grant(&lock, &lock, 3000, 3000);
    }
}

#[test]
fn a_future_dropped_in_the_moment_of_the_grant_loses_no_lock_in_the_kernel() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        race_of_drop_and_grant(&open(&path, mechanism), &open(&path, mechanism), 2000, 6_000);
        assert!(others_get_it(&[path.to_str().unwrap(), mechanism]));
    }
}

/// Threads and tasks of one handle come in the order in which they came.
#[test]
fn first_come_first_served() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let lock = open(dir.path().join("a.lock"), mechanism);
        let order = Arc::new(Mutex::new(Vec::new()));
        let guard = lock.acquire().wait_owned().unwrap();
        let mut threads = Vec::new();
        for number in 0..6 {
            let (lock, order) = (lock.clone(), Arc::clone(&order));
            let (sender, waits) = channel();
            threads.push(thread::spawn(move || {
                let enter = |guard| {
                    order.lock().unwrap().push(number);
                    drop(guard);
                };
                if number % 2 == 0 {
                    let mut future = waiting(&lock);
                    sender.send(None).unwrap();
                    enter(block_on(&mut future).unwrap());
                } else {
                    sender.send(Some(this_thread())).unwrap();
                    enter(lock.acquire().wait_owned().unwrap());
                }
            }));
            if let Some(thread) = waits.recv().unwrap() {
                wait_until_queued(thread);
            }
        }
        drop(guard);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
    }
}
