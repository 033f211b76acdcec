//! Which cores tests/bench/run proxy gives to whom, on machines that are not there to try.

#![allow(dead_code, reason = "the benchmark uses the rest")]

#[path = "../bench/proxy/cores.rs"]
mod cores;

use cores::Cores;

fn cores(list: &str) -> Cores {
    Cores::parse(list).expect("it is a list of cores")
}

#[test]
fn the_proxy_has_the_first_cores_and_the_load_the_others() {
    let many = cores("2-4,8,10-11");
    assert_eq!((many.of_proxy(1), many.of_load(1)), ("2".into(), "3,4,8,10,11".into()));
    assert_eq!((many.of_proxy(2), many.of_load(2)), ("2,3".into(), "4,8,10,11".into()));
    let two = cores("0-1");
    assert_eq!((two.of_proxy(2), two.of_load(2)), ("0,1".into(), "1".into()), "the load has one in any case");
    let one = cores("5");
    assert_eq!((one.of_proxy(2), one.of_load(2)), ("5".into(), "5".into()));
    assert!(Cores::parse("").is_err());
}

#[test]
fn rates_of_workers_are_compared_only_where_nobody_shares_a_core() {
    let few = cores("0-4");
    assert_eq!(few.threads_for(2), 1);
    assert!(few.verdict(2).contains("5 cores, and 2 workers need 6"), "{}", few.verdict(2));
    let enough = cores("0-5");
    assert_eq!(enough.threads_for(2), 2);
    assert!(enough.verdict(2).contains("rates can be compared"), "{}", enough.verdict(2));
}
