//! Who asks, as every handler finds him in the request's extensions; and the one decision on what he may change.

use std::{sync::Arc, time::Duration};

use gateway_proto::{Address, NodeId, ReplicaKey, ServiceName};
use http::Extensions;

use super::{Denied, Gate, Share, book::Credential, identity::Identity, permission::Permission};
use crate::{
    listeners::Whence,
    registry::{Command, PolicyChange, Proof, Record, Registrant, Target},
};

/// Somebody who asks for something.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(super) who: Who,
    pub(super) from: Option<Whence>,
    pub(super) gate: Arc<Gate>,
}

#[derive(Debug, Clone)]
pub(super) enum Who {
    /// Nobody is asked who he is.
    Anybody,
    /// He has shown it.
    Known(Arc<Known>),
    /// He was asked and has not, or is not heard at all.
    Nobody(Denied),
}

/// Somebody known, and how to find out whether he still is.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) identity: Identity,
    pub(super) credential: Credential,
    /// Of what is known, when he was identified.
    pub(super) generation: u64,
}

impl Caller {
    /// Who asks, from the extensions of his request.
    ///
    /// # Panics
    /// When no gate has seen the request. That is a defect, and the caller is told no more than INTERNAL.
    pub(crate) fn of(extensions: &Extensions) -> &Self {
        extensions.get().expect("a gate stands before every handler")
    }

    /// Where he is.
    pub(crate) fn from(&self) -> Option<Whence> {
        self.from
    }

    /// What he goes by in events: his name, whatever he calls himself; where nobody is asked, what he says, or his address.
    pub(crate) fn author(&self, said: &str) -> Box<str> {
        match (&self.who, said, self.from) {
            (Who::Known(known), ..) => (&*known.identity.name).into(),
            (_, "", Some(from)) => from.name().into(),
            _ => said.into(),
        }
    }

