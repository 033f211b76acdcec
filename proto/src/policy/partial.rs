//! A policy as somebody set it: some settings have a value, the others say nothing.

use std::{collections::BTreeMap, fmt};

use prost_types::FieldMask;

use super::{
    FaultInjection, Policy,
    field::{self, FIELDS, Field, OUTPUT_FIELDS, Value},
};
use crate::{Check, Invalid, v1};

/// The settings that a stored policy has, each in its range. Few of all there are have a value, so these alone take room.
///
/// There is one form for each content: equal policies are equal, and so are their bytes. How settings of different
/// policies go together is for [`super::check_resolved`].
#[derive(Clone, PartialEq, Default)]
pub struct Partial(
    /// By the place of the setting in the table.
    BTreeMap<usize, Value>,
);

/// NaN is in no range, so every value equals itself.
impl Eq for Partial {}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.settings().map(|(field, value)| (field.path(), value));
        f.debug_map().entries(shown).finish()
    }
}

impl Partial {
    /// Reads the settings of a message; its service and its output fields are not looked at.
    ///
    /// # Errors
    /// [`Invalid`] with one violation for every setting out of its range, e.g. `breaker.failure_ratio`.
    pub fn parse(wire: &v1::Policy) -> Result<Self, Invalid> {
        let mut partial = Self::default();
        partial.take(wire, |_| true)?;
        Ok(partial)
    }

    /// Paths of one mask: more than there are settings and groups, and few enough to be told of each one that is wrong.
    pub const MAX_PATHS: usize = 128;

    /// What becomes of it by an update.
    ///
    /// Without a mask, or with an empty one, every setting that `change` has is taken over. With one, the named settings
    /// are, whether `change` has them or not: those it has not are cleared. A group, e.g. `breaker`, names all below it,
    /// and `*` names all. Output fields may be named and mean nothing. What is not named is not looked at, right or wrong.
    ///
    /// # Errors
    /// [`Invalid`] with one violation for every named setting out of its range, e.g. `breaker.failure_ratio`, and for
    /// every path that names nothing, each as `update_mask`, as is a mask of more than [`Partial::MAX_PATHS`] paths.
    pub fn updated(&self, change: &v1::Policy, mask: Option<&FieldMask>) -> Result<Self, Invalid> {
        let mut updated = self.clone();
        let paths = mask.map_or(&[][..], |mask| &mask.paths);
        if paths.is_empty() {
            updated.take(change, |_| true)?;
            return Ok(updated);
        }
        if paths.len() > Self::MAX_PATHS {
            let why = format!("has {} paths, at most {} are allowed", paths.len(), Self::MAX_PATHS);
            return Err(Invalid::new("update_mask", why));
        }
        let mut check = Check::default();
        let mut is_named = [false; FIELDS.len()];
        for path in paths {
            check.take(name(path, &mut is_named));
        }
        updated.0.retain(|index, _| !is_named[*index]);
        check.take(updated.take(change, |index| is_named[index]));
        check.finish()?;
        Ok(updated)
    }

    /// Takes over what a message has of the chosen settings.
    fn take(&mut self, wire: &v1::Policy, is_chosen: impl Fn(usize) -> bool) -> Result<(), Invalid> {
        let mut check = Check::default();
        for (index, field) in FIELDS.iter().enumerate().filter(|(index, _)| is_chosen(*index)) {
            let value = field.read(wire).and_then(|value| value.map(|value| field.check(value)).transpose());
            if let Some(Some(value)) = check.take(value) {
                self.0.insert(index, value);
            }
        }
        check.finish()
    }

    /// The settings that it has, in the order of the contract.
    pub fn settings(&self) -> impl Iterator<Item = (&'static Field, Value)> {
        self.0.iter().map(|(index, value)| (&FIELDS[*index], *value))
    }

    /// The value of the setting that stands at this place in [`FIELDS`], if it has one.
    pub(super) fn at(&self, index: usize) -> Option<Value> {
        self.0.get(&index).copied()
    }

    /// The faults that it injects, by itself; `None` when it says nothing of them.
    pub fn fault(&self) -> Option<FaultInjection> {
        let mut fault = self.settings().filter(|(field, _)| field.is_of_fault()).peekable();
        fault.peek()?;
        let mut policy = Policy::default();
        fault.for_each(|(field, value)| field.set(&mut policy, value));
        Some(policy.fault)
    }

    /// The same without anything of faults.
    #[must_use]
    pub fn without_fault(&self) -> Self {
        let mut other = self.clone();
        other.0.retain(|index, _| !FIELDS[*index].is_of_fault());
        other
    }

    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes the settings that it has, and nothing else.
    pub fn to_wire(&self) -> v1::Policy {
        let mut wire = v1::Policy::default();
        self.settings().for_each(|(field, value)| field.write(&mut wire, value));
        wire
    }
}

