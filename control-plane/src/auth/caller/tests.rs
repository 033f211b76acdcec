//! Who may change what, and by which name he goes.

use std::time::Duration;

use gateway_proto::{Health, LeaseId, RouteName};

use super::*;
use crate::{
    auth::{
        identity::{Grant, Pattern},
        roles::Role,
    },
    registry::{DrainWish, OverrideId, Registration, Said, Scope},
};

fn known(role: Role) -> Caller {
    let services = vec![Pattern::parse("orders").unwrap()];
    let grant = Grant { roles: vec![role], services, ..Grant::default() };
    let mut caller = Caller::known_as("ci");
    caller.from = Some(Whence::Address("192.0.2.1:4000".parse().unwrap()));
    let Who::Known(known) = &mut caller.who else { unreachable!("he is known") };
    Arc::get_mut(known).unwrap().identity.grants.push(Arc::new(grant));
    caller
}

fn key(service: &str) -> ReplicaKey {
    ReplicaKey::parse(service, "r-1").unwrap()
}

/// What the owner of a service may have done to it.
fn of_an_owner(service: &str) -> Vec<Command> {
    let (said, lease) = (Said::default(), LeaseId::from_random(1));
    let name = ServiceName::parse(service).unwrap();
    let address = Address::parse("10.0.0.1:80").unwrap();
    let drain = DrainWish {
        key: key(service),
        proof: Proof::Lease(lease),
        timeout: None,
        etag: String::new(),
        allow_last: false,
        said: said.clone(),
    };
    let deregister = |target, proof| Command::Deregister { target, proof, said: said.clone(), block: None };
    vec![
        Command::Register(Registration::permanent(name.clone(), address.clone())),
        deregister(Target::Key(key(service)), Proof::Lease(lease)),
        deregister(Target::Address(name, address), Proof::None),
        Command::ReportHealth {
            key: key(service),
            lease: None,
            health: Health::Healthy,
            reason: String::new(),
        },
        Command::Drain(Box::new(DrainWish { proof: Proof::None, ..drain.clone() })),
        Command::Drain(Box::new(drain)),
        Command::Undrain { key: key(service), proof: Proof::None, etag: String::new(), said },
    ]
}

fn of_an_operator() -> Vec<Command> {
    let (said, etag) = (Said::default(), String::new());
    vec![
        Command::Deregister {
            target: Target::Key(key("orders")),
            proof: Proof::Force,
            said: said.clone(),
            block: None,
        },
        Command::Deregister {
            target: Target::Address(
                ServiceName::parse("orders").unwrap(),
                Address::parse("10.0.0.1:80").unwrap(),
            ),
            proof: Proof::Force,
            said: said.clone(),
            block: None,
        },
        Command::Undrain { key: key("orders"), proof: Proof::Force, etag: etag.clone(), said: said.clone() },
        Command::DeletePolicy { scope: Scope::All, etag: etag.clone(), said: said.clone() },
        Command::ApplyPolicies(vec![PolicyChange::Delete {
            scope: Scope::All,
            etag: etag.clone(),
            said: said.clone(),
        }]),
        Command::DeleteRoute { name: RouteName::parse("shop").unwrap(), etag, said: said.clone() },
        Command::EndOverride { id: OverrideId::parse("guard/orders").unwrap(), by: Ok(said) },
    ]
}

#[test]
fn a_replica_may_have_done_what_owners_do_to_their_own_services_and_nothing_else() {
    let may = |role, command: &Command| known(role).admit_command(command).is_ok();
    for command in of_an_owner("orders") {
        assert!(may(Role::Replica, &command) && may(Role::Operator, &command), "{command:?}");
        assert!(!may(Role::Reader, &command) && !may(Role::DataPlane, &command), "{command:?}");
    }
    for command in of_an_owner("payments") {
        assert!(!may(Role::Replica, &command) && may(Role::Operator, &command), "{command:?}");
    }
    for command in of_an_operator() {
        let who: Vec<_> = Role::ALL.into_iter().filter(|role| may(*role, &command)).collect();
        assert_eq!(who, [Role::Operator], "{command:?}");
    }
}

#[test]
fn an_owner_looks_at_what_is_his_own_and_a_reader_at_everything() {
    let may = |role, service| known(role).admit_look(&ServiceName::parse(service).unwrap()).is_ok();
    for role in Role::ALL {
        assert_eq!(may(role, "orders"), role != Role::DataPlane, "{role:?}");
        assert_eq!(may(role, "payments"), [Role::Reader, Role::Operator].contains(&role), "{role:?}");
    }
    assert!(Caller::anybody(None).admit_look(&ServiceName::parse("orders").unwrap()).is_ok());
}

#[test]
fn what_is_open_to_all_is_open_to_who_was_granted_nothing_or_only_from_elsewhere() {
    let mut elsewhere = known(Role::Operator);
    elsewhere.from = None;
    let Who::Known(known) = &mut elsewhere.who else { unreachable!("he is known") };
    let grant = Arc::get_mut(&mut Arc::get_mut(known).unwrap().identity.grants[0]).unwrap();
    grant.from = Some(gateway_proto::Networks::parse(["10.0.0.0/8"]).unwrap());
    for caller in [Caller::known_as("dns:probe.example"), elsewhere] {
        assert_eq!(caller.admit(Permission::Open, "Check"), Ok(()));
        assert!(caller.admit(Permission::Read, "ListServices").is_err());
    }
}

#[test]
fn what_only_the_control_plane_does_nobody_may_ask_for() {
    let (key, lease) = (key("orders"), LeaseId::from_random(1));
    let expire = Command::Expire { key: key.clone(), lease, silent_for: Duration::ZERO };
    for command in [expire, Command::Recover { key, lease }] {
        assert!(known(Role::Operator).admit_command(&command).is_err());
        assert!(Caller::anybody(None).admit_command(&command).is_err());
    }
}

#[test]
fn who_is_known_goes_by_his_name_whatever_he_says() {
    assert_eq!(&*known(Role::Operator).author("somebody-else"), "ci");
    assert!(!format!("{:?}", known(Role::Operator)).contains("sesame"));
}
