//! Which file of `src` names which, read off the code.
//!
//! An arrow goes from a file to the file that *defines* what it names: a `use`, private or public,
//! is followed to its end. `mod child;` is no arrow, and neither is `pub use child::X` if the file
//! makes no use of `X` itself. `use child::X` in a parent is one, as is `use super::Y` in a child
//! if the parent defines `Y`, unless `Y` is a type to which the child adds methods in an `impl` of
//! its own: that is the parent's type, written in more than one file.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;

/// A path as the names in it, from the root of the crate.
type Path = Vec<String>;

/// The files of a crate, and what they name.
pub(crate) struct Arrows {
    /// Relative to `src`, as `store/mod.rs`.
    pub(crate) files: Vec<String>,
    /// The numbers of the files that each file names.
    pub(crate) named: Vec<BTreeSet<usize>>,
}

/// A module in a file of its own, or in the file of its parent.
struct Module {
    file: usize,
    /// What `use` brings in, by the name that it has here, as it is written.
    bound: BTreeMap<String, Path>,
    /// Paths that are written here, those of `use` among them.
    paths: Vec<Path>,
    /// What `pub use` passes on, by the name that it has here.
    passed_on: BTreeMap<String, Path>,
    /// All names that stand here outside of `use`.
    names: BTreeSet<String>,
    /// The types that have an `impl` here, and no trait in it.
    extended: BTreeSet<String>,
}

type Modules = BTreeMap<Path, Module>;

impl Arrows {
    pub(crate) fn new(sources: &[Source]) -> Self {
        let files: Vec<String> =
            sources.iter().map(|source| source.path.trim_start_matches("src/").into()).collect();
        let mut modules = Modules::new();
        for (file, source) in sources.iter().enumerate() {
            modules.insert(module_of(&files[file]), Module::new(file));
            Reader::new(&source.code, file, module_of(&files[file])).read(&mut modules);
        }
        let mut named = vec![BTreeSet::new(); files.len()];
        for (place, module) in &modules {
            let used = module.passed_on.iter().filter(|(name, _)| module.names.contains(*name));
            for path in module.paths.iter().chain(used.map(|(_, path)| path)) {
                let path = from_root(&modules, place, path);
                let Some((file, name)) = path.and_then(|path| definition(&modules, &path, 0))
                else {
                    continue;
                };
                let extends =
                    module.extended.contains(&name) && is_parent(&files, file, module.file);
                if file != module.file && !extends {
                    named[module.file].insert(file);
                }
            }
        }
        Self { files, named }
    }

    /// Files that name each other, directly or by others in between. Each circle is the list of the
    /// arrows between its files.
    pub(crate) fn circles(&self) -> Vec<Vec<(&str, &str)>> {
        let reached: Vec<BTreeSet<usize>> =
            (0..self.files.len()).map(|file| self.reached(file)).collect();
        let mut circles = Vec::new();
        let mut seen = BTreeSet::new();
        for file in 0..self.files.len() {
            let is_mutual = |other: &usize| reached[*other].contains(&file);
            let circle: Vec<usize> = reached[file].iter().copied().filter(is_mutual).collect();
            if circle.len() > 1 && seen.insert(circle.clone()) {
                let is_in = |file: &str| circle.iter().any(|in_it| self.files[*in_it] == file);
                circles.push(self.all().filter(|(from, to)| is_in(from) && is_in(to)).collect());
            }
        }
        circles
    }

    /// The files that a file names, directly or by others.
    fn reached(&self, file: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut next = vec![file];
        while let Some(file) = next.pop() {
            next.extend(self.named[file].iter().filter(|other| reached.insert(**other)));
        }
        reached
    }

    /// Each arrow as the two files that it joins.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let arrows = self.named.iter().enumerate();
        arrows.flat_map(move |(from, named)| {
            named.iter().map(move |to| (&*self.files[from], &*self.files[*to]))
        })
    }
}

impl Module {
    fn new(file: usize) -> Self {
        Self {
            file,
            bound: BTreeMap::new(),
            paths: Vec::new(),
            passed_on: BTreeMap::new(),
            names: BTreeSet::new(),
            extended: BTreeSet::new(),
        }
    }
}

