//! What clients send that nobody should: too large, no message at all, without saying who they are, and replicas that are
//! registered by the rules and are poison to whoever takes them for good ones.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use gateway_proto::v1::{EndpointProtocol, Locality, RegisterRequest};
use gateway_tests::{BytesCodec, DataPlane, http1};
use http::uri::PathAndQuery;
use tokio::time::timeout;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};

use super::{
    alone::Alone,
    caller::{Caller, registration},
    cluster::{ROOMY, hold_load, serves},
    locked::{Locked, channel},
    owner::Owner,
    strangers,
    writers::Writers,
};
use crate::{
    Size,
    figures::Figures,
    process,
    replica::{Posts, Replica},
    stage::{SECOND, metric},
};

/// The paths of all RPCs of the contract.
fn rpcs() -> Vec<String> {
    let services =
        gateway_proto::json::pool().services().filter(|service| service.package_name() == "gateway.v1");
    let paths = services.flat_map(|service| {
        let name = service.full_name().to_owned();
        service.methods().map(|method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
    });
    paths.collect()
}

/// Sends one message to an RPC, and yields how it ends; a stream that goes on is fine.
async fn send(channel: &Channel, path: &str, message: Bytes, token: Option<&str>) -> Result<(), Status> {
    let path = PathAndQuery::try_from(path).expect("names make a path");
    let asked = async {
        let mut grpc: Grpc<Channel> = Grpc::new(channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(tokio_stream::once(message));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().expect("tokens are text");
            request.metadata_mut().insert("authorization", value);
        }
        let mut answers = grpc.streaming(request, path, BytesCodec).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    timeout(5 * SECOND, asked).await.unwrap_or(Ok(()))
}

/// A field of this many bytes, which no message here has.
fn field(number: u32, length: usize, is_whole: bool) -> Bytes {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(length as u64, &mut bytes);
    bytes.resize(bytes.len() + if is_whole { length } else { length / 2 }, b'x');
    bytes.into()
}

/// Every RPC is sent what is no message of its, and what is too large, while others register.
pub(crate) async fn malformed(size: Size, figures: &mut Figures) {
    let mut alone = Alone::start(size.crowd(), &ROOMY).await;
    let (urls, load) = ([alone.control.url()], alone.load());
    let writers = Writers::start(&urls, "beside", Duration::from_millis(20));
    let channel = channel(&alone.control.url()).await;
    let rpcs = rpcs();
    // What is needed once for each is there before it is measured.
    for path in &rpcs {
        let _ = send(&channel, path, field(15_000, 100_000, false), None).await;
    }
    writers.go_on(size.of(300, 50), 30 * SECOND).await;
    let before = process::resident_kib(alone.control.process().pid());
    let inputs = [
        ("no message", Bytes::from_static(&[0xff; 64]), false),
        ("half a message", field(1, 1000, false), false),
        ("text where a number belongs", Bytes::from_static(b"\x08"), false),
        ("6 MiB", field(15_000, 6 << 20, true), true),
    ];
    let rounds = size.of(10, 2);
    for (what, message, is_large) in inputs {
        let (mut codes, mut wrong) = (BTreeMap::<String, u64>::new(), Vec::new());
        for path in rpcs.iter().cycle().take(rpcs.len() * rounds) {
            let answer = send(&channel, path, message.clone(), None).await;
            let (code, why) = answer.map_or_else(
                |status| (status.code(), status.message().to_owned()),
                |()| (Code::Ok, String::new()),
            );
            *codes.entry(format!("{code:?}")).or_default() += 1;
            // What cannot be decoded is INTERNAL to gRPC, whoever's fault it is.
            let is_right = match code {
                // The same code has a connection that is ended for its client's errors.
                Code::ResourceExhausted => is_large && why.contains("larger than"),
                Code::InvalidArgument | Code::Internal => !is_large,
                _ => false,
            };
            if !is_right {
                wrong.push(format!("{path}: {code:?} {why} "));
            }
        }
        let first = wrong.first().cloned().unwrap_or_default();
        figures.hold(
            &format!("{what}: answered wrongly, of {} RPCs <= 0", rpcs.len() * rounds),
            format!("{} {first}{codes:?}", wrong.len()),
            wrong.is_empty(),
        );
    }
    for _ in 0..size.of(500, 100) {
        let garbage = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xff; 300]].concat();
        let _ = timeout(SECOND, http1::raw(alone.control.address(), &garbage)).await;
    }
    let growth = process::resident_kib(alone.control.process().pid()).saturating_sub(before) / 1024;
    figures.at_most("MiB more than before", 16, growth);
    let panics = metric(alone.control.address(), "gateway_panics_total").await;
    figures.hold("panics 0", panics, panics == 0.0);
    let promised = writers.stop().await;
    promised.hold_answers(figures);
    promised.hold(figures, &urls[0]).await;
    alone.hold_leases(figures);
    hold_load(figures, &load.stop().await);
    locked(figures, &rpcs).await;
    strangers::crowd_in(size, figures).await;
}

const ENTRIES: &str = "[[token]]\nname = \"operator\"\ntoken-file = \"operator\"\nroles = [\"operator\"]\n\
                       [[token]]\nname = \"old\"\ntoken-file = \"old\"\nroles = [\"operator\"]\nexpires = \"2020-01-01T00:00:00Z\"\n";