/// Marks the settings that one path of a mask names.
fn name(path: &str, is_named: &mut [bool; FIELDS.len()]) -> Result<(), Invalid> {
    if path == "*" {
        *is_named = [true; FIELDS.len()];
        return Ok(());
    }
    let mut is_known = OUTPUT_FIELDS.contains(&path);
    for (_, is_named) in FIELDS.iter().zip(is_named).filter(|(field, _)| field.is_named_by(path)) {
        *is_named = true;
        is_known = true;
    }
    if is_known { Ok(()) } else { Err(Invalid::new("update_mask", field::unknown(path))) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;
    use prost::Message as _;
    use prost_types::Duration as WireDuration;

    use super::*;
    use crate::{
        policy::{AdaptiveLimit, Algorithm, CheckType, EndTime, Methods, Upgrades, field::Range},
        time::duration,
    };

    fn wire(settings: &[(&str, Value)]) -> v1::Policy {
        let mut wire = v1::Policy::default();
        for (path, value) in settings {
            field::named(path).next().unwrap().write(&mut wire, *value);
        }
        wire
    }

    fn partial(settings: &[(&str, Value)]) -> Partial {
        Partial::parse(&wire(settings)).unwrap()
    }

    fn mask<const N: usize>(paths: [&str; N]) -> FieldMask {
        FieldMask { paths: paths.map(str::to_owned).into() }
    }

    const WINDOW: (&str, Value) = ("breaker.window", Value::Duration(Duration::from_secs(20)));
    const RATIO: (&str, Value) = ("breaker.failure_ratio", Value::Ratio(0.25));
    const DRAIN: (&str, Value) = ("drain_timeout", Value::Duration(Duration::from_secs(5)));

    #[test]
    fn what_is_not_set_says_nothing() {
        let empty = Partial::parse(&v1::Policy::default()).unwrap();
        assert!(empty.is_empty());
        assert_eq!(empty.to_wire(), v1::Policy::default());
        assert_eq!(format!("{:?}", partial(&[RATIO])), "{\"breaker.failure_ratio\": Ratio(0.25)}");
    }

    #[test]
    fn equal_policies_are_equal_however_they_were_written() {
        let sprawling = v1::Policy {
            service: "orders".into(),
            etag: "x".into(),
            revision: 7,
            timeout: Some(v1::TimeoutPolicy::default()),
            retry: Some(v1::RetryPolicy { budget_ratio: Some(-0.0), ..Default::default() }),
            drain_timeout: Some(WireDuration { seconds: 5, nanos: 0 }),
            ..Default::default()
        };
        let terse = wire(&[("retry.budget_ratio", Value::Ratio(0.0)), DRAIN]);
        assert_ne!(sprawling.encode_to_vec(), terse.encode_to_vec());
        let (one, other) = (Partial::parse(&sprawling).unwrap(), Partial::parse(&terse).unwrap());
        assert_eq!(one, other);
        assert_eq!(one.to_wire().encode_to_vec(), other.to_wire().encode_to_vec());
    }

    #[test]
    fn every_setting_out_of_range_is_named() {
        let wire = wire(&[
            ("retry.max_retry_count", Value::Count(40)),
            ("breaker.failure_ratio", Value::Ratio(50.0)),
            DRAIN,
        ]);
        assert_eq!(
            Partial::parse(&wire).unwrap_err().to_string(),
            "retry.max_retry_count: 40 is not in 0..=10; \
             breaker.failure_ratio: 50 is not above 0.0 and up to 1.0 (did you mean 0.5?)"
        );
    }

    #[test]
    fn a_mask_of_many_paths_is_refused_at_once_and_a_long_path_is_not_looked_through() {
        let update = |paths| Partial::default().updated(&v1::Policy::default(), Some(&FieldMask { paths }));
        let many = update(vec!["timeout".into(); Partial::MAX_PATHS + 1]).unwrap_err();
        assert_eq!(many.to_string(), "update_mask: has 129 paths, at most 128 are allowed");
        let wrong = update(vec!["a".repeat(1_000_000); Partial::MAX_PATHS]).unwrap_err();
        // So that the answer fits a header, wherever it comes from.
        assert_eq!(wrong.violations().len(), 20);
        assert_eq!(wrong.violations()[0].description, "a path of 1000000 bytes names no setting of a policy");
    }

    #[test]
    fn without_a_mask_what_is_set_is_taken_over_and_the_rest_stays() {
        let before = partial(&[WINDOW, DRAIN]);
        let change = wire(&[RATIO, ("drain_timeout", Value::Duration(Duration::ZERO))]);
        let after = partial(&[WINDOW, RATIO, ("drain_timeout", Value::Duration(Duration::ZERO))]);
        assert_eq!(before.updated(&change, None), Ok(after.clone()));
        assert_eq!(before.updated(&change, Some(&mask([]))), Ok(after));
    }

    #[test]
    fn a_star_replaces_all_of_it() {
        let before = partial(&[WINDOW, DRAIN]);
        assert_eq!(before.updated(&wire(&[RATIO]), Some(&mask(["*"]))), Ok(partial(&[RATIO])));
        assert_eq!(before.updated(&wire(&[]), Some(&mask(["*"]))), Ok(Partial::default()));
    }

    #[test]
    fn a_named_setting_is_set_or_cleared_and_what_is_not_named_is_not_looked_at() {
        let before = partial(&[WINDOW, DRAIN]);
        let wrong = ("retry.max_retry_count", Value::Count(40));
        let change = wire(&[RATIO, wrong]);
        let named = mask(["breaker.failure_ratio", "drain_timeout"]);
        assert_eq!(before.updated(&change, Some(&named)), Ok(partial(&[WINDOW, RATIO])));
    }

    #[test]
    fn a_named_group_is_replaced_as_a_whole() {
        let before = partial(&[WINDOW, DRAIN]);
        assert_eq!(before.updated(&wire(&[RATIO]), Some(&mask(["breaker"]))), Ok(partial(&[RATIO, DRAIN])));
        assert_eq!(
            before.updated(&wire(&[]), Some(&mask(["breaker", "breaker.window"]))),
            Ok(partial(&[DRAIN]))
        );
    }

    #[test]
    fn output_fields_may_be_named_and_mean_nothing() {
        let before = partial(&[WINDOW]);
        let change = v1::Policy { service: "orders".into(), etag: "x".into(), ..wire(&[DRAIN]) };
        assert_eq!(before.updated(&change, Some(&mask(["etag", "service"]))), Ok(before.clone()));
        let both = mask(["etag", "drain_timeout"]);
        assert_eq!(before.updated(&change, Some(&both)), Ok(partial(&[WINDOW, DRAIN])));
    }

    #[test]
    fn every_path_that_names_nothing_and_every_named_value_out_of_range_is_refused_at_once() {
        let change = wire(&[("retry.max_retry_count", Value::Count(40))]);
        let invalid = Partial::default()
            .updated(&change, Some(&mask(["breaker.windw", "retry", "", "hedging"])))
            .unwrap_err();
        let fields: Vec<_> = invalid.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["update_mask", "update_mask", "update_mask", "retry.max_retry_count"]);
        let first = &invalid.violations()[0].description;
        assert!(
            first.starts_with(
                "\"breaker.windw\" is no setting of a policy (did you mean \"breaker.window\"?)"
            )
        );
    }

    fn any_value(field: &Field) -> BoxedStrategy<Value> {
        match field.range() {
            Range::Duration { min, max } => (min.as_millis() as u64..=max.as_millis() as u64)
                .prop_map(|millis| Value::Duration(Duration::from_millis(millis)))
                .boxed(),
            Range::Count { min, max } => (min..=max).prop_map(Value::Count).boxed(),
            Range::Ratio { .. } => (0.001..=1.0).prop_map(Value::Ratio).boxed(),
            Range::Factor { min, max } => (f64::from(min)..=f64::from(max)).prop_map(Value::Ratio).boxed(),
            Range::Flag => any::<bool>().prop_map(Value::Flag).boxed(),
            Range::Size { min, max } => (min..=max).prop_map(Value::Size).boxed(),
            Range::Methods => {
                let names = [vec!["*"], vec!["GET"], vec!["PUT", "GET", "PROPFIND"]];
                let methods = names.map(|names| Value::Methods(Methods::parse(names).unwrap()));
                proptest::sample::select(methods.to_vec()).boxed()
            }
            Range::Upgrades => {
                let names = [vec!["none"], vec!["websocket"], vec!["websocket", "spdy/3.1"]];
                let upgrades = names.map(|names| Value::Upgrades(Upgrades::parse(names).unwrap()));
                proptest::sample::select(upgrades.to_vec()).boxed()
            }
            Range::Algorithm => {
                proptest::sample::select(&Algorithm::ALL[..]).prop_map(Value::Algorithm).boxed()
            }
            Range::AdaptiveLimit => {
                proptest::sample::select(&AdaptiveLimit::ALL[..]).prop_map(Value::AdaptiveLimit).boxed()
            }
            Range::HashBy => "address|header:[a-z][a-z-]{0,40}|cookie:[A-Za-z_]{1,47}"
                .prop_map(|text| Value::HashBy(text.parse().unwrap()))
                .boxed(),
            Range::CheckType => {
                proptest::sample::select(&CheckType::ALL[..]).prop_map(Value::CheckType).boxed()
            }
            Range::CheckPath => {
                "/[!-\"$-~]{0,126}".prop_map(|text| Value::CheckPath(text.parse().unwrap())).boxed()
            }
            Range::CheckHost => {
                "[a-z0-9.:-]{0,63}".prop_map(|text| Value::CheckHost(text.parse().unwrap())).boxed()
            }
            Range::Statuses => proptest::collection::vec((200..=599_u16, 0..300_u16), 1..=8)
                .prop_map(|ranges| {
                    let range = |(first, more): (u16, u16)| format!("{first}..={}", (first + more).min(599));
                    let written: Vec<_> = ranges.into_iter().map(range).collect();
                    Value::Statuses(written.join(",").parse().unwrap())
                })
                .boxed(),
            Range::Status => prop_oneof![Just(0), 200..=599_u32].prop_map(Value::Count).boxed(),
            Range::Rate => (0.001..=1e6).prop_map(Value::Ratio).boxed(),
            Range::RateKey => "service|address|header:[a-z][a-z-]{0,40}"
                .prop_map(|text| Value::RateKey(text.parse().unwrap()))
                .boxed(),
            Range::FallbackService => {
                "[a-z][a-z0-9]{0,62}".prop_map(|text| Value::FallbackService(text.parse().unwrap())).boxed()
            }
            Range::FallbackFields => "|[a-z-]{1,30}(,[a-z-]{1,30})?"
                .prop_map(|text| Value::FallbackFields(text.parse().unwrap()))
                .boxed(),
            Range::FallbackContentType => "[a-z]{1,9}/[a-z]{1,9}"
                .prop_map(|text| Value::FallbackContentType(text.parse().unwrap()))
                .boxed(),
            Range::FallbackBody => {
                ".{0,200}".prop_map(|text| Value::FallbackBody(text.parse().unwrap())).boxed()
            }
            Range::GrpcService => {
                "[A-Za-z0-9_.-]{0,63}".prop_map(|text| Value::GrpcService(text.parse().unwrap())).boxed()
            }
            Range::FaultHeader => "|[a-z-]{1,30}(=[!-~]{1,30})?"
                .prop_map(|text| Value::FaultHeader(text.parse().unwrap()))
                .boxed(),
            Range::EndTime => (0..4_000_000_000_u64)
                .prop_map(|secs| Value::EndTime(EndTime(SystemTime::UNIX_EPOCH + Duration::from_secs(secs))))
                .boxed(),
        }
    }

    fn any_partial() -> impl Strategy<Value = Partial> {
        FIELDS.iter().map(|field| proptest::option::of(any_value(field))).collect::<Vec<_>>().prop_map(
            |values| {
                let values = values.into_iter().enumerate();
                Partial(values.filter_map(|(index, value)| Some((index, value?))).collect())
            },
        )
    }

    proptest! {
        #[test]
        fn a_partial_policy_survives_the_wire(partial in any_partial()) {
            prop_assert_eq!(Partial::parse(&partial.to_wire()), Ok(partial));
        }

        #[test]
        fn an_update_touches_exactly_what_is_named(
            before in any_partial(),
            change in any_partial(),
            chosen in proptest::collection::vec(0..FIELDS.len(), 1..6),
        ) {
            let paths = chosen.iter().map(|index| FIELDS[*index].path().to_owned()).collect();
            let after = before.updated(&change.to_wire(), Some(&FieldMask { paths })).unwrap();
            for index in 0..FIELDS.len() {
                let from = if chosen.contains(&index) { &change } else { &before };
                prop_assert_eq!(after.at(index), from.at(index));
            }
        }

        #[test]
        fn no_message_makes_parsing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), nanos in any::<i32>()) {
            if let Ok(wire) = v1::Policy::decode(&bytes[..]) {
                let _ = Partial::parse(&wire);
            }
            let odd = v1::Policy { drain_timeout: Some(WireDuration { seconds: i64::MIN, nanos }), ..Default::default() };
            prop_assert!(Partial::parse(&odd).is_err());
        }
    }

    #[test]
    fn a_duration_is_kept_to_the_nanosecond() {
        let span = Duration::new(1, 1);
        let change = v1::Policy { drain_timeout: Some(duration(span)), ..Default::default() };
        assert_eq!(Partial::parse(&change).unwrap().to_wire().drain_timeout, Some(duration(span)));
    }
}
