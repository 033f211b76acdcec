//! What a demo replica was asked, counted by method and path.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::{Value, json};

/// More different paths than this are counted together.
const MAX_ROUTES: usize = 256;
const MAX_PATH_CHARS: usize = 200;

/// Counters of one process.
#[derive(Debug, Default)]
pub(super) struct Stats(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: u64,
    by_route: BTreeMap<String, u64>,
    other: u64,
}

impl Stats {
    /// Counts one request.
    pub(super) fn count(&self, method: &str, path: &str) {
        let path: String = path.chars().take(MAX_PATH_CHARS).collect();
        let mut counts = self.0.lock().expect("no code that counts panics");
        counts.total += 1;
        let room = counts.by_route.len() < MAX_ROUTES;
        let route = format!("{method} {path}");
        match counts.by_route.get_mut(&route) {
            Some(count) => *count += 1,
            None if room => {
                counts.by_route.insert(route, 1);
            }
            None => counts.other += 1,
        }
    }

    /// `{"total":3,"requests":{"GET /hello":3},"other":0}`.
    pub(super) fn to_json(&self) -> Value {
        let counts = self.0.lock().expect("no code that counts panics");
        json!({"total": counts.total, "requests": counts.by_route, "other": counts.other})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_method_and_path() {
        let stats = Stats::default();
        stats.count("GET", "/hello");
        stats.count("GET", "/hello");
        stats.count("POST", "/echo");
        let expected = json!({"total": 3, "requests": {"GET /hello": 2, "POST /echo": 1}, "other": 0});
        assert_eq!(stats.to_json(), expected);
    }

    #[test]
    fn many_different_paths_do_not_grow_it_without_end() {
        let stats = Stats::default();
        for number in 0..1000 {
            stats.count("GET", &format!("/{number}"));
        }
        stats.count("GET", "/0");
        let value = stats.to_json();
        assert_eq!(value["requests"].as_object().unwrap().len(), MAX_ROUTES);
        assert_eq!(value["requests"]["GET /0"], 2);
        assert_eq!(value["other"], 1000 - MAX_ROUTES);
    }
}
