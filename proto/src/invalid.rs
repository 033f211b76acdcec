//! Why an input was refused, field by field.

use std::fmt;

/// One field that holds what it must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, e.g. `endpoint.address`.
    pub field: String,
    /// What is wrong and what is allowed, lower case, no full stop.
    pub description: String,
}

/// A refused input: at least one [`Violation`].
///
/// Parsers collect every violation they can see, so that a caller can mend them all at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(Vec<Violation>);

impl Invalid {
    /// Refuses `field` because of `description`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self(vec![Violation { field: field.into(), description: description.into() }])
    }

    /// Refuses because of each of `violations`; of none, it is no refusal.
    pub(crate) fn unless_empty(violations: Vec<Violation>) -> Result<(), Self> {
        if violations.is_empty() { Ok(()) } else { Err(Self(violations)) }
    }

    /// The violations, in the order they were found.
    pub fn violations(&self) -> &[Violation] {
        &self.0
    }

    /// The same violations with `prefix.` before each field.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        for violation in &mut self.0 {
            violation.field = format!("{prefix}.{}", violation.field);
        }
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

/// As many violations are told in one answer: it travels in a header, and who has made more has a program to mend.
const MAX_VIOLATIONS: usize = 20;

/// Gathers violations over several fields, so that one answer names them all, the first twenty.
#[derive(Debug, Default)]
pub struct Check(Vec<Violation>);

impl Check {
    /// Keeps the value, or notes the violations and yields `None`.
    pub fn take<T>(&mut self, result: Result<T, Invalid>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Invalid(violations)) => {
                let room = MAX_VIOLATIONS.saturating_sub(self.0.len());
                self.0.extend(violations.into_iter().take(room));
                None
            }
        }
    }

    /// `Ok` when nothing was noted.
    ///
    /// # Errors
    /// Every violation noted, in the order of the calls.
    pub fn finish(self) -> Result<(), Invalid> {
        Invalid::unless_empty(self.0)
    }
}
