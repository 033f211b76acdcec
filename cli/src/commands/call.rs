//! `gwctl call`: a request through a data plane as a client makes it, once or often, and again by its user's rules when it fails.
//!
//! What the gateway repeats itself is not seen here but in ATTEMPTS: this is the user who tries again.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    str::FromStr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    error::{Error, Exit},
    output::{Format, Output},
    terminal::printable,
};

/// The longest body that is shown.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Of all bodies in one document together: it is written at the end, and so kept until then.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Flags of `gwctl call`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
--timeout is the longest wait for an answer, 10s when it is not given. A call has failed when there is no answer, or one with a status \
of 500 or more. On a terminal the question comes whether to call again; with --auto-retry nobody is asked. Bodies go to stdout, as they came \
unless that is a terminal, what became of each try to stderr. Exit code 1 when the last try of a call failed. The replica and the number of attempts are told by data planes with \
--debug-headers.")]
pub(crate) struct Args {
    /// The service, and what is asked of it, such as orders/hello?x=1
    #[arg(value_name = "SERVICE[/PATH]")]
    target: String,
    /// Data plane to ask
    #[arg(long, env = "GWCTL_PROXY", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    proxy: Proxy,
    /// Method
    #[arg(short = 'X', long, default_value = "GET", value_name = "METHOD")]
    method: Method,
    /// Header; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<Field>,
    /// Body
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    data: String,
    /// So many calls, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Call again by itself when a call fails
    #[arg(long)]
    auto_retry: bool,
    /// How long after a failure that happens
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    retry_delay: Duration,
    /// How often a call is made again at most, by itself or by hand
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=100_000))]
    retry_limit: u32,
}

/// Where a data plane listens, as `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Proxy(String);

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("is no URL: {error}"))?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        if authority.contains('@') {
            return Err("has a user in it: send one by --header".into());
        }
        match (uri.scheme_str(), uri.path_and_query().map_or("/", |path| path.as_str())) {
            (Some("http"), "/") if uri.port_u16().is_some() => Ok(Self(authority)),
            (Some("http"), "/") if !authority.is_empty() => Ok(Self(format!("{authority}:80"))),
            (Some("https"), _) => Err("is https: a call goes to the listener without TLS".into()),
            _ => Err("is not as http://HOST:PORT".into()),
        }
    }
}

/// A header as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field(HeaderName, HeaderValue);

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("has no colon: NAME: VALUE")?;
        let name = name.trim().parse().map_err(|error| format!("{error}"))?;
        Ok(Self(name, value.trim().parse().map_err(|error| format!("{error}"))?))
    }
}

/// A whole answer, or why there is none, and how long that took.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Try {
    answer: Result<Answer, String>,
    took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    /// Empty when the gateway answered, or does not say.
    replica: String,
    /// Empty when the gateway does not say.
    attempts: String,
    fallback: String,
    proxy_status: String,
    body: Bytes,
}

impl Try {
    fn is_good(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| !answer.status.is_server_error())
    }

    /// One line for people.
    fn told(&self, number: u32) -> String {
        let took = self.took.as_millis();
        let Answer { status, replica, attempts, fallback, proxy_status, .. } = match &self.answer {
            Err(why) => return format!("try {number}: no answer after {took}ms: {}", printable(why)),
            Ok(answer) => answer,
        };
        let mut line = format!("try {number}: {} after {took}ms", status.as_u16());
        for (word, value) in [("by", replica), ("attempts", attempts), ("fallback", fallback)] {
            if !value.is_empty() {
                line += &format!(", {word} {}", printable(value));
            }
        }
        if !self.is_good() && !proxy_status.is_empty() {
            line += &format!(": {}", printable(proxy_status));
        }
        line
    }

    fn document(&self) -> Value {
        let took = self.took.as_secs_f64();
        match &self.answer {
            Err(why) => json!({"error": why, "seconds": took}),
            Ok(answer) => json!({
                "status": answer.status.as_u16(),
                "seconds": took,
                "replica": answer.replica,
                "attempts": answer.attempts.parse::<u32>().ok(),
                "fallback": answer.fallback,
                "proxyStatus": answer.proxy_status,
            }),
        }
    }
}

/// What became of all calls.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counters {
    good: u32,
    failed: u32,
    retries: u32,
    by_replica: BTreeMap<String, u32>,
}

