//! What says that the keys below a prefix are ours: drawn once, by whoever makes the store.

use super::super::ANOTHER_FORMAT;

/// Of the keys and of what they hold. A later layout has another number.
const FORMAT: &str = "1";

/// The value of `meta`, a line for people who look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    drawn: String,
}

impl Meta {
    /// Of a new store: `drawn` is random.
    pub(super) fn new(drawn: String) -> Self {
        Self { drawn }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        format!("gateway store, format {FORMAT}, epoch {}", self.drawn).into_bytes()
    }

    /// Reads it.
    ///
    /// # Errors
    /// Why it is none that this version uses.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix("gateway store, format "));
        let (format, drawn) = text
            .and_then(|text| text.split_once(", epoch "))
            .filter(|(_, drawn)| !drawn.is_empty())
            .ok_or("it says that it is something else")?;
        if format != FORMAT {
            return Err(format!(
                "it has format {format}, this version reads format {FORMAT}; {ANOTHER_FORMAT}"
            ));
        }
        Ok(Self { drawn: drawn.to_owned() })
    }

    /// The epoch of the store in this cluster: a copy in another cluster is another store.
    pub(super) fn epoch_in(&self, cluster: u64) -> String {
        format!("{}-{cluster:x}", self.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_its_bytes_and_nothing_else_is_taken_for_it() {
        let meta = Meta::new("0a1b".into());
        assert_eq!(Meta::decode(&meta.encode()), Ok(meta.clone()));
        assert_ne!(meta.epoch_in(1), meta.epoch_in(2));
        assert!(Meta::decode(b"gateway store, format 2, epoch a").unwrap_err().contains("format 2"));
        for other in [&b""[..], b"gateway store, format 1, epoch ", b"hello", &[255]] {
            assert!(Meta::decode(other).is_err());
        }
    }
}
