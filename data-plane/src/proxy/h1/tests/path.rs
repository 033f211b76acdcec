//! The whole way of a request, under messages that a seed makes and spoils: whatever a client sends, the replica sees the
//! requests that it was, in their order, and nothing else; and the client sees as many answers.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use gateway_proto::{Address, Policy};
use http::Method;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{LocalSet, spawn_local},
};
use tokio_util::task::TaskTracker;

use super::{Message, Verdict, fuzz::fuzz_seconds, messages, read_request, read_response};
use crate::{
    proxy::{
        forward::forward,
        worker::{Listener, accept, tests::worker_of},
    },
    table::{ReplicaSpec, ServiceSpec, Table},
};

/// Connections of a run, each with up to three requests.
const CONNECTIONS: usize = 3000;

/// What was asked: method, target and body.
type Asked = (String, String, Vec<u8>);

/// What a connection's bytes are, read one message after the other.
struct Reading {
    asked: Vec<Message>,
    /// Whether the gateway has to say something behind the last of them.
    ends_in_refusal: bool,
}

fn reading(mut bytes: &[u8]) -> Reading {
    let mut asked = Vec::new();
    loop {
        match read_request([bytes]) {
            Verdict::Whole(message) => {
                bytes = &bytes[message.end..];
                let is_last = !message.is_kept_alive;
                asked.push(message);
                if is_last {
                    return Reading { asked, ends_in_refusal: false };
                }
            }
            Verdict::Unfinished => return Reading { asked, ends_in_refusal: false },
            Verdict::Refused(_) | Verdict::BrokenBody(_) => return Reading { asked, ends_in_refusal: true },
        }
    }
}

/// Answers every request, and records it; panics at what is none.
async fn converse(mut stream: TcpStream, seen: Rc<RefCell<Vec<Asked>>>) {
    let mut bytes = Vec::new();
    let mut has_gone_on = false;
    loop {
        match read_request([&bytes[..]]) {
            Verdict::Whole(message) => {
                bytes.drain(..message.end);
                has_gone_on = false;
                let [method, target, _] = message.start;
                let body = if method == "HEAD" { "" } else { "ok" };
                seen.borrow_mut().push((method, target, message.body));
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
            Verdict::Unfinished => {}
            other => panic!("the replica got {}: {other:?}", bytes.escape_ascii()),
        }
        if !has_gone_on && bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            has_gone_on = true;
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// Sends these bytes in pieces, and reads until all that is expected has come, or the connection ends. The final answers.
async fn ask(gateway: SocketAddr, pieces: &[&[u8]], reading: &Reading) -> usize {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // It may have ended already.
        let _ = stream.write_all(piece).await;
    }
    let mut methods = reading.asked.iter().map(|message| message.start[0].parse::<Method>().unwrap());
    let mut method = methods.next().unwrap_or(Method::GET);
    let expected = reading.asked.len() + usize::from(reading.ends_in_refusal);
    let (mut answers, mut bytes) = (0, Vec::new());
    while answers < expected {
        match read_response(&method, [&bytes[..]]) {
            Verdict::Whole(message) if message.end > 0 && message.length != super::Length::UntilClose => {
                bytes.drain(..message.end);
                if !message.start[0].starts_with('1') {
                    answers += 1;
                    method = methods.next().unwrap_or(Method::GET);
                }
                continue;
            }
            Verdict::Whole(_) | Verdict::Unfinished => {}
            other => panic!("the client got {}: {other:?}", bytes.escape_ascii()),
        }
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_buf(&mut bytes)).await;
        if !matches!(read.expect("no answer comes"), Ok(1..)) {
            // The end of the connection may be that of the last answer.
            let verdict = read_response(&method, [&bytes[..]]);
            return answers + usize::from(!bytes.is_empty() && matches!(verdict, Verdict::Whole(_)));
        }
    }
    answers
}

#[test]
fn a_replica_sees_exactly_the_requests_that_a_client_sent() {
    let clock = crate::clock::Clock::new();
    let seconds = fuzz_seconds();
    let end = Instant::now() + seconds;
    // Fresh ones where there is time for more than one round; a failure shows it.
    let seed: u64 = if seconds.is_zero() { 1 } else { rand::random() };
    println!("the seed is {seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = async {
        let replica = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (table, _transitions) = Table::new(1);
        let spec = ReplicaSpec::listed(
            "r-0".parse().unwrap(),
            Address::parse(&replica.local_addr().unwrap().to_string()).unwrap(),
        );
        let orders =
            ServiceSpec { name: "orders".parse().unwrap(), policy: Policy::default(), replicas: vec![spec] };
        table.apply(&[orders], &[], clock.now());
        let (worker, panics) = worker_of(table);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let record = Rc::clone(&seen);
        spawn_local(async move {
            loop {
                spawn_local(converse(replica.accept().await.unwrap().0, Rc::clone(&record)));
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        let accepting = Rc::clone(&worker);
        spawn_local(async move {
            let listeners = [Listener { socket: listener, tls: None }];
            let places = Arc::new(Semaphore::new(9));
            accept(&accepting, &listeners, &places, &TaskTracker::new(), forward).await
        });
        let mut random =
            SmallRng::seed_from_u64(std::env::var("GW_FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap()));
        let mut requests = 0;
        let mut connections = 0;
        while connections < CONNECTIONS || Instant::now() < end {
            connections += 1;
            let mut bytes = Vec::new();
            for _ in 0..random.random_range(1..=3) {
                let mut request = messages::request(&mut random);
                if let Some(at) = request.windows(2).position(|two| two == b" /") {
                    request.splice(at..at + 2, *b" /orders/");
                }
                if random.random_bool(0.3) {
                    messages::mutate(&mut random, &mut request);
                }
                bytes.extend(request);
            }
            if bytes.windows(12).any(|text| text.eq_ignore_ascii_case(b"100-continue")) {
                // Whether such a connection goes on depends on when its pieces come.
                continue;
            }
            let reading = reading(&bytes);
            let answers = ask(gateway, &messages::pieces(&mut random, &bytes), &reading).await;
            let expected = reading.asked.len() + usize::from(reading.ends_in_refusal);
            assert_eq!(answers, expected, "{}", bytes.escape_ascii());
            let routed =
                |message: &&Message| message.start[1].starts_with("/orders") && message.start[0] != "CONNECT";
            let of_service =
                |target: &str| target["/orders".len()..].starts_with(['/', '?']) || target == "/orders";
            let asked: Vec<Asked> = reading
                .asked
                .iter()
                .filter(routed)
                .filter(|message| of_service(&message.start[1]))
                .map(|message| {
                    let rest = &message.start[1]["/orders".len()..];
                    let target = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
                    (message.start[0].clone(), target, message.body.clone())
                })
                .collect();
            requests += asked.len();
            assert_eq!(seen.take(), asked, "{}", bytes.escape_ascii());
        }
        assert!(requests > CONNECTIONS / 20, "the cases are too wild: {requests}");
        assert_eq!(panics.read().into_values().sum::<u64>(), 0);
    };
    LocalSet::new().block_on(&runtime, run);
}
