//! What is kept, for whom, and how much of it.

use http::{Method, StatusCode, Version};

use super::*;
use crate::{
    proxy::{
        h1::Length,
        head::{RequestHead, fields::Fields},
    },
    routing::balancing::hash,
};

fn block(fields: &[(&str, &str)]) -> Fields {
    let mut block = Fields::default();
    fields.iter().for_each(|(name, value)| block.append_other(name.as_bytes(), value.as_bytes()));
    block
}

fn answer(fields: &[(&str, &str)]) -> ResponseHead {
    ResponseHead::new(StatusCode::OK, block(fields))
}

fn named(name: &str) -> Asked {
    of_service(0, name)
}

fn of_service(service: u64, name: &str) -> Asked {
    Asked {
        key: Key { service, request: name.as_bytes().into(), resource: hash(name.as_bytes()) },
        is_anybodys: true,
    }
}

/// A GET with a field, where the policy ignores some.
fn get_with(field: (&str, &str), ignored: &str) -> Option<Asked> {
    let mut fields = block(&[("host", "gw"), ("user-agent", "curl"), ("X-Request-Id", "1"), field]);
    let target = fields.store(b"/me");
    let head = RequestHead::new(Method::GET, Version::HTTP_11, target, None, fields);
    asked(0, &head, Length::Empty, &ignored.parse().expect("they are names"))
}

fn of(limit: usize) -> Rc<RefCell<StaleAnswers>> {
    Rc::new(RefCell::new(StaleAnswers::new(limit, Arc::default())))
}

fn keep(answers: &Rc<RefCell<StaleAnswers>>, name: &str, body: &str, now: Tick) {
    let copying = Copying::begin(answers, named(name), &answer(&[]), Some(body.len() as u64), now, now);
    let mut copying = copying.expect("it is short");
    assert!(copying.push(body.as_bytes()));
    copying.end();
}

fn after(seconds: u64) -> Tick {
    Tick::ORIGIN.plus(Duration::from_secs(seconds))
}

