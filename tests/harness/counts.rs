//! What tests/bench/run counts makes of counts: a gate that lets everything pass would be none.

#![allow(dead_code, reason = "the benchmark uses the rest")]

#[path = "../bench/counts/baseline.rs"]
mod baseline;
#[path = "../bench/counts/dump.rs"]
mod dump;

use baseline::{Baseline, Built};
use dump::Dump;

fn built(rustc: &str) -> Built {
    Built::new(rustc, "x86_64-unknown-linux-gnu", "valgrind-3.19.0 with glibc 2.36")
}

fn counts(get: f64, post: f64) -> Vec<(String, f64)> {
    vec![("GET: instructions".into(), get), ("POST: instructions".into(), post)]
}

#[test]
fn a_count_that_has_grown_by_more_than_the_tolerance_fails_and_is_named_with_both_figures() {
    let accepted = Baseline::new(built("1.95.0"), &counts(1000.0, 2000.0));
    assert!(!accepted.verdict(&built("1.95.0"), &counts(1030.0, 2060.0)).fails());
    let verdict = accepted.verdict(&built("1.95.0"), &counts(1031.0, 2000.0));
    assert!(verdict.fails());
    let said = verdict.to_string();
    assert!(said.contains("MORE: GET: instructions: 1000 → 1031 (+3.1 %)"), "{said}");
    assert!(said.contains("tests/bench/run counts --accept"), "{said}");
    assert!(!said.contains("POST"), "{said}");
}

#[test]
fn a_count_that_has_fallen_is_told_and_passes() {
    let accepted = Baseline::new(built("1.95.0"), &counts(1000.0, 2000.0));
    let verdict = accepted.verdict(&built("1.95.0"), &counts(900.0, 2000.0));
    assert!(!verdict.fails());
    assert!(verdict.to_string().contains("less: GET: instructions: 1000 → 900 (-10.0 %)"));
}

#[test]
fn a_system_call_more_fails_and_one_in_a_few_requests_does_not() {
    let of = |calls: f64| vec![("GET: system calls".to_owned(), calls)];
    let accepted = Baseline::new(built("1.95.0"), &of(6.0));
    assert!(!accepted.verdict(&built("1.95.0"), &of(6.3)).fails());
    assert!(accepted.verdict(&built("1.95.0"), &of(6.5)).fails());
}

#[test]
fn counts_of_another_compiler_fail_nothing_and_are_told_to_be_skipped() {
    let accepted = Baseline::new(built("1.95.0"), &counts(1000.0, 2000.0));
    let verdict = accepted.verdict(&built("1.96.0"), &counts(2000.0, 2000.0));
    assert!(!verdict.fails());
    let said = verdict.to_string();
    // tests/run looks for a line that begins so.
    assert!(
        said.starts_with("SKIPPED counts of the request path (the baseline is of rustc 1.95.0"),
        "{said}"
    );
    assert!(said.contains("NOTHING IS HELD") && said.contains("RUSTUP_TOOLCHAIN=1.95.0"), "{said}");
    assert!(said.contains("MORE: GET"), "{said}");
    let verdict = accepted.verdict(&built("1.96.0"), &counts(1000.0, 2000.0));
    assert!(verdict.to_string().starts_with("SKIPPED"), "whatever the counts are");
}

#[test]
fn what_another_valgrind_or_libc_may_have_added_fails_nothing_and_is_told_and_what_they_have_not_is_held() {
    let accepted = Baseline::new(built("1.95.0"), &counts(1000.0, 2000.0));
    let other = Built::new("1.95.0", "x86_64-unknown-linux-gnu", "valgrind-3.24.0 with glibc 2.41");
    let verdict = accepted.verdict(&other, &counts(1031.0, 2000.0));
    assert!(!verdict.fails() && verdict.to_string().starts_with("SKIPPED"), "{verdict}");
    let verdict = accepted.verdict(&other, &counts(1030.0, 2000.0));
    assert!(!verdict.fails() && !verdict.to_string().contains("SKIPPED"), "{verdict}");
}

#[test]
fn counts_that_nobody_accepted_or_nobody_makes_fail() {
    let accepted = Baseline::new(built("1.95.0"), &counts(1000.0, 2000.0)[..1]);
    let verdict = accepted.verdict(&built("1.95.0"), &counts(1000.0, 2000.0)[1..]);
    assert!(verdict.fails());
    let said = verdict.to_string();
    assert!(said.contains("POST: instructions: 2000 where nothing was accepted"), "{said}");
    assert!(said.contains("GET: instructions: not counted any more"), "{said}");
}

#[test]
fn a_baseline_is_read_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("baseline.toml");
    let written = Baseline::new(built("1.95.0"), &counts(1000.5, 2000.0));
    written.write(&path).unwrap();
    assert_eq!(Baseline::read(&path).unwrap(), written);
}

#[test]
fn the_committed_baseline_can_be_read() {
    Baseline::read(&baseline::path()).unwrap();
}

#[test]
fn what_callgrind_wrote_is_added_up_without_what_callees_say_themselves() {
    let text = "version: 1\n\
        positions: line\n\
        events: Ir sysCount sysTime\n\
        fn=serve\n\
        1 10\n\
        cfn=mi_malloc_aligned\n\
        calls=2 0\n\
        1 500\n\
        cfn=write\n\
        calls=3 0\n\
        1 30 3 9\n\
        fn=mi_malloc_aligned\n\
        7 60\n\
        cfn=mi_malloc\n\
        calls=1 0\n\
        7 40\n\
        fn=mi_malloc\n\
        8 40\n\
        fn=write\n\
        9 30 3 9\n\
        fn=clock_gettime@@GLIBC_2.17\n\
        3 4 5 1\n\
        totals: 144 8 10\n";
    let dump = Dump::parse(text).unwrap();
    assert_eq!((dump.instructions, dump.allocations), (144, 2));
    assert_eq!((dump.system_calls(), dump.looks_at_the_clock()), (3, 5));
    assert!(Dump::parse("events: Ir\n").is_err());
}
