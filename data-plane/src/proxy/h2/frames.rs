//! Finds the frames of one direction of an HTTP/2 connection in its bytes, in any pieces (RFC 9113 section 4.1).
//!
//! It only looks at what passes: the connection's engine reads the same bytes, and says what is wrong with them.

/// The bytes that a client sends in front of its first frame.
pub(in crate::proxy) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The error of whatever nothing else says more of (RFC 9113 section 7).
const PROTOCOL_ERROR: u32 = 1;

/// Bytes of a frame in front of its payload.
const HEADER: usize = 9;

/// What is looked at of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Bytes of its payload.
    pub(super) length: usize,
}

/// Kinds of frames by their numbers.
pub(super) mod kind {
    pub(in crate::proxy::h2) const DATA: u8 = 0;
    pub(in crate::proxy::h2) const HEADERS: u8 = 1;
    pub(in crate::proxy::h2) const RST_STREAM: u8 = 3;
    pub(in crate::proxy::h2) const SETTINGS: u8 = 4;
    pub(in crate::proxy::h2) const GOAWAY: u8 = 7;
    pub(in crate::proxy::h2) const CONTINUATION: u8 = 9;
}

/// Flag of the last frame of a stream.
pub(super) const END_STREAM: u8 = 1;

/// How far one direction has been looked through.
#[derive(Debug)]
pub(super) struct FrameScan {
    /// Bytes to pass over: of the preface, or of a payload.
    left: usize,
    /// The next frame's header, as far as it has come.
    header: [u8; HEADER],
    have: usize,
}

impl FrameScan {
    /// From a client's first byte.
    pub(super) fn from_client() -> Self {
        Self { left: PREFACE.len(), header: [0; HEADER], have: 0 }
    }

    /// From a server's first byte.
    pub(super) fn from_server() -> Self {
        Self { left: 0, ..Self::from_client() }
    }

    /// Has each frame `seen` that begins in the next bytes, as soon as all of its header is there.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let passed = self.left.min(bytes.len());
            self.left -= passed;
            bytes = &bytes[passed..];
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                let frame = parse(self.header);
                self.left = frame.length;
                seen(frame);
            }
        }
    }

    /// Whether the next byte begins a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

fn parse([a, b, c, kind, flags, stream @ ..]: [u8; HEADER]) -> Frame {
    // The first bit of the stream's number is reserved.
    let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
    Frame { kind, flags, stream, length: u32::from_be_bytes([0, a, b, c]) as usize }
}

/// Tells a client that the connection ends, after which stream, by which error (RFC 9113 section 7), and why in words.
pub(super) fn go_away(last_stream: u32, error: u32, why: &str) -> Vec<u8> {
    let length = u32::try_from(8 + why.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind::GOAWAY, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&last_stream.to_be_bytes());
    frame.extend_from_slice(&error.to_be_bytes());
    frame.extend_from_slice(why.as_bytes());
    frame
}

/// Tells whoever began otherwise than with [`PREFACE`] that the connection ends (RFC 9113 section 3.4), behind what a server
/// says first in any case.
pub(in crate::proxy) fn no_preface() -> Vec<u8> {
    let mut frames = vec![0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0];
    frames.extend(go_away(
        0,
        PROTOCOL_ERROR,
        "what came first is neither a request of HTTP/1 nor the preface of HTTP/2",
    ));
    frames
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(out: &mut Vec<u8>, frame: Frame) {
        out.extend_from_slice(&u32::try_from(frame.length).unwrap().to_be_bytes()[1..]);
        out.extend_from_slice(&[frame.kind, frame.flags]);
        out.extend_from_slice(&frame.stream.to_be_bytes());
        // A payload may look like anything.
        out.extend(std::iter::repeat_n(0, frame.length));
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        (any::<u8>(), any::<u8>(), 0..1_u32 << 31, prop_oneof![Just(0), 0..40_usize, Just(70_000)])
            .prop_map(|(kind, flags, stream, length)| Frame { kind, flags, stream, length })
    }

    proptest! {
        #[test]
        fn every_frame_is_seen_once_in_whatever_pieces_it_comes(
            frames in prop::collection::vec(any_frame(), 0..8),
            pieces in prop::collection::vec(1..50_usize, 1..20),
        ) {
            let mut bytes = PREFACE.to_vec();
            frames.iter().for_each(|frame| write(&mut bytes, *frame));
            let mut scan = FrameScan::from_client();
            let mut seen = Vec::new();
            let (mut at, mut sizes) = (0, pieces.iter().cycle());
            while at < bytes.len() {
                let end = bytes.len().min(at + sizes.next().unwrap());
                scan.pass(&bytes[at..end], |frame| seen.push(frame));
                at = end;
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(scan.is_between_frames());
        }
    }

    #[test]
    fn whoever_began_otherwise_is_told_so_behind_what_a_server_says_first() {
        let mut seen = Vec::new();
        let mut scan = FrameScan::from_server();
        scan.pass(&no_preface(), |frame| seen.push((frame.kind, frame.flags, frame.stream)));
        assert_eq!(seen, [(kind::SETTINGS, 0, 0), (kind::GOAWAY, 0, 0)]);
        assert!(scan.is_between_frames());
    }

    #[test]
    fn a_frame_that_says_goodbye_is_read_as_one() {
        let bytes = go_away(5, 11, "why");
        let mut scan = FrameScan::from_server();
        let mut seen = Vec::new();
        scan.pass(&bytes, |frame| seen.push(frame));
        assert_eq!(seen, [Frame { kind: kind::GOAWAY, flags: 0, stream: 0, length: 11 }]);
        assert!(scan.is_between_frames());
        assert_eq!(bytes[9..17], [0, 0, 0, 5, 0, 0, 0, 11]);
        scan.pass(&bytes[..4], |_| panic!("it is not all there"));
        assert!(!scan.is_between_frames());
    }
}
