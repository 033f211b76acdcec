use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// A supervisor, what stops it, and what it has noticed.
fn supervisor() -> (Supervisor, Shutdown, Arc<Mutex<Vec<Notice>>>) {
    let (stop, notices) = (Shutdown::new(), Arc::new(Mutex::new(Vec::new())));
    let noticed = Arc::clone(&notices);
    let supervisor =
        Supervisor::new(stop.clone(), move |notice| noticed.lock().unwrap().push(notice.clone()));
    (supervisor, stop, notices)
}

/// Adds a task that panics in its first `panics` runs and then waits for the end; yields the count of runs.
fn troubled(supervisor: &mut Supervisor, beyond: Beyond, panics: u32, stop: &Shutdown) -> Arc<AtomicU32> {
    let runs = Arc::new(AtomicU32::new(0));
    let (counted, stop) = (Arc::clone(&runs), stop.clone());
    supervisor.spawn("troubled", beyond, move || {
        let (run, stop) = (counted.fetch_add(1, Relaxed), stop.clone());
        async move {
            assert!(run >= panics, "trouble {run}");
            stop.begun().await;
            Ok(())
        }
    });
    runs
}

fn restart(pause_millis: u64, left: u32) -> Next {
    Next::Restart { pause: Duration::from_millis(pause_millis), left }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_started_again_alone_after_a_growing_pause() {
    let (mut supervisor, stop, notices) = supervisor();
    let runs = troubled(&mut supervisor, Beyond::End, 2, &stop);
    let calm_runs = Arc::new(AtomicU32::new(0));
    let (counted, until) = (Arc::clone(&calm_runs), stop.clone());
    supervisor.spawn("calm", Beyond::End, move || {
        counted.fetch_add(1, Relaxed);
        let until = until.clone();
        async move {
            until.begun().await;
            Ok(())
        }
    });
    let began = Instant::now();
    let running = tokio::spawn(supervisor.run(PATIENCE));
    while runs.load(Relaxed) < 3 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(began.elapsed().as_millis() / 100, 3, "100 ms and 200 ms of pauses");
    stop.begin();
    assert_eq!(running.await.unwrap(), Ok(()));
    assert_eq!((runs.load(Relaxed), calm_runs.load(Relaxed)), (3, 1));
    let notices = notices.lock().unwrap();
    let seen: Vec<_> = notices.iter().map(|n| (n.task, n.panic.to_string(), n.next)).collect();
    assert_eq!(
        seen,
        [
            ("troubled", "trouble 0".to_owned(), restart(100, 4)),
            ("troubled", "trouble 1".to_owned(), restart(200, 3)),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_too_often_ends_the_process_after_the_others() {
    let (mut supervisor, stop, notices) = supervisor();
    let runs = troubled(&mut supervisor, Beyond::End, u32::MAX, &stop);
    let (told, last_word) = (stop.clone(), Arc::new(AtomicU32::new(0)));
    let saying = Arc::clone(&last_word);
    supervisor.spawn("orderly", Beyond::End, move || {
        let (told, saying) = (told.clone(), Arc::clone(&saying));
        async move {
            told.begun().await;
            sleep(Duration::from_secs(1)).await;
            saying.store(1, Relaxed);
            Ok(())
        }
    });
    let failure = supervisor.run(PATIENCE).await.unwrap_err();
    assert_eq!(failure.code(), 1);
    assert_eq!(
        failure.to_string(),
        "task troubled panicked more than 5 times within 60s, at last: trouble 5; start again, and report the defect"
    );
    assert_eq!((runs.load(Relaxed), last_word.load(Relaxed)), (6, 1));
    assert!(stop.has_begun());
    assert_eq!(notices.lock().unwrap().last().unwrap().next, Next::End);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_to_persist_never_ends_the_process() {
    let (mut supervisor, stop, notices) = supervisor();
    let runs = troubled(&mut supervisor, Beyond::Persist, 20, &stop);
    let running = tokio::spawn(supervisor.run(PATIENCE));
    while runs.load(Relaxed) < 21 {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(!stop.has_begun());
    assert_eq!(notices.lock().unwrap()[5].next, restart(30_000, 0));
    stop.begin();
    assert_eq!(running.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_two_runs_share_outlives_a_panic_and_goes_with_the_task() {
    let (mut supervisor, _stop, _) = supervisor();
    let kept = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let witness = Arc::downgrade(&kept);
    supervisor.spawn("keeper", Beyond::End, move || {
        let kept = Arc::clone(&kept);
        async move {
            let mut kept = kept.lock().await;
            let count = kept.len();
            kept.push(count);
            assert_eq!(*kept, [0, 1], "once more");
            Ok(())
        }
    });
    assert_eq!(supervisor.run(PATIENCE).await, Ok(()));
    assert!(witness.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_given_up_on_lets_go_of_what_its_runs_shared() {
    let (mut supervisor, stop, _) = supervisor();
    let (sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
    let queue = Arc::new(tokio::sync::Mutex::new(receiver));
    supervisor.spawn("reader", Beyond::End, move || {
        let queue = Arc::clone(&queue);
        async move {
            let _queue = queue.lock().await;
            panic!("as ever")
        }
    });
    let (others, until) = (Arc::new(AtomicU32::new(0)), stop.clone());
    let served = Arc::clone(&others);
    supervisor.spawn("caller", Beyond::End, move || {
        let (sender, until, served) = (sender.clone(), until.clone(), Arc::clone(&served));
        async move {
            until.begun().await;
            // Would wait for ever were the queue still somebody's.
            sender.closed().await;
            served.store(1, Relaxed);
            Ok(())
        }
    });
    supervisor.run(PATIENCE).await.unwrap_err();
    assert_eq!(others.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_process_without_another_try() {
    let (mut supervisor, stop, notices) = supervisor();
    supervisor.spawn("strict", Beyond::Persist, || async { Err(Failure::fatal("the store is another one")) });
    troubled(&mut supervisor, Beyond::End, 0, &stop);
    assert_eq!(supervisor.run(PATIENCE).await, Err(Failure::fatal("the store is another one")));
    assert!(notices.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_end_in_time_is_aborted() {
    let (mut supervisor, stop, _) = supervisor();
    let alive = Arc::new(());
    let witness = Arc::downgrade(&alive);
    supervisor.spawn("stubborn", Beyond::End, move || {
        let alive = Arc::clone(&alive);
        async move {
            std::future::pending::<()>().await;
            drop(alive);
            Ok(())
        }
    });
    stop.begin();
    let began = Instant::now();
    assert_eq!(supervisor.run(PATIENCE).await, Ok(()));
    assert_eq!(began.elapsed(), PATIENCE);
    let gone = async {
        while witness.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("what was aborted is dropped");
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_when_the_shutdown_begins() {
    let (mut supervisor, stop, notices) = supervisor();
    // In the long pause of one that persists.
    let runs = troubled(&mut supervisor, Beyond::Persist, 6, &stop);
    let running = tokio::spawn(supervisor.run(PATIENCE));
    while notices.lock().unwrap().len() < 6 {
        sleep(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    stop.begin();
    assert_eq!(running.await.unwrap(), Ok(()));
    assert_eq!((runs.load(Relaxed), began.elapsed()), (7, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn work_that_stays_on_its_thread_persists_in_the_same_way() {
    let runs = std::rc::Rc::new(std::cell::Cell::new(0));
    let notices = std::cell::RefCell::new(Vec::new());
    let began = Instant::now();
    let start = || {
        let runs = std::rc::Rc::clone(&runs);
        async move {
            runs.set(runs.get() + 1);
            assert!(runs.get() > 7, "trouble {}", runs.get());
        }
    };
    persist("sweep", start, |notice| notices.borrow_mut().push(notice.next)).await;
    assert_eq!((runs.get(), notices.borrow().len()), (8, 7));
    assert_eq!(notices.borrow()[5..], [restart(30_000, 0), restart(30_000, 0)]);
    assert_eq!(began.elapsed().as_secs(), 63);
}
