//! What the documents say is so: every id is in the specification, every excerpt is what the program prints, every
//! question and picture that is named exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

/// The files below `folder` that git knows or would take, by their ending, with their text.
fn files(folder: &str, ending: &str) -> Result<Vec<(String, String)>> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--", folder])
        .current_dir(root())
        .output()?;
    let names = String::from_utf8(listed.stdout)?;
    let names = names.lines().filter(|name| name.ends_with(ending) && root().join(name).is_file());
    names.map(|name| Ok((name.to_owned(), read(name)?))).collect()
}

mod specification {
    use super::*;

    const SPECIFICATION: &str = "docs/linux-6.12.md";
    const TABLES: [&str; 5] = ["Dt", "It", "Vt", "Ft", "Lt"];
    const FACTS: &str = "SDIVFLHTU";
    /// Power states of PCI functions, not facts.
    const NO_IDS: [&str; 1] = ["D0"];

    /// Words that have the form of an id: `D32`, `It2.5`, `P4`.
    fn ids(text: &str) -> impl Iterator<Item = &str> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !".-_".contains(c));
        words.map(|word| word.trim_matches('.')).filter(|word| is_id(word) && !NO_IDS.contains(word))
    }

    fn is_id(word: &str) -> bool {
        let letters = word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len());
        let Some((kind, number)) = word.split_at_checked(letters) else { return false };
        let digits = |text: &str| !text.is_empty() && text.len() <= 3 && text.bytes().all(|c| c.is_ascii_digit());
        match kind {
            _ if TABLES.contains(&kind) => {
                let (table, row) = number.split_once('.').unwrap_or((number, "1"));
                digits(table) && digits(row.trim_end_matches(|c: char| c.is_ascii_lowercase()))
            }
            "P" | "E" | "R" => digits(number) && number.len() <= 2,
            _ => kind.len() == 1 && FACTS.contains(kind) && digits(number),
        }
    }

    /// Everything that the specification defines.
    fn defined(text: &str) -> BTreeSet<String> {
        let mut defined = BTreeSet::new();
        let mut table: Option<&str> = None;
        for line in text.lines() {
            defined.extend(line.split("**").skip(1).step_by(2).filter(|word| is_id(word)).map(str::to_owned));
            let cell = line.strip_prefix("| ").and_then(|row| row.split(" |").next()).unwrap_or_default();
            let cell = cell.trim_matches('*');
            let caption = line.strip_prefix("*Table ").map(|caption| caption.trim_end_matches('*'));
            let heading = line.starts_with('#').then(|| ids(line).find(|id| is_table(id))).flatten();
            if let Some(found) = caption.or(heading).or(Some(cell).filter(|cell| is_table(cell))) {
                defined.insert(found.split(['*', ' ']).next().unwrap_or(found).to_owned());
                table = Some(found);
            } else if is_id(cell) {
                defined.insert(cell.to_owned());
            } else if cell.starts_with(|c: char| c.is_ascii_digit())
                && let Some(table) = table
            {
                defined.insert(format!("{table}.{cell}"));
            }
        }
        defined.extend((1..=14).map(|step| format!("P{step}")));
        defined.extend((0..=3).map(|step| format!("E{step}")));
        defined.extend((1..=13).map(|step| format!("R{step}")));
        defined
    }

    fn is_table(word: &str) -> bool {
        is_id(word) && !word.contains('.') && TABLES.iter().any(|kind| word.starts_with(kind))
    }

    #[test]
    fn every_id_that_is_cited_is_in_the_specification() -> Result<()> {
        let specification = read(SPECIFICATION)?;
        let defined = defined(&specification);
        ensure!(defined.len() > 500, "only {} ids were found in {SPECIFICATION}", defined.len());
        let mut missing: BTreeMap<String, String> = BTreeMap::new();
        let mut cite = |name: &str, text: &str| {
            for id in ids(text).filter(|id| !defined.contains(*id)) {
                missing.entry(id.to_owned()).or_insert_with(|| format!("{name}: {}", text.trim()));
            }
        };
        for (name, text) in files(".", ".rs")? {
            for line in text.lines() {
                // In code, an id stands in a comment, a question of the explorer or a rule of a mutant.
                let cites = name.contains("/questions/") || name.contains("/mutants/table/");
                let comment = line.find("//").and_then(|at| line.get(at..));
                cite(&name, comment.or(cites.then_some(line)).unwrap_or_default());
            }
        }
        for (name, text) in files(".", ".md")?.iter().filter(|(name, _)| name != SPECIFICATION) {
            text.lines().for_each(|line| cite(name, line));
        }
        ensure!(missing.is_empty(), "not in {SPECIFICATION}: {missing:#?}");
        Ok(())
    }

    #[test]
    fn ids_are_told_from_other_words() {
        let text = "As (D32, It2.5) says; e1000, D32x, 0xD3, vfio-D3, It2., P4 and V100. Not: D1234.";
        assert_eq!(ids(text).collect::<Vec<_>>(), ["D32", "It2.5", "It2", "P4", "V100"]);
    }
}

