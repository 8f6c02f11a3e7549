//! Names proposed where one cannot be used: the nearest that can.

use crate::name::{GroupName, NAME_LENGTH_MAX};

/// Letters beyond ASCII, and how they are spelled with it.
const SPELLINGS: &[(&str, &str)] = &[
    ("äæǽ", "ae"),
    ("öœ", "oe"),
    ("ü", "ue"),
    ("ß", "ss"),
    ("àáâãāăąаά", "a"),
    ("åα", "a"),
    ("çćĉċč", "c"),
    ("ďđдδ", "d"),
    ("ð", "d"),
    ("èéêëēĕėęěеэεέ", "e"),
    ("ĝğġģгγ", "g"),
    ("ĥħ", "h"),
    ("ìíîïĩīĭįıиіιίηή", "i"),
    ("ĵ", "j"),
    ("ķкκ", "k"),
    ("ĺļľłлλ", "l"),
    ("мμ", "m"),
    ("ñńņňнν", "n"),
    ("òóôõøōŏőоόοωώ", "o"),
    ("пπ", "p"),
    ("ŕŗřрρ", "r"),
    ("śŝşšșсσς", "s"),
    ("ţťŧțтτ", "t"),
    ("þθ", "th"),
    ("ùúûũūŭůűųу", "u"),
    ("ŵ", "w"),
    ("ýÿŷыйυύ", "y"),
    ("źżžзζ", "z"),
    ("бβ", "b"),
    ("вϐ", "v"),
    ("ж", "zh"),
    ("ф", "f"),
    ("φ", "f"),
    ("хχ", "kh"),
    ("ц", "ts"),
    ("ч", "ch"),
    ("ш", "sh"),
    ("щ", "shch"),
    ("ю", "yu"),
    ("я", "ya"),
    ("ё", "yo"),
    ("є", "ye"),
    ("ї", "yi"),
    ("ґ", "g"),
    ("ξ", "x"),
    ("ψ", "ps"),
    // These are not heard.
    ("ъь'’", ""),
];

/// The nearest usable name, if there is one.
pub(super) fn plain_name(name: &str) -> Option<String> {
    let mut plain = String::new();
    for character in name.chars().flat_map(char::to_lowercase) {
        let spelled = SPELLINGS.iter().find(|(letters, _)| letters.contains(character));
        if let Some((_, spelled)) = spelled {
            plain.push_str(spelled);
        } else if character.is_ascii_alphanumeric() {
            plain.push(character);
        } else if !is_mark(character) && !plain.is_empty() && !plain.ends_with('-') {
            plain.push('-');
        }
    }
    plain.truncate(NAME_LENGTH_MAX);
    let plain = plain.trim_end_matches('-').to_owned();
    GroupName::new(plain.as_str()).is_ok().then_some(plain)
}

/// Whether it is an accent of the letter before it.
fn is_mark(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}')
}

#[cfg(test)]
mod tests {
    use super::plain_name;

    #[test]
    fn names_are_spelled_with_plain_letters() {
        for (name, expected) in [
            ("Küche", Some("kueche")),
            ("Große Familie", Some("grosse-familie")),
            ("garçons", Some("garcons")),
            ("Łódź", Some("lodz")),
            ("Семья", Some("semya")),
            ("Οικογένεια", Some("oikogeneia")),
            ("cafe\u{301}", Some("cafe")),
            ("Tom's Room!", Some("toms-room")),
            ("家族", None),
            ("../x", Some("x")),
            ("global", None),
        ] {
            assert_eq!(plain_name(name).as_deref(), expected, "{name}");
        }
    }
}
