//! What is kept, for whom, and how much of it.

use http::StatusCode;

use super::*;
use crate::proxy::head::fields::Fields;

fn answer(fields: &[(&str, &str)]) -> ResponseHead {
    let mut block = Fields::default();
    fields.iter().for_each(|(name, value)| block.append_other(name.as_bytes(), value.as_bytes()));
    ResponseHead::new(StatusCode::OK, block)
}

fn named(name: &str) -> Key {
    of_service(0, name)
}

fn of_service(service: u64, name: &str) -> Key {
    Key { service, request: name.as_bytes().into() }
}

fn of(limit: usize) -> Rc<RefCell<StaleAnswers>> {
    Rc::new(RefCell::new(StaleAnswers::new(limit)))
}

fn keep(answers: &Rc<RefCell<StaleAnswers>>, name: &str, body: &str, now: Tick) {
    let copying = Copying::begin(answers, named(name), &answer(&[]), Some(body.len() as u64), now);
    let mut copying = copying.expect("it is short");
    assert!(copying.push(body.as_bytes()));
    copying.end();
}

fn after(seconds: u64) -> Tick {
    Tick::ORIGIN.plus(Duration::from_secs(seconds))
}

#[test]
fn what_replicas_forbid_or_send_to_one_client_is_not_kept() {
    for (fields, allowed) in [
        (&[][..], Some(Duration::MAX)),
        (&[("cache-control", "max-age=1, public")], Some(Duration::MAX)),
        (&[("cache-control", "max-age=1, stale-if-error=60")], Some(Duration::from_secs(60))),
        (&[("cache-control", "stale-if-error=soon")], None),
        (&[("vary", "Accept-Encoding, accept")], Some(Duration::MAX)),
        (&[("vary", "origin")], None),
        (&[("vary", "*")], None),
        (&[("set-cookie", "a=b")], None),
        (&[("cache-control", "max-age=1"), ("cache-control", "Private=\"x\"")], None),
        (&[("cache-control", "no-store")], None),
        (&[("cache-control", "no-cache")], None),
        (&[("cache-control", "must-revalidate")], None),
        (&[("cache-control", "s-maxage=10")], None),
    ] {
        assert_eq!(may_keep(&answer(fields)), allowed, "{fields:?}");
    }
    let other = ResponseHead::new(StatusCode::NOT_FOUND, Fields::default());
    assert_eq!(may_keep(&other), None);
}

#[test]
fn the_last_answer_is_given_until_it_is_too_old_for_the_policy_or_its_replica() {
    let answers = of(1 << 20);
    keep(&answers, "a", "one", after(0));
    keep(&answers, "a", "two", after(10));
    let max_age = Duration::from_secs(60);
    let get = |name, now| answers.borrow().get(&named(name), max_age, now);
    let kept = get("a", after(70)).expect("it is just young enough");
    assert_eq!((kept.body.as_ref(), kept.age(after(70))), (&b"two"[..], Duration::from_secs(60)));
    assert!(get("a", after(71)).is_none() && get("b", after(10)).is_none());

    let five_seconds = answer(&[("cache-control", "stale-if-error=5")]);
    Copying::begin(&answers, named("a"), &five_seconds, None, after(20)).expect("it is short").end();
    assert!(get("a", after(25)).is_some_and(|kept| kept.body.is_empty()));
    assert!(get("a", after(26)).is_none());

    // One that was old when it came, by the caches that it passed.
    let aged = answer(&[("age", "50")]);
    Copying::begin(&answers, named("a"), &aged, None, after(100)).expect("it is short").end();
    assert_eq!(get("a", after(110)).map(|kept| kept.age(after(110))), Some(Duration::from_secs(60)));
    assert!(get("a", after(111)).is_none());
}

#[test]
fn no_service_puts_out_what_another_has_that_has_less() {
    let answers = of(4 * (OVERHEAD + 110));
    let keep = |service, name: &str| {
        let copying = Copying::begin(&answers, of_service(service, name), &answer(&[]), None, after(0));
        let mut copying = copying.expect("there is room");
        assert!(copying.push(&[0; 100]));
        copying.end();
    };
    let has =
        |service, name| answers.borrow().get(&of_service(service, name), Duration::MAX, after(0)).is_some();
    keep(1, "quiet");
    for number in 0..100 {
        keep(2, &format!("{number:02}"));
    }
    assert!(has(1, "quiet") && has(2, "97") && has(2, "99") && !has(2, "96"));
    // Another one takes from whoever has most, until all have as much.
    keep(3, "new");
    assert!(has(1, "quiet") && has(3, "new") && has(2, "98") && !has(2, "97"));
    assert_eq!(answers.borrow().by_size.len(), 3);
    // The same name, held by somebody else since.
    assert!(!has(4, "new"));
}

#[test]
fn what_was_kept_first_gives_way_and_nothing_is_left_of_it() {
    let answers = of(3 * (OVERHEAD + 110));
    for (number, name) in ["a", "b", "c", "d", "a"].into_iter().enumerate() {
        keep(&answers, name, &"x".repeat(100), after(number as u64));
    }
    let has = |answers: &Rc<RefCell<StaleAnswers>>, name| {
        answers.borrow().get(&named(name), Duration::MAX, after(9)).is_some()
    };
    assert_eq!(["a", "b", "c", "d"].map(|name| has(&answers, name)), [true, false, true, true]);
    assert_eq!(answers.borrow().by_key.len(), answers.borrow().by_service[&0].order.len());
    let long = Copying::begin(&answers, named("e"), &answer(&[]), Some(10_000), after(9));
    assert!(long.is_none());
    assert!(!has(&answers, "e") && has(&answers, "a"), "one that fits nowhere puts nobody out");
    for name in ["a", "c", "d"] {
        answers.borrow_mut().remove(&named(name));
    }
    let left = answers.borrow();
    assert_eq!((left.size, left.by_service.len(), left.by_size.len()), (0, 0, 0));
    drop(left);
    let off = of(0);
    keep(&off, "a", "", after(0));
    assert!(!has(&off, "a"));
}

#[test]
fn bodies_that_are_long_or_become_so_are_not_copied() {
    let answers = of(1 << 30);
    let begin = |length| Copying::begin(&answers, named("a"), &answer(&[]), length, after(0));
    assert!(begin(Some(MAX_BODY as u64 + 1)).is_none());
    for length in [None, Some(MAX_BODY as u64)] {
        let mut copying = begin(length).expect("it is just short enough");
        assert!(copying.push(&vec![0; MAX_BODY]) && !copying.push(b"x"));
    }
}

#[test]
fn copies_under_way_are_bounded_together_and_give_their_room_back() {
    let answers = of(1000);
    let begin = |length| Copying::begin(&answers, named("a"), &answer(&[]), length, after(0));
    let first = begin(Some(600)).expect("there is room");
    assert!(begin(Some(600)).is_none());
    let mut second = begin(None).expect("it has taken none yet");
    assert!(second.push(&[0; 400]) && !second.push(&[0; 1]));
    drop((first, second));
    assert_eq!(answers.borrow().copying, 0);
    begin(Some(0)).expect("there is room").end();
    assert_eq!(answers.borrow().copying, 0);
    let off = of(0);
    assert!(Copying::begin(&off, named("a"), &answer(&[]), Some(1), after(0)).is_none());
}
