//! What a client gets when no replica of a service could answer well.

use std::time::Duration;

use super::{Statuses, text::text};
use crate::{ServiceName, token::is_token};

/// What a client gets instead of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallback {
    /// Answers that are failures here, whoever gives them. Default 502..=504.
    pub statuses: Statuses,
    /// The service that is asked next. Default empty: none is.
    pub service: FallbackService,
    /// How old the last good answer to the same GET may be that is given next. Default zero: none is; else up to a day.
    pub stale_max_age: Duration,
    /// Fields of requests that are no reason to keep no such answer, beside those that are known to be none. Default empty.
    pub stale_ignored_fields: FallbackFields,
    /// The status of the answer that the gateway gives if there is no such service or it fails, too. Default 0: it gives none;
    /// else 200..=599.
    pub static_status: u32,
    /// What that answer's body is. Default `application/json`.
    pub content_type: FallbackContentType,
    /// That answer's body. Default empty.
    pub body: FallbackBody,
}

impl Default for Fallback {
    fn default() -> Self {
        Self {
            statuses: "502..=504".parse().expect("they are statuses"),
            service: FallbackService::default(),
            stale_max_age: Duration::ZERO,
            stale_ignored_fields: FallbackFields::default(),
            static_status: 0,
            content_type: FallbackContentType::default(),
            body: FallbackBody::default(),
        }
    }
}

impl Fallback {
    /// Whether there is anything to fall back to.
    pub fn is_any(&self) -> bool {
        self.answers_all() || !self.stale_max_age.is_zero()
    }

    /// Whether there is something for every request.
    pub fn answers_all(&self) -> bool {
        self.static_status != 0 || !self.service.as_str().is_empty()
    }
}

text!(
    /// The name of a service; empty for none.
    FallbackService(63),
    "empty or the name of a service",
    "",
    |text| text.is_empty() || ServiceName::parse(text).is_ok()
);

text!(
    /// Names of header fields.
    FallbackFields(255),
    "empty or names of header fields, separated by commas, of at most 255 bytes",
    "",
    |text| text.is_empty() || text.split(',').all(is_token)
);

impl FallbackFields {
    /// Whether a field is among them; names know no case.
    pub fn has(&self, name: &[u8]) -> bool {
        self.as_str().split(',').any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
    }
}

text!(
    /// A media type, with or without parameters, as a `Content-Type` has it.
    FallbackContentType(127),
    "a media type such as text/html; charset=utf-8, of at most 127 visible ASCII characters",
    "application/json",
    |text| {
        let is_visible = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let has_halves = text.split_once('/').is_some_and(|(one, other)| !one.is_empty() && !other.is_empty());
        is_visible && has_halves && text.trim() == text
    }
);

text!(
    /// The whole of a short body. A longer one belongs to a service that can be asked.
    FallbackBody(1024),
    "a text of at most 1024 bytes",
    "",
    |_| true
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fallen_back_to_unless_somebody_says_so() {
        let none = Fallback::default();
        assert!(!none.is_any());
        assert!(none.statuses.has(502) && none.statuses.has(504) && !none.statuses.has(500));
        assert!(Fallback { static_status: 200, ..none }.is_any());
        assert!(Fallback { service: "orders-cache".parse().unwrap(), ..none }.is_any());
        let stale = Fallback { stale_max_age: Duration::from_secs(60), ..none };
        assert!(stale.is_any() && !stale.answers_all());
    }

    #[test]
    fn services_types_and_bodies_have_their_forms_and_all_else_is_refused() {
        assert!("Orders".parse::<FallbackService>().is_err());
        for good in ["application/json", "text/html; charset=utf-8"] {
            assert_eq!(good.parse::<FallbackContentType>().unwrap().as_str(), good);
        }
        let long = format!("text/{}", "h".repeat(123));
        for bad in ["", "json", "/json", "text/", "text/html\r\nx: y", " text/html", long.as_str()] {
            assert!(bad.parse::<FallbackContentType>().is_err(), "{bad:?}");
        }
        let fields: FallbackFields = "x-app-version,X-Client".parse().unwrap();
        assert!(
            fields.has(b"X-App-Version")
                && fields.has(b"x-client")
                && !fields.has(b"x-app")
                && !fields.has(b"")
        );
        assert!(!FallbackFields::default().has(b"x-client"));
        for bad in ["x-a,", ",", "x-a, x-b", "x a", &"x".repeat(256)] {
            assert!(bad.parse::<FallbackFields>().is_err(), "{bad:?}");
        }
        let longest = "ä".repeat(512);
        assert_eq!(longest.parse::<FallbackBody>().unwrap().as_str(), longest);
        let why = format!("{longest}x").parse::<FallbackBody>().unwrap_err().to_string();
        assert!(why.ends_with("is not a text of at most 1024 bytes"), "{why}");
    }
}
