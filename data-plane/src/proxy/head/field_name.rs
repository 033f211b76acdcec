//! The names of header fields that the gateway reads or writes itself. All others pass as the bytes that they are.

use http::HeaderName;

macro_rules! names {
    ($($variant:ident = $text:literal,)+) => {
        /// A field name that means something to the gateway.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(in crate::proxy) enum Name { $($variant,)+ }

        impl Name {
            pub(in crate::proxy) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As the gateway writes it: in lower case.
            pub(in crate::proxy) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// As the crate of HTTP's vocabulary has it: neither parsed nor allocated.
            pub(in crate::proxy) fn header_name(self) -> HeaderName {
                static NAMES: [HeaderName; [$(Name::$variant),+].len()] = [$(HeaderName::from_static($text)),+];
                NAMES[self as usize].clone()
            }
        }
    };
}

names! {
    Allow = "allow",
    Connection = "connection",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Expect = "expect",
    Forwarded = "forwarded",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    KeepAlive = "keep-alive",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyConnection = "proxy-connection",
    ProxyStatus = "proxy-status",
    RetryAfter = "retry-after",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    Via = "via",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedPrefix = "x-forwarded-prefix",
    XForwardedProto = "x-forwarded-proto",
    XGwAttempts = "x-gw-attempts",
    XGwReplica = "x-gw-replica",
    XRequestId = "x-request-id",
}

/// The longest name has one byte less.
const LENGTHS: usize = 19;
/// So many names, at most, have the same length.
const OF_ONE_LENGTH: usize = 6;

/// The names of each length by what they end with, those there are in front.
static BY_LENGTH: [[Option<(u64, Name)>; OF_ONE_LENGTH]; LENGTHS] = {
    let mut table = [[None; OF_ONE_LENGTH]; LENGTHS];
    let mut index = 0;
    while index < Name::ALL.len() {
        let name = Name::ALL[index];
        let text = name.as_str().as_bytes();
        let of_length = &mut table[text.len()];
        let mut place = 0;
        while of_length[place].is_some() {
            place += 1;
        }
        of_length[place] = Some((ending(text), name));
        index += 1;
    }
    table
};

impl Name {
    /// What this name means to the gateway, in whichever case it is written.
    pub(in crate::proxy) fn of(name: &[u8]) -> Option<Self> {
        let mut of_length = BY_LENGTH.get(name.len())?.iter().map_while(|known| *known);
        let end = ending(name);
        let (_, known) = of_length
            .find(|(known_end, known)| *known_end == end && begins_as(known.as_str().as_bytes(), name))?;
        Some(known)
    }
}

/// A small letter and its capital differ in this bit of each byte, which a dash has, too.
const SMALL: u64 = 0x2020_2020_2020_2020;

/// The last eight bytes of a name in small letters, or all of a shorter one: a number that is compared at once. Two names of one length
/// and without control bytes that share it are the same in these.
#[inline]
const fn ending(name: &[u8]) -> u64 {
    let end = match (name.last_chunk::<8>(), name.first_chunk::<4>(), name.last_chunk::<4>()) {
        (Some(end), _, _) => u64::from_ne_bytes(*end),
        // They overlap, or touch.
        (None, Some(start), Some(end)) => {
            (u32::from_ne_bytes(*start) as u64) << 32 | u32::from_ne_bytes(*end) as u64
        }
        _ => {
            let (mut number, mut at) = (0, 0);
            while at < name.len() {
                number = number << 8 | name[at] as u64;
                at += 1;
            }
            number
        }
    };
    end | SMALL
}

/// Whether `name`, which is as long and has no control bytes, begins as this one, of small letters and dashes, in any case, where it is
/// longer than its [`ending`].
#[inline]
fn begins_as(known: &[u8], name: &[u8]) -> bool {
    let is_alike =
        |known: &[u8; 8], name: &[u8; 8]| u64::from_ne_bytes(*known) == u64::from_ne_bytes(*name) | SMALL;
    known.as_chunks().0.iter().zip(name.as_chunks().0).all(|(known, name)| is_alike(known, name))
}

/// A set of names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Names(u64);

impl Names {
    /// The set of these.
    pub(in crate::proxy) const fn of(names: &[Name]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < names.len() {
            bits |= 1 << names[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    pub(in crate::proxy) fn insert(&mut self, name: Name) {
        self.0 |= 1 << name as u8;
    }

    pub(in crate::proxy) fn remove_all(&mut self, names: Self) {
        self.0 &= !names.0;
    }

    /// These and `others`.
    pub(in crate::proxy) const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These, less `others`.
    pub(in crate::proxy) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub(in crate::proxy) const fn contains(self, name: Name) -> bool {
        self.0 & (1 << name as u8) != 0
    }

    pub(in crate::proxy) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_in_any_case_and_has_a_place_in_a_set() {
        let mut all = Names::default();
        for &name in Name::ALL {
            assert_eq!(Name::of(name.as_str().as_bytes()), Some(name));
            assert_eq!(Name::of(name.as_str().to_ascii_uppercase().as_bytes()), Some(name));
            assert!(!all.contains(name), "{name:?} shares its place");
            all.insert(name);
        }
        assert_eq!(all, Names::of(Name::ALL));
        assert_eq!(Name::of(b"x-other"), None);
        for unknown in [
            "x-request-ie",
            "y-request-id",
            "content_type",
            "content-typ",
            "",
            "hosT1",
            "host ",
            "content-lengtH-of-something",
        ] {
            assert_eq!(Name::of(unknown.as_bytes()), None, "{unknown}");
        }
    }
}
