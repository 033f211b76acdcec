//! What the certificate of a client says of him.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The names in a certificate that was verified, and until when it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Subject alternative names that are URIs, a SPIFFE id among them.
    pub uris: Vec<String>,
    /// Those that are DNS names.
    pub dns: Vec<String>,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// When it ends.
    pub not_after: SystemTime,
}

impl PeerCertificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it is none. One that was verified is.
    pub fn parse(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
        let owned = |name: &str| name.to_owned();
        let (subject, not_after) = subject_and_end(certificate).ok_or("it has no validity or no subject")?;
        Ok(Self {
            uris: parsed.valid_uri_names().map(owned).collect(),
            dns: parsed.valid_dns_names().map(owned).collect(),
            common_name: common_name(subject),
            not_after,
        })
    }

    /// By which one the client goes: his SPIFFE id, else his first DNS name, else his common name, each said as what it is.
    pub fn name(&self) -> Option<String> {
        let spiffe = self.uris.iter().find(|uri| uri.starts_with("spiffe://")).cloned();
        let dns = || self.dns.first().map(|name| format!("dns:{name}"));
        let common = || self.common_name.as_ref().map(|name| format!("cn:{name}"));
        spiffe.or_else(dns).or_else(common)
    }
}

/// When a certificate ends.
pub(super) fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    subject_and_end(certificate).map(|(_, end)| end)
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The value of the next element, with its tag, and what follows it (X.690, section 8.1).
fn next(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(first) {
        short @ 0..=0x7f => (short, rest),
        // Certificates are far below 16 MiB.
        long @ 0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

fn expect(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    next(der).filter(|(tag, ..)| *tag == wanted).map(|(_, value, rest)| (value, rest))
}

/// RFC 5280, section 4.1: version, serial number, signature, issuer, validity, subject.
fn subject_and_end(der: &[u8]) -> Option<(&[u8], SystemTime)> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (tbs, _) = expect(certificate, SEQUENCE)?;
    let (tag, _, after_version) = next(tbs)?;
    let rest = if tag == 0xa0 { after_version } else { tbs };
    let (_, _, rest) = next(rest)?;
    let (_, rest) = expect(rest, SEQUENCE)?;
    let (_, rest) = expect(rest, SEQUENCE)?;
    let (validity, rest) = expect(rest, SEQUENCE)?;
    let (subject, _) = expect(rest, SEQUENCE)?;
    let (_, _, not_after) = next(validity)?;
    let (tag, text, _) = next(not_after)?;
    Some((subject, time(tag, text)?))
}

/// `UTCTime` or `GeneralizedTime`, always in Zulu time with seconds (RFC 5280, section 4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        0x17 if text.len() == 12 => {
            let short: i64 = text[..2].parse().ok()?;
            (if short < 50 { 2000 + short } else { 1900 + short }, &text[2..])
        }
        0x18 if text.len() == 14 => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + part(4)? * 3600 + part(6)? * 60 + part(8)?;
    // What ended before 1970 has ended.
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Days from 1970 in the Gregorian calendar; years begin in March, so that leap days are at their end.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, month) = (year.div_euclid(400), (month + 9) % 12);
    let of_era = year.rem_euclid(400);
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The last common name in a subject: the most specific one.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = None;
    while let Some((mut set, rest)) = expect(subject, SET) {
        subject = rest;
        while let Some((attribute, rest)) = expect(set, SEQUENCE) {
            set = rest;
            if let Some((OID, COMMON_NAME, value)) = next(attribute)
                && let Some((_, text, _)) = next(value)
                && let Ok(text) = std::str::from_utf8(text)
            {
                found = Some(text.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn certificate(params: CertificateParams) -> CertificateDer<'static> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn named(sans: &[&str], uri: Option<&str>, common: &str) -> CertificateParams {
        let mut params =
            CertificateParams::new(sans.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.distinguished_name.push(DnType::CommonName, common);
        params
    }

    #[test]
    fn a_client_goes_by_his_spiffe_id_else_his_dns_name_else_his_common_name() {
        let name = |params| PeerCertificate::parse(&certificate(params)).unwrap().name().unwrap();
        assert_eq!(name(named(&["a.example"], Some("spiffe://prod/orders"), "x")), "spiffe://prod/orders");
        assert_eq!(name(named(&["a.example", "b.example"], Some("https://a"), "x")), "dns:a.example");
        assert_eq!(name(named(&[], None, "orders")), "cn:orders");
    }

    #[test]
    fn the_end_of_a_certificate_is_known_to_the_second() {
        for (year, month, day, unix) in [
            (2030, 1, 1, 1_893_456_000),
            (2049, 12, 31, 2_524_521_600),
            (2052, 2, 29, 2_592_777_600),
            (2000, 3, 1, 951_868_800),
        ] {
            let mut params = named(&["a.example"], None, "x");
            params.not_after = date_time_ymd(year, month, day);
            let read = PeerCertificate::parse(&certificate(params)).unwrap();
            assert_eq!(read.not_after, UNIX_EPOCH + Duration::from_secs(unix), "{year}-{month}-{day}");
        }
    }

    #[test]
    fn a_certificate_that_is_cut_or_changed_is_refused_or_read_and_never_a_panic() {
        let whole = certificate(named(&["a.example"], Some("spiffe://p/o"), "x"));
        for cut in 0..whole.len() {
            let _ = subject_and_end(&whole[..cut]);
            let mut changed = whole.to_vec();
            changed[cut] ^= 0xff;
            let _ = PeerCertificate::parse(&CertificateDer::from(changed.clone()));
            let _ = subject_and_end(&changed);
            common_name(&changed[cut..]);
        }
    }
}
