//! Which items a caller wants: a subset of AIP-160, read once.
//!
//! ```text
//! filter     = term { AND term } | term { OR term }        AND and OR mix only by parentheses
//! term       = { NOT | "-" } ( "(" filter ")" | comparison )
//! comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | ":" ) value
//! ```
//!
//! AIP-160 lets OR bind tighter than AND, against what every programming language does: whoever mixes them is asked to
//! say what belongs together. `!=` is exactly NOT `=`, so it also holds where a key is absent.

use gateway_proto::Invalid;
use prost_types::Timestamp;

use super::{
    schema::{Key, Path, Read, Schema, shown},
    text::{Cursor, Wrong},
};

const MAX_CHARS: usize = 1000;
/// Parentheses within parentheses: what is read recursively must have an end.
const MAX_DEPTH: usize = 32;

/// A filter that has been read. Without one, every item is admitted.
#[derive(Debug)]
pub(crate) struct Filter<T: 'static>(Option<Expression<T>>);

#[derive(Debug)]
enum Expression<T: 'static> {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Holds(Path<T>, Test),
}

#[derive(Debug)]
enum Test {
    /// Never true of what is absent.
    Compare(Operator, Key<'static>),
    /// Pieces that follow each other, with anything between them.
    Matches(Vec<Box<str>>),
    Contains(Box<str>),
    /// There, and not empty unless it is an entry.
    IsSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Has,
}

impl<T> Filter<T> {
    /// Reads a filter; an empty one admits everything.
    ///
    /// # Errors
    /// [`Invalid`] for the field `filter` with the position at fault, counted in characters from 1, and what is expected.
    pub(crate) fn parse(schema: &'static Schema<T>, text: &str) -> Result<Self, Invalid> {
        let length = text.chars().count();
        if length > MAX_CHARS {
            let why = format!("has {length} characters, at most {MAX_CHARS} are allowed");
            return Err(Invalid::new("filter", why));
        }
        let mut parser = Parser { cursor: Cursor::new(text), schema };
        if parser.cursor.is_at_end() {
            return Ok(Self(None));
        }
        let parsed = parser.filter(0).and_then(|expression| match parser.cursor.is_at_end() {
            true => Ok(Self(Some(expression))),
            false => Err(parser.cursor.expected("AND, OR or the end")),
        });
        parsed.map_err(|Wrong { position, why }| Invalid::new("filter", format!("at {position}: {why}")))
    }

    /// Whether it admits everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it admits the item.
    pub(crate) fn admits(&self, item: &T) -> bool {
        self.0.as_ref().is_none_or(|expression| expression.admits(item))
    }
}

impl<T> Expression<T> {
    fn admits(&self, item: &T) -> bool {
        match self {
            Self::All(terms) => terms.iter().all(|term| term.admits(item)),
            Self::Any(terms) => terms.iter().any(|term| term.admits(item)),
            Self::Not(term) => !term.admits(item),
            Self::Holds(path, test) => test.holds(&path.read(item)),
        }
    }
}

impl Test {
    fn holds(&self, value: &Key<'_>) -> bool {
        match (self, value) {
            (_, Key::Absent) => false,
            (Self::Compare(operator, other), value) => {
                let order = value.cmp(other);
                match operator {
                    Operator::Equal | Operator::Has => order.is_eq(),
                    Operator::NotEqual => order.is_ne(),
                    Operator::Less => order.is_lt(),
                    Operator::LessOrEqual => order.is_le(),
                    Operator::Greater => order.is_gt(),
                    Operator::GreaterOrEqual => order.is_ge(),
                }
            }
            (Self::Matches(pieces), Key::Text(text)) => matches(pieces, text),
            (Self::Contains(part), Key::Text(text)) => text.contains(&**part),
            (Self::IsSet, _) => true,
            (Self::Matches(_) | Self::Contains(_), _) => false,
        }
    }
}

/// Whether the text begins with the first piece, ends with the last, and holds the others between them, in order.
fn matches(pieces: &[Box<str>], text: &str) -> bool {
    let [first, between @ .., last] = pieces else { return pieces.iter().all(|only| **only == *text) };
    let Some(mut rest) = text.strip_prefix(&**first) else { return false };
    for piece in between {
        // The leftmost place leaves the most room for what follows.
        let Some(found) = rest.find(&**piece) else { return false };
        rest = &rest[found + piece.len()..];
    }
    rest.ends_with(&**last)
}

struct Parser<'a, T: 'static> {
    cursor: Cursor<'a>,
    schema: &'static Schema<T>,
}

impl<T> Parser<'_, T> {
    fn filter(&mut self, depth: usize) -> Result<Expression<T>, Wrong> {
        let first = self.term(depth)?;
        let mut terms = vec![first];
        let mut joined_by = None;
        loop {
            let mut before = self.cursor;
            let joint = match () {
                () if self.cursor.take_word("AND") => "AND",
                () if self.cursor.take_word("OR") => "OR",
                () => break,
            };
            if *joined_by.get_or_insert(joint) != joint {
                return Err(before.wrong("AND and OR are mixed: say with parentheses what belongs together"));
            }
            terms.push(self.term(depth)?);
        }
        Ok(match (joined_by, terms.len()) {
            (_, 1) => terms.remove(0),
            (Some("OR"), _) => Expression::Any(terms),
            _ => Expression::All(terms),
        })
    }