    /// Whether he was asked who he is, and has shown it.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.who, Who::Known(_))
    }

    /// Whether he was asked who he is, and has not shown it: to him, only what is [`Permission::Open`] is.
    pub(crate) fn is_stranger(&self) -> bool {
        matches!(self.who, Who::Nobody(_))
    }

    /// His name, if he is known; else none.
    pub(crate) fn known_author(&self) -> Box<str> {
        if self.is_known() { self.author("") } else { Box::default() }
    }

    /// What he goes by in sentences and logs.
    pub(crate) fn name(&self) -> String {
        match &self.who {
            Who::Known(known) => known.identity.name.to_string(),
            Who::Anybody | Who::Nobody(_) => match self.from {
                Some(from) => from.name(),
                None => "somebody".into(),
            },
        }
    }

    /// Whether he has a permission. What is open to strangers is open to whoever is known and was granted nothing.
    pub(crate) fn has(&self, permission: Permission) -> bool {
        let ip = self.from.map(Whence::ip);
        let is_granted = || match &self.who {
            Who::Anybody => true,
            Who::Known(known) => known.identity.has(permission, ip),
            Who::Nobody(_) => false,
        };
        permission == Permission::Open || is_granted()
    }

    /// Lets him do what takes a permission; `what` names it.
    ///
    /// # Errors
    /// Why not: nobody knows who he is, or it is not for him.
    pub(crate) fn admit(&self, permission: Permission, what: &str) -> Result<(), Denied> {
        if self.has(permission) {
            return Ok(());
        }
        let denied = match &self.who {
            Who::Nobody(denied) => denied.clone(),
            Who::Known(_) | Who::Anybody => Denied::Permission {
                sentence: format!(
                    "{} may not {}: that takes the role {}",
                    self.name(),
                    permission.name(),
                    permission.role()
                ),
                service: None,
            },
        };
        Err(self.refused(denied, what))
    }

    /// Lets him have a command carried out: this is where it is decided which identity may change what.
    ///
    /// # Errors
    /// Why not. It is told to those who look after this control plane, too.
    pub(crate) fn admit_command(&self, command: &Command) -> Result<(), Denied> {
        let decided = match command {
            Command::Register(wish) => self.admit_place(&wish.service, &wish.endpoint.address),
            Command::Deregister {
                target: target @ (Target::Key(ReplicaKey { service, .. }) | Target::Address(service, _)),
                proof: Proof::Force,
                ..
            } if !self.has(Permission::Operate) => {
                let replica = match target {
                    Target::Key(key) => key.to_string(),
                    Target::Address(service, address) => format!("{service} at {address}"),
                };
                let sentence = format!(
                    "{} may not remove {replica} by force: show its lease, or have the role operator",
                    self.name()
                );
                Err(Denied::Permission { sentence, service: Some(service.clone()) })
            }
            Command::Deregister {
                target: Target::Key(ReplicaKey { service, .. }) | Target::Address(service, _),
                ..
            } => self.admit_owner(service),
            Command::ReportHealth { key, .. } => self.admit_owner(&key.service),
            Command::Drain(wish) if wish.proof != Proof::Force => self.admit_owner(&wish.key.service),
            Command::Undrain { key, proof: Proof::None, .. } => self.admit_owner(&key.service),
            Command::Drain(_)
            | Command::Undrain { .. }
            | Command::UpdatePolicy(_)
            | Command::DeletePolicy { .. }
            | Command::ApplyPolicies(_)
            | Command::UpdateRoute(_)
            | Command::DeleteRoute { .. }
            | Command::Override(_)
            | Command::EndOverride { .. } => return self.admit(Permission::Operate, action(command)),
            // The control plane's own: nobody asks for them.
            Command::Expire { .. }
            | Command::Hold { .. }
            | Command::Recover { .. }
            | Command::FinishDrain { .. }
            | Command::EndFault { .. }
            | Command::Evict(_) => {
                let sentence = "only the control plane itself does this".to_owned();
                Err(Denied::Permission { sentence, service: None })
            }
        };
        decided.map_err(|denied| self.refused(denied, action(command)))
    }

    /// Lets him drain or undrain a replica of which he shows no lease, by having it registered where it is. Who owns one replica
    /// of a service has no say in those that others have elsewhere. Without an address, there is none, and this tells it to nobody else.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit_drain(&self, key: &ReplicaKey, address: Option<&Address>) -> Result<(), Denied> {
        let decided = self.admit_owner(&key.service).and_then(|()| match address {
            Some(address) => self.admit_at(key, address, "drain or undrain", "show the replica's lease"),
            None => Ok(()),
        });
        decided.map_err(|denied| self.refused(denied, "Drain"))
    }

    /// Lets him have done to a replica that is there what a command asks for without its lease: what somebody else has registered is
    /// his only where he may register it himself. What is nobody's is free to take, as it counts for nobody.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit_present(&self, command: &Command, present: &Record) -> Result<(), Denied> {
        let Who::Known(known) = &self.who else { return Ok(()) };
        if present.registered_by.is_empty() || *present.registered_by == *known.identity.name {
            return Ok(());
        }
        let (verb, way_out) = match command {
            Command::Register(_) => ("take the place of", "register under another id"),
            Command::ReportHealth { .. } => {
                ("report the health of", "show the replica's lease if it has one")
            }
            _ => ("remove", "show the replica's lease if it has one"),
        };
        let decided = self.admit_at(&present.key, &present.endpoint.address, verb, way_out);
        decided.map_err(|denied| self.refused(denied, action(command)))
    }

    /// Whether he might register a replica where it is.
    fn admit_at(&self, key: &ReplicaKey, address: &Address, verb: &str, way_out: &str) -> Result<(), Denied> {
        let ip = self.from.map(Whence::ip);
        match &self.who {
            Who::Known(known) if !known.identity.may_place(&key.service, address, ip) => {
                let sentence = format!(
                    "{} may not {verb} {key}: {address} is none of the addresses of its entry, so {way_out}, or have the role \
                     operator",
                    self.name()
                );
                Err(Denied::Permission { sentence, service: Some(key.service.clone()) })
            }
            _ => Ok(()),
        }
    }

    /// Lets him renew a lease of a service. Looks at what was found out when his call began: nothing is verified anew.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit_renewal(&self, service: &ServiceName) -> Result<(), Denied> {
        self.admit_owner(service).map_err(|denied| self.refused(denied, "Heartbeat"))
    }

    /// Lets him follow the registry, or report, under a node id: whoever has another one's could take its streams away and tell of
    /// breakers that are none.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit_node(&self, node: &NodeId, what: &str) -> Result<(), Denied> {
        let ip = self.from.map(Whence::ip);
        let denied = match &self.who {
            Who::Anybody => return Ok(()),
            Who::Known(known) if known.identity.may_act_as(node, ip) => return Ok(()),
            Who::Known(_) => Denied::Permission {
                sentence: format!(
                    "{} may not act as the data plane {node}: the nodes of its entry are others, so set --node-id",
                    self.name()
                ),
                service: None,
            },
            Who::Nobody(denied) => denied.clone(),
        };
        Err(self.refused(denied, what))
    }

    /// Lets him look at a replica of a service: who may not look at everything may do so at what is his own.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit_look(&self, service: &ServiceName) -> Result<(), Denied> {
        let ip = self.from.map(Whence::ip);
        match &self.who {
            Who::Known(known) if known.identity.owns(service, ip) => Ok(()),
            _ => self.admit(Permission::Read, "GetReplica"),
        }
    }

    fn admit_owner(&self, service: &ServiceName) -> Result<(), Denied> {
        let ip = self.from.map(Whence::ip);
        match &self.who {
            Who::Anybody => Ok(()),
            Who::Known(known) if known.identity.owns(service, ip) => Ok(()),
            Who::Known(_) => Err(Denied::Permission {
                sentence: format!("{} may not register, renew or remove replicas of {service}", self.name()),
                service: Some(service.clone()),
            }),
            Who::Nobody(denied) => Err(denied.clone()),
        }
    }

    fn admit_place(&self, service: &ServiceName, address: &Address) -> Result<(), Denied> {
        self.admit_owner(service)?;
        let refused =
            |why: String| Denied::Address { address: address.clone(), why, service: service.clone() };
        let ip = self.from.map(Whence::ip);
        // Who asks from within this process is on this machine.
        let is_local = ip.is_none_or(|ip| ip.is_loopback());
        self.gate.rules.check(address, is_local).map_err(refused)?;
        match &self.who {
            Who::Known(known) if !known.identity.may_place(service, address, ip) => Err(refused(format!(
                "is none of those at which {} may register replicas of {service}",
                self.name()
            ))),
            _ => Ok(()),
        }
    }

    /// Who he is where he registers a replica of a service.
    pub(crate) fn registrant(&self, service: &ServiceName) -> Registrant {
        let Who::Known(known) = &self.who else { return Registrant::default() };
        let quota = known.identity.quota(service, self.from.map(Whence::ip));
        Registrant { name: (&*known.identity.name).into(), quota }
    }

    /// Charges him for a request.
    ///
    /// # Errors
    /// That he asks too often.
    pub(crate) fn charge(&self) -> Result<(), Denied> {
        let Some(share) = self.share_of_known() else { return Ok(()) };
        match self.gate.rates(|rates, now| rates.take(&share, now)) {
            Some(Err(retry)) => Err(self.refused(Denied::TooOften { name: self.name(), retry }, "request")),
            _ => Ok(()),
        }
    }

    /// Waits until he may be told that he asks for too much: whoever asks again at once is as fast as his answers. So long at
    /// most, because he waits no longer himself. Cancel safe.
    pub(crate) async fn pace(&self, longest: Duration) {
        if let Some(share) = self.share() {
            self.gate.pace(&share, longest).await;
        }
    }

    /// Charges him for so many heartbeats, if he owes nothing for those before.
    ///
    /// # Errors
    /// How long he has to rest before he does.
    pub(crate) fn charge_heartbeats(&self, count: usize) -> Result<(), Duration> {
        let Some(share) = self.share_of_known() else { return Ok(()) };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.gate.rates(|rates, now| rates.owe(&share, count, now)).unwrap_or(Ok(()))
    }

    /// That he asks too often, and may come back then.
    pub(crate) fn asks_too_often(&self, retry: Duration) -> Denied {
        self.refused(Denied::TooOften { name: self.name(), retry }, "heartbeats")
    }

    /// Under what he has his share of what all have in common; `None`: he is this process.
    pub(crate) fn share(&self) -> Option<Share> {
        self.share_of_known().or_else(|| self.from.map(Share::Connection))
    }

    /// The same of somebody known only.
    pub(crate) fn share_of_known(&self) -> Option<Share> {
        let Who::Known(known) = &self.who else { return None };
        Some(Share::of(&known.identity.name, self.from))
    }

    /// Tells those who look after this control plane what came of a change that he wanted.
    pub(crate) fn changed(&self, subject: &Subject, outcome: &str) {
        self.gate.audit.changed(&self.name(), self.from, subject, outcome);
    }

    fn refused(&self, denied: Denied, what: &str) -> Denied {
        self.gate.audit.denied(&self.name(), self.from, what, &denied);
        denied
    }

    /// What he is and may do, for himself.
    pub(crate) fn identity(&self) -> Result<Option<&Identity>, &Denied> {
        match &self.who {
            Who::Anybody => Ok(None),
            Who::Known(known) => Ok(Some(&known.identity)),
            Who::Nobody(denied) => Err(denied),
        }
    }
}

