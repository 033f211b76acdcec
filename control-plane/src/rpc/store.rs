//! `gateway.v1.StoreService`: what this control plane keeps for itself alone moves to another store, while it goes on.
//!
//! Whoever moves it reads, has changes refused, reads what has changed meanwhile, and says that all has moved. Until then his stream is the fence, so
//! that one who dies half-way leaves none behind.

use std::{sync::Arc, time::Duration};

use gateway_proto::{
    Invalid,
    v1::{self, move_store_request::Step, move_store_response::Answer, store_service_server::StoreService},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{MAX_REQUEST_BYTES, next_message};
use crate::{
    auth::{Caller, Subject},
    edge::Edge,
    observe::of_registry,
    refusal::{CannotMove, Refusal},
    registry::{View, text_within},
    store::parts,
    writer::{Closing, Reopening, WriteError},
};

/// Messages between the task and the connection.
const BUFFERED: usize = 2;
/// A mover has so long in all: as many records as fit in memory are copied in far less.
const MOVE_LIMIT: Duration = Duration::from_secs(3600);
/// And so long with changes refused: what has changed meanwhile is copied then, and all of it compared.
const CLOSED_LIMIT: Duration = Duration::from_secs(300);
/// What a store may be called.
const MAX_TO_CHARS: usize = 1000;

/// The outcome of what was carried out, beside the reasons of what was not.
const DONE: &str = "done";

type Outbound = mpsc::Sender<Result<v1::MoveStoreResponse, Status>>;

/// The service.
#[derive(Debug)]
pub(super) struct Stores(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl StoreService for Stores {
    type MoveStoreStream = ReceiverStream<Result<v1::MoveStoreResponse, Status>>;

    async fn move_store(
        &self,
        request: Request<Streaming<v1::MoveStoreRequest>>,
    ) -> Result<Response<Self::MoveStoreStream>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        self.must_be_ours()?;
        let place = self.0.move_streams.take_for(&caller)?;
        if !self.0.is_ready() {
            return Err(Refusal::from(CannotMove::Closed).into());
        }
        let (outbound, responses) = mpsc::channel(BUFFERED);
        let work = serve(Arc::clone(&self.0), caller, request.into_inner(), outbound.clone());
        self.0.spawn_stream("move_stream", place, outbound, work);
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn reopen_store(
        &self,
        request: Request<v1::ReopenStoreRequest>,
    ) -> Result<Response<v1::ReopenStoreResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let outcome = self.reopen(caller).await;
        tell(caller, "ReopenStore", "", outcome.as_ref().map_or_else(Refusal::reason, |_| DONE));
        Ok(Response::new(v1::ReopenStoreResponse { reopened: outcome? }))
    }
}

impl Stores {
    fn must_be_ours(&self) -> Result<(), Refusal> {
        if self.0.is_store_shared { Err(CannotMove::Shared.into()) } else { Ok(()) }
    }

    async fn reopen(&self, caller: &Caller) -> Result<bool, Refusal> {
        self.must_be_ours()?;
        match self.0.commands.reopen(caller.author("").into()).await? {
            Reopening::Done => Ok(true),
            Reopening::Needless => Ok(false),
            Reopening::UnderWay { to } => Err(CannotMove::UnderWay { to }.into()),
        }
    }
}

/// Tells those who look after this control plane what came of a wish of somebody known.
fn tell(caller: &Caller, request: &'static str, about: &str, outcome: &str) {
    if caller.is_known() {
        caller.changed(&Subject::of_store(request, about), outcome);
    }
}

/// Serves one move to its end. When it ends early, so does its fence.
async fn serve(
    edge: Arc<Edge>,
    caller: Caller,
    inbound: Streaming<v1::MoveStoreRequest>,
    outbound: Outbound,
) -> Result<(), Status> {
    let (to, has_read) = (String::new(), false);
    let mut mover =
        Mover { edge: Arc::clone(&edge), caller, inbound, outbound: outbound.clone(), to, has_read };
    let ended = tokio::select! {
        ended = mover.serve() => ended,
        () = outbound.closed() => Err(Broken::Gone),
        () = edge.shutdown.begun() => Err(Refusal::from(WriteError::ShuttingDown).into()),
    };
    let outcome = match &ended {
        Ok(()) => DONE,
        Err(Broken::Refused(refusal)) => refusal.reason(),
        Err(Broken::Gone | Broken::Lost(_)) => "gone before all had moved",
    };
    tell(&mover.caller, "MoveStore", &mover.to, outcome);
    match ended {
        Ok(()) | Err(Broken::Gone) => Ok(()),
        Err(Broken::Refused(refusal)) => Err(refusal.into()),
        Err(Broken::Lost(status)) => Err(status),
    }
}

/// Why a move has not come to its end.
enum Broken {
    Refused(Refusal),
    /// He ended his stream.
    Gone,
    /// The connection ended his stream.
    Lost(Status),
}

impl<E: Into<Refusal>> From<E> for Broken {
    fn from(refusal: E) -> Self {
        Self::Refused(refusal.into())
    }
}

/// Whoever moves the registry.
struct Mover {
    edge: Arc<Edge>,
    caller: Caller,
    inbound: Streaming<v1::MoveStoreRequest>,
    outbound: Outbound,
    /// Where to, once he has said it.
    to: String,
    /// Whether he has been told anything.
    has_read: bool,
}

impl Mover {
    async fn serve(&mut self) -> Result<(), Broken> {
        let closing = match timeout(MOVE_LIMIT, self.until_the_end()).await {
            Ok(asked) => asked?,
            Err(_) => return Err(CannotMove::Overdue(MOVE_LIMIT).into()),
        };
        // No limit cuts this off: he is told what has become of it, and whether the store says so is for the store to tell.
        closing.end().await?;
        self.answer(Answer::Ended(v1::MoveEnded {})).await;
        Ok(())
    }

    /// Until he has read all that there is, and asks for the end.
    async fn until_the_end(&mut self) -> Result<Closing, Broken> {
        let to = self.read_until_closed().await?;
        text_within("close.to", &to, MAX_TO_CHARS)?;
        if to.is_empty() {
            return Err(Invalid::new("close.to", "is required").into());
        }
        self.to.clone_from(&to);
        let closing = self.edge.commands.close(to, self.caller.author("").into()).await?;
        match timeout(CLOSED_LIMIT, self.read_until_ended()).await {
            Ok(asked) => asked.map(|()| closing),
            Err(_) => Err(CannotMove::Overdue(CLOSED_LIMIT).into()),
        }
    }

    /// Yields where he goes with it.
    async fn read_until_closed(&mut self) -> Result<String, Broken> {
        loop {
            match self.next_step().await? {
                Step::Read(_) => self.tell_all().await,
                Step::Close(v1::CloseStore { to }) => return Ok(to),
                Step::End(_) => return Err(Invalid::new("end", "comes after close").into()),
            }
        }
    }

    /// Nobody changes anything meanwhile.
    async fn read_until_ended(&mut self) -> Result<(), Broken> {
        self.answer(Answer::Closed(v1::StoreClosed {})).await;
        let read = loop {
            match self.next_step().await? {
                Step::Read(_) => self.tell_all().await,
                Step::Close(_) => return Err(Invalid::new("close", "was asked for already").into()),
                Step::End(v1::EndMove { revision }) => break revision,
            }
        };
        let now = self.edge.effects.publisher.read(View::revision);
        if read != now {
            return Err(CannotMove::Outdated { read, now }.into());
        }
        Ok(())
    }

    async fn next_step(&mut self) -> Result<Step, Broken> {
        let next = next_message(&mut self.inbound, MAX_REQUEST_BYTES).await.map_err(Broken::Lost)?;
        let request = next.ok_or(Broken::Gone)?;
        self.caller.charge()?;
        request.step.ok_or_else(|| Invalid::new("step", "is required").into())
    }

    /// All that the registry keeps, in parts, for which it waits to be taken.
    async fn tell_all(&mut self) {
        if !std::mem::replace(&mut self.has_read, true) {
            self.note_reading();
        }
        let publisher = &self.edge.effects.publisher;
        // The writer waits while it is copied out, and not while it is told.
        let (revision, items) = publisher.read(|view| (view.revision(), view.shared_items().collect()));
        for part in parts(publisher.epoch(), revision, items) {
            self.answer(Answer::Content(part)).await;
        }
    }

    /// That he has gone shows elsewhere.
    async fn answer(&self, answer: Answer) {
        let _ = self.outbound.send(Ok(v1::MoveStoreResponse { answer: Some(answer) })).await;
    }

    fn note_reading(&self) {
        let who = self.caller.author("");
        let message = "all that is registered is read, with the ids of leases, to be moved to another store";
        tracing::warn!(target: "audit", %who, event = "STORE_READ", "{message}");
        let mut event = of_registry("STORE_READ", message.to_owned(), []);
        event.actor = who.into();
        self.edge.effects.observation.note(event);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::{BufMut, Bytes, BytesMut};
    use gateway_proto::{LeaseId, ReplicaKey};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use prost::Message;
    use tokio::{task::JoinHandle, time::Instant};
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic_prost::ProstDecoder;
    use tonic_types::StatusExt;

    use super::*;
    use crate::{
        clock,
        effects::Effects,
        leases::Leases,
        metrics::Metrics,
        observe::Observation,
        publish::Publisher,
        registry::Limits,
        store::{Memory, Store},
        writer::Writer,
    };

    /// A stream of a mover's, on an edge whose writer runs.
    struct Bench {
        edge: Arc<Edge>,
        requests: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
        answers: mpsc::Receiver<Result<v1::MoveStoreResponse, Status>>,
        ended: JoinHandle<Result<(), Status>>,
    }

    impl Bench {
        async fn start() -> Self {
            let mut store = Memory::new();
            let epoch = store.load().await.unwrap().epoch;
            let effects = Effects {
                publisher: Arc::new(Publisher::new(epoch, View::default())),
                leases: Arc::new(Leases::new(clock::now())),
                observation: Arc::new(Observation::new(1)),
                metrics: Arc::new(Metrics::new()),
            };
            let limits = Limits { replicas: 1, replicas_per_service: 1 };
            let (mut writer, commands, refusing) = Writer::new(store, effects.clone(), limits, 1);
            tokio::spawn(async move { writer.run(&CancellationToken::new()).await });
            let edge = Arc::new(Edge::around(effects, commands, refusing));
            let (requests, body) = mpsc::channel(9);
            let body = StreamBody::new(ReceiverStream::new(body));
            let inbound = Streaming::new_request(ProstDecoder::default(), body, None, None);
            let (outbound, answers) = mpsc::channel(BUFFERED);
            let ended = tokio::spawn(serve(Arc::clone(&edge), Caller::anybody(None), inbound, outbound));
            Self { edge, requests, answers, ended }
        }

        async fn send(&self, step: Step) {
            let message = v1::MoveStoreRequest { step: Some(step) }.encode_to_vec();
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(message.len().try_into().unwrap());
            framed.put_slice(&message);
            self.requests.send(Ok(Frame::data(framed.freeze()))).await.unwrap();
        }

        async fn ask(&mut self, step: Step) -> Answer {
            self.send(step).await;
            self.answers.recv().await.unwrap().unwrap().answer.unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_that_takes_too_long_is_given_up_and_so_is_its_fence() {
        for (is_closed, limit) in [(false, MOVE_LIMIT), (true, CLOSED_LIMIT)] {
            let mut bench = Bench::start().await;
            let began = Instant::now();
            bench.ask(Step::Read(v1::ReadStore {})).await;
            if is_closed {
                bench.ask(Step::Close(v1::CloseStore { to: "etcd://a/gw".into() })).await;
                assert!(!bench.edge.is_ready());
            }
            let refused = bench.ended.await.unwrap().unwrap_err();
            assert!(began.elapsed() >= limit && began.elapsed() < limit + Duration::from_secs(1));
            assert_eq!(refused.code(), Code::DeadlineExceeded);
            let reason = refused.get_details_error_info().unwrap().reason;
            assert_eq!(reason, gateway_proto::reason::MOVE_REFUSED);
            let mut refusing = bench.edge.refusing.clone();
            refusing.wait_for(Option::is_none).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_renews_where_a_registry_was_is_told_where_it_goes_on() {
        let mut bench = Bench::start().await;
        let renew = |bench: &Bench| {
            let key = ReplicaKey { service: "orders".parse().unwrap(), replica: "r-1".parse().unwrap() };
            let refused = bench.edge.renew(&Caller::anybody(None), &key, LeaseId::from_random(1));
            refused.unwrap_err().status()
        };
        assert_eq!(renew(&bench).code(), Code::NotFound);
        bench.ask(Step::Read(v1::ReadStore {})).await;
        bench.ask(Step::Close(v1::CloseStore { to: "etcd://a/gw".into() })).await;
        bench.ask(Step::End(v1::EndMove { revision: 0 })).await;
        (&mut bench.ended).await.unwrap().unwrap();
        let refused = renew(&bench);
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("etcd://a/gw"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mover_who_takes_no_answers_is_given_up_too() {
        let mut bench = Bench::start().await;
        bench.ask(Step::Close(v1::CloseStore { to: "etcd://a/gw".into() })).await;
        // More than there is room for.
        for _ in 0..2 * BUFFERED {
            bench.send(Step::Read(v1::ReadStore {})).await;
        }
        assert_eq!(bench.ended.await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    }
}
