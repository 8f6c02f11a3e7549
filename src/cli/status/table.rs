//! A table for a person.

use std::fmt::Write as _;

/// The cells of a row, and the lines beneath it.
pub(super) type Row = (Vec<String>, Vec<String>);

/// Rows beneath their titles, each column as wide as its widest cell. `paint` is given a column's
/// number and a cell that is as wide as it will be.
pub(super) fn table(
    titles: &[&str],
    rows: &[Row],
    paint: &dyn Fn(usize, &str) -> String,
) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|(cells, _)| cells[column].chars().count());
        cells.chain([titles[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let last = titles.len() - 1;
    let padded = |column: usize, cell: &str| match column {
        // Nothing follows it.
        _ if column == last => cell.to_owned(),
        _ => format!("{cell:width$}  ", width = widths[column]),
    };
    let mut text: String =
        titles.iter().enumerate().map(|(column, title)| padded(column, title)).collect();
    text.push('\n');
    for (cells, beneath) in rows {
        for (column, cell) in cells.iter().enumerate() {
            text.push_str(&paint(column, &padded(column, cell)));
        }
        text.push('\n');
        for line in beneath {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}
