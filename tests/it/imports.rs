//! Imports point up only. This reads the paths in `src/` and holds the code to the table of rows.
//!
//! A module may use any row above its own. It may not use a row below, nor another module of its own row. Code under
//! `#[cfg(test)]` is free.

use proc_macro2::{TokenStream, TokenTree};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::Visit;

/// The modules from the top row to the bottom one. The longest entry that fits a path counts.
const ROWS: &[&[&str]] = &[
    &["units"],
    &["engine", "api"],
    &[
        "config",
        "clock",
        "stats::wire",
        "stats::sample",
        "ownership::ring",
        "ownership::holder",
        "ownership::election",
        "routing::capabilities",
        "routing::gate",
        "routing::model",
        "routing::translate",
        "routing::plan",
        "routing::port",
        "routing::removal",
        "routing::table",
    ],
    &["observe"],
    &["k8s"],
    &["ownership", "stats"],
    &["deciders"],
    &["controllers", "routing"],
    &["app", "dataplane"],
    &["local", "sim"],
    &["cli", "main"],
];

/// Modules that decide without touching the world: they never wait, log, read a clock or talk to a cluster.
const PURE: &[&str] = &[
    "units",
    "engine",
    "api",
    "config",
    "stats::wire",
    "stats::sample",
    "ownership::ring",
    "ownership::holder",
    "ownership::election",
    "routing::capabilities",
    "routing::gate",
    "routing::model",
    "routing::translate",
    "routing::plan",
    "routing::port",
    "routing::removal",
    "routing::table",
    "sim",
];

/// Crates a pure module has no use for.
const IMPURE_CRATES: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_tungstenite",
    "futures",
    "tracing",
    "tracing_subscriber",
    "hyper",
    "hyper_util",
    "axum",
    "reqwest",
    "tower",
    "kube",
];

/// What may stand in a pure module all the same: it makes types, not calls.
const PURE_PATHS: &[&str] = &["kube::CustomResource", "kube::Resource", "kube::ResourceExt", "kube::core"];

/// What `(module, used)` must not do although the rows would allow it, and why.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("dataplane", "controllers", "the data path runs where there is no controller"),
    ("dataplane", "deciders", "the data path reports, it does not decide"),
    ("sim", "observe", "the simulator has the pure core only"),
    ("sim", "k8s", "the simulator has the pure core only"),
    ("sim", "ownership", "the simulator has the pure core only"),
    ("sim", "stats", "the simulator has the pure core only"),
    ("sim", "deciders", "the simulator has the pure core only"),
    ("sim", "controllers", "the simulator has the pure core only"),
    ("sim", "app", "the simulator has the pure core only"),
    ("sim", "dataplane", "the simulator has the pure core only"),
    ("sim", "clock", "the simulator has virtual time"),
];

#[test]
fn imports_point_up_only() {
    let source = crate::root().join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    assert!(files.len() > 20, "only {} files under {}", files.len(), source.display());
    let mut faults = String::new();
    for file in files {
        let relative = file.strip_prefix(&source).expect("a file under src");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for fault in check(&module_of(relative), &text) {
            writeln!(faults, "src/{}:{fault}", relative.display()).expect("writing to a string");
        }
    }
    assert!(
        faults.is_empty(),
        "imports that do not point up:\n{faults}The rows are in tests/it/imports.rs. Move what both need to a row above \
         them, or pass it in as a value."
    );
}

#[test]
fn the_check_finds_what_it_is_for() {
    for (module, code, fault) in [
        ("engine::window", "use crate::units::Span;", None),
        ("engine::window", "use super::delay::Delay;", None),
        ("engine::window", "use crate::api::names;", Some("1: engine uses crate::api::names, of its own row")),
        (
            "engine::window",
            "\nfn f() { crate::clock::now() }",
            Some("2: engine uses crate::clock::now, of a row below"),
        ),
        ("engine::window", "use super::super::{units, config::Live};", Some("crate::config::Live, of a row below")),
        ("engine", "use crate::{units::Span, k8s::{Cache as K}};", Some("crate::k8s::Cache")),
        ("engine", "fn f() { assert!(crate::observe::on()); }", Some("crate::observe::on")),
        ("engine", "use std::time::Instant;\nuse tokio::time;", Some("2: engine is pure and must not use tokio::time")),
        ("api::metric", "use kube::CustomResource;", None),
        ("api::metric", "use kube::{Client, CustomResource};", Some("kube::Client")),
        ("stats::wire", "use crate::stats::sample::size;", None),
        ("stats::wire", "use crate::stats::Stats;", Some("stats::wire uses crate::stats::Stats, of a row below")),
        ("stats::scrape", "use crate::stats::wire::Stat;", None),
        ("ownership", "use crate::stats::Stat;", Some("of its own row")),
        ("controllers::metric::plan", "use crate::k8s::Cache;", Some("is a plan")),
        ("controllers::metric", "use crate::k8s::Cache;", None),
        ("dataplane::activator", "use crate::controllers::x;", Some("no controller")),
        ("sim::world", "use crate::engine::Spec;", None),
        ("sim::world", "use crate::stats::scrape;", Some("the pure core only")),
        ("sim::world", "use crate::stats::wire::Stat;", None),
        ("novelty", "", Some("novelty has no row")),
        ("engine", "#[cfg(test)]\nmod tests {\n use crate::api::names;\n}", None),
    ] {
        let faults = check(module, code);
        match fault {
            None => assert!(faults.is_empty(), "{module}: {code}: {faults:?}"),
            Some(fault) => {
                assert_eq!(faults.len(), 1, "{module}: {code}: {faults:?}");
                assert!(faults[0].contains(fault), "{module}: {code}: {faults:?} has no {fault:?}");
            }
        }
    }
}