mod excerpts {
    use super::*;

    /// The blocks of a text that begin with `$ command`, with the lines below.
    fn excerpts(text: &str) -> Vec<(String, Vec<String>)> {
        let blocks = text.split("\n```").skip(1).step_by(2);
        let block = |block: &str| {
            let mut lines = block.lines().skip(1).map(str::to_owned);
            let command = lines.next()?.strip_prefix("$ ")?.to_owned();
            // More than one command is a list of what there is to call.
            let printed: Vec<_> = lines.filter(|line| line != "...").collect();
            let list = printed.iter().all(|line| line.starts_with("$ "));
            (!list).then_some((command, printed))
        };
        blocks.filter_map(block).collect()
    }

    /// The manifest of the package that has a program of this name.
    fn manifest_of(program: &str) -> Result<Option<String>> {
        let manifests = files(".", "Cargo.toml")?;
        let made = manifests.into_iter().find(|(_, text)| text.contains(&format!("[[bin]]\nname = \"{program}\"")));
        Ok(made.map(|(name, _)| name))
    }

    /// Runs a program of this workspace; `None` if it is one that CI runs for itself.
    fn output(command: &str) -> Result<Option<String>> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let words: Vec<_> = command.split(' ').collect();
        let mut program = match words.as_slice() {
            // The first is compared by `cargo xtask explore --argument check`.
            ["cargo", "xtask", "explore", ..] | [] => return Ok(None),
            ["cargo", "xtask", rest @ ..] => {
                let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
                xtask.args(rest);
                xtask
            }
            [name, rest @ ..] => {
                let Some(manifest) = manifest_of(name)? else { return Ok(None) };
                let mut run = Command::new(cargo);
                run.args(["run", "--quiet", "--all-features", "--manifest-path", &manifest, "--bin", name, "--"]);
                run.args(rest);
                run
            }
        };
        let output = program.current_dir(root()).env("NO_COLOR", "1").output().with_context(|| command.to_owned())?;
        Ok(Some(String::from_utf8(output.stdout)?))
    }

    #[test]
    fn excerpts_are_what_the_programs_print() -> Result<()> {
        let mut compared = 0;
        for (name, text) in files(".", "README.md")? {
            for (command, told) in excerpts(&text) {
                let Some(printed) = output(&command)? else { continue };
                let mut printed = printed.lines();
                for line in told {
                    let found = printed.any(|other| other.trim_end() == line.trim_end());
                    ensure!(found, "{name}: `{command}` does not print, or not in this order:\n{line}");
                }
                compared += 1;
            }
        }
        ensure!(compared >= 2, "only {compared} excerpts were found");
        Ok(())
    }

    #[test]
    fn the_demo_fits_its_page() -> Result<()> {
        let printed = output("cargo xtask demo")?.context("the demo")?;
        let long: Vec<_> = printed.lines().filter(|line| line.chars().count() > 100).collect();
        ensure!(long.is_empty(), "lines of more than 100 columns: {long:#?}");
        ensure!(printed.lines().count() > 50, "the demo says too little");
        Ok(())
    }
}

