//! Two of them talk, each side driven by a task and used by others, which run when they are woken and not before: nobody waits for ever.
//!
//! Time stands still while anybody can run, so that whoever is not woken is found as soon as nobody else is left.

use std::{future::poll_fn, pin::pin, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    task::LocalSet,
    time::timeout,
};

use super::*;
use crate::{Failure, Receiver, Sender, frame::ErrorCode};

/// What one direction of an exchange is to be.
#[derive(Debug, Clone)]
struct Body {
    /// Pieces that are offered, one after the other.
    pieces: Vec<usize>,
    has_trailers: bool,
    /// Whether it is given up behind so many of them.
    given_up: Option<usize>,
}

/// An exchange, as both sides mean it.
#[derive(Debug, Clone)]
struct Plan {
    request: Body,
    response: Body,
    /// Whether the server answers before it has read the request.
    is_early: bool,
    /// Whether who reads gives back what it has read at once, or only at the end of a piece of so many bytes.
    held: usize,
}

fn any_body() -> impl Strategy<Value = Body> {
    let piece = prop_oneof![0..10_usize, 500..3000_usize, Just(20_000)];
    let given_up = prop::option::weighted(0.15, 0..4_usize);
    (prop::collection::vec(piece, 0..5), any::<bool>(), given_up)
        .prop_map(|(pieces, has_trailers, given_up)| Body { pieces, has_trailers, given_up })
}

fn any_plan() -> impl Strategy<Value = Plan> {
    (any_body(), any_body(), any::<bool>(), prop_oneof![Just(0), Just(400)])
        .prop_map(|(request, response, is_early, held)| Plan { request, response, is_early, held })
}

fn any_config() -> impl Strategy<Value = Config> {
    let windows =
        prop_oneof![Just((100, 70_000)), Just((1000, 1000)), Just((5000, 8000)), Just((100_000, 65_535))];
    (1..6_u32, windows, 1..20_000_usize).prop_map(
        |(streams, (stream_window, connection_window), send_buffer)| Config {
            streams,
            stream_window,
            connection_window,
            send_buffer,
            ..CONFIG
        },
    )
}

