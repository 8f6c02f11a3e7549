//! Files that import each other: whoever reads one has to read the other first.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Named, Source};

/// A module, as a path from the crate: `["store", "turns"]`.
type Module = Vec<String>;

/// What a file is called in code. `src/store/turns.rs` is `store::turns`.
fn module(path: &str) -> Module {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    inner.split('/').map(ToOwned::to_owned).collect()
}

/// Every circle among files of which none contains the other, as a line each. A file and what is
/// beneath it are one thought, and may name each other.
pub(crate) fn circles(code: &[(String, String)]) -> Vec<String> {
    let modules: BTreeSet<Module> = code.iter().map(|(path, _)| module(path)).collect();
    let paths = |(path, text): &(String, String)| {
        let file = module(path);
        let children = modules
            .iter()
            .filter(|child| child.split_last().is_some_and(|(_, above)| above == file));
        // `use turns::Turn` means `use self::turns::Turn`.
        let text = children.filter_map(|child| child.last()).fold(text.clone(), |text, child| {
            text.replace(&format!("use {child}::"), &format!("use self::{child}::"))
        });
        let named = Source::new(path, &text).named();
        (file, named.into_iter().filter_map(|Named { path, .. }| path).collect())
    };
    let named: BTreeMap<Module, Vec<Module>> = code.iter().map(paths).collect();
    let mut edges: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (from, paths) in &named {
        let reached = paths.iter().filter_map(|path| file_of(&named, path));
        let others = reached.filter(|to| !from.starts_with(to) && !to.starts_with(from));
        edges.insert(from, others.collect());
    }
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        named.keys().map(|from| (from, reached_from(from, &edges))).collect();
    let circle = |from: &Module| -> Vec<&Module> {
        let back = reached[from].iter().copied();
        back.filter(|to| reached[to].contains(from)).collect()
    };
    let found: BTreeSet<Vec<&Module>> = named.keys().map(circle).collect();
    let lines = found.into_iter().filter(|circle| !circle.is_empty());
    lines
        .map(|circle| {
            let files: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            format!("these import each other: {}", files.join(", "))
        })
        .collect()
}

fn reached_from<'m>(
    from: &'m Module,
    edges: &BTreeMap<&'m Module, BTreeSet<&'m Module>>,
) -> BTreeSet<&'m Module> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(at) = open.pop() {
        open.extend(edges[at].iter().copied().filter(|next| found.insert(*next)));
    }
    found
}

/// The file in which what `path` names is written, also where a file above hands it on.
fn file_of<'m>(named: &'m BTreeMap<Module, Vec<Module>>, path: &[String]) -> Option<&'m Module> {
    let file = |path: &[String]| {
        let lengths = (1..=path.len()).rev();
        lengths.filter_map(|length| named.get_key_value(&path[..length])).next()
    };
    let (holder, paths) = file(path)?;
    let Some(item) = path.get(holder.len()) else { return Some(holder) };
    let handed_on = paths.iter().filter(|inner| inner.last() == Some(item));
    let beneath = handed_on.filter_map(|inner| file(inner)).map(|(inner, _)| inner);
    Some(beneath.filter(|inner| inner.starts_with(holder)).max().unwrap_or(holder))
}
