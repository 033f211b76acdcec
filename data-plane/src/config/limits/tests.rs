//! The flags, their help and docs/limits.md say the same.

use clap::{CommandFactory, Parser};

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    limits: LimitArgs,
}

fn parse(flags: &[&str]) -> Result<Limits, String> {
    let cli = Cli::try_parse_from([&["gw-data-plane"], flags].concat()).map_err(|error| error.to_string())?;
    cli.limits.validate().map_err(|failure| failure.to_string())
}

/// A row of the document that has a flag: its cells.
fn rows() -> Vec<[String; 4]> {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/limits.md")).unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows = document.lines().filter(|line| line.starts_with("| `--"));
    rows.map(|line| {
        let cells: Vec<String> = cells(line);
        <[String; 4]>::try_from(cells).unwrap_or_else(|cells| panic!("not four cells: {cells:?}"))
    })
    .collect()
}

#[test]
fn the_document_has_a_row_for_each_flag_with_its_default_its_range_and_what_happens_beyond() {
    let command = Cli::command();
    let flags = command.get_arguments().filter(|flag| flag.get_id() != "help");
    let mut expected: Vec<_> = flags
        .map(|flag| {
            let name = format!("`--{}`", flag.get_long().unwrap());
            let default = flag.get_default_values()[0].to_str().unwrap().to_owned();
            let help = flag.get_help().unwrap().to_string();
            (name, default, help)
        })
        .collect();
    let rows = rows();
    assert_eq!(rows.len(), expected.len(), "a flag without a row, or a row too many");
    for [name, default, range, beyond] in rows {
        let at = expected.iter().position(|(flag, ..)| *flag == name).unwrap_or_else(|| panic!("{name}"));
        let (_, flag_default, help) = expected.remove(at);
        assert_eq!(default, flag_default, "{name}");
        assert!(help.contains(&range), "{name}: the help says nothing of {range}: {help}");
        assert!(!beyond.is_empty(), "{name}: what happens beyond?");
    }
}

#[test]
fn every_range_is_as_it_is_documented_at_both_ends() {
    for [name, _, range, _] in rows() {
        let name = name.trim_matches('`');
        let (least, most) = range.split_once("..=").unwrap_or_else(|| panic!("{name}: {range}"));
        // The largest target needs a head that holds it, and the smallest head a target that it holds.
        let beside = match name {
            "--max-target-bytes" => "--max-head-bytes=1MiB",
            "--max-head-bytes" => "--max-target-bytes=1KiB",
            _ => "--max-streams=1",
        };
        let parse_alone = |value: &str| match name {
            "--max-streams" => parse(&[&format!("{name}={value}")]),
            _ => parse(&[&format!("{name}={value}"), beside]),
        };
        for end in [least, most] {
            assert!(parse_alone(end).is_ok(), "{name} {end}: {:?}", parse_alone(end));
        }
        for (end, step) in [(least, -1_i128), (most, 1)] {
            let Some(beyond) = beyond(end, step) else { continue };
            let refused = parse_alone(&beyond).expect_err(&format!("{name} {beyond}"));
            assert!(refused.contains(&format!("'{name} <")), "{refused}");
            assert!(refused.contains(&format!("is not in {range}")), "{refused}");
        }
    }
}

/// The next value in the direction of `step`, if it can be written.
fn beyond(end: &str, step: i128) -> Option<String> {
    let (value, unit) = if let Ok(count) = end.parse::<u64>() {
        (count, "")
    } else if let Ok(bytes) = size::parse(end) {
        (bytes, "B")
    } else {
        (u64::try_from(humantime::parse_duration(end).unwrap().as_millis()).unwrap(), "ms")
    };
    u64::try_from(i128::from(value) + step).ok().map(|value| format!("{value}{unit}"))
}

#[test]
fn without_flags_the_limits_are_the_default_ones() {
    assert_eq!(parse(&[]).unwrap(), Limits::default());
}

#[test]
fn what_is_no_size_no_number_or_no_duration_is_told_so() {
    for (flag, why) in [
        ("--max-head-bytes=64KB", "\"64KB\" is no size such as 1500B, 64KiB or 10MiB"),
        ("--max-head-fields=many", "is no whole number"),
        ("--head-timeout=10", "time unit needed"),
        // More than a semaphore holds: it would panic.
        ("--max-connections=18446744073709551615", "is not in 1..=1000000"),
    ] {
        let refused = parse(&[flag]).unwrap_err();
        assert!(refused.contains(why), "{flag}: {refused}");
    }
}

#[test]
fn a_target_has_to_fit_into_its_head() {
    let refused = parse(&["--max-head-bytes=16KiB"]).unwrap_err();
    assert!(
        refused.contains("--max-target-bytes 16KiB is not less than --max-head-bytes 16KiB"),
        "{refused}"
    );
}
