//! The last lines of a description: commands for the next question.

use gateway_proto::{
    Health, Mode,
    v1::{BreakerState, Replica},
};

use super::About;
use crate::table::Table;

/// Commands for the next question, most pressing first.
pub(super) fn next_steps(replica: &Replica, about: &About) -> Table {
    let service = &replica.service;
    let key = format!("{service}/{}", replica.replica_id);
    let mut table = Table::new(["COMMAND", "WHY"]).with_headings(false);
    let mut step = |command: String, why: &str| table.push(vec![command.into(), why.into()]);
    if Health::parse(replica.health) == Ok(Some(Health::Lost)) {
        let why = "let it and the other lost ones go, if they are gone";
        step(format!("gwctl release-guard {service}"), why);
    }
    if about.breakers.breakers.iter().any(|breaker| breaker.state() != BreakerState::Closed) {
        step(format!("gwctl get replicas {service}"), "who takes its share meanwhile");
        step(format!("gwctl breaker reset {key}"), "try it again now");
    }
    match Mode::parse(replica.mode) {
        Ok(Mode::Draining) => {
            step(format!("gwctl drain {key} --wait 1m"), "follow its drain");
            step(format!("gwctl undrain {key}"), "return it to service");
        }
        Ok(Mode::Drained) => step(format!("gwctl undrain {key}"), "return it to service"),
        Ok(Mode::Serving) | Err(_) => step(format!("gwctl drain {key}"), "stop sending it requests"),
    }
    for entry in &about.overrides {
        step(format!("gwctl end-override {}", entry.override_id), "hand it back to the rules");
    }
    step(format!("gwctl events -w --replica {key}"), "watch what happens to it");
    step(format!("gwctl deregister {key}"), "remove it for good");
    table
}
