//! Which rows of a list that is read again and again have changed. Pure.

use std::collections::HashMap;

use serde_json::Value;

/// The rows that a reader has, by name.
#[derive(Debug, Default)]
pub(super) struct Rows(HashMap<String, Row>);

#[derive(Debug)]
struct Row {
    told: Value,
    /// How often it was read since it was told.
    reads: u32,
    is_there: bool,
}

/// What a reader has to learn.
#[derive(Debug, PartialEq, Default)]
pub(super) struct News {
    pub(super) changed: Vec<Value>,
    pub(super) gone: Vec<String>,
}

impl Rows {
    /// Compares a list with what was told. A row is named by the field `name`; one in which only `ticking` has moved
    /// on is told every `rest` reads: a time that is always now would make every row news each time.
    pub(super) fn update(&mut self, list: Vec<Value>, name: &str, ticking: &str, rest: u32) -> News {
        let mut news = News::default();
        self.0.values_mut().for_each(|row| row.is_there = false);
        for value in list {
            let Some(key) = value.get(name).and_then(Value::as_str).map(str::to_owned) else { continue };
            match self.0.get_mut(&key) {
                Some(row) => {
                    (row.is_there, row.reads) = (true, row.reads + 1);
                    let is_due = row.reads >= rest && row.told != value;
                    if is_due || !same_apart_from(&row.told, &value, ticking) {
                        (row.told, row.reads) = (value.clone(), 0);
                        news.changed.push(value);
                    }
                }
                None => {
                    self.0.insert(key, Row { told: value.clone(), reads: 0, is_there: true });
                    news.changed.push(value);
                }
            }
        }
        news.gone = self.0.extract_if(|_, row| !row.is_there).map(|(name, _)| name).collect();
        news.gone.sort();
        news
    }
}

fn same_apart_from(one: &Value, other: &Value, ticking: &str) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| name == ticking || other.get(name) == Some(value))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(id: &str, state: &str, at: u32) -> Value {
        json!({"nodeId": id, "state": state, "at": at})
    }

    #[test]
    fn a_row_is_told_when_it_is_new_or_changed_and_its_time_only_now_and_then() {
        let mut rows = Rows::default();
        let mut update = |list: Vec<Value>| rows.update(list, "nodeId", "at", 3);
        assert_eq!(update(vec![node("a", "SYNCED", 1)]).changed, [node("a", "SYNCED", 1)]);
        assert_eq!(update(vec![node("a", "SYNCED", 2)]), News::default());
        assert_eq!(update(vec![node("a", "LAGGING", 3)]).changed, [node("a", "LAGGING", 3)]);
        assert_eq!(update(vec![node("a", "LAGGING", 4)]), News::default());
        assert_eq!(update(vec![node("a", "LAGGING", 5)]), News::default());
        assert_eq!(update(vec![node("a", "LAGGING", 6)]).changed, [node("a", "LAGGING", 6)]);
    }

    #[test]
    fn what_is_not_in_the_list_any_more_is_gone_once() {
        let mut rows = Rows::default();
        rows.update(vec![node("a", "", 0), node("b", "", 0)], "nodeId", "at", 3);
        assert_eq!(rows.update(vec![node("b", "", 0)], "nodeId", "at", 3).gone, ["a"]);
        assert_eq!(rows.update(vec![node("b", "", 0)], "nodeId", "at", 3), News::default());
    }
}
