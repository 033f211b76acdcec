//! Values as people write them into the file.

use std::time::Duration;

use gateway_proto::size;
use serde::{Deserialize, Deserializer, de::Error as _};

/// A number of bytes as people write it: 1500, "10MiB".
pub(super) struct Size(pub(super) i64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number of bytes, or a size such as \"10MiB\"")]
        enum Written {
            Bytes(i64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => match size::parse(&text) {
                Ok(bytes) => Ok(Self(i64::try_from(bytes).unwrap_or(i64::MAX))),
                Err(why) => Err(D::Error::custom(why)),
            },
        }
    }
}

/// A duration as people write it: "800ms", "1m 30s".
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            D::Error::custom(format!("{text:?} is no duration such as \"800ms\" or \"30s\": {error}"))
        })
    }
}
