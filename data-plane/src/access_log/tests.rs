use std::{sync::mpsc, time::SystemTime};

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
        end: "complete",
        service: None,
        attempts: &[],
        attempt_count,
        upstream: None,
        stop: None,
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

/// A pipe that nobody reads.
#[test]
fn a_reader_that_stalls_holds_nobody_up_and_costs_lines_that_are_counted() {
    let (reader, writer) = std::io::pipe().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
    let settings = Settings { path: Some(format!("/proc/self/fd/{fd}").into()), ..settings(1) };
    let log = Arc::new(AccessLog::open(settings).unwrap());
    let (done, wait) = mpsc::channel();
    let thread = Arc::clone(&log);
    std::thread::spawn(move || {
        for _ in 0..3 * MAX_WAITING {
            thread.write(&entry(200, 1, Duration::ZERO));
        }
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(60)).expect("a request is held up");
    assert!(log.lost() > 0);
    // The writer gets on, so that it can end.
    drop(reader);
}