/// A command's name in logs and events.
fn action(command: &Command) -> &'static str {
    match command {
        Command::Register(_) => "Register",
        Command::Deregister { .. } => "Deregister",
        Command::ReportHealth { .. } => "ReportHealth",
        Command::Expire { .. } => "Expire",
        Command::Hold { .. } => "Hold",
        Command::Recover { .. } => "Recover",
        Command::Drain(_) => "Drain",
        Command::Undrain { .. } => "Undrain",
        Command::FinishDrain { .. } => "FinishDrain",
        Command::UpdatePolicy(_) => "UpdatePolicy",
        Command::DeletePolicy { .. } => "DeletePolicy",
        Command::ApplyPolicies(_) => "ApplyPolicies",
        Command::EndFault { .. } => "EndFault",
        Command::UpdateRoute(_) => "UpdateRoute",
        Command::DeleteRoute { .. } => "DeleteRoute",
        Command::Evict(_) => "Evict",
        Command::Override(_) => "Override",
        Command::EndOverride { .. } => "EndOverride",
    }
}

/// What a command is about, for those who look after the control plane.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(super) request: &'static str,
    pub(super) about: String,
    /// The service in question, if it is one's.
    pub(super) service: Option<String>,
}

impl Subject {
    /// The store that this control plane keeps all in.
    pub(crate) fn of_store(request: &'static str, about: impl Into<String>) -> Self {
        Self { request, about: about.into(), service: None }
    }

