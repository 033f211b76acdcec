//! The fields that everybody knows from the start (RFC 7541 appendix A), by number.

macro_rules! known {
    ($($index:literal $(= $constant:ident)? $name:literal $value:literal,)+) => {
        /// Names and values; the first one has number 1.
        pub(super) static FIELDS: [(&str, &str); COUNT] = [$(($name, $value)),+];

        $($(
            #[doc = concat!("The number of `", $name, "`, the first one where there are more.")]
            pub const $constant: u8 = $index;
        )?)+
    };
}

/// So many there are.
pub(super) const COUNT: usize = 61;

known! {
    1 = AUTHORITY ":authority" "",
    2 = METHOD ":method" "GET",
    3 ":method" "POST",
    4 = PATH ":path" "/",
    5 ":path" "/index.html",
    6 = SCHEME ":scheme" "http",
    7 ":scheme" "https",
    8 = STATUS ":status" "200",
    9 ":status" "204",
    10 ":status" "206",
    11 ":status" "304",
    12 ":status" "400",
    13 ":status" "404",
    14 ":status" "500",
    15 = ACCEPT_CHARSET "accept-charset" "",
    16 = ACCEPT_ENCODING "accept-encoding" "gzip, deflate",
    17 = ACCEPT_LANGUAGE "accept-language" "",
    18 = ACCEPT_RANGES "accept-ranges" "",
    19 = ACCEPT "accept" "",
    20 = ACCESS_CONTROL_ALLOW_ORIGIN "access-control-allow-origin" "",
    21 = AGE "age" "",
    22 = ALLOW "allow" "",
    23 = AUTHORIZATION "authorization" "",
    24 = CACHE_CONTROL "cache-control" "",
    25 = CONTENT_DISPOSITION "content-disposition" "",
    26 = CONTENT_ENCODING "content-encoding" "",
    27 = CONTENT_LANGUAGE "content-language" "",
    28 = CONTENT_LENGTH "content-length" "",
    29 = CONTENT_LOCATION "content-location" "",
    30 = CONTENT_RANGE "content-range" "",
    31 = CONTENT_TYPE "content-type" "",
    32 = COOKIE "cookie" "",
    33 = DATE "date" "",
    34 = ETAG "etag" "",
    35 = EXPECT "expect" "",
    36 = EXPIRES "expires" "",
    37 = FROM "from" "",
    38 = HOST "host" "",
    39 = IF_MATCH "if-match" "",
    40 = IF_MODIFIED_SINCE "if-modified-since" "",
    41 = IF_NONE_MATCH "if-none-match" "",
    42 = IF_RANGE "if-range" "",
    43 = IF_UNMODIFIED_SINCE "if-unmodified-since" "",
    44 = LAST_MODIFIED "last-modified" "",
    45 = LINK "link" "",
    46 = LOCATION "location" "",
    47 = MAX_FORWARDS "max-forwards" "",
    48 = PROXY_AUTHENTICATE "proxy-authenticate" "",
    49 = PROXY_AUTHORIZATION "proxy-authorization" "",
    50 = RANGE "range" "",
    51 = REFERER "referer" "",
    52 = REFRESH "refresh" "",
    53 = RETRY_AFTER "retry-after" "",
    54 = SERVER "server" "",
    55 = SET_COOKIE "set-cookie" "",
    56 = STRICT_TRANSPORT_SECURITY "strict-transport-security" "",
    57 = TRANSFER_ENCODING "transfer-encoding" "",
    58 = USER_AGENT "user-agent" "",
    59 = VARY "vary" "",
    60 = VIA "via" "",
    61 = WWW_AUTHENTICATE "www-authenticate" "",
}

const SLOTS: usize = 128;

/// A place for each name, which its length, first and last byte lead to: factors were sought until no two had the same.
static BY_NAME: [u8; SLOTS] = {
    let mut slots = [0; SLOTS];
    let mut index = COUNT;
    while index > 0 {
        let name = FIELDS[index - 1].0.as_bytes();
        let slot = slot(name.len(), name[0], name[name.len() - 1]);
        let there = slots[slot] as usize;
        assert!(there == 0 || is_same(FIELDS[there - 1].0.as_bytes(), name), "two names have one place");
        // The first of several stays.
        slots[slot] = index as u8;
        index -= 1;
    }
    slots
};

const fn slot(length: usize, first: u8, last: u8) -> usize {
    (length * 3 + first as usize * 54 + last as usize * 59) % SLOTS
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut index = 0;
    while index < one.len() && index < other.len() && one[index] == other[index] {
        index += 1;
    }
    index == one.len() && index == other.len()
}

/// The number of this name, the first one where there are more.
#[inline]
pub fn of(name: &[u8]) -> Option<u8> {
    let (Some(&first), Some(&last)) = (name.first(), name.last()) else { return None };
    let known = BY_NAME[slot(name.len(), first, last)];
    (known != 0 && FIELDS[usize::from(known) - 1].0.as_bytes() == name).then_some(known)
}

/// The number of the field with this value, of the name whose first number this is.
#[inline]
pub(super) fn with_value(known: u8, value: &[u8]) -> Option<u8> {
    let last = match known {
        METHOD => 3,
        PATH => 5,
        SCHEME => 7,
        STATUS => 14,
        other => other,
    };
    (known..=last).find(|&index| FIELDS[usize::from(index) - 1].1.as_bytes() == value)
}

/// The first number of the name that has this one, too.
#[inline]
pub(super) fn first_of(index: u8) -> u8 {
    match index {
        3 => METHOD,
        5 => PATH,
        7 => SCHEME,
        9..=14 => STATUS,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_every_field_is_found_by_its_first_number() {
        for (index, (name, value)) in (1..).zip(FIELDS) {
            let known = of(name.as_bytes()).unwrap();
            assert_eq!((first_of(index), FIELDS[usize::from(known) - 1].0), (known, name));
            assert_eq!(with_value(known, value.as_bytes()), Some(index), "{name}: {value}");
            assert_eq!(with_value(known, b"another value"), None);
        }
        for other in ["", ":", "Accept", "accepts", "hoxt", ":protocol", "x-request-id", "te"] {
            assert_eq!(of(other.as_bytes()), None, "{other}");
        }
    }
}