mod crate_pages {
    use super::*;

    #[test]
    fn every_feature_is_named_on_the_page_of_its_crate() -> Result<()> {
        for (name, manifest) in files(".", "Cargo.toml")? {
            let page = name.replace("Cargo.toml", "README.md");
            let Some((_, features)) = manifest.split_once("\n[features]\n") else { continue };
            let features = features.split("\n[").next().unwrap_or_default();
            let features = features.lines().filter_map(|line| line.split_once(" = [")).map(|(feature, _)| feature);
            let text = read(&page)?;
            for feature in features.filter(|feature| *feature != "default") {
                ensure!(text.contains(&format!("`{feature}`")), "{page} does not name the feature `{feature}`");
            }
        }
        Ok(())
    }
}

mod argument {
    use super::*;

    const ARGUMENT: &str = "docs/argument.md";
    const QUESTIONS: &str = "iommu-core/examples/explore/questions";

    /// The names of the explorer's questions.
    fn questions() -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (_, text) in files(QUESTIONS, ".rs")? {
            let begun = text.split("Question::new(").skip(1);
            names.extend(begun.filter_map(|rest| rest.split('"').nth(1)).map(str::to_owned));
        }
        Ok(names)
    }

    #[test]
    fn no_two_questions_have_one_name() -> Result<()> {
        let names = questions()?;
        let different: BTreeSet<_> = names.iter().collect();
        ensure!(names.len() > 40 && different.len() == names.len(), "of {} names, {}", names.len(), different.len());
        Ok(())
    }

    #[test]
    fn what_the_argument_names_exists() -> Result<()> {
        let (text, questions) = (read(ARGUMENT)?, questions()?);
        let looks_like_a_question = |word: &str| {
            word.contains('-') && word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        };
        let named = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let unknown: Vec<_> = named
            .filter(|word| looks_like_a_question(word) && questions.iter().all(|question| question != word))
            .collect();
        ensure!(unknown.is_empty(), "{ARGUMENT} names questions that nobody asks: {unknown:?}");

        let shown: BTreeSet<_> = text.split("](pictures/").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        let kept = files("docs/pictures", ".svg")?;
        let kept: BTreeSet<_> = kept.iter().filter_map(|(name, _)| name.rsplit('/').next()).collect();
        ensure!(shown == kept, "shown and kept are not the same: {:?}", shown.symmetric_difference(&kept));
        Ok(())
    }

    #[test]
    fn readers_find_the_argument() -> Result<()> {
        for page in ["README.md", "iommu-core/README.md"] {
            ensure!(read(page)?.contains("argument.md"), "{page} does not lead to {ARGUMENT}");
        }
        Ok(())
    }
}

mod atomics {
    use super::*;

    const SCENES: &str = "iommu-core/examples/explore/questions/atomics.rs";

    #[test]
    fn every_atomic_that_ships_has_a_scene() -> Result<()> {
        let text = read(SCENES)?;
        let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
        let mut listed = BTreeSet::new();
        for row in rows {
            let cells: Vec<_> = row.split('`').step_by(2).collect();
            let [file, atomic, question, ..] = cells.as_slice() else { continue };
            ensure!(text.contains(&format!("Question::new(\"{question}\"")), "no question called {question}");
            listed.insert(format!("{file} {atomic}"));
        }
        let mut shipped = BTreeSet::new();
        for library in ["device-model/src", "iommu-core/src", "iommufd-owner/src", "vfio-owner/src"] {
            for (name, text) in files(library, ".rs")? {
                if name.contains("/tests") || name.contains("/sync/") {
                    continue;
                }
                let fields = text.lines().filter_map(|line| line.trim().split_once(": Atomic"));
                let fields = fields.filter(|(_, kind)| !kind.contains("::new"));
                shipped.extend(
                    fields.map(|(field, _)| format!("{name} {}", field.rsplit([' ', '(']).next().unwrap_or(field))),
                );
            }
        }
        ensure!(listed == shipped, "not listed, or not there: {:#?}", listed.symmetric_difference(&shipped));
        Ok(())
    }
}
