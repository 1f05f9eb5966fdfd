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
}
