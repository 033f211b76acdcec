//! Whether a request is traced, and under which ids (W3C Trace Context). Pure.

use std::fmt;

/// Whose part the request is, as its `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) is_sampled: bool,
}

impl Parent {
    /// Reads a `traceparent` that was found to be valid.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let text = str::from_utf8(value).ok()?;
        let trace = u128::from_str_radix(text.get(3..35)?, 16).ok()?;
        let span = u64::from_str_radix(text.get(36..52)?, 16).ok()?;
        let flags = u8::from_str_radix(text.get(53..55)?, 16).ok()?;
        (trace != 0 && span != 0).then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

/// Which requests are traced: those whose parent is, and of those without one a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampling {
    ratio: f64,
}

impl Sampling {
    /// `ratio` is from 0.0 to 1.0.
    pub(crate) fn new(ratio: f64) -> Self {
        Self { ratio }
    }

    /// What a request is traced under, if it is. `draw` makes random numbers; nothing is drawn for one whose parent is not
    /// sampled.
    pub(crate) fn decide(self, parent: Option<Parent>, mut draw: impl FnMut() -> u128) -> Option<Context> {
        let is_sampled = match parent {
            Some(parent) => parent.is_sampled,
            None => self.ratio >= 1.0 || (self.ratio > 0.0 && unit(draw()) < self.ratio),
        };
        let (trace, parent) = match parent.filter(|_| is_sampled) {
            Some(parent) => (parent.trace, Some(parent.span)),
            None if is_sampled => (draw().max(1), None),
            None => return None,
        };
        let seed = draw();
        Some(Context { trace, parent, span: ((seed >> 64) as u64).max(1), seed: seed as u64 })
    }
}

/// From 0.0 up to, without, 1.0.
fn unit(random: u128) -> f64 {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    (random >> (u128::BITS - BITS)) as f64 / (1_u64 << BITS) as f64
}

/// What a request is traced under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: u128,
    /// The span that it is a part of, if there is one.
    pub(crate) parent: Option<u64>,
    /// Its own.
    pub(crate) span: u64,
    /// Of its attempts' ids.
    seed: u64,
}

impl Context {
    /// The span of its attempt of that number, from 1.
    pub(crate) fn attempt(self, number: usize) -> u64 {
        // An odd factor leads every number to another id.
        let id = self.seed.wrapping_add((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if id == 0 || id == self.span { !self.span | 1 } else { id }
    }

    /// What the replica of that attempt is told.
    pub(crate) fn traceparent(self, number: usize) -> Traceparent {
        let (high, low) = ((self.trace >> 64) as u64, self.trace as u64);
        Traceparent { trace: [high, low], span: self.attempt(number) }
    }
}

/// A `traceparent` of a sampled trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traceparent {
    trace: [u64; 2],
    span: u64,
}

impl Traceparent {
    /// The field's name.
    pub(crate) const NAME: &str = "traceparent";
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace: [high, low], span } = self;
        write!(f, "00-{high:016x}{low:016x}-{span:016x}-01")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parent(is_sampled: bool) -> Parent {
        Parent { trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, span: 0x00f0_67aa_0ba9_02b7, is_sampled }
    }

    #[test]
    fn a_parent_is_read_with_whether_it_is_sampled() {
        assert_eq!(Parent::parse(PARENT), Some(parent(true)));
        let unsampled = [&PARENT[..53], b"02"].concat();
        assert_eq!(Parent::parse(&unsampled), Some(parent(false)));
        for bad in [&b""[..], b"00-", &PARENT[..40], "00-\u{e4}".as_bytes()] {
            assert_eq!(Parent::parse(bad), None);
        }
    }

    #[test]
    fn a_request_is_traced_where_its_parent_is_whatever_the_ratio() {
        let drawn = || 7;
        let context = Sampling::new(0.0).decide(Some(parent(true)), drawn).unwrap();
        assert_eq!((context.trace, context.parent), (parent(true).trace, Some(parent(true).span)));
        assert_eq!(Sampling::new(1.0).decide(Some(parent(false)), || unreachable!()), None);
    }

    #[test]
    fn of_requests_without_a_parent_the_ratio_is_traced() {
        let decide = |ratio: f64, random: u128| Sampling::new(ratio).decide(None, || random).is_some();
        assert!(decide(1.0, u128::MAX) && !decide(0.0, 0));
        assert!(decide(0.25, 0) && decide(0.25, u128::MAX / 5) && !decide(0.25, u128::MAX / 3));
    }

    #[test]
    fn the_ids_of_a_request_and_of_its_attempts_differ_and_are_none_of_them_zero() {
        for seed in [0, 1, u128::MAX, 0x9e37_79b9_7f4a_7c15_u128.wrapping_neg()] {
            let context = Sampling::new(1.0).decide(None, || seed).unwrap();
            let ids: HashSet<_> =
                (1..=100).map(|number| context.attempt(number)).chain([context.span]).collect();
            assert!(ids.len() >= 100 && !ids.contains(&0) && context.trace != 0, "{seed}");
        }
    }

    #[test]
    fn a_replica_is_told_of_its_attempts_span() {
        let context = Context { trace: 1, parent: None, span: 2, seed: 0 };
        let expected = "00-00000000000000000000000000000001-9e3779b97f4a7c15-01";
        assert_eq!(context.traceparent(1).to_string(), expected);
        let parsed = Parent::parse(expected.as_bytes()).unwrap();
        assert_eq!(parsed, Parent { trace: 1, span: context.attempt(1), is_sampled: true });
    }
}