/// Moves a connection's bytes, as whoever owns one does: it runs when its socket or the connection wakes it.
async fn drive(shared: Shared<Plain>, socket: DuplexStream, came: impl Fn()) {
    let mut socket = pin!(socket);
    let mut input = BytesMut::new();
    poll_fn(|cx| {
        shared.borrow_mut().driven_by(cx.waker());
        loop {
            let mut is_blocked = false;
            loop {
                let mut connection = shared.borrow_mut();
                if !is_blocked && connection.is_ready() {
                    connection.pump();
                }
                if is_blocked || !connection.has_output() {
                    break;
                }
                let mut slices = [IoSlice::new(&[]); 4];
                connection.slices(&mut slices);
                match socket.as_mut().poll_write(cx, &slices[0]) {
                    Poll::Ready(Ok(count)) => connection.advance(count),
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => is_blocked = true,
                }
            }
            if !shared.borrow().may_read() {
                return Poll::Pending;
            }
            let mut bytes = [0; 700];
            let mut buffer = ReadBuf::new(&mut bytes);
            match socket.as_mut().poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    input.extend_from_slice(buffer.filled());
                    shared.borrow_mut().receive(&mut input, &mut ());
                    came();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    shared.borrow_mut().lost(std::io::ErrorKind::UnexpectedEof);
}

/// Sends a body. Whether all of it was.
async fn send(sender: &mut Sender<Plain>, body: &Body) -> Result<bool, Failure> {
    for (number, &piece) in body.pieces.iter().enumerate() {
        if body.given_up == Some(number) {
            return Ok(false);
        }
        let mut left = piece;
        while left > 0 {
            let room = poll_fn(|cx| sender.poll_room(cx)).await?;
            let size = room.min(left);
            sender.send_data(Bytes::from(vec![7; size]), false)?;
            left -= size;
        }
    }
    match body.has_trailers {
        true => sender.send_trailers(list(&[("x-end", "1")]))?,
        false => sender.send_data(Bytes::new(), true)?,
    }
    Ok(true)
}

/// Reads a body to its end, and yields its length and whether something stood behind it.
async fn read(receiver: &mut Receiver<Plain>, held: usize) -> Result<(usize, bool), Failure> {
    let (mut length, mut unreleased) = (0, 0);
    while let Some(data) = poll_fn(|cx| receiver.poll_data(cx)).await {
        let count = data?.len();
        length += count;
        unreleased += count;
        // Who holds more than a half of any window back would wait for itself.
        if unreleased > held.min(40) {
            receiver.release(std::mem::take(&mut unreleased));
        }
    }
    receiver.release(unreleased);
    let trailers = poll_fn(|cx| receiver.poll_trailers(cx)).await?;
    Ok((length, trailers.is_some()))
}

fn whole(body: &Body) -> (usize, bool) {
    (body.pieces.iter().sum(), body.has_trailers)
}

fn is_given_up(body: &Body) -> bool {
    body.given_up.is_some_and(|number| number < body.pieces.len())
}

/// What a client does of an exchange.
async fn ask(client: Shared<Plain>, number: usize, plan: Plan) {
    let mut head = post();
    head.0.push(("x-number".into(), number.to_string().into()));
    let (mut sender, mut receiver) = crate::open(&client, head, false, Purpose::Content).unwrap();
    let sending = async {
        match send(&mut sender, &plan.request).await {
            // Who has answered may not want the rest.
            Ok(true) | Err(Failure::Reset(ErrorCode::NO_ERROR | ErrorCode::CANCEL)) => true,
            Ok(false) => {
                sender.reset(ErrorCode::CANCEL);
                false
            }
            Err(failure) => panic!("request {number} cannot be sent: {failure:?}"),
        }
    };
    let receiving = async {
        poll_fn(|cx| receiver.poll_head(cx)).await?;
        read(&mut receiver, plan.held).await
    };
    let (was_sent, received) = tokio::join!(sending, receiving);
    match received {
        Ok(received) => assert_eq!(received, whole(&plan.response), "response {number}"),
        Err(Failure::Cancelled) => assert!(!was_sent, "request {number} was not given up"),
        Err(Failure::Reset(ErrorCode::CANCEL)) => {
            assert!(is_given_up(&plan.response), "response {number} was not given up");
        }
        Err(failure) => panic!("response {number} does not come: {failure:?}"),
    }
}

/// What a server does of one.
async fn answer(mut request: crate::Request<Plain>, plan: Plan, number: usize) {
    let reading = async {
        match read(&mut request.receiver, plan.held).await {
            Ok(received) => assert_eq!(received, whole(&plan.request), "request {number}"),
            Err(Failure::Reset(ErrorCode::CANCEL)) => {}
            Err(failure) => panic!("request {number} does not come: {failure:?}"),
        }
    };
    let answering = async {
        if request.sender.send_head(ok(), false).is_ok() {
            match send(&mut request.sender, &plan.response).await {
                Ok(true) | Err(Failure::Reset(ErrorCode::CANCEL)) => {}
                Ok(false) => request.sender.reset(ErrorCode::CANCEL),
                Err(Failure::Cancelled) => {}
                Err(failure) => panic!("response {number} cannot be sent: {failure:?}"),
            }
        }
    };
    if plan.is_early {
        answering.await;
    } else {
        reading.await;
        answering.await;
    }
}

async fn play(client: Config, server: Config, plans: Vec<Plan>, pipe: usize) {
    let sides = [Connection::client(client), Connection::server(server)].map(RefCell::new).map(Rc::new);
    let [client, server] = sides;
    let (near, far) = tokio::io::duplex(pipe);
    tokio::task::spawn_local(drive(Rc::clone(&client), near, || {}));
    let (accepted, told) = (Rc::clone(&server), plans.clone());
    tokio::task::spawn_local(drive(Rc::clone(&server), far, move || {
        while let Some(request) = crate::accept(&accepted) {
            let number = request.head.0.iter().find(|(name, _)| name == "x-number").unwrap();
            let number: usize = str::from_utf8(&number.1).unwrap().parse().unwrap();
            tokio::task::spawn_local(answer(request, told[number].clone(), number));
        }
    }));
    // More at once than may be would be refused.
    let settled = || poll_fn(|_| if client.borrow().is_settled() { Poll::Ready(()) } else { Poll::Pending });
    while timeout(Duration::from_millis(1), settled()).await.is_err() {}
    let asking: Vec<_> = plans
        .into_iter()
        .enumerate()
        .map(|(number, plan)| tokio::task::spawn_local(ask(Rc::clone(&client), number, plan)))
        .collect();
    for (number, asked) in asking.into_iter().enumerate() {
        let asked = timeout(Duration::from_secs(60), asked).await;
        asked.unwrap_or_else(|_| panic!("request {number} waits for ever")).unwrap();
    }
    // What is still on its way comes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for side in [client, server] {
        let side = side.borrow();
        assert_eq!((side.end(), side.open_streams(), side.has_output()), (None, 0, false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(2000), ..ProptestConfig::default() })]

    #[test]
    fn whoever_waits_is_woken_whatever_others_give_up(
        client in any_config(),
        server in any_config(),
        plans in prop::collection::vec(any_plan(), 1..12),
        pipe in prop_oneof![Just(64_usize), Just(1000), Just(100_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, play(client, server, plans, pipe));
    }
}
