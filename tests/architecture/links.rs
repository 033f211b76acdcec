//! Documents lead to what there is, and to each other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{read, root};

/// Every document for people.
fn documents() -> Vec<PathBuf> {
    let named = ["README.md", "CHANGELOG.md", "SECURITY.md", "tests/bench/README.md"];
    let mut documents = named.map(|name| root().join(name)).to_vec();
    for entry in fs::read_dir(root().join("docs")).expect("there are docs") {
        let path = entry.expect("docs can be listed").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents.push(path);
        }
    }
    documents
}

/// Targets of links, without those that lead elsewhere; what stands in blocks of code is none.
fn targets(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let links = prose.flat_map(|part| part.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    links.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// Names by which headings are reached.
fn anchors(text: &str) -> BTreeSet<String> {
    let is_kept = |char: &char| char.is_alphanumeric() || matches!(char, '-' | '_' | ' ');
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| heading.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn every_link_of_a_document_leads_to_something() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for target in targets(&text) {
            let (path, anchor) =
                target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let file = match path {
                "" => document.clone(),
                path => document.parent().expect("a document is in a folder").join(path),
            };
            let is_there = file.exists()
                && anchor.is_none_or(|anchor| file.is_dir() || anchors(&read(&file)).contains(anchor));
            if !is_there {
                broken.push(format!("{}: {target}", shown(&document)));
            }
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_page_is_on_the_map_of_all_pages() {
    let map = read(&root().join("docs/README.md"));
    let listed: BTreeSet<&str> = targets(&map).into_iter().collect();
    for document in documents() {
        let Ok(page) = document.strip_prefix(root().join("docs")) else { continue };
        let page = page.to_string_lossy();
        assert!(
            page == "README.md" || listed.contains(page.as_ref()),
            "docs/README.md does not lead to {page}"
        );
    }
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
