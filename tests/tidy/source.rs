//! Rust files, taken apart: what is code, what is comment, and what is there for tests alone.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the repository's Rust files are. Figures are given for each of these folders.
pub(crate) const FOLDERS: &[&str] =
    &["src", "tests", "benches", "fuzz", "loom-tests", "simulate", "examples"];

/// A Rust file.
pub(crate) struct Source {
    /// Relative to the repository, as `src/store/mod.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Its lines with blanks instead of comments, literals, and code under `#[cfg(test)]`.
    pub(crate) code: String,
    /// How many lines are under `#[cfg(test)]`.
    pub(crate) test_lines: usize,
    pub(crate) comments: Vec<Comment>,
}

/// Lines of comment that stand together.
pub(crate) struct Comment {
    pub(crate) kind: Kind,
    /// The number of its first line, from one.
    pub(crate) line: usize,
    /// Without the slashes.
    pub(crate) text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `//`, or between `/*` and `*/`.
    Plain,
    /// `///`: of the item that follows.
    Item,
    /// `//!`: of the module that it is in.
    Module,
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder of the repository whose name ends like this, sorted by path.
pub(crate) fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A file's path relative to the repository.
pub(crate) fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap().to_string_lossy().replace('\\', "/")
}

/// Every Rust file below a folder of the repository.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let read = |path: PathBuf| Source::new(relative(&path), fs::read_to_string(path).unwrap());
    files(folder, ".rs").into_iter().map(read).collect()
}

impl Source {
    pub(crate) fn new(path: String, text: String) -> Self {
        let (code, comments) = take_apart(&text);
        let (code, test_lines) = without_tests(&code);
        let mut source = Self { path, text, code, test_lines, comments };
        if source.is_test() {
            source.test_lines = source.text.lines().count();
            source.code = String::new();
        }
        source
    }

    /// Whether all of this file of `src` is for unit tests.
    fn is_test(&self) -> bool {
        let mut parts = self.path.split('/').skip(1);
        self.path.starts_with("src/") && parts.any(|part| part == "tests" || part == "tests.rs")
    }
}

/// The code with blanks instead of comments and what literals contain, and the comments.
fn take_apart(text: &str) -> (String, Vec<Comment>) {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut comments: Vec<Comment> = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => end_of_line(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_block(&chars, at),
            '"' => end_of_string(&chars, at),
            '\'' => end_of_char(&chars, at),
            'r' if !follows_a_name(&chars, at) => end_of_raw_string(&chars, at),
            _ => at + 1,
        };
        let piece = &chars[at..end];
        if piece.len() > 1 && piece[0] == '/' {
            let is_alone = code.rsplit('\n').next().is_none_or(|line| line.trim().is_empty());
            note(&mut comments, piece, line, is_alone);
        }
        let is_code = piece.len() == 1;
        for char in piece {
            line += usize::from(*char == '\n');
            code.push(if is_code || *char == '\n' { *char } else { ' ' });
        }
        at = end;
    }
    (code, comments)
}

/// Adds a comment, or adds its text to the comment of the line before.
fn note(comments: &mut Vec<Comment>, piece: &[char], line: usize, is_alone: bool) {
    let piece: String = piece.iter().collect();
    let (kind, text) = match &piece {
        _ if piece.starts_with("////") => (Kind::Plain, piece.trim_start_matches('/')),
        _ if piece.starts_with("///") => (Kind::Item, &piece[3..]),
        _ if piece.starts_with("//!") => (Kind::Module, &piece[3..]),
        _ if piece.starts_with("//") => (Kind::Plain, &piece[2..]),
        _ => (Kind::Plain, piece.trim_start_matches(['/', '*']).trim_end_matches(['/', '*'])),
    };
    if let Some(last) = comments.last_mut()
        && is_alone
        && last.kind == kind
        && last.line + last.text.lines().count() == line
    {
        last.text += text;
        last.text.push('\n');
        return;
    }
    comments.push(Comment { kind, line, text: format!("{text}\n") });
}

fn follows_a_name(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| chars[before]);
    // A byte string may be raw: `br"…"`.
    before.is_some_and(|c| (c.is_alphanumeric() && c != 'b') || c == '_')
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|at| chars[*at] == '\n').unwrap_or(chars.len())
}

