//! Where the page's stream goes on after it broke: one id for the two watches in it that can. Pure.

/// The position in both; empty where there is none yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// The last event.
    pub(super) event_id: String,
    /// Epoch and revision of the replicas that were told completely.
    pub(super) replicas: Option<(String, i64)>,
}

impl Cursor {
    /// Reads what [`Cursor::text`] wrote. What is nothing of the kind is from the start: a browser keeps an id for as
    /// long as a page is open, and must never be turned away for it.
    pub(super) fn parse(text: &str) -> Self {
        let Some((event_id, replicas)) = text.split_once('|') else { return Self::default() };
        let replicas = replicas
            .rsplit_once(':')
            .and_then(|(epoch, revision)| Some((epoch.to_owned(), revision.parse().ok()?)));
        Self { event_id: event_id.to_owned(), replicas }
    }

    /// The `id` of an event of the stream.
    pub(super) fn text(&self) -> String {
        let replicas = self.replicas.as_ref();
        let replicas = replicas.map(|(epoch, revision)| format!("{epoch}:{revision}")).unwrap_or_default();
        format!("{}|{replicas}", self.event_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_begins_anew() {
        let cursor = Cursor { event_id: "00a-01b".into(), replicas: Some(("e:1".into(), 42)) };
        assert_eq!(cursor.text(), "00a-01b|e:1:42");
        for cursor in [cursor, Cursor::default(), Cursor { event_id: "x".into(), replicas: None }] {
            assert_eq!(Cursor::parse(&cursor.text()), cursor);
        }
        for text in ["", "x", "|", "|e", "|e:x"] {
            assert_eq!(Cursor::parse(text), Cursor::default(), "{text}");
        }
    }

    mod fuzz {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn whatever_a_browser_sends_back_is_a_position_that_is_written_as_it_is_read(text in "[0-9a-z|:+-]{0,16}|.{0,12}") {
                let cursor = Cursor::parse(&text);
                prop_assert_eq!(Cursor::parse(&cursor.text()), cursor);
            }
        }
    }
}
