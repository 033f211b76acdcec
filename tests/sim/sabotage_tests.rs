//! Every invariant can fail: with a bug on purpose, one of a few seeds breaks the invariant that forbids it.

use crate::{run::run, sabotage::Sabotage};

/// Seeds that a bug may hide from.
const PATIENCE: u64 = 150;

/// Runs seeds with the bug until one breaks an invariant, which must be one of `invariants`.
fn assert_found(sabotage: Sabotage, invariants: &[&str]) {
    let found = (1000..1000 + PATIENCE).map(|seed| run(seed, Some(sabotage))).find_map(|report| {
        let violation = report.violation.clone()?;
        Some((report, violation))
    });
    let (report, violation) = found.unwrap_or_else(|| panic!("{sabotage:?} was not found"));
    assert!(invariants.contains(&violation.invariant), "{sabotage:?}: {report}");
}

#[test]
fn an_answer_before_the_commit_is_found() {
    assert_found(Sabotage::AckBeforeCommit, &["an_answer_is_durable"]);
}

#[test]
fn a_restart_that_forgets_a_record_is_found() {
    assert_found(Sabotage::ForgetARecord, &["a_restart_finds_exactly_what_is_durable"]);
}

#[test]
fn belief_in_failed_commits_is_found() {
    assert_found(
        Sabotage::TrustFailedCommits,
        &[
            "what_is_published_is_what_is_durable",
            "what_was_decided_still_holds",
            "an_address_has_one_owner",
            "incarnations_of_an_id_only_grow",
            "a_stale_lease_changes_nothing",
        ],
    );
}

#[test]
fn a_stale_lease_that_is_taken_is_found() {
    assert_found(Sabotage::TakeAnyLease, &["a_stale_lease_changes_nothing"]);
}

#[test]
fn a_lease_that_never_expires_is_found() {
    assert_found(Sabotage::NeverExpire, &["no_lease_outlives_its_time"]);
}

#[test]
fn a_lease_that_is_held_while_its_replica_goes_is_found() {
    assert_found(
        Sabotage::KeepWhatGoes,
        &["what_is_given_up_is_not_held", "an_ended_lease_never_comes_back"],
    );
}

#[test]
fn a_guard_that_nobody_hears_is_found() {
    assert_found(Sabotage::BelieveEveryLapse, &["a_service_loses_its_share_at_most"]);
}

#[test]
fn a_lost_replica_that_stays_lost_is_found() {
    assert_found(Sabotage::NeverFind, &["a_lost_replica_that_renews_is_found"]);
}

#[test]
fn belief_in_a_single_data_plane_is_found() {
    assert_found(Sabotage::BelieveOneDataPlane, &["only_what_nobody_reaches_is_evicted"]);
}

#[test]
fn an_eviction_that_was_held_and_happens_is_found() {
    assert_found(Sabotage::EvictWhatIsHeld, &["evictions_leave_somebody", "evictions_take_a_share_at_most"]);
}

#[test]
fn an_override_that_stays_in_force_is_found() {
    assert_found(Sabotage::KeepOverrides, &["no_override_outlives_its_time"]);
}

#[test]
fn a_drain_that_takes_the_last_ready_replica_is_found() {
    assert_found(Sabotage::DrainTheLast, &["the_last_ready_replica_is_drained_on_an_explicit_word_only"]);
}

#[test]
fn a_lease_that_expires_early_is_found() {
    assert_found(
        Sabotage::GrantLess,
        &["only_silence_ends_a_lease", "a_heartbeat_in_time_keeps_a_lease_alive"],
    );
}

#[test]
fn a_lease_that_is_revived_is_found() {
    assert_found(
        Sabotage::ReviveLapsed,
        &["a_heartbeat_too_late_keeps_nothing_alive", "an_ended_lease_never_comes_back"],
    );
}

#[test]
fn a_gap_in_a_delta_is_found() {
    assert_found(Sabotage::SkipPartOfDelta, &["a_data_plane_shows_the_registry_as_it_was"]);
}

#[test]
fn a_refused_message_that_changes_something_is_found() {
    assert_found(Sabotage::ApplyRefused, &["a_refused_message_changes_nothing"]);
}

#[test]
fn a_data_plane_that_stays_behind_is_found() {
    assert_found(Sabotage::NeverReconnect, &["every_data_plane_converges"]);
}

#[test]
fn a_request_to_a_removed_replica_is_found() {
    assert_found(Sabotage::KeepRemoved, &["a_pick_is_registered_and_ready"]);
}

#[test]
fn a_lost_permit_is_found() {
    assert_found(Sabotage::DropPermit, &["permits_are_conserved"]);
}

#[test]
fn a_replica_that_is_asked_twice_is_found() {
    assert_found(Sabotage::ForgetTried, &["a_request_asks_each_replica_once"]);
}

#[test]
fn a_repeated_post_is_found() {
    assert_found(Sabotage::RetryEverything, &["what_must_not_be_repeated_is_seen_once"]);
}

#[test]
fn retries_beyond_the_budget_are_found() {
    assert_found(Sabotage::IgnoreBudget, &["retries_stay_within_their_budget"]);
}

#[test]
fn a_first_probe_that_must_not_be_repeated_is_found() {
    assert_found(
        Sabotage::SpareNobody,
        &[
            "what_must_not_be_repeated_finds_nothing_out",
            "what_must_not_be_repeated_goes_where_nothing_piles_up",
        ],
    );
}

#[test]
fn a_request_that_goes_where_others_wait_is_found() {
    assert_found(Sabotage::PileUp, &["what_must_not_be_repeated_goes_where_nothing_piles_up"]);
}

#[test]
fn a_second_probe_is_found() {
    // One that is given back early says nothing, so that the next is a first one again.
    let invariants =
        ["one_probe_at_a_time", "every_transition_is_told", "what_must_not_be_repeated_finds_nothing_out"];
    assert_found(Sabotage::ReturnProbeEarly, &invariants);
}

#[test]
fn a_breaker_that_opens_without_a_rule_is_found() {
    assert_found(Sabotage::BlameSuccess, &["a_breaker_changes_by_its_rules_only"]);
}

#[test]
fn a_breaker_that_does_not_open_is_found() {
    assert_found(Sabotage::ExcuseFailure, &["a_breaker_changes_by_its_rules_only"]);
}

#[test]
fn a_breaker_that_is_never_probed_is_found() {
    assert_found(Sabotage::StopPickClock, &["a_due_probe_goes_first", "nobody_is_turned_away_in_vain"]);
}

#[test]
fn an_uneven_rotation_is_found() {
    assert_found(Sabotage::WasteTurns, &["shares_are_exact"]);
}

#[test]
fn slowness_that_is_forgotten_is_found() {
    assert_found(Sabotage::ForgetLatency, &["a_breaker_changes_by_its_rules_only"]);
}

#[test]
fn waits_in_vain_that_nobody_hears_of_are_found() {
    assert_found(Sabotage::ForgetWaits, &["who_is_waited_for_in_vain_is_blamed"]);
}

#[test]
fn blame_for_a_silence_in_which_nobody_waited_is_found() {
    assert_found(Sabotage::ExaggerateWaits, &["only_who_is_silent_is_blamed_for_it"]);
}

#[test]
fn breakers_that_open_beyond_their_bound_are_found() {
    assert_found(Sabotage::LiftBounds, &["a_breaker_changes_by_its_rules_only"]);
}

#[test]
fn a_service_that_does_not_fail_open_is_found() {
    assert_found(Sabotage::NeverFailOpen, &["nobody_is_turned_away_in_vain", "shares_are_exact"]);
}
