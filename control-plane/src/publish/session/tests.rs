use super::*;

const MS: Duration = Duration::from_millis(1);

fn ack(nonce: &str) -> v1::Ack {
    v1::Ack { nonce: nonce.into(), ..Default::default() }
}

fn nack(nonce: &str) -> v1::Ack {
    let nack = v1::Nack { reason: "INVALID_RESOURCE".into(), message: String::new() };
    v1::Ack { nack: Some(nack), ..ack(nonce) }
}

#[test]
fn a_data_plane_that_holds_nothing_gets_a_full_snapshot_then_deltas() {
    let now = Instant::now();
    let mut session = Session::new(None, now);
    assert_eq!(session.next(now, 7), Next::Full);
    let nonce = session.sent(now, 7, true);
    assert_eq!(session.heard(now, ack(&nonce)), Heard::Acked(7));
    assert_eq!(session.next(now, 7), Next::Wait { until: now + QUIET });
    assert_eq!(session.next(now, 9), Next::Delta { base: 7 });
}

#[test]
fn a_resumed_data_plane_that_is_up_to_date_gets_a_bookmark_at_once() {
    let now = Instant::now();
    let mut session = Session::new(Some(7), now);
    assert_eq!(session.next(now, 7), Next::Bookmark { revision: 7 });
    session.sent_bookmark(now, 7);
    assert_eq!(session.next(now, 7), Next::Wait { until: now + QUIET });
    assert_eq!(session.next(now + QUIET, 7), Next::Bookmark { revision: 7 });
}

#[test]
fn a_resumed_data_plane_that_is_behind_gets_a_delta() {
    let now = Instant::now();
    assert_eq!(Session::new(Some(3), now).next(now, 7), Next::Delta { base: 3 });
}

#[test]
fn nothing_is_sent_while_something_is_unacked() {
    let now = Instant::now();
    let mut session = Session::new(Some(3), now);
    let nonce = session.sent(now, 7, true);
    assert_eq!(session.next(now, 50), Next::Wait { until: now + SILENCE });
    session.heard(now, ack(&nonce));
    // What came meanwhile goes out as one.
    assert_eq!(session.next(now, 50), Next::Delta { base: 7 });
}

#[test]
fn parts_are_acked_one_by_one_and_only_the_last_one_counts() {
    let now = Instant::now();
    let mut session = Session::new(None, now);
    let first = session.sent(now, 7, false);
    assert_eq!(session.heard(now, ack(&first)), Heard::Part);
    assert_eq!(session.next(now, 7), Next::Full);
    let last = session.sent(now, 7, true);
    assert_eq!(session.heard(now, ack(&last)), Heard::Acked(7));
}

#[test]
fn a_stale_nonce_changes_nothing() {
    let now = Instant::now();
    let mut session = Session::new(None, now);
    let nonce = session.sent(now, 7, true);
    for stale in ["", "x", "0", "99"] {
        assert_eq!(session.heard(now, nack(stale)), Heard::Stale);
    }
    assert_eq!(session.heard(now, ack(&nonce)), Heard::Acked(7));
    assert_eq!(session.heard(now, ack(&nonce)), Heard::Stale);
}

#[test]
fn a_nack_is_followed_by_a_full_snapshot_after_a_back_off_that_doubles() {
    let mut now = Instant::now();
    let mut session = Session::new(Some(3), now);
    for seconds in [1, 2, 4, 8, 10, 10] {
        let nonce = session.sent(now, 7, true);
        assert!(matches!(session.heard(now, nack(&nonce)), Heard::Nacked(_)));
        let until = now + Duration::from_secs(seconds);
        assert_eq!(session.next(now, 9), Next::Wait { until });
        assert_eq!(session.next(until, 9), Next::Full);
        now = until;
    }
    // What is accepted ends the back-off.
    let nonce = session.sent(now, 9, true);
    session.heard(now, ack(&nonce));
    let nonce = session.sent(now, 10, true);
    session.heard(now, nack(&nonce));
    assert_eq!(session.next(now, 10), Next::Wait { until: now + MIN_BACKOFF });
}

#[test]
fn a_silent_data_plane_that_owes_an_ack_is_dead_after_fifteen_seconds() {
    let now = Instant::now();
    let mut session = Session::new(None, now);
    session.sent(now, 7, true);
    assert_eq!(session.next(now + SILENCE - MS, 7), Next::Wait { until: now + SILENCE });
    assert_eq!(session.next(now + SILENCE, 7), Next::End);
}

#[test]
fn a_data_plane_that_talks_but_never_acks_is_stuck_after_thirty_seconds() {
    let now = Instant::now();
    let mut session = Session::new(None, now);
    session.sent(now, 7, true);
    for seconds in [10, 20, 29] {
        session.heard(now + Duration::from_secs(seconds), ack("stale"));
    }
    assert_eq!(session.next(now + ACK_TIMEOUT - MS, 7), Next::Wait { until: now + ACK_TIMEOUT });
    assert_eq!(session.next(now + ACK_TIMEOUT, 7), Next::End);
}

#[test]
fn a_quiet_data_plane_that_owes_nothing_is_left_alone() {
    let now = Instant::now();
    let mut session = Session::new(Some(7), now);
    for seconds in 0..20 {
        let now = now + Duration::from_secs(5 * seconds);
        assert_eq!(session.next(now, 7), Next::Bookmark { revision: 7 });
        session.sent_bookmark(now, 7);
    }
}

#[test]
fn changes_of_other_services_are_skipped_and_told_by_the_next_bookmark() {
    let now = Instant::now();
    let mut session = Session::new(Some(7), now);
    session.sent_bookmark(now, 7);
    assert_eq!(session.next(now, 9), Next::Delta { base: 7 });
    session.skip(9);
    assert_eq!(session.next(now, 9), Next::Wait { until: now + QUIET });
    // A later change that concerns it starts from what it holds, not from what was skipped.
    assert_eq!(session.next(now, 10), Next::Delta { base: 7 });
    assert_eq!(session.next(now + QUIET, 9), Next::Bookmark { revision: 9 });
    let nonce = session.sent_bookmark(now + QUIET, 9);
    assert_eq!(session.heard(now + QUIET, ack(&nonce)), Heard::Acked(9));
    assert_eq!(session.next(now + QUIET, 10), Next::Delta { base: 9 });
}

#[test]
fn a_data_plane_whose_base_is_out_of_reach_gets_a_full_snapshot() {
    let now = Instant::now();
    let mut session = Session::new(Some(3), now);
    assert_eq!(session.at_least(), 3);
    session.lose_track();
    assert_eq!(session.next(now, 9), Next::Full);
    assert_eq!(session.at_least(), 4, "what it holds already would bring it no further");
}

#[test]
fn a_client_that_follows_other_services_gets_a_full_snapshot_next_whatever_it_acks_first() {
    let now = Instant::now();
    let mut session = Session::new(Some(7), now);
    session.start_over();
    assert_eq!(session.next(now, 7), Next::Full);
    let first = session.sent(now, 7, true);
    // Changed again while that is on its way: still one at a time, and what it acks is not what it follows now.
    session.start_over();
    assert!(matches!(session.next(now, 7), Next::Wait { .. }));
    assert_eq!(session.heard(now, ack(&first)), Heard::Part);
    assert_eq!(session.next(now, 7), Next::Full);
    let second = session.sent(now, 7, true);
    assert_eq!(session.heard(now, ack(&second)), Heard::Acked(7));
    assert_eq!(session.next(now, 8), Next::Delta { base: 7 });
}
