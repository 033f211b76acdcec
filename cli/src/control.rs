//! The control plane as the commands see it: calls with a deadline, whole lists, and errors for people.
//!
//! Connecting and what every call has in common are here, calls that change something in [`acts`], whole lists in
//! [`pages`], and what is asked over plain HTTP in [`probe`]. No command talks gRPC by itself.

use std::{
    error::Error as _,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_proto::{
    ControlPlaneUrl, code_name,
    nearest::nearest,
    reason,
    v1::{
        SilentControlPlane, observability_service_client::ObservabilityServiceClient,
        policy_service_client::PolicyServiceClient, registry_service_client::RegistryServiceClient,
        route_service_client::RouteServiceClient, store_service_client::StoreServiceClient,
    },
};
use gateway_runtime::{root_cause, tls::ClientTls};
use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    cli::Global,
    endpoint::{Endpoint, Origin},
    error::{Error, Exit},
    link::{self, Credentials, Link},
    partial::Told,
    progress::Progress,
    status::{Subject, explain, is_foreign},
};

mod acts;
mod data_plane;
#[cfg(test)]
pub(crate) mod fake;
mod pages;
mod probe;
#[cfg(test)]
mod tests;

pub(crate) use data_plane::{Shown, get as get_from_data_plane};
pub(crate) use pages::{Filter, Query, Scope, quoted};
pub(crate) use probe::Probed;

/// Between two tries to reach a control plane that may not be there yet.
const READY_INTERVAL: Duration = Duration::from_millis(200);
/// What to try when somebody else answers.
const DEFAULT_PORTS: &str =
    "the default ports are 7400 of the control plane, 8080 of the proxy and 7401 of its admin side";
/// A page of a thousand replicas with all the labels they may have.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A connection to a control plane.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    endpoint: Endpoint,
    channel: Channel,
    credentials: Credentials,
    tls: Arc<ClientTls>,
    registry: RegistryServiceClient<Link>,
    policies: PolicyServiceClient<Link>,
    routes: RouteServiceClient<Link>,
    observability: ObservabilityServiceClient<Link>,
    stores: StoreServiceClient<Link>,
    timeout: Duration,
    verbose: bool,
    /// Who is told that an answer is not all.
    told: Option<Arc<Told>>,
    /// Whether it has answered a call as a control plane does: what it does not know then is newer than it.
    has_answered: Arc<AtomicBool>,
}

impl Control {
    /// Connects as the flags say.
    ///
    /// # Errors
    /// A usage error for a bad URL or file; [`Exit::Unreachable`] when nobody answers there.
    pub(crate) async fn connect(global: &Global, origin: Origin) -> Result<Self, Error> {
        let endpoint = Endpoint::parse(&global.endpoint, origin)?;
        let connecting = endpoint.places.channel().connect_timeout(global.timeout);
        let (tls, credentials) = (global.access.tls()?, global.access.credentials(&endpoint)?);
        if credentials.header().is_some() && endpoint.is_overheard() {
            global
                .output()
                .note(format!("the token is sent to {endpoint} for all between to read: use https://"));
        }
        let deadline = Instant::now() + global.timeout;
        let mut progress = Progress::new(&global.output());
        let began = Instant::now();
        let channel = loop {
            match link::connect(&connecting, &endpoint.places, &tls).await {
                Ok(channel) => break channel,
                Err(_) if global.wait_for_ready && Instant::now() + READY_INTERVAL < deadline => {
                    progress.tell(&format!("waiting for the control plane at {endpoint}"));
                    tokio::time::sleep(READY_INTERVAL).await;
                }
                Err(error) => return Err(unreachable_error(&endpoint, &tls, &error)),
            }
        };
        if global.verbose > 1 {
            eprintln!("connected to {endpoint}  {:.1?}", began.elapsed());
        }
        let told = Some(Arc::new(Told::new(global.output())));
        let verbosity = (global.timeout, global.verbose > 0);
        let control = Self::showing((credentials, tls), channel, endpoint, verbosity);
        Ok(Self { told, ..control })
    }

    /// Calls over an existing channel to the endpoint, and shows nothing.
    pub(crate) fn over(channel: Channel, endpoint: Endpoint, timeout: Duration, verbose: bool) -> Self {
        Self::showing(Default::default(), channel, endpoint, (timeout, verbose))
    }