/// Every RPC is asked by nobody, by somebody with a word of his own, and by somebody whose time is over.
async fn locked(figures: &mut Figures, rpcs: &[String]) {
    let locked = Locked::start(ENTRIES, &[]).await;
    let channel = channel(&locked.control.url()).await;
    for (who, token) in
        [("nobody", None), ("a stranger", Some("gwt_guess")), ("one whose time is over", Some("gwt_old"))]
    {
        let mut wrong = Vec::new();
        for path in rpcs {
            let ended = send(&channel, path, Bytes::new(), token).await;
            let code = ended.map_or_else(|status| status.code(), |()| Code::Ok);
            if code != Code::Unauthenticated {
                wrong.push(format!("{path}: {code:?}"));
            }
        }
        let first = wrong.first().cloned().unwrap_or_default();
        let criterion = format!("{who}: {} RPCs, let in or told something else <= 0", rpcs.len());
        figures.hold(&criterion, format!("{} {first}", wrong.len()), wrong.is_empty());
    }
    // Whom it knows gets in, or all of this would say nothing.
    let path = "/gateway.v1.RegistryService/ListServices";
    let known = send(&channel, path, Bytes::new(), Some("gwt_operator")).await;
    figures.hold("an operator is let in", known.is_ok(), known.is_ok());
}

/// Registrations that are right by every rule, and of replicas that nobody can use, or that say as much as one may.
fn poison() -> Vec<RegisterRequest> {
    let labels = |count: usize, length: usize| {
        (0..count).map(|number| (format!("label-{number}"), "é".repeat(length))).collect()
    };
    let with = |id: &str, address: &str| registration("poison", id, address, 600 * SECOND);
    let endpoint = |mut request: RegisterRequest, protocol: EndpointProtocol| {
        if let Some(endpoint) = &mut request.endpoint {
            endpoint.protocol = protocol.into();
        }
        request
    };
    vec![
        with("nowhere", "nowhere.invalid:80"),
        with("deep", &format!("{}.invalid:80", ["a"; 100].join("."))),
        with("hole", "10.255.255.1:81"),
        with("six", "[2001:db8::1]:80"),
        endpoint(with("tls", "10.255.255.2:443"), EndpointProtocol::Tls),
        endpoint(with("h2c", "10.255.255.3:80"), EndpointProtocol::H2c),
        RegisterRequest { weight: 1000, priority: 3, ..with("heavy", "10.255.255.4:80") },
        RegisterRequest { labels: labels(30, 30), ..with("labelled", "10.255.255.5:80") },
        RegisterRequest {
            locality: Some(Locality { region: "r".repeat(63), zone: "z".repeat(63) }),
            ..with("far", "10.255.255.6:80")
        },
        registration(&"s".repeat(63), &"r".repeat(63), "10.255.255.7:80", 600 * SECOND),
    ]
}

/// Poisoned replicas beside good ones, and among them.
pub(crate) async fn poisoned(size: Size, figures: &mut Figures) {
    let mut alone = Alone::start(size.crowd(), &ROOMY).await;
    let urls = [alone.control.url()];
    let load = alone.load();
    let caller = Caller::new(&urls[0]);
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for request in poison() {
        let id = request.replica_id.clone();
        match caller.register(request).await {
            Ok(_) => taken.push(id),
            Err(status) if status.code() == Code::InvalidArgument => refused.push(id),
            Err(status) => refused.push(format!("{id}: {status}")),
        }
    }
    figures.show("taken, refused for a field", format!("{taken:?}, {refused:?}"));
    let strange = refused.iter().filter(|why| why.contains(": ")).count();
    figures.at_most("refused for anything but a field", 0, strange as u64);
    // Among the good ones: a port that refuses.
    let posts = Posts::default();
    let mut dead = Replica::start(&posts);
    dead.kill();
    let dead = Owner::start(&urls, "dead", dead.address(), super::cluster::TTL).await;
    tokio::time::sleep(SECOND * size.of(6, 3)).await;
    let nacked = nacked(alone.control.address()).await;
    figures.at_most("data planes that refuse a revision", 0, nacked);

    // Whoever comes now, comes to all of it.
    alone.control.kill();
    alone.control.restart().await;
    let data = DataPlane::start(&["--control-plane", &urls[0], "--node-id", "dp-2", "--no-cache"]).await;
    serves(&data).await;
    let listed = caller.list("poison").await.map(|ids| ids.len()).unwrap_or_default();
    figures.hold("they are there after a restart", listed, listed + 1 >= taken.len());
    let (first, second) = (alone.data.process().is_running(), alone.control.process().is_running());
    figures.hold("all of it runs", first && second, first && second);
    drop(dead);
    hold_load(figures, &load.stop().await);
}

/// Data planes that a control plane says have refused a revision.
async fn nacked(control: SocketAddr) -> u64 {
    let text = http1::get(control, "/metrics").await;
    let text = String::from_utf8_lossy(text.body()).into_owned();
    let line = text.lines().find(|line| line.starts_with("gateway_nodes{state=\"nacked\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}
