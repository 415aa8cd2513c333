//! The words of comments and public documentation, and the words among them that say too little.

use crate::source::{Comment, Kind, Source};

/// Words and phrases that a reader has to guess at: who is meant, how many, under which condition.
/// See `docs/style.md`.
pub(crate) const MARKERS: &[&str] = &[
    "anew",
    "at the least",
    "at the most",
    "beside",
    "elsewhere",
    "may not",
    "meanwhile",
    "nobody",
    "so long",
    "so many",
    "somebody",
    "whatever",
    "where it",
    "where nobody",
    "where there",
    "where they",
    "where this",
    "whichever",
    "whoever",
    "whomever",
];

/// How a doc comment begins that says nothing on its own, as an editor shows it.
pub(crate) const FRAGMENTS: &[&str] = &["And ", "As ", "Of ", "That ", "The same", "Whom", "Whose"];

/// A text, and its first line.
pub(crate) struct Prose {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// How many words there are, and which markers are among them.
#[derive(Default)]
pub(crate) struct Count {
    pub(crate) words: usize,
    /// Each with its file and line.
    pub(crate) markers: Vec<String>,
}

impl Count {
    pub(crate) fn of(all: &[Prose]) -> Self {
        let mut count = Self::default();
        all.iter().for_each(|prose| count.add(prose));
        count
    }

    fn add(&mut self, prose: &Prose) {
        let words = words(prose);
        self.words += words.len();
        for (at, (line, _)) in words.iter().enumerate() {
            let is_here = |marker: &&&str| {
                let mut parts = marker.split(' ').zip(&words[at..]);
                let length = marker.split(' ').count();
                words.len() - at >= length && parts.all(|(part, (_, word))| part == word)
            };
            let found = MARKERS.iter().find(is_here);
            let place = |marker| format!("{}:{line}: {marker:?}", prose.path);
            self.markers.extend(found.map(place));
        }
    }

    pub(crate) fn per_thousand(&self) -> f64 {
        1000.0 * self.markers.len() as f64 / self.words.max(1) as f64
    }
}

/// The words, in lower case, each with its line. What stands in backticks is a name, and no word;
/// neither is what stands in an example or a table.
fn words(prose: &Prose) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    let mut is_example = false;
    let mut is_name = false;
    for (number, line) in prose.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_example = !is_example;
            continue;
        }
        if is_example {
            continue;
        }
        // A name goes on in the next line at times, and a paragraph ends it.
        is_name &= !line.trim().is_empty();
        for (part, text) in line.split('`').enumerate() {
            is_name ^= part > 0;
            if is_name {
                continue;
            }
            let letters = |char: char| !char.is_alphabetic() && char != '\'';
            let found = text.split(letters).map(|word| word.trim_matches('\''));
            let found = found.filter(|word| !word.is_empty());
            words.extend(found.map(|word| (prose.line + number, word.to_lowercase())));
        }
    }
    words
}

/// All comments of some files.
pub(crate) fn comments(sources: &[Source]) -> Vec<Prose> {
    sources.iter().flat_map(|source| source.comments.iter().map(|it| prose(source, it))).collect()
}

fn prose(source: &Source, comment: &Comment) -> Prose {
    Prose { path: source.path.clone(), line: comment.line, text: comment.text.clone() }
}

/// What users read: the documentation of `pub` items and of what a `pub` enum or trait has in it,
/// of the crate, and of its `pub` modules.
pub(crate) fn public_docs(sources: &[Source]) -> Vec<Prose> {
    sources
        .iter()
        .flat_map(|source| {
            let is_public = is_public_module(sources, &source.path);
            let docs = source.comments.iter().filter(move |comment| match comment.kind {
                Kind::Item => documents_public(source, comment),
                Kind::Module => is_public,
                Kind::Plain => false,
            });
            docs.map(|comment| prose(source, comment))
        })
        .collect()
}

/// Whether the file is the root of the crate, or the file of its parent says `pub mod`.
fn is_public_module(sources: &[Source], path: &str) -> bool {
    if path == "src/lib.rs" {
        return true;
    }
    let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let parents = [format!("{folder}/lib.rs"), format!("{folder}/mod.rs"), format!("{folder}.rs")];
    let says = |source: &Source| source.code.contains(&format!("pub mod {name};"));
    let parent = sources.iter().find(|source| parents.contains(&source.path));
    parent.is_some_and(|parent| says(parent) && is_public_module(sources, &parent.path))
}

/// Whether a `///` is of a `pub` item, or stands directly in a `pub` enum or trait.
fn documents_public(source: &Source, comment: &Comment) -> bool {
    let mut lines = source.code.lines().skip(comment.line - 1);
    let item = lines.find(|line| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with("#[")
    });
    let Some(item) = item else { return false };
    if item.trim_start().starts_with("pub ") {
        return true;
    }
    // The line that opened the block in which a line stands has fewer blanks before it.
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut inner = depth(item);
    let before: Vec<&str> = source.code.lines().take(comment.line - 1).collect();
    let openers = before.iter().rev().filter(|line| {
        let opens = !line.trim().is_empty() && depth(line) < inner;
        inner = if opens { depth(line) } else { inner };
        opens
    });
    // A field may stand in a variant.
    let mut openers = openers.map(|line| line.trim());
    let opener = openers.find(|line| {
        let first = line.split(' ').next().unwrap_or_default();
        ["enum", "fn", "impl", "mod", "pub", "struct", "trait"].contains(&first)
            || first.starts_with("pub(")
    });
    opener.is_some_and(|it| it.starts_with("pub enum ") || it.starts_with("pub trait "))
}

/// The docs of items whose first sentence is a fragment.
pub(crate) fn fragments(sources: &[Source]) -> Vec<String> {
    let docs = sources.iter().flat_map(|source| source.comments.iter().map(move |it| (source, it)));
    let docs = docs.filter(|(_, comment)| comment.kind == Kind::Item);
    let fragments = docs.filter(|(_, comment)| {
        let text = comment.text.trim_start();
        FRAGMENTS.iter().any(|fragment| text.starts_with(fragment))
    });
    let place = |(source, comment): (&Source, &Comment)| {
        let first = comment.text.trim().lines().next().unwrap_or_default();
        format!("{}:{}: {first:?}", source.path, comment.line)
    };
    fragments.map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_across_lines_and_not_in_names_and_examples() {
        let text = "Whoever asks may\nnot be told `whatever`, or `so\nmany` of it.\n\
            ```\nanew\n```\n\
            Where it is, beside\n";
        let count = Count::of(&[Prose { path: "x".into(), line: 7, text: text.into() }]);
        let expected =
            ["x:7: \"whoever\"", "x:7: \"may not\"", "x:13: \"where it\"", "x:13: \"beside\""];
        assert_eq!(count.markers, expected);
        assert_eq!(count.words, 13);
    }

    #[test]
    fn docs_of_what_users_reach_are_public() {
        let text = "//! Crate.\n/// A.\n#[derive(Debug)]\npub enum E {\n    /// B.\n    V,\n}\n\
            /// C.\npub(crate) struct S {\n    /// D.\n    pub(crate) x: u8,\n}\n\
            /// E.\npub struct T {\n    /// F.\n    x: u8,\n    /// G.\n    pub y: u8,\n}\n";
        let found = public_docs(&[Source::new("src/lib.rs".into(), text.into())]);
        let found: Vec<&str> = found.iter().map(|prose| prose.text.trim()).collect();
        assert_eq!(found, ["Crate.", "A.", "B.", "E.", "G."]);
    }
}