    fn showing(
        (credentials, tls): (Credentials, Arc<ClientTls>),
        channel: Channel,
        endpoint: Endpoint,
        (timeout, verbose): (Duration, bool),
    ) -> Self {
        let link = || credentials.over(channel.clone());
        Self {
            endpoint,
            registry: RegistryServiceClient::new(link()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            policies: PolicyServiceClient::new(link()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            routes: RouteServiceClient::new(link()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            observability: ObservabilityServiceClient::new(link())
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            stores: StoreServiceClient::new(link()),
            channel: channel.clone(),
            credentials: credentials.clone(),
            tls,
            timeout,
            verbose,
            told: None,
            has_answered: Arc::default(),
        }
    }

    /// When the certificate ends that it showed, if it showed one.
    pub(crate) fn certificate_ends(&self) -> Option<std::time::SystemTime> {
        self.tls.shown().map(|certificate| certificate.not_after)
    }

    /// The endpoint that it is connected to.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Awaits one call, at most for the timeout.
    async fn call<T>(
        &self,
        rpc: &str,
        subject: Subject<'_>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        self.call_that_waits(Duration::ZERO, rpc, subject, call).await
    }

    /// Awaits one call of which the server was asked to wait: at most for that and the timeout.
    async fn call_that_waits<T>(
        &self,
        wait: Duration,
        rpc: &str,
        subject: Subject<'_>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let answer = tokio::time::timeout(wait.saturating_add(self.timeout), call).await;
        if self.verbose {
            let outcome = match &answer {
                Ok(Ok(_)) => code_name(Code::Ok),
                Ok(Err(status)) => code_name(status.code()),
                Err(_) => code_name(Code::DeadlineExceeded),
            };
            eprintln!("{rpc}  {outcome}  {:.1?}", begun.elapsed());
        }
        match answer {
            Ok(Ok(response)) => {
                self.has_answered.store(true, Relaxed);
                Ok(response.into_inner())
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented && self.has_answered.load(Relaxed) => {
                Err(older_error(&self.endpoint, rpc))
            }
            Ok(Err(status)) => Err(self.refusal(&status, subject)),
            Err(_) => Err(self.overdue()),
        }
    }

    /// The same, without a word on what is missing in answers: for whoever shows that himself.
    #[must_use]
    pub(crate) fn telling_nobody(self) -> Self {
        Self { told: None, ..self }
    }

    /// Says which control planes are missing in an answer.
    pub(crate) fn tell_of(&self, silent: &[SilentControlPlane]) {
        if let Some(told) = &self.told {
            told.of(silent);
        }
    }

    fn overdue(&self) -> Error {
        let timeout = humantime::format_duration(self.timeout);
        let mut error = Error::new(
            Exit::Unreachable,
            format!("the control plane at {} did not answer within {timeout}", self.endpoint),
        )
        .hint("give it more time with --timeout");
        error.code = code_name(Code::DeadlineExceeded).into();
        error
    }

    /// Why a call failed: on its way, at a stranger's, or by the control plane's own word.
    fn refusal(&self, status: &Status, subject: Subject<'_>) -> Error {
        match status.source().and_then(|source| source.downcast_ref::<tonic::transport::Error>()) {
            Some(error) => unreachable_error(&self.endpoint, &self.tls, error),
            None if is_foreign(status) => foreign_error(&self.endpoint, status),
            None => explain(status, subject),
        }
    }

    /// Adds "did you mean" to an error about an unknown service, when the name of a known one is close.
    async fn with_suggestion(&self, mut error: Error, typed: &str) -> Error {
        if !error.code.ends_with(reason::SERVICE_NOT_FOUND) {
            return error;
        }
        // The suggestion is a courtesy: when it fails, the first error is still the one to report.
        if let Some(Some(name)) = self.meant_instead_of(typed).await {
            error.hints.insert(0, did_you_mean(&name));
        }
        error
    }

    /// What to say of a service by whose name nothing was found: nothing when it is registered, or nobody can tell.
    pub(crate) async fn doubt_about(&self, typed: &str) -> Option<String> {
        let meant = self.meant_instead_of(typed).await?;
        let hint = meant.map_or_else(String::new, |name| format!(": {}", did_you_mean(&name)));
        Some(format!("service \"{typed}\" is not registered now{hint}"))
    }

    /// Of a service that is not registered, the one with the nearest name; `None` when it is, or nobody can tell.
    async fn meant_instead_of(&self, typed: &str) -> Option<Option<String>> {
        let known = self.services().await.ok()?.services;
        let names = || known.iter().map(|service| service.service.as_str());
        (!names().any(|name| name == typed)).then(|| nearest(typed, names()).map(str::to_owned))
    }
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean \"{name}\"?")
}

/// Says what could not be reached, why, and who chose it.
fn unreachable_error(endpoint: &Endpoint, tls: &ClientTls, error: &tonic::transport::Error) -> Error {
    let why = tls.refusal().map_or_else(|| root_cause(error), |refusal| (*refusal).clone());
    let headline = match endpoint.is_several() {
        // Each is named in it, with its own reason.
        true => format!("cannot reach any control plane: {}", root_cause(error)),
        false => format!("cannot reach the control plane at {endpoint} ({why})"),
    };
    let mut unreachable = Error::new(Exit::Unreachable, headline).because(endpoint.origin.describe());
    // Whoever answers by TLS is there: starting another one would be no help.
    if endpoint.url().is_encrypted() {
        unreachable.hints.push("name the authorities that are believed with  --ca-file FILE".into());
    }
    unreachable = unreachable.hint(match endpoint.url() {
        ControlPlaneUrl::Web(_) => "start one with  gwctl dev".to_owned(),
        ControlPlaneUrl::Unix(_) => format!("start one with  gw-control-plane --listen {}", endpoint.url()),
    });
    unreachable = unreachable.hint("or choose another one with  --endpoint URL  or  gwctl config use NAME");
    if broke_off(error) {
        unreachable = unreachable.hint(DEFAULT_PORTS);
    }
    unreachable.code = code_name(Code::Unavailable).into();
    unreachable
}

/// Whether somebody took the connection and ended it: perhaps one who speaks HTTP/1.1 only.
fn broke_off(error: &tonic::transport::Error) -> bool {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |&cause| cause.source());
    let mut kinds =
        causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.any(|kind| {
        matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
    })
}

/// Says that a control plane which is one does not know the call.
fn older_error(endpoint: &Endpoint, rpc: &str) -> Error {
    let headline = format!("the control plane at {endpoint} is older than this gwctl: it has no {rpc}");
    let mut older = Error::new(Exit::Failed, headline).hint("gwctl version   shows both");
    older.code = code_name(Code::Unimplemented).into();
    older
}

/// Says that somebody answered who is not the one that was meant.
fn foreign_error(endpoint: &Endpoint, status: &Status) -> Error {
    let mut foreign = Error::new(
        Exit::Unreachable,
        format!("what answers at {endpoint} is no control plane that this gwctl knows"),
    )
    .because(status.message())
    .because(endpoint.origin.describe())
    .hint(DEFAULT_PORTS)
    .hint("choose another one with  --endpoint URL");
    foreign.code = code_name(status.code()).into();
    foreign
}