/// Every fault in the code of `module`, each as `LINE: what is wrong`.
fn check(module: &str, code: &str) -> Vec<String> {
    let Some((row, entry)) = row_of(module) else {
        return vec![format!("1: {module} has no row; add it to the table")];
    };
    let file = syn::parse_file(code).unwrap_or_else(|error| panic!("{module}: {error}"));
    let mut paths = Paths { module: module.split("::").map(str::to_owned).collect(), found: Vec::new() };
    paths.visit_file(&file);

    let mut faults = Vec::new();
    for (line, path) in paths.found {
        let fault = if let Some(inside) = path.strip_prefix("crate::") {
            let Some((used_row, used)) = row_of(inside) else { continue };
            if let Some((_, _, why)) = FORBIDDEN.iter().find(|(from, to, _)| is_within(module, from) && used == *to) {
                format!("{entry} uses {path}, but {why}")
            } else if used_row > row {
                format!("{entry} uses {path}, of a row below")
            } else if used_row == row && top(used) != top(entry) {
                format!("{entry} uses {path}, of its own row")
            } else if is_plan(module) && is_within(inside, "k8s") {
                format!("{module} is a plan and must not use {path}")
            } else {
                continue;
            }
        } else if is_pure(module) && is_impure_crate(&path) {
            format!("{entry} is pure and must not use {path}")
        } else {
            continue;
        };
        faults.push(format!("{line}: {fault}"));
    }
    faults.dedup();
    faults
}

/// The paths a file names: those from the crate's root, and those of other crates.
struct Paths {
    module: Vec<String>,
    found: Vec<(usize, String)>,
}

impl Paths {
    fn add(&mut self, line: usize, segments: &[String]) {
        let resolved = match segments.first().map(String::as_str) {
            Some("self" | "super") => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let rest = segments.iter().skip_while(|segment| matches!(segment.as_str(), "super" | "self"));
                let base = &self.module[..self.module.len().saturating_sub(ups)];
                let path: Vec<_> = base.iter().chain(rest).cloned().collect();
                format!("crate::{}", path.join("::"))
            }
            _ => segments.join("::"),
        };
        self.found.push((line, resolved));
    }

    fn add_tree(&mut self, prefix: &mut Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.add_tree(prefix, &path.tree);
                prefix.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.add_tree(prefix, item)),
            syn::UseTree::Glob(_) => self.add(tree.span().start().line, prefix),
            syn::UseTree::Name(syn::UseName { ident }) | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                prefix.push(ident.to_string());
                self.add(tree.span().start().line, prefix);
                prefix.pop();
            }
        }
    }

    /// Finds `crate::a::b` among the tokens of a macro, which are not parsed.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Ident(ident) if ident == "crate" => {
                    let mut segments = vec!["crate".to_owned()];
                    let mut rest = &tokens[at + 1..];
                    while let [TokenTree::Punct(one), TokenTree::Punct(two), TokenTree::Ident(next), after @ ..] = rest
                        && (one.as_char(), two.as_char()) == (':', ':')
                    {
                        segments.push(next.to_string());
                        rest = after;
                    }
                    self.add(ident.span().start().line, &segments);
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(item) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add(path.span().start().line, &segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.visit_path(&called.path);
        self.add_tokens(called.tokens.clone());
    }
}

/// Whether an item is compiled for tests only.
fn is_for_tests(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|argument| argument.is_ident("test"))
    })
}

/// The row of a path without its leading `crate`, and the entry of the table that put it there.
fn row_of(path: &str) -> Option<(usize, &'static str)> {
    let entries = ROWS.iter().enumerate().flat_map(|(row, entries)| entries.iter().map(move |entry| (row, *entry)));
    entries.filter(|(_, entry)| is_within(path, entry)).max_by_key(|(_, entry)| entry.len())
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

/// A controller's plan is pure as far as the cluster goes.
fn is_plan(module: &str) -> bool {
    is_within(module, "controllers") && module.split("::").any(|part| part == "plan")
}

fn is_pure(module: &str) -> bool {
    is_plan(module) || PURE.iter().any(|pure| is_within(module, pure))
}

fn is_impure_crate(path: &str) -> bool {
    IMPURE_CRATES.contains(&top(path)) && !PURE_PATHS.iter().any(|allowed| is_within(path, allowed))
}

/// The module a file under `src/` is: `engine/window.rs` is `engine::window`.
fn module_of(file: &Path) -> String {
    let without_extension = file.with_extension("");
    let parts: Vec<_> = without_extension.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let parts = parts.strip_suffix(&["mod".to_owned()]).unwrap_or(&parts);
    parts.join("::")
}

/// Every Rust file under `directory`, but for the crate's own list of modules.
fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("src/lib.rs") {
            files.push(path);
        }
    }
    files.sort_unstable();
}