fn end_of_block(chars: &[char], at: usize) -> usize {
    let (mut depth, mut at) = (0, at);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// A lifetime is no literal.
fn end_of_char(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let end = (at + 3..chars.len()).find(|at| chars[*at] == '\'');
            end.map_or(chars.len(), |end| end + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// Behind `r"…"`, or `r#"…"#` with any number of `#`; behind the `r` if it is neither.
fn end_of_raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|char| **char == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at + 1;
    }
    let is_end = |quote: &usize| {
        let behind = chars[quote + 1..].iter().take_while(|char| **char == '#').count();
        chars[*quote] == '"' && behind >= hashes
    };
    let quote = (at + 2 + hashes..chars.len()).find(is_end);
    quote.map_or(chars.len(), |quote| quote + 1 + hashes)
}

/// The code with blanks instead of items that only tests have, and how many lines these take.
fn without_tests(code: &str) -> (String, usize) {
    let mut chars: Vec<char> = code.chars().collect();
    let mut lines = 0;
    for marker in ["#[cfg(test)]", "#[cfg(all(test"] {
        let marker: Vec<char> = marker.chars().collect();
        let mut at = 0;
        while let Some(found) = (at..chars.len()).find(|start| chars[*start..].starts_with(&marker))
        {
            let end = end_of_item(&chars, found);
            lines += 1 + chars[found..end].iter().filter(|char| **char == '\n').count();
            chars[found..end].iter_mut().filter(|char| **char != '\n').for_each(|c| *c = ' ');
            at = end;
        }
    }
    (chars.into_iter().collect(), lines)
}

/// Where the item with this attribute ends: behind its block, its semicolon, or, if it is a
/// variant, a field or an arm, its comma.
fn end_of_item(chars: &[char], attribute: usize) -> usize {
    let mut at = attribute;
    while chars.get(at) == Some(&'#') {
        at = end_of_brackets(chars, at + 1);
        at += chars[at..].iter().take_while(|char| char.is_whitespace()).count();
    }
    let word: String = chars[at..].iter().take_while(|char| char.is_alphabetic()).collect();
    let items = [
        "async", "const", "enum", "fn", "impl", "mod", "pub", "static", "struct", "trait", "type",
        "unsafe", "use",
    ];
    let is_item = items.contains(&word.as_str());
    while at < chars.len() {
        match chars[at] {
            '{' if word == "use" => at = end_of_brackets(chars, at),
            '{' => return end_of_brackets(chars, at),
            '(' | '[' => at = end_of_brackets(chars, at),
            ';' => return at + 1,
            ',' if !is_item => return at + 1,
            '}' => return at,
            _ => at += 1,
        }
    }
    at
}

/// Behind the bracket that closes the one at this place.
fn end_of_brackets(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    for (place, char) in chars.iter().enumerate().skip(at) {
        match char {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return place + 1;
        }
    }
    chars.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_literals_and_tests_are_no_code() {
        let text = "//! Of the module,\n//! twice.\nfn f<'a>() { // why\n\
            g(\"// no\", 'x', '\\'', r#\"\"\"#); /* b /* c */ */ h()\n}\n\
            #[cfg(test)]\nmod tests {\n    use crate::x;\n}\nenum E {\n\
            #[cfg(test)]\n    A,\n    /// Doc.\n    B,\n}\n";
        let source = Source::new("src/x.rs".into(), text.into());
        let lines: Vec<&str> = source.code.lines().map(str::trim_end).collect();
        assert_eq!(lines[2], "fn f<'a>() {");
        let code: String = source.code.split_whitespace().collect();
        assert_eq!(code, "fnf<'a>(){g(,,,);h()}enumE{B,}");
        assert_eq!(source.test_lines, 6);
        let comments: Vec<(Kind, usize, &str)> =
            source.comments.iter().map(|it| (it.kind, it.line, it.text.trim())).collect();
        assert_eq!(
            comments,
            [
                (Kind::Module, 1, "Of the module,\n twice."),
                (Kind::Plain, 3, "why"),
                (Kind::Plain, 4, "b /* c */"),
                (Kind::Item, 13, "Doc."),
            ]
        );
    }
}