#[test]
fn what_replicas_forbid_or_send_to_one_client_is_not_kept() {
    let terms = |allowed, is_public| Some(Terms { allowed, is_public });
    let anything = terms(Duration::MAX, false);
    for (fields, allowed) in [
        (&[][..], anything),
        (&[("cache-control", "max-age=1, Public")], terms(Duration::MAX, true)),
        (&[("cache-control", "max-age=1, stale-if-error=60")], terms(Duration::from_secs(60), false)),
        (&[("cache-control", "stale-if-error=soon")], None),
        (&[("cache-control", "public, private")], None),
        (&[("vary", "Accept-Encoding, accept")], anything),
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
fn a_request_is_anybodys_only_if_all_of_its_fields_are_known_to_say_nothing_of_whose_it_is() {
    for (field, ignored, is_anybodys) in [
        (("accept", "*/*"), "", Some(true)),
        (("Traceparent", "00-1-1-01"), "", Some(true)),
        (("X-Forwarded-For", "192.0.2.7"), "", Some(true)),
        (("X-Forwarded-Proto", "https"), "", Some(true)),
        (("X-API-Key", "a"), "", Some(false)),
        (("X-Forwarded-User", "ann"), "", Some(false)),
        (("Baggage", "user=ann"), "", Some(false)),
        (("X-App-Version", "7"), "", Some(false)),
        (("X-App-Version", "7"), "x-client,x-app-version", Some(true)),
        (("X-API-Key", "a"), "x-client,x-app-version", Some(false)),
        (("Authorization", "Basic eA=="), "", None),
        (("Authorization", "Basic eA=="), "authorization,cookie", None),
        (("Cookie", "a=b"), "authorization,cookie", None),
    ] {
        let asked = get_with(field, ignored).map(|asked| asked.is_anybodys);
        assert_eq!(asked, is_anybodys, "{field:?} {ignored}");
    }
}

#[test]
fn what_may_be_somebodys_own_is_kept_and_given_only_if_the_replica_says_that_it_is_everybodys() {
    let answers = of(1 << 20);
    let with_key = |key| get_with(("x-api-key", key), "").expect("it is a GET");
    let anybodys =
        get_with(("accept", "*/*"), "").map(|asked| Asked { key: with_key("a").key, ..asked }).unwrap();
    let keep = |asked: Asked, fields: &[(&str, &str)]| {
        let copying = Copying::begin(&answers, asked, &answer(fields), None, after(0), after(0));
        copying.map(Copying::end).is_some()
    };
    let gets = |asked: &Asked| answers.borrow().get(asked, Duration::MAX, after(0)).is_some();
    assert!(!keep(with_key("a"), &[]) && !gets(&with_key("a")) && !gets(&with_key("b")));
    assert!(keep(anybodys.clone(), &[]));
    assert!(gets(&anybodys) && !gets(&with_key("b")), "it may be another one for whoever has a key");
    assert!(keep(with_key("a"), &[("cache-control", "public")]));
    assert!(gets(&anybodys) && gets(&with_key("b")));
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
    Copying::begin(&answers, named("a"), &five_seconds, None, after(20), after(20))
        .expect("it is short")
        .end();
    assert!(get("a", after(25)).is_some_and(|kept| kept.body.is_empty()));
    assert!(get("a", after(26)).is_none());

    // One that was old when it came, by the caches that it passed.
    let aged = answer(&[("age", "50")]);
    Copying::begin(&answers, named("a"), &aged, None, after(100), after(100)).expect("it is short").end();
    assert_eq!(get("a", after(110)).map(|kept| kept.age(after(110))), Some(Duration::from_secs(60)));
    assert!(get("a", after(111)).is_none());
}

#[test]
fn what_one_worker_hears_of_a_resource_holds_for_what_another_keeps() {
    let resources = Arc::default();
    let workers = [(); 2].map(|()| Rc::new(RefCell::new(StaleAnswers::new(1 << 20, Arc::clone(&resources)))));
    workers.iter().for_each(|answers| keep(answers, "a", "one", after(0)));
    let has = |name, now| {
        workers.each_ref().map(|answers| answers.borrow().get(&named(name), Duration::MAX, now).is_some())
    };
    assert_eq!(has("a", after(1)), [true, true]);
    keep(&workers[1], "b", "other", after(1));
    workers[0].borrow().withdraw(named("a").key.resource, after(2));
    assert_eq!((has("a", after(2)), has("b", after(2))), ([false, false], [false, true]));
    keep(&workers[1], "a", "two", after(3));
    assert_eq!(has("a", after(3)), [false, true]);
}

#[test]
fn an_answer_that_was_withdrawn_while_it_was_copied_is_not_given() {
    let answers = of(1 << 20);
    let copying =
        Copying::begin(&answers, named("a"), &answer(&[]), None, after(0), after(0)).expect("it is short");
    answers.borrow().withdraw(named("a").key.resource, after(1));
    copying.end();
    assert!(answers.borrow().get(&named("a"), Duration::MAX, after(2)).is_none());
}

#[test]
fn what_was_done_and_what_is_gone_withdraw_an_answer_and_errors_do_not() {
    for (status, of_a_get, of_a_change) in [
        (200, true, true),
        (204, true, true),
        (303, true, true),
        (304, false, true),
        (401, true, false),
        (404, true, false),
        (410, true, false),
        (409, true, false),
        (429, false, false),
        (500, false, false),
        (503, false, false),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!((withdraws(status, false), withdraws(status, true)), (of_a_get, of_a_change), "{status}");
    }
}

#[test]
fn no_service_puts_out_what_another_has_that_has_less() {
    let answers = of(4 * (OVERHEAD + 110));
    let keep = |service, name: &str| {
        let copying =
            Copying::begin(&answers, of_service(service, name), &answer(&[]), None, after(0), after(0));
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
    let long = Copying::begin(&answers, named("e"), &answer(&[]), Some(10_000), after(9), after(9));
    assert!(long.is_none());
    assert!(!has(&answers, "e") && has(&answers, "a"), "one that fits nowhere puts nobody out");
    for name in ["a", "c", "d"] {
        answers.borrow_mut().remove(&named(name).key);
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
    let begin = |length| Copying::begin(&answers, named("a"), &answer(&[]), length, after(0), after(0));
    assert!(begin(Some(MAX_BODY as u64 + 1)).is_none());
    for length in [None, Some(MAX_BODY as u64)] {
        let mut copying = begin(length).expect("it is just short enough");
        assert!(copying.push(&vec![0; MAX_BODY]) && !copying.push(b"x"));
    }
}

#[test]
fn copies_under_way_are_bounded_together_and_give_their_room_back() {
    let answers = of(1000);
    let begin = |length| Copying::begin(&answers, named("a"), &answer(&[]), length, after(0), after(0));
    let first = begin(Some(600)).expect("there is room");
    assert!(begin(Some(600)).is_none());
    let mut second = begin(None).expect("it has taken none yet");
    assert!(second.push(&[0; 400]) && !second.push(&[0; 1]));
    drop((first, second));
    assert_eq!(answers.borrow().copying, 0);
    begin(Some(0)).expect("there is room").end();
    assert_eq!(answers.borrow().copying, 0);
    let off = of(0);
    assert!(Copying::begin(&off, named("a"), &answer(&[]), Some(1), after(0), after(0)).is_none());
}
