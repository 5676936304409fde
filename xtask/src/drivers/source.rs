//! A folder of C files, and the drivers that they define.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A definition of a driver.
pub(super) struct Definition {
    /// Its name on the bus; `None` if the source computes it.
    pub(super) name: Option<String>,
    /// Whether it sets `driver_managed_dma`.
    pub(super) managed: bool,
}

/// The C files and the makefile of a folder.
pub(super) struct Folder {
    sources: Vec<(PathBuf, String)>,
    makefile: String,
}

/// So deep a name is looked for in files that include each other.
const MOST_NESTED: u32 = 3;

impl Folder {
    pub(super) fn read(entries: &[PathBuf]) -> Result<Self> {
        let mut folder = Self { sources: Vec::new(), makefile: String::new() };
        for path in entries.iter().filter(|path| path.is_file()) {
            let makefile = path.file_name().is_some_and(|name| name == "Makefile" || name == "Kbuild");
            let source = path.extension().is_some_and(|extension| extension == "c");
            if !makefile && !source {
                continue;
            }
            let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if source {
                folder.sources.push((path.clone(), text));
            } else {
                folder.makefile.push_str(&text.replace("\\\n", " "));
            }
        }
        Ok(folder)
    }

    /// The drivers of this structure that the folder's files define. Headers are looked for in `tree`, too.
    pub(super) fn definitions(&self, structure: &str, tree: &Path) -> Vec<Definition> {
        let start = format!("struct {structure}");
        let mut found = Vec::new();
        for (path, text) in &self.sources {
            for (at, _) in text.match_indices(&start) {
                let rest = text.get(at + start.len()..).unwrap_or_default();
                let Some(body) = Some(rest).filter(|rest| rest.starts_with(char::is_whitespace)).and_then(initializer)
                else {
                    continue;
                };
                let managed = field(body, "driver_managed_dma").is_some_and(|value| value.starts_with("true"));
                let scope = Scope { folder: self, path, text, tree };
                let name = field(body, "name").and_then(|value| scope.evaluate(value, MOST_NESTED));
                found.push(Definition { name, managed });
            }
        }
        found
    }

    /// The module that a file is built into, as this folder's makefile or the one above says.
    fn module(&self, path: &Path) -> Option<String> {
        let object = format!("{}.o", path.file_stem()?.to_str()?);
        let from_above = format!("{}/{object}", path.parent()?.file_name()?.to_str()?);
        let above = path.parent()?.parent()?.join("Makefile");
        built_into(&self.makefile, &object)
            .or_else(|| built_into(&std::fs::read_to_string(above).ok()?.replace("\\\n", " "), &from_above))
    }
}

/// The module that a makefile builds `object` into.
fn built_into(makefile: &str, object: &str) -> Option<String> {
    let mut whole = None;
    for line in makefile.lines() {
        let Some((target, objects)) = line.split_once('=') else { continue };
        let target = target.trim_end_matches([' ', '\t', '+', ':']);
        if !objects.split_whitespace().any(|word| word == object) {
            continue;
        }
        if target.starts_with("obj-") {
            return object.strip_suffix(".o").map(module_name);
        }
        let part_of = ["-objs", "-y", "-m"].iter().find_map(|suffix| target.strip_suffix(suffix));
        whole = whole.or(part_of.or_else(|| target.split_once("-$(").map(|(whole, _)| whole)));
    }
    whole.map(module_name)
}

/// Where a name stands.
struct Scope<'a> {
    folder: &'a Folder,
    path: &'a Path,
    text: &'a str,
    tree: &'a Path,
}

impl Scope<'_> {
    /// The text of a C expression: literals, constants, and the module's name.
    fn evaluate(&self, expression: &str, nested: u32) -> Option<String> {
        let mut name = String::new();
        let mut rest = expression.trim();
        while !rest.is_empty() {
            if let Some(quoted) = rest.strip_prefix('"') {
                let (literal, after) = quoted.split_once('"')?;
                name.push_str(literal);
                rest = after.trim_start();
                continue;
            }
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at_checked(length).filter(|(word, _)| !word.is_empty())?;
            name.push_str(&self.constant(word, nested.checked_sub(1)?)?);
            rest = after.trim_start();
        }
        Some(name).filter(|name| !name.is_empty())
    }

    fn constant(&self, word: &str, nested: u32) -> Option<String> {
        match word {
            "KBUILD_MODNAME" => self.folder.module(self.path),
            "KBUILD_BASENAME" => Some(module_name(self.path.file_stem()?.to_str()?)),
            _ => {
                let value = self.value(word, self.path, self.text, MOST_NESTED).or_else(|| self.elsewhere(word))?;
                self.evaluate(&value, nested)
            }
        }
    }

    /// What a word stands for in a file, or in what the file includes.
    fn value(&self, word: &str, path: &Path, text: &str, nested: u32) -> Option<String> {
        if let Some(value) = defined(text, word).or_else(|| array(text, word)) {
            return Some(value.to_owned());
        }
        let nested = nested.checked_sub(1)?;
        included(text).find_map(|name| {
            let near = path.parent()?.ancestors().take(3).map(|folder| folder.join(name));
            let mut places = near.chain([self.tree.join("include").join(name)]);
            let file = places.find(|file| file.is_file())?;
            let header = String::from_utf8_lossy(&std::fs::read(&file).ok()?).into_owned();
            self.value(word, &file, &header, nested)
        })
    }

    /// What a word stands for in the source that includes this one, or in the only one of the folder that defines it.
    fn elsewhere(&self, word: &str) -> Option<String> {
        let own = self.path.file_name()?.to_str()?;
        let whole = self.folder.sources.iter().find(|(_, text)| included(text).any(|name| name == own));
        if let Some((_, whole)) = whole {
            return defined(whole, word).or_else(|| array(whole, word)).map(ToOwned::to_owned);
        }
        let mut values = self.folder.sources.iter().filter_map(|(_, text)| array(text, word));
        let value = values.next()?;
        if values.next().is_some() { None } else { Some(value.to_owned()) }
    }
}

