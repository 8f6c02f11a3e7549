//! The grid of kinds and stages: where a kind of resource is at home, and that nobody else lists
//! the kinds.

use std::collections::BTreeSet;

use babybot::resource::ResourceKind;

use super::source::Source;
use super::{code, none};

/// The stages that a resource goes through.
const STAGES: [&str; 4] = ["desired", "observe", "plan", "execute"];
/// What a new kind may touch: the kinds themselves, one file for each stage and the stage's own
/// file that knows the kinds, the second opinion, and what may be written.
const KNOWS_KINDS: [&str; 7] = [
    "src/resource",
    "src/desired",
    "src/observe",
    "src/execute",
    "src/plan",
    "src/manifest/fields",
    "src/observed",
];

#[test]
fn each_kind_of_resource_has_a_file_at_every_stage() {
    let code = code();
    let mut findings = Vec::new();
    for kind in ResourceKind::ALL {
        for stage in STAGES {
            let path = format!("src/{stage}/{}.rs", kind.word());
            if !code.iter().any(|(found, _)| *found == path) {
                findings.push(format!("{path} is not there"));
            }
        }
    }
    none(&findings);
}

#[test]
fn a_new_kind_of_resource_touches_the_grid_alone() {
    let code = code();
    let (_, ids) = code.iter().find(|(path, _)| path == "src/resource/id.rs").unwrap();
    let kinds = variants(ids, "ResourceId");
    assert_eq!(kinds.len(), ResourceKind::ALL.len(), "{kinds:?}");
    let (_, specs) = code.iter().find(|(path, _)| path == "src/resource/spec.rs").unwrap();
    let specs = variants(specs, "Spec");
    let mut findings = Vec::new();
    for (path, text) in &code {
        if KNOWS_KINDS.iter().any(|home| path.starts_with(home)) {
            continue;
        }
        for (name, variants) in [("ResourceId", &kinds), ("Spec", &specs)] {
            // Whoever matches each of them has to name each of them.
            if variants.is_subset(&named(path, text, name)) {
                findings.push(format!("{path}: it names each kind of {name}"));
            }
        }
    }
    none(&findings);
}

#[test]
fn who_names_each_kind_is_found() {
    let text = "enum Id { /// One.\n #[a(b)] One(u8), Two { a: u8, b: u8 }, Three, }";
    let all = BTreeSet::from(["One", "Two", "Three"].map(str::to_owned));
    assert_eq!(variants(text, "Id"), all);
    assert_eq!(
        named("src/a.rs", "match x { Id::One(_) => 1, super::Id::Two => Id::Three }", "Id"),
        all
    );
    assert_eq!(named("src/a.rs", "// Id::One\nOtherId::Two; Id::other()", "Id").len(), 1);
}

/// The variants of an enum.
fn variants(text: &str, name: &str) -> BTreeSet<String> {
    let source = Source::new("src/a.rs", text);
    let words: Vec<&str> = source.tokens.iter().map(|token| token.text).collect();
    let start = words.windows(3).position(|words| words == ["enum", name, "{"]).unwrap() + 3;
    let (mut depth, mut fresh) = (0_i32, true);
    let mut found = BTreeSet::new();
    for word in &words[start..] {
        match *word {
            "(" | "{" | "[" => depth += 1,
            "}" if depth == 0 => break,
            ")" | "}" | "]" => depth -= 1,
            "," if depth == 0 => fresh = true,
            "#" => {}
            word if depth == 0 && fresh => {
                found.insert(word.to_owned());
                fresh = false;
            }
            _ => {}
        }
    }
    found
}

/// What a file names of an enum.
fn named(path: &str, text: &str, name: &str) -> BTreeSet<String> {
    let source = Source::new(path, text);
    let at = (0..source.tokens.len()).filter_map(|at| match source.words(at, 4).as_slice() {
        [found, "::", variant, ..] if *found == name => Some((*variant).to_owned()),
        _ => None,
    });
    at.collect()
}
