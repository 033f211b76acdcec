//! Until when certificates are good, by what a plane's metrics say of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::finding::{Finding, Outcome};

/// A certificate that ends sooner should have been replaced by now.
const MIN_CERTIFICATE: Duration = Duration::from_secs(14 * 86_400);

/// One certificate, called `what`.
pub(super) fn lifetime(id: &'static str, what: &str, ends: SystemTime, now: SystemTime) -> Finding {
    let left = ends.duration_since(now).unwrap_or_default();
    if left >= MIN_CERTIFICATE {
        return Finding::passed(id, format!("{what} is good for {} days", left.as_secs() / 86_400));
    }
    if left.is_zero() {
        return Finding::failed(id, format!("{what} has ended"));
    }
    let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
    Finding::warned(id, format!("{what} ends in {left}"))
}

/// What is wrong with the files of a plane, which `plane` names, but for what is used as `known`.
pub(super) fn troubles(
    id: &'static str,
    plane: &str,
    metrics: &str,
    known: Option<&str>,
    now: SystemTime,
) -> Vec<Finding> {
    let trouble = |line: &str| {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        let of = |label: &str| {
            let (_, rest) = labels.split_once(&format!("{label}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let used = of("use")?;
        match name {
            "gateway_certificate_not_after_timestamp_seconds" if known != Some(used) => {
                let ends = UNIX_EPOCH + Duration::from_secs(value.parse().ok()?);
                let what = format!("{plane}: the certificate in {} ({used})", of("file")?);
                let finding = lifetime(id, &what, ends, now);
                let hint = "replace the file and its key: they are read again without a restart";
                (finding.outcome != Outcome::Passed).then(|| finding.hint(hint))
            }
            "gateway_certificate_files_unusable" if value == "1" => {
                let told = format!("{plane}: files for TLS ({used}) have changed and cannot be used");
                let finding = Finding::warned(id, told);
                Some(
                    finding
                        .because("those before are still in use, and the next start fails")
                        .hint("its log says why"),
                )
            }
            _ => None,
        }
    };
    metrics.lines().filter_map(trouble).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1000 * DAY)
    }

    #[test]
    fn a_certificate_that_ends_soon_is_told_while_there_is_time() {
        let told = |days: u64| {
            let finding = lifetime("x/y", "it", now() + Duration::from_secs(days * DAY), now());
            (finding.outcome, finding.description)
        };
        assert_eq!(told(90), (Outcome::Passed, "it is good for 90 days".to_owned()));
        assert_eq!(told(3), (Outcome::Warned, "it ends in 3days".to_owned()));
        assert_eq!(told(0), (Outcome::Failed, "it has ended".to_owned()));
    }

    #[test]
    fn of_what_metrics_tell_only_trouble_is_found_and_what_is_known_otherwise_is_left_out() {
        let text = format!(
            "# TYPE gateway_certificate_not_after_timestamp_seconds gauge\n\
             gateway_certificate_not_after_timestamp_seconds{{use=\"listener\",file=\"/a.pem\"}} {}\n\
             gateway_certificate_not_after_timestamp_seconds{{use=\"replicas\",file=\"/b.pem\"}} {}\n\
             gateway_certificate_files_unusable{{use=\"listener\"}} 0\n\
             gateway_certificate_files_unusable{{use=\"replicas\"}} 1\n",
            1005 * DAY,
            1100 * DAY,
        );
        let found = |known| {
            let found = troubles("x/y", "http://a", &text, known, now());
            found.into_iter().map(|finding| finding.description).collect::<Vec<_>>()
        };
        let unusable = "http://a: files for TLS (replicas) have changed and cannot be used";
        let ends = "http://a: the certificate in /a.pem (listener) ends in 5days";
        assert_eq!(found(None), [ends, unusable]);
        assert_eq!(found(Some("listener")), [unusable]);
    }
}
