//! What stands between a head and the end of its message: bodies as they pass through, of requests, of responses, and how fast they have to.

pub(super) mod kept;
pub(super) mod pace;
pub(super) mod request_body;
pub(super) mod response_body;
