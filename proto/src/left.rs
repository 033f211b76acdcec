//! Why a data plane has left a control plane, in words.

use crate::v1::LeftControlPlane;

/// Why it was left; what only a newer data plane says stays as it is.
pub fn why_left(left: &LeftControlPlane) -> &str {
    match left.reason.as_str() {
        "outdated" => "it had lost touch with its store",
        "closed" => "it ended the stream",
        "failed" => "the stream failed",
        "silent" => "it said nothing any more",
        "not_read" => "it read no answers",
        "behind" => "it was behind",
        "refused" => "its updates could not be taken",
        other => other,
    }
}
