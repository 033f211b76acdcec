//! A minimal reverse proxy on Pingora, to be measured beside the gateway: replicas in turns over kept connections, failures
//! tried at another one, replicas that fail left alone for a while, a request id, `X-Forwarded-For`.
//!
//! What it is to do comes as `NAME=VALUE`: `http`, `grpc` and `tls` are addresses to listen at, `certificate` and `key` files in
//! PEM, `replicas` and `grpc_replicas` addresses with commas between, `services` how many services share those replicas.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use pingora::{
    apps::HttpServerOptions,
    http::{RequestHeader, ResponseHeader},
    listeners::tls::TlsSettings,
    prelude::*,
    protocols::ALPN,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::configuration::ServerConf,
};

/// So many failures in a row, and a replica is left alone for so long: as the others are told.
const FAILURES: u32 = 5;
const EJECTION: Duration = Duration::from_secs(10);
const ATTEMPTS: usize = 3;

struct Replica {
    address: SocketAddr,
    failures: AtomicU32,
    /// In milliseconds since the start.
    out_until: AtomicU64,
}

struct Service {
    replicas: Vec<Replica>,
    turn: AtomicUsize,
}

struct Proxy {
    services: HashMap<String, Service>,
    speaks_http2: bool,
    started: Instant,
    ids: AtomicU64,
}

/// One request.
#[derive(Default)]
struct Request {
    attempts: usize,
    /// Which of the service's replicas has it.
    place: usize,
    service: String,
}

impl Service {
    /// The next that is not out, or the next.
    fn next(&self, now: u64) -> usize {
        let turn = self.turn.fetch_add(1, Relaxed);
        let count = self.replicas.len();
        let mut places = (0..count).map(|step| (turn + step) % count);
        places.find(|place| self.replicas[*place].out_until.load(Relaxed) <= now).unwrap_or(turn % count)
    }
}

impl Proxy {
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn heard(&self, request: &Request, is_failure: bool) {
        let Some(service) = self.services.get(&request.service) else { return };
        let replica = &service.replicas[request.place];
        if !is_failure {
            if replica.failures.load(Relaxed) > 0 {
                replica.failures.store(0, Relaxed);
            }
        } else if replica.failures.fetch_add(1, Relaxed) + 1 >= FAILURES {
            replica.failures.store(0, Relaxed);
            replica.out_until.store(self.now() + EJECTION.as_millis() as u64, Relaxed);
        }
    }

    fn may_go_on(&self, request: &Request) -> bool {
        request.attempts < ATTEMPTS
    }
}

fn host(session: &Session) -> &str {
    let head = session.req_header();
    let of_field = || head.headers.get("host").and_then(|host| host.to_str().ok());
    let host = head.uri.host().or_else(of_field).unwrap_or_default();
    host.split(':').next().unwrap_or_default()
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request::default()
    }

    async fn upstream_peer(&self, session: &mut Session, request: &mut Request) -> Result<Box<HttpPeer>> {
        if request.service.is_empty() {
            request.service = host(session).to_owned();
        }
        let service = self.services.get(&request.service).ok_or_else(|| Error::new(HTTPStatus(404)))?;
        request.attempts += 1;
        request.place = service.next(self.now());
        let mut peer = HttpPeer::new(service.replicas[request.place].address, false, String::new());
        peer.options.connection_timeout = Some(Duration::from_secs(1));
        peer.options.read_timeout = Some(Duration::from_secs(10));
        if self.speaks_http2 {
            peer.options.alpn = ALPN::H2;
        }
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        _: &mut Request,
    ) -> Result<()> {
        let id = self.ids.fetch_add(1, Relaxed);
        head.insert_header("x-request-id", format!("{id:032x}"))?;
        if let Some(client) = session.client_addr().and_then(|client| client.as_inet()) {
            head.append_header("x-forwarded-for", client.ip().to_string())?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        answer: &mut ResponseHeader,
        request: &mut Request,
    ) -> Result<()> {
        let is_failure = matches!(answer.status.as_u16(), 502..=504);
        self.heard(request, is_failure);
        if is_failure && self.may_go_on(request) {
            let mut error = Error::new(HTTPStatus(answer.status.as_u16()));
            error.set_retry(true);
            return Err(error);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        request: &mut Request,
        mut error: Box<Error>,
    ) -> Box<Error> {
        self.heard(request, true);
        error.set_retry(self.may_go_on(request));
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        request: &mut Request,
        client_reused: bool,
    ) -> Box<Error> {
        // What the filter of answers made has been heard of.
        if !matches!(error.etype(), HTTPStatus(_)) {
            self.heard(request, true);
            error.retry.decide_reuse(client_reused);
        }
        if !self.may_go_on(request) || session.as_ref().retry_buffer_truncated() {
            error.set_retry(false);
        }
        error
    }
}

fn main() {
    let mut said: HashMap<String, String> = HashMap::new();
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').expect("arguments are NAME=VALUE");
        said.insert(name.to_owned(), value.to_owned());
    }
    let text = |name: &str| said.get(name).map(String::as_str);
    let count: usize = text("services").map_or(1, |count| count.parse().expect("a number of services"));
    let proxy = |replicas: &str, speaks_http2| Proxy {
        services: match speaks_http2 {
            true => HashMap::from([("grpc.localhost".to_owned(), service(replicas))]),
            false => (0..count).map(|place| (name(place), service(replicas))).collect(),
        },
        speaks_http2,
        started: Instant::now(),
        ids: AtomicU64::new(1),
    };

    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for (replicas, listeners) in [("replicas", ["http", "tls"]), ("grpc_replicas", ["grpc", ""])] {
        let Some(addresses) = text(replicas) else { continue };
        let mut service =
            http_proxy_service(&server.configuration, proxy(addresses, replicas == "grpc_replicas"));
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        service.app_logic_mut().expect("it is not running yet").server_options = Some(options);
        for listener in listeners {
            let Some(address) = text(listener) else { continue };
            if listener == "tls" {
                let [certificate, key] =
                    ["certificate", "key"].map(|name| text(name).expect("TLS has files"));
                let mut settings =
                    TlsSettings::intermediate(certificate, key).expect("the files are readable");
                settings.enable_h2();
                service.add_tls_with_settings(address, None, settings);
            } else {
                service.add_tcp(address);
            }
        }
        server.add_service(service);
    }
    server.run_forever();
}

fn name(place: usize) -> String {
    if place == 0 { "bench.localhost".into() } else { format!("s{place}.localhost") }
}

fn service(replicas: &str) -> Service {
    let replica = |address: &str| Replica {
        address: address.parse().expect("an address"),
        failures: AtomicU32::new(0),
        out_until: AtomicU64::new(0),
    };
    Service { replicas: replicas.split(',').map(replica).collect(), turn: AtomicUsize::new(0) }
}
