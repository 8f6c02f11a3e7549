//! Plain words out of bodies that were written for browsers and programs. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

/// Longest line of a server's own words, in characters.
const LINE_MAX: usize = 200;

/// The first line of a body that a person can read; of a web page, its title.
pub(super) fn first_line(body: &str) -> Option<String> {
    let line = if is_markup(body) {
        title(body)?
    } else {
        body.lines().map(str::trim).find(|line| !line.is_empty())?
    };
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean: String = line.chars().filter(|c| !c.is_control()).take(LINE_MAX).collect();
    (!clean.is_empty()).then_some(clean)
}

/// Whether a body is a web page, or another document in tags.
pub(super) fn is_markup(body: &str) -> bool {
    let mut start = body.trim_start_matches('\u{feff}').trim_start().chars();
    start.next() == Some('<')
        && start.next().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '!' | '?' | '/'))
}

/// The title of a web page, where there is one without markup in it.
fn title(page: &str) -> Option<&str> {
    let lower = page.to_ascii_lowercase();
    let open = lower.find("<title")?;
    let start = open + lower[open..].find('>')? + 1;
    let end = start + lower[start..].find('<')?;
    let title = page[start..end].trim();
    (!title.is_empty() && !title.contains(['&', '>'])).then_some(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_web_page_only_its_title_is_read() {
        let nginx = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n</html>";
        assert_eq!(first_line(nginx).as_deref(), Some("502 Bad Gateway"));
        let spread = "\u{feff}<!DOCTYPE html><TITLE lang=en>\n Sign   in\n</TITLE>";
        assert_eq!(first_line(spread).as_deref(), Some("Sign in"));
        for page in ["<html><body>oops</body>", "<title>a<b>", "<?xml version=\"1.0\"?><e/>", "<p>"]
        {
            let line = first_line(page);
            assert!(line.is_none_or(|line| !line.contains(['<', '>'])), "{page}");
        }
    }

    #[test]
    fn of_anything_else_the_first_line_that_says_something() {
        assert_eq!(first_line("404 page not found\n").as_deref(), Some("404 page not found"));
        assert_eq!(
            first_line("\n \n \u{1b}[31mno\tavailable  server\nmore").as_deref(),
            Some("[31mno available server")
        );
        assert_eq!(first_line(" \n"), None);
        assert_eq!(first_line(&"x".repeat(1000)).unwrap().len(), LINE_MAX);
        assert!(!is_markup("< 3 s left"));
        assert!(!is_markup("{\"a\": \"<p>\"}"));
    }
}
