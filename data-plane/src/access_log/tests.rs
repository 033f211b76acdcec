use std::{
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    sync::mpsc,
    time::SystemTime,
};

use tokio::time::sleep;

use super::*;

fn settings(sample: u64) -> Settings {
    let path = Some("/dev/null".into());
    let slow = Duration::from_secs(1);
    Settings { path, format: AccessLogFormat::Json, sample, slow, has_query: false }
}

fn entry(status: u16, attempt_count: usize, duration: Duration) -> Entry<'static> {
    Entry {
        time: SystemTime::UNIX_EPOCH,
        duration,
        request: None,
        status,
        grpc_status: None,
        end: "complete",
        service: None,
        attempts: &[],
        attempt_count,
        upstream: None,
        stop: None,
        fallback: None,
        fault: None,
        error: None,
        breaker: None,
        received: 0,
        sent: 0,
        client: "192.0.2.7",
        peer: "192.0.2.7",
        tls: None,
        request_id: "id",
    }
}

#[test]
fn a_sample_leaves_nothing_out_that_somebody_should_see() {
    let log = AccessLog::open(settings(10)).unwrap();
    let quick = Duration::from_millis(3);
    let of_30 = |entry: Entry<'_>| (0..30).filter(|_| log.has(&entry)).count();
    assert_eq!(of_30(entry(200, 1, quick)), 3);
    assert_eq!(of_30(entry(404, 0, quick)), 3);
    assert_eq!(of_30(entry(503, 0, quick)), 30);
    let call = |status| Entry { grpc_status: Some(status), ..entry(200, 1, quick) };
    assert_eq!([0, 5, 14].map(|status| of_30(call(status))), [3, 3, 30]);
    assert_eq!(of_30(entry(200, 2, quick)), 30);
    assert_eq!(of_30(entry(200, 1, Duration::from_secs(1))), 30);
    let all = AccessLog::open(settings(1)).unwrap();
    assert!((0..30).all(|_| all.has(&entry(200, 1, quick))));
}

#[test]
fn a_file_that_cannot_be_written_is_named_with_the_reason() {
    let settings = Settings { path: Some("/no/such/access.log".into()), ..settings(1) };
    let failure = AccessLog::open(settings).unwrap_err();
    assert_eq!(failure.code(), 2);
    let text = failure.to_string();
    assert!(text.contains("--access-log /no/such/access.log: cannot be written: No such file"), "{text}");
}

/// A log whose writer is stuck with a full pipe, as long as both ends of that are there.
fn stalled() -> (Arc<AccessLog>, [OwnedFd; 2]) {
    let (reader, writer) = std::io::pipe().unwrap();
    let fd = writer.as_raw_fd();
    let settings = Settings { path: Some(format!("/proc/self/fd/{fd}").into()), ..settings(1) };
    let log = Arc::new(AccessLog::open(settings).unwrap());
    for _ in 0..3 * MAX_WAITING {
        log.write(&entry(200, 1, Duration::ZERO));
    }
    (log, [reader.into(), writer.into()])
}

#[test]
fn a_reader_that_stalls_holds_nobody_up_and_costs_lines_that_are_counted() {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(stalled()).unwrap());
    let (log, pipe) = wait.recv_timeout(Duration::from_secs(60)).expect("a request is held up");
    assert!(log.lost() > 0);
    // The writer gets on, so that it can end.
    drop(pipe);
}

#[test]
fn a_writer_that_is_stuck_does_not_hold_up_what_runs_beside_a_log_that_is_to_be_opened_anew() {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let (log, pipe) = stalled();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shutdown = Shutdown::new();
            let beside = async {
                let pid = std::process::id().to_string();
                assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
                // Until the signal has come.
                sleep(Duration::from_millis(200)).await;
                shutdown.begin();
            };
            // Which listens to signals before the first is sent.
            tokio::join!(biased; log.follow(shutdown.clone()), beside);
        });
        done.send(()).unwrap();
        // What still waits to open it can end, and with it the runtime.
        drop(pipe);
    });
    wait.recv_timeout(Duration::from_secs(60)).expect("what runs beside it is held up");
}