/// The module of a file: `store/table.rs` is `store::table`, and so is `store/table/mod.rs`.
fn module_of(file: &str) -> Path {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// A path from the root of the crate. `None` if it begins with another crate, a type, or a value.
fn from_root(modules: &Modules, place: &[String], path: &[String]) -> Option<Path> {
    let (first, rest) = path.split_first()?;
    let start = match first.as_str() {
        "crate" => Vec::new(),
        "self" => place.to_vec(),
        "super" => place[..place.len().checked_sub(1)?].to_vec(),
        _ => {
            let child = [place, std::slice::from_ref(first)].concat();
            match modules[place].bound.get(first) {
                _ if modules.contains_key(&child) => child,
                // A name may be bound to itself: `use rand;`.
                Some(bound) if bound != path && bound.first() != Some(first) => {
                    from_root(modules, place, bound)?
                }
                _ => return None,
            }
        }
    };
    let supers = rest.iter().take_while(|name| *name == "super").count();
    let start = &start[..start.len().checked_sub(supers)?];
    Some([start, &rest[supers..]].concat())
}

/// Whether one file is that of the module in which the module of the other is declared.
fn is_parent(files: &[String], parent: usize, child: usize) -> bool {
    module_of(&files[child]).split_last().is_some_and(|(_, path)| path == module_of(&files[parent]))
}

/// The file that defines what a path names, and its name there; the name of a module is empty.
fn definition(modules: &Modules, path: &[String], depth: usize) -> Option<(usize, String)> {
    let is_module = |length: &usize| modules.contains_key(&path[..*length]);
    let length = (0..=path.len()).rev().find(is_module)?;
    let (place, rest) = path.split_at(length);
    let module = &modules[place];
    let Some((name, rest)) = rest.split_first() else { return Some((module.file, String::new())) };
    if let Some(bound) = module.bound.get(name)
        && let Some(bound) = from_root(modules, place, bound)
        && depth < 10
    {
        return definition(modules, &[&bound, rest].concat(), depth + 1);
    }
    Some((module.file, name.clone()))
}

// ── reading the code ──

#[derive(Clone, Copy, PartialEq, Debug)]
enum Token<'a> {
    Name(&'a str),
    /// `::`.
    Then,
    Sign(char),
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_name = |char: char| char.is_alphanumeric() || char == '_';
        let length = match first {
            _ if is_name(first) => {
                let length = rest.find(|char| !is_name(char)).unwrap_or(rest.len());
                tokens.push(Token::Name(&rest[..length]));
                length
            }
            ':' if rest.starts_with("::") => {
                tokens.push(Token::Then);
                2
            }
            _ => {
                tokens.push(Token::Sign(first));
                first.len_utf8()
            }
        };
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Reads one file, and follows the modules that stand in it.
struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    file: usize,
    /// The modules that are open, each with how many brackets were open before it.
    place: Path,
    inline: Vec<usize>,
    open: usize,
}

impl<'a> Reader<'a> {
    fn new(code: &'a str, file: usize, place: Path) -> Self {
        Self { tokens: tokens(code), at: 0, file, place, inline: Vec::new(), open: 0 }
    }

    fn read(mut self, modules: &mut Modules) {
        while let Some(token) = self.tokens.get(self.at).copied() {
            let before = self.at.checked_sub(1).map(|at| self.tokens[at]);
            match (token, self.tokens.get(self.at + 1), self.tokens.get(self.at + 2)) {
                (Token::Name("use"), ..) => {
                    let passes_on = matches!(before, Some(Token::Name("pub") | Token::Sign(')')));
                    self.at += 1;
                    self.read_use(&Vec::new(), passes_on, modules);
                }
                (Token::Name("mod"), Some(Token::Name(name)), Some(Token::Sign('{'))) => {
                    self.place.push((*name).to_owned());
                    modules.insert(self.place.clone(), Module::new(self.file));
                    self.inline.push(self.open);
                    self.open += 1;
                    self.at += 3;
                }
                (Token::Name("mod"), Some(Token::Name(_)), _) => self.at += 2,
                (Token::Name("impl"), ..) => {
                    self.at += 1;
                    let extended = self.extended();
                    self.module(modules).extended.extend(extended);
                }
                (Token::Name("in"), ..) if before == Some(Token::Sign('(')) => {
                    // `pub(in crate::shard)` says who may name the item, and is no arrow.
                    while self.tokens.get(self.at).is_some_and(|it| *it != Token::Sign(')')) {
                        self.at += 1;
                    }
                }
                (Token::Name(_), Some(Token::Then), _) => {
                    let path = self.read_path();
                    let module = self.module(modules);
                    module.names.insert(path[0].clone());
                    module.paths.push(path);
                }
                (Token::Name(name), ..) => {
                    self.module(modules).names.insert(name.to_owned());
                    self.at += 1;
                }
                (Token::Sign('{'), ..) => {
                    self.open += 1;
                    self.at += 1;
                }
                (Token::Sign('}'), ..) => {
                    self.open -= 1;
                    if self.inline.last() == Some(&self.open) {
                        self.inline.pop();
                        self.place.pop();
                    }
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
    }

    /// The type of an `impl` without a trait, which has been read up to its generics.
    fn extended(&self) -> Option<String> {
        let mut depth = 0;
        let mut last = None;
        let mut tokens = self.tokens[self.at..].iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                Token::Sign('<') => depth += 1,
                Token::Sign('-') if tokens.peek() == Some(&&Token::Sign('>')) => {
                    tokens.next();
                }
                Token::Sign('>') => depth -= 1,
                Token::Name("where") | Token::Sign('{') if depth == 0 => return last,
                Token::Name("for") | Token::Sign(',' | ';' | ')' | '=') if depth == 0 => {
                    return None;
                }
                Token::Name(name) if depth == 0 => last = Some((*name).to_owned()),
                _ => {}
            }
        }
        None
    }

    fn module<'m>(&self, modules: &'m mut Modules) -> &'m mut Module {
        modules.get_mut(&self.place).expect("it was begun")
    }

    /// A path of an expression or a type, up to its last name.
    fn read_path(&mut self) -> Path {
        let mut path = Vec::new();
        while let Some(Token::Name(name)) = self.tokens.get(self.at) {
            path.push((*name).to_owned());
            self.at += 1;
            match (self.tokens.get(self.at), self.tokens.get(self.at + 1)) {
                (Some(Token::Then), Some(Token::Name(_))) => self.at += 1,
                _ => break,
            }
        }
        path
    }

    /// What follows `use`, or stands between the braces in it: `a::{b, c::d as e, self}`.
    fn read_use(&mut self, prefix: &Path, passes_on: bool, modules: &mut Modules) {
        let mut path = prefix.clone();
        let mut alias = None;
        while let Some(token) = self.tokens.get(self.at).copied() {
            self.at += 1;
            match token {
                Token::Name("as") => {
                    if let Some(Token::Name(name)) = self.tokens.get(self.at) {
                        alias = Some((*name).to_owned());
                    }
                    self.at += 1;
                }
                Token::Name("self") if !path.is_empty() => {}
                Token::Name(name) => path.push(name.to_owned()),
                Token::Sign('{') => {
                    while self.tokens.get(self.at).is_some_and(|it| *it != Token::Sign('}')) {
                        self.read_use(&path, passes_on, modules);
                    }
                    self.at += 1;
                    path.clear();
                }
                Token::Sign(',') => break,
                Token::Sign(';') => break,
                Token::Sign('}') => {
                    self.at -= 1;
                    break;
                }
                _ => {}
            }
        }
        let Some(name) = alias.or_else(|| path.last().cloned()) else { return };
        let module = self.module(modules);
        module.bound.insert(name.clone(), path.clone());
        if passes_on {
            module.passed_on.insert(name, path);
        } else {
            module.paths.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrows(files: &[(&str, &str)]) -> Arrows {
        let source =
            |(path, text): &(&str, &str)| Source::new(format!("src/{path}"), (*text).to_owned());
        Arrows::new(&files.iter().map(source).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_followed_to_the_file_that_defines_them() {
        let found = arrows(&[
            ("lib.rs", "mod a;\nmod b;\npub use b::{self, deep::Deep as Seen};\nfn f() -> Seen {}"),
            ("a.rs", "use crate::Seen;\nuse crate::b::{Other, Deep};\nfn f() { crate::b::g(); }"),
            ("b/mod.rs", "mod deep;\npub(crate) use self::deep::Deep;\nstruct Other; fn g() {}"),
            ("b/deep.rs", "pub(in crate::b) struct Deep;\nmod x { use super::Deep; }"),
        ]);
        let all: Vec<(&str, &str)> = found.all().collect();
        let expected = [("lib.rs", "b/deep.rs"), ("a.rs", "b/mod.rs"), ("a.rs", "b/deep.rs")];
        assert_eq!(all, expected);
        assert!(found.circles().is_empty());
    }

    #[test]
    fn a_child_may_add_methods_to_a_type_of_its_parent() {
        let parent = "mod child;\nuse child::X;\nstruct P<C>(X, C);";
        let files =
            |child| arrows(&[("lib.rs", "mod p;"), ("p.rs", parent), ("p/child.rs", child)]);
        let extends = "use super::P;\nstruct X;\nimpl<C: Fn(u8) -> u8> P<C> where C: Copy {}";
        assert!(files(extends).circles().is_empty());
        assert_eq!(files("use super::P;\nstruct X;\nimpl<C> Drop for P<C> {}").circles().len(), 1);
    }

    #[test]
    fn a_child_that_names_what_its_parent_defines_and_is_named_by_it_is_in_a_circle() {
        let parent = "mod child;\nuse child::X;\nstruct Y;";
        let files =
            |child| arrows(&[("lib.rs", "mod p;"), ("p.rs", parent), ("p/child.rs", child)]);
        let found = files("use super::Y;\nstruct X;");
        let circle = [("p.rs", "p/child.rs"), ("p/child.rs", "p.rs")];
        assert_eq!(found.circles(), [circle]);
        // What the parent itself only uses it does not define.
        assert!(files("use super::X as Other;\nstruct X;").circles().is_empty());
    }
}
