use std::{borrow::Cow, cmp::Ordering, collections::BTreeMap, time::Duration};

use gateway_proto::v1;
use proptest::prelude::*;
use prost_types::Timestamp;

use super::*;

#[derive(Debug, Clone, Default, PartialEq)]
struct Ship {
    name: String,
    crew: i64,
    knots: Option<f64>,
    turn: Option<Duration>,
    is_docked: bool,
    built: Option<Timestamp>,
    severity: i32,
    health: i32,
    flags: BTreeMap<String, String>,
}

static SHIPS: Schema<Ship> = Schema {
    what: "a ship",
    fields: &[
        Field { name: "name", read: Read::Text(|ship| Cow::Borrowed(&ship.name)) },
        Field { name: "crew", read: Read::Number(|ship| ship.crew) },
        Field { name: "knots", read: Read::Real(|ship| ship.knots) },
        Field { name: "turn", read: Read::Span(|ship| ship.turn) },
        Field { name: "is_docked", read: Read::Flag(|ship| ship.is_docked) },
        Field { name: "built", read: Read::Time(|ship| ship.built) },
        Field {
            name: "severity",
            read: Read::Word(
                |ship| ship.severity,
                Words {
                    prefix: "EVENT_SEVERITY_",
                    name: |number| Some(v1::EventSeverity::try_from(number).ok()?.as_str_name()),
                    is_ordered: true,
                },
            ),
        },
        Field {
            name: "health",
            read: Read::Word(
                |ship| ship.health,
                Words {
                    prefix: "HEALTH_STATUS_",
                    name: |number| Some(v1::HealthStatus::try_from(number).ok()?.as_str_name()),
                    is_ordered: false,
                },
            ),
        },
        Field { name: "flags", read: Read::Entry(|ship, key| Some(Cow::Borrowed(ship.flags.get(key)?))) },
    ],
};

