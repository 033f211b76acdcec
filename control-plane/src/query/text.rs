//! Walks through the text of a filter, and knows where it is.

use super::schema::shown;

/// A place in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    /// In bytes, at a character's beginning.
    at: usize,
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Characters, from 1.
    pub(super) position: usize,
    pub(super) why: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest().is_empty()
    }

    /// Takes these characters, if they are next.
    pub(super) fn take(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let is_next = self.rest().starts_with(symbol);
        self.at += if is_next { symbol.len() } else { 0 };
        is_next
    }

    /// Takes this word, if it is next and no longer word begins with it.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        self.skip_space();
        let is_next = self.run(is_of_name) == word;
        self.at += if is_next { word.len() } else { 0 };
        is_next
    }

    /// Takes a field's name with what follows its dots; empty when there is none.
    pub(super) fn name(&mut self) -> &'a str {
        self.skip_space();
        let name = self.run(is_of_name);
        self.at += name.len();
        name
    }

    /// Takes a value: in quotes, or everything up to a space or a parenthesis; `None` when there is none.
    ///
    /// # Errors
    /// When quotes are not closed, or a backslash stands before anything but a quote or a backslash.
    pub(super) fn value(&mut self) -> Result<Option<String>, Wrong> {
        self.skip_space();
        if let Some(quote) = self.rest().chars().next().filter(|next| matches!(next, '"' | '\'')) {
            return self.quoted(quote).map(Some);
        }
        let value = self.run(is_of_value);
        self.at += value.len();
        Ok((!value.is_empty()).then(|| value.to_owned()))
    }

    /// What stands here, for messages.
    pub(super) fn found(&mut self) -> String {
        if self.is_at_end() {
            return "the end".into();
        }
        let word = self.run(is_of_value);
        match self.rest().chars().next() {
            Some(symbol) if word.is_empty() => shown(symbol.encode_utf8(&mut [0; 4])),
            _ => shown(word),
        }
    }

    /// That something is wrong here.
    pub(super) fn wrong(&mut self, why: impl Into<String>) -> Wrong {
        self.skip_space();
        self.wrong_exactly_here(why)
    }

    /// That something else was expected here.
    pub(super) fn expected(&mut self, what: &str) -> Wrong {
        let found = self.found();
        self.wrong(format!("expected {what}, found {found}"))
    }

    fn quoted(&mut self, quote: char) -> Result<String, Wrong> {
        let opened = *self;
        self.at += quote.len_utf8();
        let mut value = String::new();
        while let Some(next) = self.rest().chars().next() {
            self.at += next.len_utf8();
            if next == quote {
                return Ok(value);
            }
            if next != '\\' {
                value.push(next);
                continue;
            }
            match self.rest().chars().next() {
                Some(escaped @ ('"' | '\'' | '\\')) => {
                    value.push(escaped);
                    self.at += escaped.len_utf8();
                }
                _ => {
                    return Err(
                        self.wrong_exactly_here("a backslash stands before a quote or a backslash only")
                    );
                }
            }
        }
        Err(opened
            .wrong_exactly_here(format!("these quotes are not closed: expected {quote}, found the end")))
    }

    fn wrong_exactly_here(&self, why: impl Into<String>) -> Wrong {
        Wrong { position: self.text[..self.at].chars().count() + 1, why: why.into() }
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn run(&self, is_part: fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        &rest[..rest.find(|next| !is_part(next)).unwrap_or(rest.len())]
    }
}

/// Keys of labels may hold dots, slashes and more.
fn is_of_name(next: char) -> bool {
    is_of_value(next) && next != ':'
}

/// A colon is part of addresses and instants.
fn is_of_value(next: char) -> bool {
    !next.is_whitespace() && !matches!(next, '(' | ')' | '"' | '\'' | '=' | '!' | '<' | '>')
}
