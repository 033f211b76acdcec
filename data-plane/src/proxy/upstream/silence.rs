//! When a connection that many requests share is asked for a sign of life (an HTTP/2 PING), and when it is given up.
//!
//! The kernel finds hosts that are gone. This finds processes that hang with their connections open. A server may take
//! frequent PINGs for an attack: gRPC servers close connections over the third within minutes that nothing else came
//! between. So one silence is asked about once, and then only as often as all of them allow.

/// Looks between two PINGs within one silence: five and a half minutes of looks.
const LOOKS_BETWEEN_PINGS: u32 = 33;

/// What is known of one connection's silence. To be asked at equal intervals.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The count of what was heard, at the last look.
    heard: u64,
    /// Looks since the PING that was sent last in this silence.
    since_ping: Option<u32>,
    is_asked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// All is well, or it is not for us to know.
    Wait,
    /// A PING is due.
    Ask,
    /// The last one stayed without an answer for a whole interval in which nothing else came, either.
    Dead,
}

impl Silence {
    /// Looks: `heard` counts whatever has come, and only requests under way make silence worth a question.
    pub(super) fn look(&mut self, heard: u64, is_used: bool) -> Look {
        if heard != self.heard {
            self.heard = heard;
            self.since_ping = None;
            return Look::Wait;
        }
        if self.is_asked {
            return Look::Dead;
        }
        if !is_used {
            return Look::Wait;
        }
        match &mut self.since_ping {
            Some(looks) if *looks + 1 < LOOKS_BETWEEN_PINGS => {
                *looks += 1;
                Look::Wait
            }
            since_ping => {
                *since_ping = Some(0);
                self.is_asked = true;
                Look::Ask
            }
        }
    }

    /// The PING was answered.
    pub(super) fn answered(&mut self) {
        self.is_asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_asked_about_once_and_then_every_five_and_a_half_minutes() {
        let mut silence = Silence::default();
        let mut asked = Vec::new();
        for look in 0..100 {
            match silence.look(0, true) {
                Look::Ask => {
                    asked.push(look);
                    silence.answered();
                }
                Look::Wait => {}
                Look::Dead => panic!("it answers"),
            }
        }
        assert_eq!(asked, [0, 33, 66, 99]);
    }

    #[test]
    fn who_answers_no_ping_within_an_interval_is_dead_unless_something_else_came() {
        let mut silence = Silence::default();
        assert_eq!(silence.look(0, true), Look::Ask);
        assert_eq!(silence.look(1, true), Look::Wait, "a response came, and the answer to the ping may yet");
        assert_eq!(silence.look(1, true), Look::Dead);
    }

    #[test]
    fn nothing_is_asked_of_a_connection_that_nobody_uses_or_that_is_heard() {
        let mut silence = Silence::default();
        assert!((0..99).all(|_| silence.look(0, false) == Look::Wait));
        assert!((1..99).all(|heard| silence.look(heard, true) == Look::Wait));
        assert_eq!(silence.look(98, true), Look::Ask);
    }
}
