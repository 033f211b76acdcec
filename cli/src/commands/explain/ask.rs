//! Whom to ask, and for what.

use std::{fmt, str::FromStr, time::Duration};

use gateway_proto::{
    Invalid, NodeId, ServiceName,
    json::from_json,
    nearest::nearest,
    reason,
    v1::{ExplainReplicaRequest, ExplainReplicaResponse, ExplainServiceRequest, ExplainServiceResponse},
};
use http::StatusCode;

use crate::{
    control::{self, Control, Shown},
    error::{Error, Exit},
    target::Target,
};

/// A service, or one replica of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    Service(ServiceName),
    Replica(Target),
}

impl FromStr for Topic {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.contains('/') {
            true => text.parse().map(Self::Replica),
            false => ServiceName::parse(text).map(Self::Service),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => name.fmt(f),
            Self::Replica(target) => target.fmt(f),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) enum Asked {
    Replica(Box<ExplainReplicaResponse>),
    Service(Box<ExplainServiceResponse>),
}

/// Asks the control plane.
pub(super) async fn control_plane(
    control: &Control,
    topic: &Topic,
    node: Option<&NodeId>,
) -> Result<Asked, Error> {
    match topic {
        Topic::Service(service) => {
            if node.is_some() {
                return Err(Error::new(Exit::Usage, "--node is about one replica: write SERVICE/REPLICA"));
            }
            let request = ExplainServiceRequest { service: service.to_string() };
            control.explain_service(request).await.map(Box::new).map(Asked::Service)
        }
        Topic::Replica(target) => {
            let asked = |replica_id: &str| ExplainReplicaRequest {
                service: target.service.to_string(),
                replica_id: replica_id.to_owned(),
                node_id: node.map(NodeId::to_string).unwrap_or_default(),
            };
            // One that was removed is in no list, so that its whole id goes first.
            let told = match control.explain_replica(asked(&target.prefix)).await {
                Err(error) if error.code.ends_with(reason::REPLICA_NOT_FOUND) => {
                    let id = registered(control, target).await?;
                    control.explain_replica(asked(&id)).await
                }
                told => told,
            };
            told.map(Box::new).map(Asked::Replica)
        }
    }
}

/// The id of the registered replica that a unique beginning names.
async fn registered(control: &Control, target: &Target) -> Result<String, Error> {
    let replicas = control.replicas(Some(&target.service)).await?.replicas;
    let found = target.find(&replicas).map(|replica| replica.replica_id.clone());
    found.map_err(|mut error| {
        let ids = replicas.iter().map(|replica| replica.replica_id.as_str());
        let meant = nearest(&target.prefix, ids).filter(|_| error.exit == Exit::NotFound);
        if let Some(id) = meant {
            error.hints.insert(0, format!("did you mean \"{}/{id}\"?", target.service));
        }
        error
    })
}

/// Asks a data plane's admin side.
pub(super) async fn data_plane(
    url: &str,
    topic: &Topic,
    shown: &Shown,
    timeout: Duration,
) -> Result<Asked, Error> {
    let Topic::Replica(target) = topic else {
        let why = format!("a data plane explains its replicas only: write {topic}/REPLICA");
        return Err(Error::new(Exit::Usage, why));
    };
    let path = format!("/explain?replica={target}");
    let (status, text) = control::get_from_data_plane(url, &path, shown, timeout).await?;
    match status {
        StatusCode::OK => read(&text).map(Box::new).map(Asked::Replica).map_err(|why| {
            Error::new(Exit::Failed, format!("the answer of {url} is not what this gwctl knows: {why}"))
        }),
        StatusCode::NOT_FOUND => Err(Error::new(Exit::NotFound, text.trim())),
        _ => Err(Error::new(Exit::Failed, format!("{url} answered {status}")).because(text.trim())),
    }
}

fn read(text: &str) -> Result<ExplainReplicaResponse, String> {
    let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    from_json(&value).map_err(|invalid| invalid.to_string())
}