fn argo() -> Ship {
    Ship {
        name: "argo-2".into(),
        crew: 50,
        knots: Some(12.5),
        turn: Some(Duration::from_millis(1500)),
        is_docked: false,
        built: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        severity: v1::EventSeverity::Warning.into(),
        health: v1::HealthStatus::Healthy.into(),
        flags: [("home", "iolcus"), ("app/name", "a b"), ("empty", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

fn admits(text: &str) -> bool {
    Filter::parse(&SHIPS, text).unwrap_or_else(|error| panic!("{text}: {error}")).admits(&argo())
}

fn refusal(text: &str) -> String {
    let invalid = Filter::parse(&SHIPS, text).expect_err(text);
    let [violation] = invalid.violations() else { panic!("{invalid}") };
    assert_eq!(violation.field, "filter");
    violation.description.clone()
}

#[test]
fn every_kind_of_field_is_compared_in_its_own_way() {
    for text in [
        "",
        "  ",
        "name = argo-2",
        "name=\"argo-2\"",
        "name = 'argo-2'",
        "name = argo*",
        "name = *go*2",
        "name != arg*3",
        "name : rgo",
        "name : *",
        "name > argo-1",
        "crew = 50",
        "crew : 50",
        "crew >= 50",
        "crew > -1",
        "crew != 51",
        "knots = 12.5",
        "knots > 12.4",
        "knots <= 13",
        "knots : *",
        "turn = 1500ms",
        "turn > '1s 400ms'",
        "turn < 2s",
        "turn : *",
        "is_docked = false",
        "is_docked != true",
        "built = 2023-11-14T22:13:20.000000005Z",
        "built > 2023-11-14T22:13:20Z",
        "built < \"2023-11-14T23:13:21+01:00\"",
        "built >= 2023-11-14",
        "built : *",
        "severity = WARNING",
        "severity = EVENT_SEVERITY_WARNING",
        "severity >= warning",
        "severity < ERROR",
        "health = HEALTHY",
        "health != HEALTH_STATUS_LOST",
        "flags.home = iolcus",
        "flags.home = io*us",
        "flags.home : olc",
        "flags.app/name = \"a b\"",
        "flags.\"app/name\" : ' '",
        "flags : home",
        "flags : 'app/name'",
        "flags.empty : *",
        "flags.empty = ''",
        "flags.none != x",
    ] {
        assert!(admits(text), "{text}");
    }
    for text in [
        "name = argo",
        "name = *-3",
        "name = a*a*2",
        "name : ARGO",
        "crew < 50",
        "knots < 12.5",
        "turn > 1500ms",
        "is_docked = true",
        "built < 2023-11-14T22:13:20.000000005Z",
        "severity > WARNING",
        "health = LOST",
        "flags.home = iol",
        "flags : none",
        "flags.none : *",
        "flags.none = x",
        "flags.none < x",
        "flags.none = *",
    ] {
        assert!(!admits(text), "{text}");
    }
}

#[test]
fn comparisons_are_joined_by_words_signs_and_parentheses() {
    for text in [
        "crew = 50 AND name = argo-2",
        "crew = 1 OR name = argo-2",
        "NOT crew = 1",
        "-crew = 1",
        "- (crew = 1)",
        "NOT NOT crew = 50",
        "NOT -crew = 50",
        "(crew = 50)",
        "((crew=50)AND(name=argo-2))",
        "crew = 1 OR (crew = 50 AND NOT (name = x OR name = y))",
        "crew = 50 AND (crew = 1 OR name = argo-2)",
        "NOT (crew = 1 AND name = argo-2)",
    ] {
        assert!(admits(text), "{text}");
    }
    for text in
        ["crew = 50 AND crew = 1", "crew = 1 OR crew = 2", "NOT crew = 50", "-(crew = 50 OR crew = 1)"]
    {
        assert!(!admits(text), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_is_expected() {
    let deep = |depth| format!("{}crew = 1{}", "(".repeat(depth), ")".repeat(depth));
    Filter::parse(&SHIPS, &deep(32)).unwrap();
    for (text, why) in [
        ("crew", "at 5: expected = != < <= > >= or :, found the end"),
        ("crew 5", "at 6: expected = != < <= > >= or :, found \"5\""),
        ("crew =", "at 7: expected a value, found the end"),
        ("crew == 5", "at 7: expected a value, found \"=\""),
        ("crew = AND", "at 8: expected a value, found \"AND\""),
        ("crew = many", "at 8: crew is compared with whole numbers, not with \"many\""),
        ("crew > 1.5", "at 8: crew is compared with whole numbers, not with \"1.5\""),
        (
            "crew = 99999999999999999999",
            "at 8: crew is compared with whole numbers, not with \"99999999999999999999\"",
        ),
        ("crew : *", "at 8: crew is compared with whole numbers, not with \"*\""),
        ("knots > fast", "at 9: knots is compared with numbers, not with \"fast\""),
        ("knots > inf", "at 9: knots is compared with numbers, not with \"inf\""),
        ("turn < 5", "at 8: turn is compared with lengths of time like 250ms, not with \"5\""),
        ("is_docked = 1", "at 13: is_docked is true or false, not \"1\""),
        ("is_docked < true", "at 13: is_docked is true or false, not more or less"),
        (
            "built > yesterday",
            "at 9: built is compared with instants like 2026-01-31T12:00:00Z, not with \"yesterday\"",
        ),
        ("severity = WARN", "at 12: severity: \"WARN\" is not among its values: INFO, WARNING, ERROR"),
        ("severity = warnign", "at 12: severity: \"warnign\" is not among its values: did you mean WARNING"),
        ("health > STARTING", "at 10: health has no order: compare it by = or !="),
        ("flags = a", "at 1: flags needs a key: flags.KEY"),
        ("flags : *", "at 9: flags needs a key: flags.KEY"),
        ("name.first = a", "at 1: name has no field \"first\""),
        ("crwe > 1", "at 1: \"crwe\" is no field of a ship: did you mean crew"),
        ("name = a AND Built > 2026", "at 14: \"Built\" is no field of a ship: did you mean built"),
        (
            "captain = a",
            "at 1: \"captain\" is no field of a ship: there are name, crew, knots, turn, is_docked, built, severity, health, flags.KEY",
        ),
        ("crew = 1 AND", "at 13: expected a field, NOT, - or (, found the end"),
        ("AND crew = 1", "at 1: expected a field, NOT, - or (, found \"AND\""),
        ("crew = 1 crew = 2", "at 10: expected AND, OR or the end, found \"crew\""),
        ("crew = 1 and crew = 2", "at 10: expected AND, OR or the end, found \"and\""),
        ("crew = 1)", "at 9: expected AND, OR or the end, found \")\""),
        ("(crew = 1", "at 10: expected AND, OR or ), found the end"),
        ("()", "at 2: expected a field, NOT, - or (, found \")\""),
        (
            "crew = 1 AND name = a OR name = b",
            "at 23: AND and OR are mixed: say with parentheses what belongs together",
        ),
        ("name = \"argo", "at 8: these quotes are not closed: expected \", found the end"),
        ("name = 'ä' AND name = 'a\\n'", "at 26: a backslash stands before a quote or a backslash only"),
        (&deep(33), "at 33: parentheses are nested more than 32 deep"),
        (&"ä".repeat(1001), "has 1001 characters, at most 1000 are allowed"),
    ] {
        assert_eq!(refusal(text), why, "{text}");
    }
}

#[test]
fn quotes_hold_everything_and_backslashes_hold_quotes() {
    let ship = Ship { name: r#"a "b" \ (c) AND"#.into(), ..Ship::default() };
    for text in [r#"name = "a \"b\" \\ (c) AND""#, r#"name = 'a "b" \\ (c) AND'"#] {
        assert!(Filter::parse(&SHIPS, text).unwrap().admits(&ship), "{text}");
    }
}

fn fleet() -> Vec<Ship> {
    let ship = |name: &str, crew, home: Option<&str>| Ship {
        name: name.into(),
        crew,
        flags: home.map(|home| ("home".to_owned(), home.to_owned())).into_iter().collect(),
        ..Ship::default()
    };
    vec![ship("c", 2, Some("x")), ship("a", 2, None), ship("d", 1, Some("x")), ship("b", 3, Some("w"))]
}

fn first<I>(items: Vec<I>, count: usize, compare: impl Fn(&I, &I) -> Ordering) -> Vec<I> {
    let mut first = First::new(count, compare);
    items.into_iter().for_each(|item| first.push(item));
    first.sorted()
}

fn sorted(order_by: &str) -> String {
    let order = Order::parse(&SHIPS, order_by).unwrap();
    let compare =
        |one: &Ship, other: &Ship| order.compare(one, other).then_with(|| one.name.cmp(&other.name));
    first(fleet(), 9, compare).into_iter().map(|ship| ship.name).collect()
}

#[test]
fn an_order_names_fields_with_or_without_a_direction() {
    assert_eq!(sorted(""), "abcd");
    assert_eq!(sorted("name desc"), "dcba");
    assert_eq!(sorted("crew"), "dacb");
    assert_eq!(sorted("crew DESC, name desc"), "bcad");
    assert_eq!(sorted(" flags.home asc ,crew "), "abdc");
    let is_by_name = |text| Order::parse(&SHIPS, text).unwrap().is_by_name(&["name", "crew"]);
    for (text, expected) in
        [("", true), ("name", true), ("name asc, crew", true), ("name desc", false), ("crew", false)]
    {
        assert_eq!(is_by_name(text), expected, "{text}");
    }
}

#[test]
fn a_wrong_order_is_refused_by_what_is_wrong_with_it() {
    let many: Vec<String> = (0..9).map(|number| format!("flags.{number}")).collect();
    for (text, why) in [
        ("name,", "names no field between two commas"),
        ("crew down", "expected asc, desc or a comma after crew, found \"down\""),
        ("crew desc name", "expected a comma, found \"name\""),
        ("crew, crew desc", "names crew twice"),
        ("nmae", "\"nmae\" is no field of a ship: did you mean name"),
        ("flags", "flags needs a key: flags.KEY"),
        (&many.join(","), "names more than 8 fields"),
        (&"x".repeat(1001), "has 1001 characters, at most 1000 are allowed"),
    ] {
        let invalid = Order::parse(&SHIPS, text).expect_err(text);
        assert_eq!(invalid, gateway_proto::Invalid::new("order_by", why), "{text}");
    }
}

/// All pages of a list that changes in between, by the places that tokens hold.
fn paged(order_by: &str, size: usize, mut between: impl FnMut(usize, &mut Vec<Ship>)) -> Vec<String> {
    let order = Order::parse(&SHIPS, order_by).unwrap();
    let compare =
        |one: &Ship, other: &Ship| order.compare(one, other).then_with(|| one.name.cmp(&other.name));
    let mut ships = fleet();
    let mut seen = Vec::new();
    let mut place: Option<String> = None;
    for page in 0.. {
        between(page, &mut ships);
        let after = place.as_deref().map(|place| order.read_place(place).unwrap());
        let is_after = |ship: &&Ship| match &after {
            Some((keys, name)) => {
                order.compare_with(ship, keys).then_with(|| ship.name.cmp(name)) == Ordering::Greater
            }
            None => true,
        };
        let rest: Vec<Ship> = ships.iter().filter(is_after).cloned().collect();
        let page = first(rest, size, compare);
        seen.extend(page.iter().map(|ship| ship.name.clone()));
        match page.last() {
            Some(last) if page.len() == size => place = Some(order.write_place(last, &last.name)),
            _ => return seen,
        }
    }
    unreachable!("pages end")
}

#[test]
fn pages_in_any_order_stay_right_when_items_come_and_go() {
    for order_by in ["", "crew desc", "flags.home, crew", "flags.home desc"] {
        assert_eq!(paged(order_by, 1, |_, _| {}).concat(), sorted(order_by), "{order_by}");
        assert_eq!(paged(order_by, 3, |_, _| {}).concat(), sorted(order_by), "{order_by}");
    }
    // In the order of crews d, a, c, b. After d and a: d goes, and one comes before the place and one after it.
    let seen = paged("crew", 2, |page, ships| {
        if page == 1 {
            ships.retain(|ship| ship.name != "d");
            ships.push(Ship { name: "early".into(), crew: 0, ..Ship::default() });
            ships.push(Ship { name: "late".into(), crew: 2, ..Ship::default() });
        }
    });
    assert_eq!(seen, ["d", "a", "c", "late", "b"]);
}

#[test]
fn a_place_of_another_order_or_none_at_all_is_not_read() {
    let order = Order::parse(&SHIPS, "crew, built").unwrap();
    let place = order.write_place(&argo(), "argo-2");
    assert_eq!(place, r#"[50,[1700000000,5],"argo-2"]"#);
    assert!(order.read_place(&place).is_some());
    for wrong in ["", "x", "[]", "[1]", r#"[1,"a"]"#, r#"[1,{},"a"]"#, r#"[1,[1],"a"]"#, r#"[1.5,null,"a"]"#]
    {
        assert!(order.read_place(wrong).is_none(), "{wrong}");
    }
}

/// A random expression as text, and what it says of a ship, computed apart.
fn expression() -> impl Strategy<Value = (String, bool)> {
    let leaf = (0..60_i64, prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">=", ":"])).prop_map(
        |(number, operator)| {
            let crew = argo().crew;
            let holds = match operator {
                "=" | ":" => crew == number,
                "!=" => crew != number,
                "<" => crew < number,
                "<=" => crew <= number,
                ">" => crew > number,
                _ => crew >= number,
            };
            (format!("crew {operator} {number}"), holds)
        },
    );
    leaf.prop_recursive(4, 24, 4, |inner| {
        let joined = (prop::collection::vec(inner.clone(), 1..4), any::<bool>()).prop_map(|(terms, all)| {
            let texts: Vec<_> = terms.iter().map(|(text, _)| format!("({text})")).collect();
            match all {
                true => (texts.join(" AND "), terms.iter().all(|(_, holds)| *holds)),
                false => (texts.join(" OR "), terms.iter().any(|(_, holds)| *holds)),
            }
        });
        let negated = inner.prop_map(|(text, holds)| (format!("NOT ({text})"), !holds));
        prop_oneof![joined, negated]
    })
}

proptest! {
    #[test]
    fn no_text_makes_reading_a_filter_or_an_order_panic(text in any::<String>()) {
        let _ = Filter::parse(&SHIPS, &text);
        let _ = Order::parse(&SHIPS, &text);
    }

    #[test]
    fn no_run_of_words_makes_reading_or_applying_a_filter_panic(words in prop::collection::vec(
        prop::sample::select(vec![
            "name", "crew", "built", "flags", "flags.", "severity", "(", ")", "AND", "OR", "NOT", "-", "=", "!=", "<", ":",
            "*", "\"", "'a b'", "\\", "5", "-9223372036854775808", "2026-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "ä", ".", ",",
        ]), 0..40), is_spaced in any::<bool>()) {
        let text = words.join(if is_spaced { " " } else { "" });
        if let Ok(filter) = Filter::parse(&SHIPS, &text) {
            filter.admits(&argo());
            filter.admits(&Ship::default());
        }
    }

    #[test]
    fn no_text_after_a_comparison_with_an_instant_panics(text in "[-+:.TZ0-9]{0,40}") {
        let _ = Filter::parse(&SHIPS, &format!("built > {text}"));
    }

    #[test]
    fn an_expression_means_what_its_parts_mean((text, holds) in expression()) {
        prop_assume!(text.chars().count() <= 1000);
        prop_assert_eq!(admits(&text), holds, "{}", text);
    }

    #[test]
    fn a_pattern_matches_as_its_slow_model_does(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
        fn model(pattern: &[u8], text: &[u8]) -> bool {
            match pattern {
                [] => text.is_empty(),
                [b'*', rest @ ..] => (0..=text.len()).any(|skipped| model(rest, &text[skipped..])),
                [one, rest @ ..] => text.first() == Some(one) && model(rest, &text[1..]),
            }
        }
        let filter = Filter::parse(&SHIPS, &format!("name = '{pattern}'")).unwrap();
        let expected = model(pattern.as_bytes(), name.as_bytes());
        prop_assert_eq!(filter.admits(&Ship { name, ..Ship::default() }), expected);
    }

    #[test]
    fn the_first_of_a_list_are_those_of_the_sorted_list(items in prop::collection::vec(any::<u16>(), 0..4000), count in 0..70_usize) {
        let mut sorted = items.clone();
        sorted.sort_unstable();
        sorted.truncate(count);
        prop_assert_eq!(first(items, count, Ord::cmp), sorted);
    }
}
