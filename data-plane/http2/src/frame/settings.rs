//! What a side says that it takes (RFC 9113 section 6.5.2, RFC 8441 section 3).

use super::{ErrorCode, MAX_MAX_SIZE, MAX_WINDOW, MIN_MAX_SIZE, Violation};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// The largest table that heads sent to this side may be written from.
    HeaderTableSize(u32),
    /// Whether it takes responses that it did not ask for.
    EnablePush(bool),
    /// How many streams the other side may have open.
    MaxConcurrentStreams(u32),
    /// What may be sent on each stream before this side has said anything of it.
    InitialWindowSize(u32),
    /// The largest payload of a frame.
    MaxFrameSize(u32),
    /// The largest head, as it is counted. A hint.
    MaxHeaderListSize(u32),
    /// Whether an extended CONNECT is understood.
    EnableConnectProtocol(bool),
}

impl Setting {
    /// Its number, and its value as it is sent.
    pub(super) fn raw(self) -> (u16, u32) {
        match self {
            Self::HeaderTableSize(size) => (1, size),
            Self::EnablePush(is_enabled) => (2, is_enabled.into()),
            Self::MaxConcurrentStreams(count) => (3, count),
            Self::InitialWindowSize(size) => (4, size),
            Self::MaxFrameSize(size) => (5, size),
            Self::MaxHeaderListSize(size) => (6, size),
            Self::EnableConnectProtocol(is_enabled) => (8, is_enabled.into()),
        }
    }

    /// That of a number, or none where nobody knows it.
    fn parse(number: u16, value: u32) -> Result<Option<Self>, Violation> {
        let flag = |why| match value {
            0 | 1 => Ok(value == 1),
            _ => Err(Violation::protocol(None, why)),
        };
        Ok(Some(match number {
            1 => Self::HeaderTableSize(value),
            2 => Self::EnablePush(flag("SETTINGS_ENABLE_PUSH is neither 0 nor 1")?),
            3 => Self::MaxConcurrentStreams(value),
            4 if value > MAX_WINDOW => {
                let why = "SETTINGS_INITIAL_WINDOW_SIZE is larger than a window can be";
                return Err(Violation { code: ErrorCode::FLOW_CONTROL_ERROR, stream: None, why });
            }
            4 => Self::InitialWindowSize(value),
            5 if !(MIN_MAX_SIZE..=MAX_MAX_SIZE).contains(&value) => {
                return Err(Violation::protocol(
                    None,
                    "SETTINGS_MAX_FRAME_SIZE is not what a frame's size can be",
                ));
            }
            5 => Self::MaxFrameSize(value),
            6 => Self::MaxHeaderListSize(value),
            8 => Self::EnableConnectProtocol(flag("SETTINGS_ENABLE_CONNECT_PROTOCOL is neither 0 nor 1")?),
            _ => return Ok(None),
        }))
    }
}

/// Those in the payload of a frame, in their order; what nobody knows is left out.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = Result<Setting, Violation>> {
    payload.as_chunks::<6>().0.iter().filter_map(|&[a, b, value @ ..]| {
        Setting::parse(u16::from_be_bytes([a, b]), u32::from_be_bytes(value)).transpose()
    })
}
