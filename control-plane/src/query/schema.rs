//! The fields of an item, as filters and orders name them.

use std::{borrow::Cow, time::Duration};

use gateway_proto::nearest::distance;
use prost_types::Timestamp;

/// What can be asked of a `T`.
#[derive(Debug)]
pub(crate) struct Schema<T: 'static> {
    /// One of them, for messages: "a replica".
    pub(crate) what: &'static str,
    /// In the order in which messages name them.
    pub(crate) fields: &'static [Field<T>],
}

/// One field of an item.
#[derive(Debug)]
pub(crate) struct Field<T: 'static> {
    /// As callers write it.
    pub(crate) name: &'static str,
    /// How it is read.
    pub(crate) read: Read<T>,
}

/// How a field is read, and with that what it may be compared with.
#[derive(Debug)]
pub(crate) enum Read<T: 'static> {
    /// Text: equal, with `*` for any characters; before and after, by code points; holding a text.
    Text(for<'a> fn(&'a T) -> Cow<'a, str>),
    /// A whole number.
    Number(fn(&T) -> i64),
    /// A number with digits behind the point, if there is one; to a millionth.
    Real(fn(&T) -> Option<f64>),
    /// A length of time, if there is one, written like `250ms`; to the microsecond.
    Span(fn(&T) -> Option<Duration>),
    /// `true` or `false`.
    Flag(fn(&T) -> bool),
    /// An instant in the form of RFC 3339; absent ones are neither before nor after anything.
    Time(fn(&T) -> Option<Timestamp>),
    /// A value of an enum, by name.
    Word(fn(&T) -> i32, Words),
    /// `NAME.KEY`: the text under a key, if there is one.
    Entry(for<'a> fn(&'a T, &str) -> Option<Cow<'a, str>>),
}

/// The values of an enum.
#[derive(Debug)]
pub(crate) struct Words {
    /// What all names begin with and callers may leave out.
    pub(crate) prefix: &'static str,
    /// The full name of a number.
    pub(crate) name: fn(i32) -> Option<&'static str>,
    /// Whether `<` and the like mean something.
    pub(crate) is_ordered: bool,
}

/// A value that compares with others of the same field. What is absent comes before everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key<'a> {
    /// No such entry, or no instant.
    Absent,
    /// Of a flag.
    Flag(bool),
    /// Of a number, in millionths if it has digits behind the point, a length of time in microseconds, or an enum.
    Number(i64),
    /// Seconds and nanoseconds.
    Time(i64, i32),
    /// Of a text or an entry.
    Text(Cow<'a, str>),
}

/// Which field, and which key of it when it is a map.
#[derive(Debug)]
pub(crate) struct Path<T: 'static> {
    pub(super) field: &'static Field<T>,
    pub(super) key: Box<str>,
}

impl<T> Schema<T> {
    /// Finds a field by what a caller wrote.
    ///
    /// # Errors
    /// What is wrong with it, and what may have been meant.
    pub(super) fn path(&self, name: &str, key: Option<&str>) -> Result<Path<T>, String> {
        let field = self.fields.iter().find(|field| field.name == name);
        let Some(field) = field else {
            return Err(self.unknown(&key.map_or(name.to_owned(), |key| format!("{name}.{key}"))));
        };
        match (&field.read, key) {
            (Read::Entry(_), None | Some("")) => Err(format!("{name} needs a key: {name}.KEY")),
            (Read::Entry(_), Some(key)) => Ok(Path { field, key: key.into() }),
            (_, None) => Ok(Path { field, key: "".into() }),
            (_, Some(key)) => Err(format!("{name} has no field {}", shown(key))),
        }
    }

    /// The names of all fields, as messages and `docs/filters.md` list them.
    pub(crate) fn listed(&self) -> String {
        let named = self.fields.iter().map(|field| match field.read {
            Read::Entry(_) => format!("{}.KEY", field.name),
            _ => field.name.to_owned(),
        });
        named.collect::<Vec<_>>().join(", ")
    }

    fn unknown(&self, written: &str) -> String {
        let names = || self.fields.iter().map(|field| field.name);
        let hint = match closest(written, names()) {
            Some(name) => format!("did you mean {name}"),
            None => format!("there are {}", self.listed()),
        };
        format!("{} is no field of {}: {hint}", shown(written), self.what)
    }
}

impl Key<'static> {
    /// Of [`Read::Real`].
    pub(super) fn of_real(number: f64) -> Self {
        // A cast from a float saturates.
        Self::Number((number * 1e6).round() as i64)
    }

    /// Of [`Read::Span`].
    pub(super) fn of_span(span: Duration) -> Self {
        Self::Number(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
    }
}

impl<T> Path<T> {
    /// The value of the field.
    pub(super) fn read<'a>(&self, item: &'a T) -> Key<'a> {
        match &self.field.read {
            Read::Text(read) => Key::Text(read(item)),
            Read::Number(read) => Key::Number(read(item)),
            Read::Real(read) => read(item).map_or(Key::Absent, Key::of_real),
            Read::Span(read) => read(item).map_or(Key::Absent, Key::of_span),
            Read::Flag(read) => Key::Flag(read(item)),
            Read::Time(read) => read(item).map_or(Key::Absent, |at| Key::Time(at.seconds, at.nanos)),
            Read::Word(read, _) => Key::Number(read(item).into()),
            Read::Entry(read) => read(item, &self.key).map_or(Key::Absent, Key::Text),
        }
    }

    /// As callers write it.
    pub(super) fn name(&self) -> String {
        match self.field.read {
            Read::Entry(_) => format!("{}.{}", self.field.name, self.key),
            _ => self.field.name.to_owned(),
        }
    }
}

impl Words {
    /// No enum of the contract has as many.
    const MAX: i32 = 64;

    /// The number of a name, whole or without its prefix, in capitals or not.
    ///
    /// # Errors
    /// The names there are, and which may have been meant.
    pub(super) fn number(&self, written: &str) -> Result<i32, String> {
        let written_in_capitals = written.to_ascii_uppercase();
        let short = written_in_capitals.strip_prefix(self.prefix).unwrap_or(&written_in_capitals);
        if let Some((number, _)) = self.all().find(|(_, name)| *name == short) {
            return Ok(number);
        }
        let names = || self.all().map(|(_, name)| name);
        Err(match closest(short, names()) {
            Some(name) => format!("{} is not among its values: did you mean {name}", shown(written)),
            None => {
                let names = names().collect::<Vec<_>>().join(", ");
                format!("{} is not among its values: {names}", shown(written))
            }
        })
    }

    /// Numbers and names without prefix, but for UNSPECIFIED.
    fn all(&self) -> impl Iterator<Item = (i32, &'static str)> {
        let short = |number| {
            let name = (self.name)(number)?;
            Some((number, name.strip_prefix(self.prefix).unwrap_or(name)))
        };
        (1..Self::MAX).filter_map(short)
    }
}

/// What a caller wrote, short and in quotes.
pub(super) fn shown(written: &str) -> String {
    const MAX_CHARS: usize = 40;
    let mut short: String = written.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if written.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    format!("\"{short}\"")
}

/// The known word that is at most two slips away from a written one, and fewer than half its length.
fn closest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written: Vec<_> = written.chars().take(64).flat_map(char::to_lowercase).collect();
    let lower = |word: &str| word.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    let distances = known.map(|word| (distance(&written, &lower(word)), word));
    let (slips, word) = distances.min_by_key(|(slips, _)| *slips)?;
    (slips <= 2 && 2 * slips < word.len()).then_some(word)
}
