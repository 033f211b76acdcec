//! Fields that are the same in many heads: checked and written out once, and only copied from then on.

use super::{Line, Section, is_value};
use crate::proxy::head::field_name::Name;

/// One such field.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct ReadyLine {
    name: Name,
    /// With its line break.
    text: Box<[u8]>,
}

impl ReadyLine {
    /// Makes one ready.
    ///
    /// # Panics
    /// When the value has bytes that no field value may have.
    pub(in crate::proxy) fn new(name: Name, value: &str) -> Self {
        assert!(is_value(value.as_bytes()), "a field value has no control bytes");
        Self { name, text: format!("{}: {value}\r\n", name.as_str()).into_bytes().into() }
    }
}

impl Section {
    /// As [`Section::append`], of what is ready.
    #[inline]
    pub(in crate::proxy) fn append_ready(&mut self, ready: &ReadyLine) {
        self.append_written(ready.name, &ready.text);
    }

    /// As [`Section::append_ready`], of a line that is written as this one would be, with its line break.
    #[inline]
    pub(in crate::proxy) fn append_written(&mut self, name: Name, line: &[u8]) {
        debug_assert!(
            line.strip_suffix(b"\r\n")
                .is_some_and(|line| is_value(line) && line.starts_with(name.as_str().as_bytes())),
            "it is one line of that name"
        );
        let start = self.block.len();
        self.block.extend_from_slice(line);
        let name_end = start + name.as_str().len();
        let end = self.block.len();
        self.push(Line::new(Some(name), start..name_end, name_end + 2..end - 2, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::head::fields::Fields;

    #[test]
    fn what_is_ready_is_the_field_that_it_would_be_if_it_were_appended() {
        let (mut ready, mut appended) = (Fields::over(b"x"), Fields::over(b"x"));
        for value in ["", "1.1 gw-dp-1"] {
            ready.append_ready(&ReadyLine::new(Name::Via, value));
            appended.append(Name::Via, value.as_bytes());
        }
        let written = |fields: &Fields| {
            let mut out = Vec::new();
            fields.write_to(&mut out);
            out
        };
        assert_eq!(written(&ready), written(&appended));
        assert_eq!(ready.get_all(Name::Via).collect::<Vec<_>>(), [&b""[..], b"1.1 gw-dp-1"]);
        assert!(ready.contains(Name::Via));
    }

    #[test]
    #[should_panic(expected = "no control bytes")]
    fn nothing_is_made_ready_that_would_make_a_line_of_its_own() {
        ReadyLine::new(Name::Via, "a\r\nb: c");
    }
}
