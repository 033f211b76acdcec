//! Answers in which something is missing, because a control plane does not tell the others what it knows.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use gateway_proto::v1::SilentControlPlane;

use crate::{error::Error, output::Output};

/// A part of an answer, or nothing in its place and a line on why: who may not read policies still sees services.
pub(crate) fn or_without<T: Default>(asked: Result<T, Error>, what: &str, missing: &mut Vec<String>) -> T {
    asked.unwrap_or_else(|error| {
        let code = if error.code.is_empty() { String::new() } else { format!(" ({})", error.code) };
        missing.push(format!("not shown: {what}: {}{code}", error.headline));
        T::default()
    })
}

/// A sentence for each that is silent.
pub(crate) fn notes(silent: &[SilentControlPlane]) -> impl Iterator<Item = String> {
    silent.iter().map(|silent| {
        let SilentControlPlane { address, reason, last_heard_time } = silent;
        let what = match last_heard_time {
            Some(_) => "what its data planes report is shown as it was told last",
            None => "what its data planes report is missing",
        };
        format!("not all is known: the control plane at {address} is silent ({reason}): {what}")
    })
}

/// Who has been told of which: each once, however often is asked.
#[derive(Debug)]
pub(crate) struct Told {
    output: Output,
    addresses: Mutex<BTreeSet<String>>,
}

impl Told {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, addresses: Mutex::default() }
    }

    /// Says on stderr which are silent.
    pub(crate) fn of(&self, silent: &[SilentControlPlane]) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        for (silent, note) in silent.iter().zip(notes(silent)) {
            if addresses.insert(silent.address.clone()) {
                self.output.note(note);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_part_that_cannot_be_had_is_named_with_why_and_the_rest_is_shown() {
        let mut missing = Vec::new();
        assert_eq!(or_without(Ok(7), "seven", &mut missing), 7);
        assert_eq!(missing, [""; 0]);
        let mut denied = Error::new(Exit::Denied, "ana may not list policies");
        denied.code = "PERMISSION_DENIED / PERMISSION_DENIED".into();
        assert_eq!(or_without::<i32>(Err(denied), "policies", &mut missing), 0);
        let told = "not shown: policies: ana may not list policies (PERMISSION_DENIED / PERMISSION_DENIED)";
        assert_eq!(missing, [told]);
    }

    #[test]
    fn a_silent_control_plane_is_named_with_why_and_with_what_that_means() {
        let silent = |last_heard_time| SilentControlPlane {
            address: "b:7400".into(),
            reason: "connection refused".into(),
            last_heard_time,
        };
        let told: Vec<_> = notes(&[silent(None), silent(Some(Default::default()))]).collect();
        assert_eq!(
            told,
            [
                "not all is known: the control plane at b:7400 is silent (connection refused): what its data planes report is \
                 missing",
                "not all is known: the control plane at b:7400 is silent (connection refused): what its data planes report is \
                 shown as it was told last",
            ]
        );
    }
}
