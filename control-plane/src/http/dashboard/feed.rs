//! `GET /ui/stream`: everything that the page shows, in one stream of events.
//!
//! Browsers open six connections to a server, over all of their tabs, so a page must not need one for each watch. The
//! watches are those of `/v1`, each with its own bound on what waits for a slow reader; here their messages of a moment
//! become one event. Nodes, policies and overrides are lists, and told when they change. Without a viewer nothing runs.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use gateway_proto::{
    json::{encode, pool},
    v1,
};
use gateway_runtime::panics::caught;
use prost::{Message, Name};
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout},
};
use tonic::Status;

use super::{
    super::{
        call::{Grpc, Responses},
        resources::Resources,
        resume::{LAST_EVENT_ID, position},
        watch,
    },
    cursor::Cursor,
    frame::Frame,
    rows::Rows,
};
use crate::{
    auth::{Caller, Permission},
    clock,
    edge::Edge,
    refusal::Problem,
    registry::{Revision, View},
};

/// What comes within this time is told together.
const GATHER: Duration = Duration::from_millis(100);
/// Messages in one event at most: what is more waits in its watch, where newer states take the place of older ones.
const MAX_MESSAGES: usize = 512;
/// How often lists are looked at. It is also how a page knows that its stream lives.
const LOOK: Duration = Duration::from_secs(1);
/// A node in which nothing changes but the time of its last report is told again after so many looks.
const NODE_REST: u32 = 5;
/// Rows of replicas and data planes up to which each is told by itself; above, a breaker is merged over data planes and
/// statistics are those of services.
const MAX_DETAILED_ROWS: usize = 5000;
/// Rows of a list: a page's greatest. A dashboard is no place for more.
const LISTED: i32 = 1000;

/// Streams until the viewer goes or the shutdown begins.
pub(super) async fn serve(State(resources): State<Resources>, request: Request) -> Response {
    let last = request.headers().get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
    let cursor = last.map(Cursor::parse).unwrap_or_default();
    let caller = Caller::of(request.extensions()).clone();
    let Resources { edge, grpc } = resources;
    let place = match edge.dashboard_streams.take_for(&caller) {
        Ok(place) => place,
        Err(refusal) => return refusal.into_response(),
    };
    let feed = match Feed::begin(Arc::clone(&edge), grpc, caller, cursor).await {
        Ok(feed) => feed,
        Err(status) => return Problem::from(status).into_response(),
    };
    // One event on its way, and one that waits.
    let (outbound, events) = mpsc::channel(1);
    let (shutdown, panics) = (edge.shutdown.clone(), edge.panics.clone());
    edge.streams.spawn(async move {
        let ended = tokio::select! {
            ended = caught(feed.run(&outbound)) => ended,
            () = outbound.closed() => Ok(()),
            () = shutdown.begun() => Ok(()),
        };
        if let Err(panic) = ended {
            panics.handled("sse_stream", "dashboard", &panic);
        }
        drop(place);
    });
    watch::respond(events)
}

/// The watches behind one viewer's stream.
struct Feed {
    edge: Arc<Edge>,
    grpc: Grpc,
    caller: Caller,
    cursor: Cursor,
    replicas: Responses,
    breakers: Responses,
    events: Responses,
    stats: Responses,
    looks: Interval,
    nodes: Rows,
    /// Control planes that were told to be silent.
    silent: Value,
    /// The registry's when policies and overrides were told.
    told: Option<Revision>,
    is_detailed: bool,
}

