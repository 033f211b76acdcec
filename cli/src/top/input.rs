//! What keys ask for.

use super::board::{Board, Order};

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    /// Ctrl-C, Ctrl-D.
    Quit,
}

/// The keys of a chunk of bytes, as terminals send them: an escape sequence comes in one chunk.
pub(crate) fn keys(chunk: &[u8]) -> Vec<Key> {
    let text = String::from_utf8_lossy(chunk);
    let mut keys = Vec::new();
    let mut rest = text.as_ref();
    while let Some(first) = rest.chars().next() {
        let sequence = ["\x1b[", "\x1bO"].iter().find_map(|start| rest.strip_prefix(start));
        if let Some(sequence) = sequence {
            let end = sequence
                .find(|char: char| char.is_ascii_alphabetic() || char == '~')
                .map_or(sequence.len(), |at| at + 1);
            match &sequence[..end] {
                "A" => keys.push(Key::Up),
                "B" => keys.push(Key::Down),
                // Whatever else there is on a keyboard means nothing here.
                _ => {}
            }
            rest = &sequence[end..];
            continue;
        }
        rest = &rest[first.len_utf8()..];
        match first {
            '\r' | '\n' => keys.push(Key::Enter),
            '\x1b' => keys.push(Key::Escape),
            '\x7f' | '\x08' => keys.push(Key::Backspace),
            '\x03' | '\x04' => keys.push(Key::Quit),
            char if char.is_control() => {}
            char => keys.push(Key::Char(char)),
        }
    }
    keys
}

/// What is asked to be done to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Drain,
    Undrain,
    OpenBreaker,
    CloseBreaker,
    ResetBreaker,
    AutomaticBreaker,
}

impl Act {
    /// For people: what would be done.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::OpenBreaker => "force its breaker open for 15m",
            Self::CloseBreaker => "force its breaker closed for 15m",
            Self::ResetBreaker => "reset its breaker",
            Self::AutomaticBreaker => "hand its breaker back to the rules",
        }
    }

    /// Whether somebody will want to know why.
    fn wants_a_reason(self) -> bool {
        matches!(self, Self::Drain | Self::OpenBreaker | Self::CloseBreaker)
    }
}

/// What the keyboard is for just now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Moving,
    /// Typing a filter.
    Filtering,
    /// Choosing what to do to a breaker.
    Breaker,
    /// Typing why.
    Reason(Act, String),
    Help,
}

/// What is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Looking {
    pub(crate) mode: Mode,
    pub(crate) order: Order,
    pub(crate) filter: String,
    /// The service whose replicas are shown; `None`: services.
    pub(crate) open: Option<String>,
    /// The place of the chosen row.
    pub(crate) row: usize,
    pub(crate) is_paused: bool,
}

/// What a key asks of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    Quit,
    Act { act: Act, service: String, replica_id: String, reason: String },
}

impl Looking {
    /// Takes a key in.
    pub(crate) fn press(&mut self, key: Key, board: &Board) -> Asked {
        if key == Key::Quit {
            return Asked::Quit;
        }
        match std::mem::take(&mut self.mode) {
            Mode::Moving => return self.moving(key, board),
            Mode::Filtering => match key {
                Key::Enter => {}
                Key::Escape => self.filter.clear(),
                _ => {
                    edit(&mut self.filter, key);
                    self.row = 0;
                    self.mode = Mode::Filtering;
                }
            },
            Mode::Breaker => {
                let act = match key {
                    Key::Char('o') => Act::OpenBreaker,
                    Key::Char('c') => Act::CloseBreaker,
                    Key::Char('r') => Act::ResetBreaker,
                    Key::Char('a') => Act::AutomaticBreaker,
                    _ => return Asked::Nothing,
                };
                return self.begin(act, board);
            }
            Mode::Reason(act, mut reason) => match key {
                Key::Enter if reason.trim().is_empty() => self.mode = Mode::Reason(act, reason),
                Key::Enter => return self.act(act, reason, board),
                Key::Escape => {}
                _ => {
                    edit(&mut reason, key);
                    self.mode = Mode::Reason(act, reason);
                }
            },
            // Any key leads back.
            Mode::Help => {}
        }
        Asked::Nothing
    }

    fn moving(&mut self, key: Key, board: &Board) -> Asked {
        match key {
            Key::Char('q') => return Asked::Quit,
            Key::Up | Key::Char('k') => self.row = self.row.saturating_sub(1),
            Key::Down | Key::Char('j') => {
                self.row = (self.row + 1).min(self.row_count(board).saturating_sub(1))
            }
            Key::Char('s') if self.open.is_none() => self.order = self.order.next(),
            Key::Char('/') if self.open.is_none() => self.mode = Mode::Filtering,
            Key::Char('p') => self.is_paused = !self.is_paused,
            Key::Char('?' | 'h') => self.mode = Mode::Help,
            Key::Enter if self.open.is_none() => {
                self.open = board
                    .services(self.order, &self.filter)
                    .get(self.row)
                    .map(|service| service.name.clone());
                self.row = 0;
            }
            Key::Escape | Key::Backspace if self.open.is_some() => {
                let name = self.open.take();
                let place = board
                    .services(self.order, &self.filter)
                    .iter()
                    .position(|service| Some(&service.name) == name.as_ref());
                self.row = place.unwrap_or(0);
            }
            Key::Char('b') if self.chosen_replica(board).is_some() => self.mode = Mode::Breaker,
            Key::Char('d') => return self.begin(Act::Drain, board),
            Key::Char('u') => return self.begin(Act::Undrain, board),
            _ => {}
        }
        Asked::Nothing
    }

