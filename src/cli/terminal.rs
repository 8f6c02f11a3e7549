//! The terminal that a person reads at: whether it can redraw, and how wide it is.

use std::io::{self, IsTerminal as _};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The width where a terminal does not say its own.
const COLUMNS: usize = 80;
/// The height where a terminal does not say its own.
const ROWS: usize = 24;

/// Whether lines on stderr can be drawn over.
#[must_use]
pub fn redraws() -> bool {
    io::stderr().is_terminal() && understands_escapes()
}

/// Whether the terminal is one that understands escape sequences.
#[must_use]
pub fn understands_escapes() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// The columns and rows of the terminal at stderr.
#[must_use]
pub fn size() -> (usize, usize) {
    let Ok(size) = rustix::termios::tcgetwinsize(io::stderr()) else { return (COLUMNS, ROWS) };
    let or = |given: u16, else_: usize| if given == 0 { else_ } else { usize::from(given) };
    (or(size.ws_col, COLUMNS), or(size.ws_row, ROWS))
}

/// A line that takes at most this many columns, with an ellipsis where it was cut.
#[must_use]
pub fn cut(line: &str, columns: usize) -> String {
    if line.width() <= columns {
        return line.to_owned();
    }
    let mut taken = 0;
    let mut short: String = line
        .chars()
        .take_while(|c| {
            taken += c.width().unwrap_or(0);
            taken < columns
        })
        .collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_line_is_cut_by_columns_and_not_by_characters() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("longer", 5), "long…");
        assert_eq!(cut("日本語です", 6), "日本…");
    }
}