impl Counters {
    fn count(&mut self, tries: &[Try]) {
        self.retries += tries.len().saturating_sub(1) as u32;
        let Some(last) = tries.last() else { return };
        *if last.is_good() { &mut self.good } else { &mut self.failed } += 1;
        if let Ok(answer) = &last.answer {
            let who = if answer.replica.is_empty() { "-" } else { &answer.replica };
            *self.by_replica.entry(who.to_owned()).or_default() += 1;
        }
    }

    fn told(&self) -> String {
        let calls = self.good + self.failed;
        let shares = self.by_replica.iter().map(|(who, count)| format!("{} {count}", printable(who)));
        let shares = shares.collect::<Vec<_>>().join(", ");
        format!(
            "{calls} calls: {} good, {} failed, {} retries; answered by: {shares}",
            self.good, self.failed, self.retries
        )
    }
}

/// Makes the calls.
///
/// # Errors
/// A usage error when the target is none, and a failure when the last try of a call failed.
pub(crate) async fn run(args: Args, limit: Duration, may_ask: bool, output: &Output) -> Result<(), Error> {
    let path = format!("/{}", args.target.trim_start_matches('/'));
    let uri: Uri = path.parse().map_err(|error| {
        Error::new(Exit::Usage, format!("\"{}\" cannot be asked for: {error}", args.target))
            .hint("for example  gwctl call orders/hello?x=1")
    })?;
    let may_ask = may_ask && !args.auto_retry && io::stdin().is_terminal();
    let (mut counters, mut documents, mut kept) = (Counters::default(), Vec::new(), 0);
    for _ in 0..args.count {
        let tries = call(&args, &uri, limit, may_ask, output).await;
        counters.count(&tries);
        let answer = tries.last().and_then(|last| last.answer.as_ref().ok());
        let body = answer.map(|answer| shown(&answer.body));
        match output.format {
            Format::Json => {
                kept += body.as_ref().map_or(0, String::len);
                documents.push(json!({
                    "tries": tries.iter().map(Try::document).collect::<Vec<_>>(),
                    "body": body.filter(|_| kept <= MAX_KEPT_BYTES),
                }));
            }
            Format::Table | Format::Wide | Format::Name => match answer {
                None => {}
                Some(_) if io::stdout().is_terminal() => output.data(body.unwrap_or_default())?,
                Some(answer) => output.raw(&answer.body)?,
            },
        }
    }
    if output.format == Format::Json {
        output.value(&json!({
            "calls": documents, "good": counters.good, "failed": counters.failed, "retries": counters.retries,
            "answeredBy": counters.by_replica,
        }))?;
    } else if args.count > 1 {
        output.note(counters.told());
    }
    match counters.failed {
        0 => Ok(()),
        failed => Err(Error::new(Exit::Failed, format!("{failed} of {} calls failed", args.count))),
    }
}

/// One call, with the tries that it takes.
async fn call(args: &Args, uri: &Uri, limit: Duration, may_ask: bool, output: &Output) -> Vec<Try> {
    let mut tries = Vec::new();
    loop {
        let began = Instant::now();
        let answer = match timeout(limit, exchange(args, uri)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("not within {}", humantime::format_duration(limit))),
        };
        let tried = Try { answer, took: began.elapsed() };
        let number = tries.len() as u32 + 1;
        output.note(tried.told(number));
        let goes_on = !tried.is_good() && number <= args.retry_limit;
        // Only the last answer is shown.
        if let Some(Try { answer: Ok(before), .. }) = tries.last_mut() {
            before.body = Bytes::new();
        }
        tries.push(tried);
        if goes_on && args.auto_retry {
            sleep(args.retry_delay).await;
        } else if !(goes_on && may_ask && wants_another()) {
            return tries;
        }
    }
}