    fn begin(&mut self, act: Act, board: &Board) -> Asked {
        if self.chosen_replica(board).is_none() {
            return Asked::Nothing;
        }
        if act.wants_a_reason() {
            self.mode = Mode::Reason(act, String::new());
            return Asked::Nothing;
        }
        self.act(act, String::new(), board)
    }

    fn act(&self, act: Act, reason: String, board: &Board) -> Asked {
        match self.chosen_replica(board) {
            Some((service, replica_id)) => Asked::Act { act, service, replica_id, reason },
            // It is gone meanwhile.
            None => Asked::Nothing,
        }
    }

    /// The replica on the chosen row, where replicas are shown.
    pub(crate) fn chosen_replica(&self, board: &Board) -> Option<(String, String)> {
        let service = board.service(self.open.as_deref()?)?;
        let replica = service.replicas.get(self.row)?;
        Some((service.name.clone(), replica.id.clone()))
    }

    fn row_count(&self, board: &Board) -> usize {
        match &self.open {
            Some(name) => board.service(name).map_or(0, |service| service.replicas.len()),
            None => board.services(self.order, &self.filter).len(),
        }
    }
}

/// Longest text that somebody types here, as far as the control plane takes reasons.
const MAX_TEXT: usize = 256;

fn edit(text: &mut String, key: Key) {
    match key {
        Key::Char(char) if text.chars().count() < MAX_TEXT => text.push(char),
        Key::Backspace => drop(text.pop()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{super::board::tests::board, *};

    fn press(looking: &mut Looking, text: &str) -> Asked {
        keys(text.as_bytes()).into_iter().fold(Asked::Nothing, |_, key| looking.press(key, &board()))
    }

    #[test]
    fn bytes_are_keys_and_what_is_none_is_nothing() {
        assert_eq!(
            keys(b"q\r\x1b[A\x1bOB\x7f\x03"),
            [Key::Char('q'), Key::Enter, Key::Up, Key::Down, Key::Backspace, Key::Quit]
        );
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys(b"\x1b[5~\x1b[1;5Cx\x01"), [Key::Char('x')]);
        assert_eq!(keys("ö".as_bytes()), [Key::Char('ö')]);
        assert_eq!(keys(b"\x1b["), []);
    }

    #[test]
    fn q_and_ctrl_c_quit_the_latter_also_while_typing() {
        assert_eq!(press(&mut Looking::default(), "q"), Asked::Quit);
        assert_eq!(press(&mut Looking::default(), "/q"), Asked::Nothing);
        assert_eq!(press(&mut Looking::default(), "/\x03"), Asked::Quit);
    }

    #[test]
    fn a_service_is_opened_and_left_again_at_its_place() {
        let mut looking = Looking::default();
        press(&mut looking, "j\r");
        assert_eq!((looking.open.as_deref(), looking.row), (Some("orders"), 0));
        press(&mut looking, "jjj");
        assert_eq!(looking.row, 1, "there are two replicas");
        press(&mut looking, "\x1b");
        assert_eq!((looking.open.as_deref(), looking.row), (None, 1));
    }

    #[test]
    fn a_filter_is_typed_kept_and_taken_back() {
        let mut looking = Looking::default();
        press(&mut looking, "/orx\x7f\r");
        assert_eq!((looking.filter.as_str(), &looking.mode), ("or", &Mode::Moving));
        press(&mut looking, "/d\x1b");
        assert_eq!(looking.filter, "");
    }

    #[test]
    fn a_drain_and_a_forced_breaker_want_a_reason_first() {
        let mut looking = Looking::default();
        assert_eq!(press(&mut looking, "d"), Asked::Nothing, "a service is no replica");
        assert_eq!(looking.mode, Mode::Moving);
        press(&mut looking, "j\rj");
        assert_eq!(press(&mut looking, "d\r"), Asked::Nothing);
        assert_eq!(looking.mode, Mode::Reason(Act::Drain, String::new()));
        let asked = |act, reason: &str| Asked::Act {
            act,
            service: "orders".into(),
            replica_id: "r-2".into(),
            reason: reason.into(),
        };
        assert_eq!(press(&mut looking, "update\r"), asked(Act::Drain, "update"));
        assert_eq!(looking.mode, Mode::Moving);
        assert_eq!(press(&mut looking, "bobad\r"), asked(Act::OpenBreaker, "bad"));
        assert_eq!(press(&mut looking, "br"), asked(Act::ResetBreaker, ""));
        assert_eq!(press(&mut looking, "bx"), Asked::Nothing);
        assert_eq!(press(&mut looking, "bcno\x1b"), Asked::Nothing, "Escape thinks better of it");
        assert_eq!(press(&mut looking, "u"), asked(Act::Undrain, ""));
    }

    #[test]
    fn the_rest_of_the_keys_change_how_it_looks() {
        let mut looking = Looking::default();
        press(&mut looking, "sp?");
        assert_eq!((looking.order, looking.is_paused, &looking.mode), (Order::Rate, true, &Mode::Help));
        press(&mut looking, "xp");
        assert_eq!((looking.is_paused, looking.mode), (false, Mode::Moving));
    }
}
