//! Tables and lists of facts, without borders, for people and for `awk`.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table, presets};

use crate::terminal::visible;

/// What stands where there is nothing, so that columns keep their number.
pub(crate) const NOTHING: &str = "-";

/// A table with these headings.
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    // Cells are never broken: a line is a row, however narrow the terminal is.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row.iter().map(|cell| match cell.as_str() {
            "" => NOTHING.to_owned(),
            cell => visible(cell),
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Lines of `name: value` with the values below each other.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    facts
        .iter()
        .map(|(name, value)| format!("{:width$} {value}\n", format!("{name}:")))
        .collect()
}

/// `a=1,b=2`
pub(crate) fn pairs(map: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// The value, or nothing's mark.
pub(crate) fn or_nothing<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), ToString::to_string)
}

/// A time that passed, in its largest unit that keeps two digits of meaning: `0.4 s`, `90 s`,
/// `12 min`, `3 h`, `9 d`.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..10 => format!("{s}.{} s", ms % 1000 / 100),
        10..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        7200..172_800 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

/// How far an end is, in its two largest units: `in 14h 3m`, or in its largest one when it is
/// over: `ended 2d ago`.
pub(crate) fn countdown(end_ms: u64, now_ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let s = end_ms.abs_diff(now_ms) / 1000;
    // Below a second both are nothing, of the smallest unit.
    let largest = UNITS.iter().position(|(unit_s, _)| s >= *unit_s);
    let at = largest.unwrap_or(UNITS.len() - 1);
    let (unit_s, name) = UNITS[at];
    let first = format!("{}{name}", s / unit_s);
    if end_ms <= now_ms {
        return format!("ended {first} ago");
    }
    match UNITS.get(at + 1) {
        Some((next_s, next)) => format!("in {first} {}{next}", s % unit_s / next_s),
        None => format!("in {first}"),
    }
}

/// `2026-01-31 09:05 UTC`, out of milliseconds since 1970. The civil date is Hinnant's
/// `civil_from_days` ("chrono-Compatible Low-Level Date Algorithms").
pub(crate) fn utc(ms: u64) -> String {
    let minutes = ms / 60_000;
    // Days since 1 March of the year 0, so that a leap day is the last of its year.
    let days = minutes / 1440 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Names in a row, the first `most` of them.
pub(crate) fn names(names: &[String], most: usize) -> String {
    let shown = names[..names.len().min(most)].join(", ");
    match names.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Bytes in decimal units, as dockerd's own tools show them.
pub(crate) fn bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_cell_is_empty() {
        let rows = [
            vec!["n1".into(), String::new(), "zone=a".into()],
            vec!["long-name".into(), "x\ny".into(), "b".into()],
        ];
        insta::assert_snapshot!(table(&["NAME", "ROLE", "LABELS"], rows).trim_fmt(), @r"
        NAME       ROLE     LABELS
        n1         -        zone=a
        long-name  x\u{a}y  b
        ");
    }

    #[test]
    fn spans_and_sizes_read_well() {
        let spans = [0, 430, 9_999, 90_000, 600_000, 7_200_000, 900_000_000].map(span);
        assert_eq!(
            spans,
            ["0.0 s", "0.4 s", "9.9 s", "90 s", "10 min", "2 h", "10 d"]
        );
        let sizes = [0, 999, 1_500, 12_340_000, 2_000_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.5 kB", "12.3 MB", "2.0 GB"]);
    }

    #[test]
    fn an_end_is_counted_down_to_and_then_up_from() {
        const DAY_MS: u64 = 86_400_000;
        let now = 1_000 * DAY_MS;
        for (after_ms, said) in [
            (6 * DAY_MS + 23 * 3_600_000 + 59_000, "in 6d 23h"),
            (14 * 3_600_000 + 3 * 60_000 + 59_999, "in 14h 3m"),
            (60_000, "in 1m 0s"),
            (59_999, "in 59s"),
            (1, "in 0s"),
        ] {
            assert_eq!(countdown(now + after_ms, now), said);
        }
        for (before_ms, said) in [
            (0, "ended 0s ago"),
            (61_000, "ended 1m ago"),
            (2 * DAY_MS + 3_600_000, "ended 2d ago"),
        ] {
            assert_eq!(countdown(now - before_ms, now), said);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @S`.
        for (s, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_772_323_200, "2026-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(s * 1000 + 999), date);
        }
    }

    #[test]
    fn many_names_end_in_a_number() {
        let three: Vec<String> = ["a", "b", "c"].map(Into::into).into();
        assert_eq!(names(&three, 3), "a, b, c");
        assert_eq!(names(&three, 1), "a and 2 more");
    }
}