fn included(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim();
        rest.strip_prefix(['"', '<'])?.split(['"', '>']).next()
    })
}

fn module_name(object: &str) -> String {
    object.replace('-', "_")
}

/// The body of the initializer that comes next, if a definition is what comes next.
fn initializer(rest: &str) -> Option<&str> {
    let open = rest.find('{')?;
    let head = rest.get(..open)?;
    let (variable, attributes) = head.split_once('=').unwrap_or((head, "?"));
    if !attributes.trim().is_empty() || variable.contains([';', '(', ')', '*']) {
        return None;
    }
    let body = rest.get(open + 1..)?;
    let mut depth = 1;
    let end = body.find(|c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    })?;
    body.get(..end)
}

/// The value of a field, in whatever nested structure it stands.
fn field<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    body.match_indices(name).find_map(|(at, _)| {
        let (before, after) = (body.get(..at)?.chars().next_back()?, body.get(at + name.len()..)?.trim_start());
        // The older way to write it has a colon behind the name instead of the dot in front of it.
        let value = match before {
            '.' => after.strip_prefix('=')?,
            c if c.is_whitespace() => after.strip_prefix(':')?,
            _ => return None,
        };
        Some(value.split([',', '}', '\n']).next()?.trim())
    })
}

/// What a macro stands for.
fn defined<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?.trim_start();
        let value = rest.strip_prefix(word).filter(|rest| rest.starts_with(char::is_whitespace))?;
        let value = value.split("/*").next()?.split("//").next()?.trim();
        Some(value.trim_start_matches('(').trim_end_matches(')')).filter(|value| !value.is_empty())
    })
}

/// What an array of characters is initialized with.
fn array<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.match_indices(word).find_map(|(at, _)| {
        let rest = text.get(at + word.len()..)?.trim_start();
        let rest = rest.strip_prefix('[').map_or(Some(rest), |rest| rest.split_once(']').map(|(_, rest)| rest))?;
        let value = rest.trim_start().strip_prefix('=')?.split(';').next()?.trim();
        Some(value).filter(|value| value.starts_with('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(makefile: &str, source: &str, header: &str) -> Vec<(Option<String>, bool)> {
        let tree = tempfile::TempDir::new().unwrap();
        let paths = ["Makefile", "one-part.c", "whole.c", "names.h"].map(|name| tree.path().join(name));
        let whole = "#include \"one-part.c\"\nstatic const char outer[] = \"whole\";\n";
        for (path, text) in paths.iter().zip([makefile, source, whole, header]) {
            std::fs::write(path, text).unwrap();
        }
        let found = Folder::read(&paths).unwrap().definitions("pci_driver", tree.path());
        found.into_iter().map(|found| (found.name, found.managed)).collect()
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        let written = |name: &str| {
            names(
                "obj-$(CONFIG_X) += some-card.o\nsome-card-y += one-part.o\n",
                &format!(
                    "#include \"names.h\"\nstatic const char text[] = \"array\";\n\
                     static struct pci_driver one = {{\n\t.name = {name},\n\t.id_table = ids,\n}};\n"
                ),
                "#define DRV_NAME \"header\" /* the name */\n#define LONG DRV_NAME \"-2\"\n#define LOOP LOOP\n",
            )
        };
        let named = |name: &str| vec![(Some(name.to_owned()), false)];
        assert_eq!(written("\"literal\""), named("literal"));
        assert_eq!(written("DRV_NAME"), named("header"));
        assert_eq!(written("LONG"), named("header-2"));
        assert_eq!(written("text"), named("array"));
        assert_eq!(written("outer"), named("whole"));
        assert_eq!(written("KBUILD_MODNAME"), named("some_card"));
        assert_eq!(written("LOOP"), [(None, false)]);
        assert_eq!(written("computed()"), [(None, false)]);
    }

    #[test]
    fn the_flag_is_found_and_a_mere_mention_is_no_definition() {
        let source = "extern struct pci_driver other;\nint f(struct pci_driver *drv) { return 0; }\n\
                      struct pci_driver\nmine = { .name = \"mine\", .driver_managed_dma\t= true, };";
        assert_eq!(names("", source, ""), [(Some("mine".to_owned()), true)]);
    }
}