    pub(crate) fn of(command: &Command) -> Self {
        let of_service = |service: &ServiceName, about: String| (about, Some(service.to_string()));
        let of_replica = |key: &ReplicaKey| of_service(&key.service, key.to_string());
        let (about, service) = match command {
            Command::Register(wish) => {
                of_service(&wish.service, format!("{} at {}", wish.service, wish.endpoint.address))
            }
            Command::Deregister { target: Target::Address(service, address), .. } => {
                of_service(service, format!("{service} at {address}"))
            }
            Command::Deregister { target: Target::Key(key), .. }
            | Command::ReportHealth { key, .. }
            | Command::Expire { key, .. }
            | Command::Hold { key, .. }
            | Command::Recover { key, .. }
            | Command::FinishDrain { key, .. }
            | Command::Undrain { key, .. } => of_replica(key),
            Command::Drain(wish) => of_replica(&wish.key),
            Command::UpdatePolicy(wish) => (wish.scope.to_string(), None),
            Command::DeletePolicy { scope, .. } | Command::EndFault { scope, .. } => {
                (scope.to_string(), None)
            }
            Command::ApplyPolicies(changes) => (named(changes), None),
            Command::UpdateRoute(wish) => (wish.name.to_string(), None),
            Command::DeleteRoute { name, .. } => (name.to_string(), None),
            Command::Override(wish) => of_service(&wish.target.service, wish.target.id().to_string()),
            Command::EndOverride { id, .. } => (id.to_string(), None),
            Command::Evict(_) => (String::new(), None),
        };
        Self { request: action(command), about, service }
    }
}

/// The first few of many, and how many more.
fn named(changes: &[PolicyChange]) -> String {
    const MAX_NAMED: usize = 10;
    let names: Vec<_> = changes.iter().take(MAX_NAMED).map(|change| change.scope().to_string()).collect();
    match changes.len().saturating_sub(MAX_NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
impl Caller {
    /// Somebody where nobody is asked who he is.
    pub(crate) fn anybody(from: Option<std::net::SocketAddr>) -> Self {
        let from = from.map(Whence::Address);
        Self { who: Who::Anybody, from, gate: Arc::new(Gate::open()) }
    }

    /// Somebody known who may do nothing.
    pub(crate) fn known_as(name: &str) -> Self {
        use super::{identity::Kind, token::Secret};
        let identity = Identity { name: name.into(), kind: Kind::Token, grants: Vec::new(), expires: None };
        let credential = Credential::Bearer(Secret::new("sesame"));
        let who = Who::Known(Arc::new(Known { identity, credential, generation: 0 }));
        Self { who, ..Self::anybody(None) }
    }
}

#[cfg(test)]
mod tests;
