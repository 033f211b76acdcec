//! What a side says that it takes (RFC 9113 section 6.5.2, RFC 8441 section 3).

use super::{ErrorCode, MAX_MAX_SIZE, MAX_WINDOW, MIN_MAX_SIZE, Violation};
use crate::hpack::DEFAULT_TABLE;

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

/// All of them, as they hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of `Setting`")]
pub struct Settings {
    pub header_table_size: u32,
    pub enable_push: bool,
    pub max_concurrent_streams: u32,
    pub initial_window_size: u32,
    pub max_frame_size: u32,
    pub max_header_list_size: u32,
    pub enable_connect_protocol: bool,
}

impl Default for Settings {
    /// Those that hold before any was told.
    fn default() -> Self {
        Self {
            header_table_size: DEFAULT_TABLE as u32,
            enable_push: true,
            max_concurrent_streams: u32::MAX,
            initial_window_size: (1 << 16) - 1,
            max_frame_size: MIN_MAX_SIZE,
            max_header_list_size: u32::MAX,
            enable_connect_protocol: false,
        }
    }
}

impl Settings {
    /// As they hold once this one does.
    pub fn apply(&mut self, setting: Setting) {
        match setting {
            Setting::HeaderTableSize(size) => self.header_table_size = size,
            Setting::EnablePush(is_enabled) => self.enable_push = is_enabled,
            Setting::MaxConcurrentStreams(count) => self.max_concurrent_streams = count,
            Setting::InitialWindowSize(size) => self.initial_window_size = size,
            Setting::MaxFrameSize(size) => self.max_frame_size = size,
            Setting::MaxHeaderListSize(size) => self.max_header_list_size = size,
            Setting::EnableConnectProtocol(is_enabled) => self.enable_connect_protocol = is_enabled,
        }
    }
}