    fn term(&mut self, depth: usize) -> Result<Expression<T>, Wrong> {
        let mut is_negated = false;
        while self.cursor.take_word("NOT") || self.cursor.take("-") {
            is_negated = !is_negated;
        }
        let mut opened = self.cursor;
        let expression = if self.cursor.take("(") {
            if depth == MAX_DEPTH {
                return Err(opened.wrong(format!("parentheses are nested more than {MAX_DEPTH} deep")));
            }
            let inner = self.filter(depth + 1)?;
            if !self.cursor.take(")") {
                return Err(self.cursor.expected("AND, OR or )"));
            }
            inner
        } else {
            self.comparison()?
        };
        Ok(if is_negated { Expression::Not(Box::new(expression)) } else { expression })
    }

    fn comparison(&mut self) -> Result<Expression<T>, Wrong> {
        let mut start = self.cursor;
        let written = self.cursor.name();
        if written.is_empty() || written == "AND" || written == "OR" {
            return Err(start.expected("a field, NOT, - or ("));
        }
        let (name, mut key) = match written.split_once('.') {
            Some((name, key)) => (name, Some(key.to_owned())),
            None => (written, None),
        };
        // A key with spaces and the like stands in quotes: labels."a key".
        if key.as_deref() == Some("") {
            key = self.cursor.value()?;
        }
        let mut before = self.cursor;
        let operator = self.operator();
        let mut at_value = self.cursor;
        if let (None, Some(Operator::Has), true) = (&key, operator, self.is_map(name)) {
            key = self.cursor.value()?.filter(|key| key != "*");
            let path = self.schema.path(name, key.as_deref()).map_err(|why| at_value.wrong(why))?;
            return Ok(Expression::Holds(path, Test::IsSet));
        }
        let path = self.schema.path(name, key.as_deref()).map_err(|why| start.wrong(why))?;
        let Some(operator) = operator else { return Err(before.expected("= != < <= > >= or :")) };
        let value = self.cursor.value()?.filter(|value| !matches!(value.as_str(), "AND" | "OR" | "NOT"));
        let value = value.ok_or_else(|| at_value.expected("a value"))?;
        let test = test(&path, operator, value).map_err(|why| at_value.wrong(why))?;
        let holds = Expression::Holds(path, test);
        Ok(if operator == Operator::NotEqual { Expression::Not(Box::new(holds)) } else { holds })
    }

    fn is_map(&self, name: &str) -> bool {
        let mut fields = self.schema.fields.iter();
        fields.any(|field| field.name == name && matches!(field.read, Read::Entry(_)))
    }

    fn operator(&mut self) -> Option<Operator> {
        let operators = [
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("!=", Operator::NotEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
            ("=", Operator::Equal),
            (":", Operator::Has),
        ];
        operators.into_iter().find(|(symbol, _)| self.cursor.take(symbol)).map(|(_, operator)| operator)
    }
}

/// The test that a value stands for; that of `!=` is the one of `=`.
fn test<T>(path: &Path<T>, operator: Operator, value: String) -> Result<Test, String> {
    let has_order = !matches!(operator, Operator::Equal | Operator::NotEqual | Operator::Has);
    let compare =
        |key| Ok(Test::Compare(if operator == Operator::NotEqual { Operator::Equal } else { operator }, key));
    let name = || path.name();
    match &path.field.read {
        Read::Text(_) | Read::Entry(_) => Ok(match operator {
            Operator::Has if value == "*" => match path.field.read {
                Read::Entry(_) => Test::IsSet,
                _ => Test::Compare(Operator::NotEqual, Key::Text("".into())),
            },
            Operator::Has => Test::Contains(value.into()),
            Operator::Equal | Operator::NotEqual if value.contains('*') => {
                Test::Matches(value.split('*').map(Box::from).collect())
            }
            _ => return compare(Key::Text(value.into())),
        }),
        Read::Number(_) => {
            let number = value.parse();
            compare(Key::Number(number.map_err(|_| {
                format!("{} is compared with whole numbers, not with {}", name(), shown(&value))
            })?))
        }
        Read::Real(_) | Read::Span(_) | Read::Time(_) if operator == Operator::Has && value == "*" => {
            Ok(Test::IsSet)
        }
        Read::Real(_) => {
            let number = value.parse().ok().filter(|number: &f64| number.is_finite());
            compare(Key::of_real(
                number.ok_or_else(|| {
                    format!("{} is compared with numbers, not with {}", name(), shown(&value))
                })?,
            ))
        }
        Read::Span(_) => compare(Key::of_span(humantime::parse_duration(&value).map_err(|_| {
            format!("{} is compared with lengths of time like 250ms, not with {}", name(), shown(&value))
        })?)),
        Read::Flag(_) if has_order => Err(format!("{} is true or false, not more or less", name())),
        Read::Flag(_) => match value.as_str() {
            "true" => compare(Key::Flag(true)),
            "false" => compare(Key::Flag(false)),
            _ => Err(format!("{} is true or false, not {}", name(), shown(&value))),
        },
        Read::Time(_) => {
            let at = value.parse::<Timestamp>().ok().filter(gateway_proto::time::is_valid);
            let at = at.ok_or_else(|| {
                let found = shown(&value);
                format!("{} is compared with instants like 2026-01-31T12:00:00Z, not with {found}", name())
            })?;
            compare(Key::Time(at.seconds, at.nanos))
        }
        Read::Word(_, words) if has_order && !words.is_ordered => {
            Err(format!("{} has no order: compare it by = or !=", name()))
        }
        Read::Word(_, words) => {
            let number = words.number(&value).map_err(|why| format!("{}: {why}", name()))?;
            compare(Key::Number(number.into()))
        }
    }
}
