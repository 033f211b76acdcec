//! `gwctl top` as text.

use std::fmt::Write as _;

use anstyle::Style;
use gateway_proto::v1::SilentControlPlane;

use super::{
    board::{Board, Figures, Order, Service},
    input::{Act, Looking, Mode},
};
use crate::{
    age::NONE,
    figure,
    screen::{Size, cut},
    table::{ALARM, Cell, Row, Table},
    terminal::printable,
};

/// What is left out first where a screen is too narrow for all columns: who is out, and why, stays longest.
const LESS: [&str; 8] = ["ATTEMPTS", "P95", "(BEFORE)", "RETRY", "P50", "INFL", "FAILED, LAST 60s", "P99"];
const CHOSEN: Style = Style::new().invert();
/// Characters of a sparkline: five seconds each, at one measurement a second.
const SPARKS: usize = 12;

/// The whole screen.
pub(crate) fn screen(board: &Board, looking: &Looking, time: &str, word: &str, size: Size) -> String {
    let mut text = header(board, looking, time);
    if let Some(missing) = missing(board) {
        let _ = writeln!(text, "{ALARM}{}{ALARM:#}", cut(&printable(&missing), size.columns));
    }
    if looking.mode == Mode::Help {
        text.push_str(&help(size.columns));
        return text;
    }
    let (table, place) = match &looking.open {
        Some(name) => (replicas(board.service(name)), format!("{name}  (esc: all services)")),
        None => (services(board, looking.order, &looking.filter), String::new()),
    };
    // Every row is behind two characters for the mark of the chosen one.
    let table = table.fitting(size.columns.saturating_sub(2), &LESS);
    if !place.is_empty() {
        let _ = writeln!(text, "{}", printable(&place));
    }
    let body = if table.is_empty() { "nothing to show\n".to_owned() } else { table.to_string() };
    // The chosen row stays in sight: header, headings and footer take four lines or five.
    let room = size.lines.saturating_sub(text.lines().count() + 3).max(1);
    let first = (looking.row + 1).saturating_sub(room);
    for (number, line) in body.lines().enumerate() {
        match number.checked_sub(1) {
            Some(row) if row < first || row >= first + room => {}
            // Not by its colours alone.
            Some(row) if row == looking.row => {
                let plain = anstream::adapter::strip_str(line).to_string();
                let line = cut(&format!("> {plain}"), size.columns);
                let _ = writeln!(text, "{CHOSEN}{line:<0$}{CHOSEN:#}", size.columns);
            }
            _ => {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    let _ = writeln!(text, "{}", printable(word));
    text.push_str(&footer(looking, board));
    text
}

const KEYS: [(&str, &str); 10] = [
    ("j, k, arrows", "choose a row"),
    ("enter", "the service's replicas"),
    ("s", "another order"),
    ("esc", "back"),
    ("/", "filter by name"),
    ("p", "pause"),
    ("d", "drain a replica"),
    ("u", "undrain it"),
    ("b", "its breaker"),
    ("q", "quit"),
];
const ABOUT: [&str; 2] = [
    "SUCCESS is what clients saw, (BEFORE) what they would have seen without retries.",
    "The last column is the part of requests that failed, over the last minute.",
];

/// What the keys do, in two columns where there is room.
fn help(columns: usize) -> String {
    let cells = KEYS.map(|(key, what)| format!("  {key:<15}{what:<24}"));
    let in_a_row = if columns >= 82 { 2 } else { 1 };
    let rows = cells.chunks(in_a_row).map(|row| row.concat().trim_end().to_owned());
    let about = ABOUT.iter().flat_map(|line| wrapped(line, columns));
    let lines = [String::new()].into_iter().chain(rows).chain([String::new()]).chain(about);
    lines.map(|line| line + "\n").collect()
}

/// Lines of whole words, none longer than that if no word is.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is one from the start");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= columns {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn header(board: &Board, looking: &Looking, time: &str) -> String {
    let (all, ready, open) = board.counts();
    let services = match board.services(Order::Name, "").len() {
        1 => "1 service".to_owned(),
        count => format!("{count} services"),
    };
    let planes = if board.node_count == 1 { "data plane" } else { "data planes" };
    let alarm = if open > 0 { ALARM } else { Style::new() };
    let paused = if looking.is_paused { "   PAUSED" } else { "" };
    format!(
        "gateway  {} {planes}   {alarm}{open} OPEN{alarm:#}   {:.1} rps   {all} replicas ({ready} ready)   {services}   {}{paused}   \
         rev {}   {time}\n",
        board.node_count,
        board.rate(),
        looking.order.name(),
        board.revision,
    )
}

/// Of which control planes nothing is in the figures: they are those of a part of the data planes.
pub(crate) fn missing(board: &Board) -> Option<String> {
    let why = |silent: &SilentControlPlane| match silent.reason.as_str() {
        "" => silent.address.clone(),
        reason => format!("{} ({reason})", silent.address),
    };
    let silent = board.silent.iter().map(why).collect::<Vec<_>>().join(", ");
    (!silent.is_empty()).then(|| format!("SILENT, and without its data planes here: {silent}"))
}

fn footer(looking: &Looking, board: &Board) -> String {
    let replica =
        looking.chosen_replica(board).map(|(service, id)| format!("{service}/{id}")).unwrap_or_default();
    match &looking.mode {
        Mode::Filtering => format!("filter: {}_   (enter keeps, esc clears)\n", printable(&looking.filter)),
        Mode::Breaker => format!(
            "breaker of {}: o open, c close, r reset, a automatic, esc nothing\n",
            printable(&replica)
        ),
        Mode::Reason(act, reason) => {
            let last = if *act == Act::Drain { "; the last ready one is not drained" } else { "" };
            format!(
                "{}: {}{last}. Why? {}_   (enter does it, esc does not)\n",
                printable(&replica),
                act.name(),
                printable(reason)
            )
        }
        Mode::Moving | Mode::Help if looking.open.is_some() => {
            "q quit  esc back  d drain  u undrain  b breaker  p pause  ? help\n".to_owned()
        }
        Mode::Moving | Mode::Help => {
            let filter = if looking.filter.is_empty() {
                String::new()
            } else {
                format!(": {}", printable(&looking.filter))
            };
            format!("q quit  enter open  s sort  / filter{filter}  p pause  ? help\n")
        }
    }
}

/// One row a service.
pub(crate) fn services(board: &Board, order: Order, filter: &str) -> Table {
    let mut table = Table::new([
        "SERVICE",
        "RPS",
        "ATTEMPTS",
        "SUCCESS",
        "(BEFORE)",
        "RETRY",
        "P50",
        "P95",
        "P99",
        "INFL",
        "OPEN",
        "FAILED, LAST 60s",
    ]);
    for service in board.services(order, filter) {
        let figures = &service.figures;
        let open = format!("{}/{}", service.open_count, service.replica_count);
        let mut row: Row = vec![(&service.name).into()];
        row.extend(cells(figures));
        row.extend([
            Cell::styled(&open, if service.open_count > 0 { ALARM } else { Style::new() }),
            sparkline(service).into(),
        ]);
        table.push(row);
    }
    table
}

fn replicas(service: Option<&Service>) -> Table {
    let mut table = Table::new([
        "REPLICA", "RPS", "ATTEMPTS", "SUCCESS", "(BEFORE)", "RETRY", "P50", "P95", "P99", "INFL", "BREAKER",
        "WHY",
    ]);
    for replica in service.map_or(&[][..], |service| &service.replicas) {
        let mut row: Row = vec![(&replica.id).into()];
        row.extend(cells(&replica.figures));
        row.extend([crate::commands::get::state_cell(replica.state), (&replica.why).into()]);
        table.push(row);
    }
    table
}

fn cells(figures: &Figures) -> [Cell; 9] {
    let rate = |rate: f64| figure::rate((rate > 0.0).then_some(rate));
    let retried = figures.retried.map_or_else(|| NONE.to_owned(), |part| format!("{:.1}%", part * 100.0));
    [
        rate(figures.rate).into(),
        rate(figures.attempt_rate).into(),
        figure::success(figures.success),
        figure::success(figures.success_before_retry),
        retried.into(),
        figure::latency(figures.p50).into(),
        figure::latency(figures.p95).into(),
        figure::latency(figures.p99).into(),
        figures.inflight.to_string().into(),
    ]
}

/// The part that failed, from the left: a dot where there were no requests.
fn sparkline(service: &Service) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let each = 60_usize.div_ceil(SPARKS);
    let all: Vec<_> = service.failures.iter().copied().collect();
    // Groups end at the newest, so that a group, once shown, keeps what it holds until it leaves.
    let groups: Vec<_> =
        all.rchunks(each).map(|group| group.iter().flatten().copied().reduce(f64::max)).collect();
    let bar = |worst: Option<f64>| match worst {
        None => '·',
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 7")]
        Some(part) => BARS[(part.clamp(0.0, 1.0) * 7.0).ceil() as usize],
    };
    groups.into_iter().rev().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{board::tests::board, input::keys},
        *,
    };

    const SIZE: Size = Size { columns: 120, lines: 24 };

    fn plain(board: &Board, looking: &Looking, size: Size) -> String {
        anstream::adapter::strip_str(&screen(board, looking, "14:02:22", "", size)).to_string()
    }

    #[test]
    fn the_screen_shows_services_worst_first_with_what_failed() {
        let text = plain(&board(), &Looking::default(), SIZE);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "gateway  1 data plane   3 OPEN   55.0 rps   6 replicas (4 ready)   3 services   worst first   rev 7   14:02:22",
                "  SERVICE    RPS    ATTEMPTS   SUCCESS   (BEFORE)   RETRY   P50   P95   P99    INFL   OPEN   FAILED, LAST 60s",
                "> payments   5.0    -          10.00%    -          0.0%    -     -     31ms   3      2/2    █",
                "  orders     50.0   60.0       98.00%    81.67%     20.0%   -     -     31ms   3      1/2    ▂",
                "  idle       -      -          -         -          -       -     -     -      0      0/2    ·",
                "",
                "q quit  enter open  s sort  / filter  p pause  ? help",
            ]
        );
    }

    #[test]
    fn a_service_shows_its_replicas_and_what_can_be_done() {
        let (board, mut looking) = (board(), Looking::default());
        keys(b"j\rjb").into_iter().for_each(|key| drop(looking.press(key, &board)));
        let text = plain(&board, &looking, SIZE);
        assert!(text.contains("orders  (esc: all services)"), "{text}");
        assert!(text.contains("r-2       15.0"), "{text}");
        assert!(text.contains("breaker of orders/r-2: o open, c close"), "{text}");
        keys(b"ono\x1b[2J").into_iter().for_each(|key| drop(looking.press(key, &board)));
        assert!(
            plain(&board, &looking, SIZE).contains("orders/r-2: force its breaker open for 15m. Why? no_")
        );
    }

    #[test]
    fn on_a_narrow_screen_it_is_still_told_who_is_out_and_why() {
        let (board, mut looking) = (board(), Looking::default());
        let narrow = Size { columns: 80, lines: 24 };
        let text = plain(&board, &looking, narrow);
        let fits = |text: &str| text.lines().skip(1).all(|line| line.chars().count() <= 80);
        assert!(text.contains("OPEN   FAILED, LAST 60s\n") && text.contains("2/2"), "{text}");
        assert!(
            fits(&text) && text.lines().next().is_some_and(|header| header[..80].contains("3 OPEN")),
            "{text}"
        );
        keys(b"j\r").into_iter().for_each(|key| drop(looking.press(key, &board)));
        let text = plain(&board, &looking, narrow);
        assert!(text.contains("BREAKER") && text.contains("WHY") && !text.contains("ATTEMPTS"), "{text}");
    }

    #[test]
    fn which_control_planes_are_silent_stands_above_the_figures_that_are_without_theirs() {
        let mut board = board();
        let silent = |address: &str, reason: &str| SilentControlPlane {
            address: address.into(),
            reason: reason.into(),
            ..Default::default()
        };
        board.silent = vec![silent("b:7400", "connection refused"), silent("c:7400", "")];
        let text = plain(&board, &Looking::default(), SIZE);
        let line = text.lines().nth(1).unwrap();
        assert_eq!(line, "SILENT, and without its data planes here: b:7400 (connection refused), c:7400");
        assert_eq!(board.to_json(Order::Name, "")["silentControlPlanes"][1], "c:7400");
        let low = plain(&board, &Looking::default(), Size { lines: 6, columns: 30 });
        assert!(low.lines().count() <= 6 && low.lines().all(|line| line.chars().count() <= 120), "{low}");
    }

    #[test]
    fn help_is_whole_on_a_narrow_screen_and_in_two_columns_on_a_wide_one() {
        let (board, looking) = (board(), Looking { mode: Mode::Help, ..Looking::default() });
        for columns in [60, 82, 120] {
            let text = plain(&board, &looking, Size { columns, lines: 40 });
            let help: Vec<_> = text.lines().skip(1).collect();
            assert!(help.iter().all(|line| line.chars().count() <= columns), "{text}");
            let words = help.join(" ");
            assert!(
                words.contains("the service's replicas") && words.contains("over the last minute."),
                "{text}"
            );
        }
        let wide = plain(&board, &looking, Size { columns: 100, lines: 40 });
        assert!(
            wide.contains(
                "  j, k, arrows   choose a row              enter          the service's replicas\n"
            ),
            "{wide}"
        );
    }

    #[test]
    fn on_a_low_screen_the_chosen_row_stays_in_sight() {
        let board = board();
        let looking = Looking { row: 2, ..Looking::default() };
        let text = plain(&board, &looking, Size { lines: 5, columns: 100 });
        assert!(text.contains("\n> idle ") && !text.contains("payments "), "{text}");
        assert!(text.lines().count() <= 5, "{text}");
    }

    #[test]
    fn a_sparkline_has_the_worst_of_five_seconds_in_each_place() {
        let mut service = Service::default();
        service.failures.extend([None; 5]);
        service.failures.extend([Some(0.0); 5]);
        service.failures.extend([Some(0.0), Some(0.001), Some(0.0), Some(0.0), Some(0.0)]);
        service.failures.extend([Some(0.5); 5]);
        service.failures.extend([Some(1.0); 1]);
        assert_eq!(sparkline(&service).chars().count(), 5);
        service.failures.extend([Some(1.0); 4]);
        assert_eq!(sparkline(&service), "·▁▂▅█");
    }
}