/// Asks on the terminal; anything but no is yes.
fn wants_another() -> bool {
    let mut stderr = io::stderr();
    let _ = write!(stderr, "Call again? [Y/n] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    matches!(read, Ok(1..)) && matches!(answer.trim(), "" | "y" | "Y" | "yes")
}

/// Sends the request on a connection of its own, and reads the whole answer.
async fn exchange(args: &Args, uri: &Uri) -> Result<Answer, String> {
    let Proxy(address) = &args.proxy;
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends when the sender is dropped; its errors reach the request that they break.
    tokio::spawn(connection);
    let response = sender.send_request(request(args, uri)?).await.map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map_err(|error| format!("status {}, and the body broke off: {error}", head.status))?;
    let field = |name| field(&head.headers, name);
    let replica = [field("x-gw-replica"), field("x-demo-replica")].into_iter().find(|name| !name.is_empty());
    Ok(Answer {
        status: head.status,
        replica: replica.unwrap_or_default(),
        attempts: field("x-gw-attempts"),
        fallback: field("x-gw-fallback"),
        proxy_status: field("proxy-status"),
        body: body.to_bytes(),
    })
}

/// What is asked. A host that its user names takes the place of the data plane's, for it may be what the service is known by.
fn request(args: &Args, uri: &Uri) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder().method(&args.method).uri(uri);
    let Proxy(address) = &args.proxy;
    if !args.headers.iter().any(|Field(name, _)| name == header::HOST) {
        request = request.header(header::HOST, address.as_str());
    }
    for Field(name, value) in &args.headers {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from(args.data.clone()))).map_err(|error| error.to_string())
}

fn field(fields: &HeaderMap, name: &str) -> String {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// A body as a terminal may show it, its lines left as they are.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.lines().map(|line| printable(line).into_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn answered(status: u16, replica: &str) -> Try {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            replica: replica.into(),
            attempts: "2".into(),
            fallback: String::new(),
            proxy_status: "gw-dp-1; error=connection_refused".into(),
            body: Bytes::new(),
        };
        Try { answer: Ok(answer), took: Duration::from_millis(7) }
    }

    #[test]
    fn a_data_plane_is_named_by_a_url_without_more_and_without_tls() {
        assert_eq!("http://10.0.0.1:80/".parse(), Ok(Proxy("10.0.0.1:80".into())));
        assert_eq!("http://gateway".parse(), Ok(Proxy("gateway:80".into())));
        for (text, why) in [
            ("https://gateway", "is https"),
            ("http://gateway/x", "is not as"),
            ("http://ana:sesame@gateway:80", "has a user in it"),
            ("gateway:80", "is not as"),
            ("http://", "is no URL"),
        ] {
            assert!(text.parse::<Proxy>().unwrap_err().starts_with(why), "{text}");
        }
    }

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let field = Field(HeaderName::from_static("x-user"), HeaderValue::from_static("a: b"));
        assert_eq!("X-User:  a: b ".parse(), Ok(field));
        assert!("x-user".parse::<Field>().is_err() && "x user: a".parse::<Field>().is_err());
    }

    #[test]
    fn a_host_that_is_named_is_the_only_one() {
        let hosts = |flags: &[&str]| {
            let args = Cli::try_parse_from([&["call", "orders/x"][..], flags].concat()).unwrap().args;
            let request = request(&args, &Uri::from_static("/orders/x")).unwrap();
            let hosts = request.headers().get_all(header::HOST).iter();
            hosts.map(|host| host.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(hosts(&[]), ["127.0.0.1:8080"]);
        assert_eq!(hosts(&["-H", "Host: orders.example"]), ["orders.example"]);
    }

    #[test]
    fn a_try_is_told_in_one_line_with_who_answered_or_why_nobody_did() {
        assert_eq!(answered(200, "r-1").told(1), "try 1: 200 after 7ms, by r-1, attempts 2");
        let failed = "try 2: 502 after 7ms, attempts 2: gw-dp-1; error=connection_refused";
        assert_eq!(answered(502, "").told(2), failed);
        let none = Try { answer: Err("cannot\nconnect".into()), took: Duration::ZERO };
        assert_eq!(none.told(3), "try 3: no answer after 0ms: cannot\\nconnect");
        assert_eq!(none.document(), json!({"error": "cannot\nconnect", "seconds": 0.0}));
    }

    #[test]
    fn calls_are_counted_by_their_last_try_and_tries_before_that_as_retries() {
        let mut counters = Counters::default();
        counters.count(&[answered(502, ""), answered(503, ""), answered(200, "r-1")]);
        counters.count(&[answered(404, "r-2")]);
        counters.count(&[answered(500, "r-1"), answered(500, "r-1")]);
        assert_eq!(counters.told(), "3 calls: 2 good, 1 failed, 3 retries; answered by: r-1 2, r-2 1");
    }

    #[test]
    fn a_body_keeps_its_lines_and_moves_no_cursor() {
        assert_eq!(shown(b"one\n\x1b[31mtwo"), "one\n\\u{1b}[31mtwo\n");
        assert_eq!(shown(b""), "");
    }
}