impl Feed {
    async fn begin(edge: Arc<Edge>, grpc: Grpc, caller: Caller, cursor: Cursor) -> Result<Self, Status> {
        let is_detailed = is_detailed(&edge);
        let (resume_epoch, resume_revision) = cursor.replicas.clone().unwrap_or_default();
        let replicas = v1::WatchReplicasRequest { resume_epoch, resume_revision, ..Default::default() };
        let breakers = v1::WatchBreakersRequest { per_node: is_detailed, ..Default::default() };
        let stats = v1::WatchStatsRequest { per_replica: is_detailed, ..Default::default() };
        let begin =
            async |service, rpc, message| grpc.begin(&Grpc::method(service, rpc), &message, &caller).await;
        let from = |after: &str| {
            dynamic(&v1::WatchEventsRequest { after_event_id: after.to_owned(), ..Default::default() })
        };
        let events = match begin(OBSERVABILITY, "WatchEvents", from(&cursor.event_id)).await {
            // The id is of nobody's timeline: a page of another program was open at this address.
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                begin(OBSERVABILITY, "WatchEvents", from("")).await?
            }
            begun => begun?,
        };
        let replicas = begin(REGISTRY, "WatchReplicas", dynamic(&replicas)).await?;
        let breakers = begin(OBSERVABILITY, "WatchBreakers", dynamic(&breakers)).await?;
        let stats = begin(OBSERVABILITY, "WatchStats", dynamic(&stats)).await?;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (nodes, silent, told) = (Rows::default(), Value::Null, None);
        Ok(Self {
            edge,
            grpc,
            caller,
            cursor,
            replicas,
            breakers,
            events,
            stats,
            looks,
            nodes,
            silent,
            told,
            is_detailed,
        })
    }

    async fn run(mut self, outbound: &mpsc::Sender<Bytes>) {
        let mut text = watch::RETRY.to_owned();
        let mut hello = Some(self.hello());
        loop {
            if !matches!(timeout(watch::STALL, outbound.send(text.into())).await, Ok(Ok(()))) {
                return;
            }
            let mut frame = Frame::default();
            if let Some(hello) = hello.take() {
                frame.set("hello", hello);
            }
            match self.gather(&mut frame).await {
                Ok(true) => text = frame.text(&self.cursor, clock::unix_millis()),
                // A watch has ended: a page that connects again begins with what there is.
                Ok(false) => return,
                Err(status) => {
                    let problem = watch::named("problem", &Problem::from(status).document());
                    let _ = timeout(watch::STALL, outbound.send(problem.into())).await;
                    return;
                }
            }
        }
    }

    /// What a page has to know of its server.
    fn hello(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "controlPlane": self.edge.myself.address,
            "epoch": self.edge.effects.publisher.epoch(),
            "takesWrites": self.edge.takes_page_writes && self.caller.has(Permission::Operate),
            "caller": self.caller.identity().ok().flatten().map(|identity| identity.name.to_string()),
            "allowsFaults": self.edge.allow_fault_injection,
            "isDetailed": self.is_detailed,
            "hasLab": self.edge.lab.is_some(),
            "listed": LISTED,
        })
    }

    /// Waits for something to tell, and takes what else there is within a moment. `false`: a watch has ended.
    async fn gather(&mut self, frame: &mut Frame) -> Result<bool, Status> {
        let mut until = None;
        while frame.messages() < MAX_MESSAGES {
            let end = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let (kind, message) = tokio::select! {
                biased;
                () = end => break,
                _ = self.looks.tick() => {
                    self.look(frame).await?;
                    until.get_or_insert_with(|| Instant::now() + GATHER);
                    continue;
                }
                message = self.events.next() => ("events", message?),
                message = self.stats.next() => ("stats", message?),
                message = self.replicas.next() => ("replicas", message?),
                message = self.breakers.next() => ("breakers", message?),
            };
            let Some(message) = message else { return Ok(false) };
            if let Some(reached) = position(&message) {
                match kind {
                    "events" => self.cursor.event_id = reached,
                    "replicas" => self.cursor.replicas = Cursor::parse(&format!("|{reached}")).replicas,
                    _ => {}
                }
            }
            frame.push(kind, json_of(&message)?);
            until.get_or_insert_with(|| Instant::now() + GATHER);
        }
        Ok(true)
    }

    /// Lists that nobody can watch, if they have changed.
    async fn look(&mut self, frame: &mut Frame) -> Result<(), Status> {
        let request = v1::ListNodesRequest { page_size: LISTED, ..Default::default() };
        let mut listed = list(&self.grpc, &self.caller, (OBSERVABILITY, "ListNodes"), &request).await?;
        let Value::Array(nodes) = listed["nodes"].take() else { return Ok(()) };
        let news = self.nodes.update(nodes, "nodeId", "lastReportTime", NODE_REST);
        if !news.changed.is_empty() || !news.gone.is_empty() {
            frame.set("nodes", json!({"changed": news.changed, "gone": news.gone}));
        }
        let silent = listed["silentControlPlanes"].take();
        if silent != self.silent {
            self.silent.clone_from(&silent);
            frame.set("silent", silent);
        }
        let revision = self.edge.effects.publisher.read(View::revision);
        frame.set("revision", revision.into());
        if self.told == Some(revision) {
            return Ok(());
        }
        let request = v1::ListOverridesRequest { page_size: LISTED, ..Default::default() };
        let mut listed = list(&self.grpc, &self.caller, (OBSERVABILITY, "ListOverrides"), &request).await?;
        frame.set("overrides", listed["overrides"].take());
        let request = v1::ListPoliciesRequest { page_size: LISTED, ..Default::default() };
        let mut listed = list(&self.grpc, &self.caller, (POLICY, "ListPolicies"), &request).await?;
        frame.set("policies", listed["policies"].take());
        self.told = Some(revision);
        Ok(())
    }
}

async fn list<M: Message + Name>(
    grpc: &Grpc,
    caller: &Caller,
    (service, rpc): (&str, &str),
    request: &M,
) -> Result<Value, Status> {
    json_of(&grpc.call(&Grpc::method(service, rpc), &dynamic(request), caller).await?)
}

const REGISTRY: &str = "RegistryService";
const POLICY: &str = "PolicyService";
const OBSERVABILITY: &str = "ObservabilityService";

/// Whether there are few enough rows for each data plane's own.
fn is_detailed(edge: &Edge) -> bool {
    let replicas = edge.effects.publisher.read(View::replica_count);
    let nodes = edge.effects.observation.read(|nodes, _| nodes.connected_count()).max(1);
    replicas.saturating_mul(nodes) <= MAX_DETAILED_ROWS
}

fn dynamic<M: Message + Name>(message: &M) -> DynamicMessage {
    let descriptor = pool().get_message_by_name(&M::full_name());
    let mut dynamic = DynamicMessage::new(descriptor.expect("requests are messages of the contract"));
    dynamic.transcode_from(message).expect("a message encodes to what its own descriptor describes");
    dynamic
}

fn json_of(message: &DynamicMessage) -> Result<Value, Status> {
    encode(message).map_err(|error| Status::internal(format!("the answer cannot be said in JSON: {error}")))
}
