//! In which order a caller wants a list, and how a list in any order is cut into pages.
//!
//! A page goes on after the last item of the one before by what it was sorted by, not by its place. So items that come
//! or go between two pages neither repeat nor hide others.

use std::{borrow::Cow, cmp::Ordering};

use gateway_proto::Invalid;
use serde_json::Value;

use super::schema::{Key, Path, Schema, shown};

const MAX_CHARS: usize = 1000;
/// An order by more fields than this has been decided long before the last one.
const MAX_FIELDS: usize = 8;

/// An order that has been read. Without one, a list is in the order of its items' names.
#[derive(Debug)]
pub(crate) struct Order<T: 'static>(Vec<(Path<T>, Direction)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

impl<T> Order<T> {
    /// Reads `field [asc|desc], …`; an empty text is the order by name.
    ///
    /// # Errors
    /// [`Invalid`] for the field `order_by`.
    pub(crate) fn parse(schema: &'static Schema<T>, text: &str) -> Result<Self, Invalid> {
        let refuse = |why: String| Err(Invalid::new("order_by", why));
        let length = text.chars().count();
        if length > MAX_CHARS {
            return refuse(format!("has {length} characters, at most {MAX_CHARS} are allowed"));
        }
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        let mut fields: Vec<(Path<T>, Direction)> = Vec::new();
        for part in text.split(',') {
            let mut words = part.split_whitespace();
            let Some(written) = words.next() else {
                return refuse("names no field between two commas".into());
            };
            let direction = match (words.next(), words.next()) {
                (None, _) => Direction::Ascending,
                (Some(word), None) if word.eq_ignore_ascii_case("asc") => Direction::Ascending,
                (Some(word), None) if word.eq_ignore_ascii_case("desc") => Direction::Descending,
                (Some(word), None) => {
                    return refuse(format!(
                        "expected asc, desc or a comma after {written}, found {}",
                        shown(word)
                    ));
                }
                (_, Some(word)) => return refuse(format!("expected a comma, found {}", shown(word))),
            };
            let (name, key) =
                written.split_once('.').map_or((written, None), |(name, key)| (name, Some(key)));
            let path = schema.path(name, key).map_err(|why| Invalid::new("order_by", why))?;
            if fields.iter().any(|(known, _)| known.name() == path.name()) {
                return refuse(format!("names {} twice", path.name()));
            }
            if fields.len() == MAX_FIELDS {
                return refuse(format!("names more than {MAX_FIELDS} fields"));
            }
            fields.push((path, direction));
        }
        Ok(Self(fields))
    }

    /// Whether the list stays in the order by name: nothing else is asked for, or just that by these fields.
    pub(crate) fn is_by_name(&self, names: &[&str]) -> bool {
        let mut fields = self.0.iter().zip(names);
        self.0.len() <= names.len()
            && fields.all(|((path, direction), name)| {
                *direction == Direction::Ascending && path.field.name == *name
            })
    }

    /// Which of two items comes first, as far as the order says.
    pub(crate) fn compare(&self, one: &T, other: &T) -> Ordering {
        let by_field =
            self.0.iter().map(|(path, direction)| direction.turn(path.read(one).cmp(&path.read(other))));
        by_field.fold(Ordering::Equal, Ordering::then)
    }

    /// As [`Order::compare`], with an item of which only its keys are known.
    pub(crate) fn compare_with(&self, item: &T, keys: &[Key<'_>]) -> Ordering {
        let by_field =
            self.0.iter().zip(keys).map(|((path, direction), key)| direction.turn(path.read(item).cmp(key)));
        by_field.fold(Ordering::Equal, Ordering::then)
    }

    /// What an item is sorted by, and its name, as one text for a page token.
    pub(crate) fn write_place(&self, item: &T, name: &str) -> String {
        let mut place: Vec<Value> = self.0.iter().map(|(path, _)| to_json(path.read(item))).collect();
        place.push(name.into());
        Value::Array(place).to_string()
    }

    /// Reads what [`Order::write_place`] wrote; `None` when it is not of this order.
    pub(crate) fn read_place(&self, place: &str) -> Option<(Vec<Key<'static>>, String)> {
        let Ok(Value::Array(mut values)) = serde_json::from_str(place) else { return None };
        let Some(Value::String(name)) = values.pop() else { return None };
        let keys: Vec<_> = values.into_iter().map(from_json).collect::<Option<_>>()?;
        (keys.len() == self.0.len()).then_some((keys, name))
    }
}

impl Direction {
    fn turn(self, order: Ordering) -> Ordering {
        match self {
            Self::Ascending => order,
            Self::Descending => order.reverse(),
        }
    }
}

/// The first items of a list in some order, gathered one by one. It never holds more than a few pages of them.
#[derive(Debug)]
pub(crate) struct First<I, C> {
    items: Vec<I>,
    count: usize,
    compare: C,
}

impl<I, C: Fn(&I, &I) -> Ordering> First<I, C> {
    /// How many more items than wanted may gather, so that sorting them out costs little for each.
    const SLACK: usize = 1024;

    /// Gathers the first `count` items.
    pub(crate) fn new(count: usize, compare: C) -> Self {
        Self { items: Vec::new(), count, compare }
    }

    /// Takes an item in.
    pub(crate) fn push(&mut self, item: I) {
        self.items.push(item);
        if self.items.len() >= 2 * self.count + Self::SLACK {
            self.cut();
        }
    }

    /// The items, in order.
    pub(crate) fn sorted(mut self) -> Vec<I> {
        self.cut();
        self.items.sort_unstable_by(&self.compare);
        self.items
    }

    /// Keeps the first ones, in any order.
    fn cut(&mut self) {
        if 0 < self.count && self.count < self.items.len() {
            self.items.select_nth_unstable_by(self.count - 1, &self.compare);
        }
        self.items.truncate(self.count);
    }
}

fn to_json(key: Key<'_>) -> Value {
    match key {
        Key::Absent => Value::Null,
        Key::Flag(flag) => flag.into(),
        Key::Number(number) => number.into(),
        Key::Time(seconds, nanos) => vec![Value::from(seconds), Value::from(nanos)].into(),
        Key::Text(text) => text.into_owned().into(),
    }
}

fn from_json(value: Value) -> Option<Key<'static>> {
    Some(match value {
        Value::Null => Key::Absent,
        Value::Bool(flag) => Key::Flag(flag),
        Value::Number(number) => Key::Number(number.as_i64()?),
        Value::Array(parts) => {
            let [seconds, nanos] = parts.as_slice() else { return None };
            Key::Time(seconds.as_i64()?, i32::try_from(nanos.as_i64()?).ok()?)
        }
        Value::String(text) => Key::Text(Cow::Owned(text)),
        Value::Object(_) => return None,
    })
}
