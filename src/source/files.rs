//! Finding files, reading them, and knowing later whether they changed.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::error::{Fault, Place, Problem};

/// The files a configuration was read from, and what was in them.
///
/// Two are equal when the same files hold the same; times and inodes do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// A hash of each file's content; none for a file that could not be read.
    files: BTreeMap<PathBuf, Option<u64>>,
}

impl Fingerprint {
    /// The files, by path; those that were looked for and not found are among them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    pub(super) fn record(&mut self, path: &Path, content: Option<&[u8]>) {
        self.files.insert(path.to_owned(), content.map(hash));
    }

    pub(super) fn insert(&mut self, path: PathBuf, hash: Option<u64>) {
        self.files.insert(path, hash);
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Whether a file is empty that was not before.
    pub(super) fn has_emptied(&self, before: &Self) -> bool {
        let empty = Some(hash(b""));
        self.files.iter().any(|(path, now)| *now == empty && before.files.get(path).is_some_and(|then| *then != empty))
    }
}

pub(super) fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Folders this deep are not meant: each folder is one step down the stack.
const MAX_DEPTH: usize = 128;

/// Every file under `paths` once, in the order of their names.
///
/// A folder gives its `*.yaml`, `*.yml` and `*.json` files and those of its folders, as `kubectl -R` does. Names that start with
/// a dot are left out: in a mounted ConfigMap they are the versions behind the links that are read. A file that is
/// named itself is read whatever its name.
pub(super) fn find(paths: &[PathBuf]) -> Found {
    let mut found = BTreeMap::new();
    let mut unreadable = Vec::new();
    for path in paths {
        walk(path, &mut Vec::new(), &mut found, &mut unreadable);
    }
    let mut files: Vec<_> = found.into_values().collect();
    files.sort();
    Found { files, unreadable }
}

/// Files, and what should have been one or led to some.
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
}

/// `found` is by real path, so that a file reached twice counts once. `above` are the real paths of the folders that led
/// here: a link back to one of them leads nowhere new.
fn walk(
    path: &Path,
    above: &mut Vec<PathBuf>,
    found: &mut BTreeMap<PathBuf, PathBuf>,
    unreadable: &mut Vec<(PathBuf, io::Error)>,
) {
    let depth = above.len();
    let result = (|| {
        if fs::metadata(path)?.is_dir() {
            let real = fs::canonicalize(path)?;
            if above.contains(&real) {
                return Ok(Vec::new());
            }
            if depth > MAX_DEPTH {
                return Err(io::Error::other("too many folders within each other"));
            }
            above.push(real);
            let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            return Ok(entries);
        }
        // The first name counts, so that messages do not depend on the order of arguments.
        let real = fs::canonicalize(path)?;
        let named = found.entry(real).or_insert_with(|| path.to_owned());
        if path < named.as_path() {
            path.clone_into(named);
        }
        Ok(Vec::new())
    })();
    match result {
        Ok(entries) => {
            for entry in entries {
                let name = entry.file_name();
                let inside = entry.path();
                let hidden = name.as_encoded_bytes().starts_with(b".");
                if !hidden && (has_our_extension(&inside) || inside.is_dir()) {
                    walk(&inside, above, found, unreadable);
                }
            }
        }
        // An entry of a folder that is gone since the folder was read is no longer there, and that is all.
        Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => unreadable.push((path.to_owned(), error)),
    }
    above.truncate(depth);
}

fn has_our_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// Reads a file and notes what was in it.
pub(super) fn read(path: &Path, files: &mut Fingerprint) -> Result<Vec<u8>, Problem> {
    match fs::read(path) {
        Ok(content) => {
            files.record(path, Some(&content));
            Ok(content)
        }
        Err(error) => {
            files.record(path, None);
            Err(unreadable(path, &error))
        }
    }
}

pub(super) fn name(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        place: Place { file: name(path), line: 0, column: 0 },
        object: None,
        field: String::new(),
        fault: Fault::Unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[PathBuf], folder: &Path) -> Vec<String> {
        let found = find(paths);
        assert!(found.unreadable.is_empty(), "{:?}", found.unreadable);
        let inside = |path: &PathBuf| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        found.files.iter().map(inside).collect()
    }

    #[test]
    fn folders_give_their_manifests() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/c.yaml")).unwrap();
        fs::create_dir(at(".git")).unwrap();
        for name in ["z.yaml", "a.yml", "b/x.json", "b/c.yaml/y.yaml", "read.me", ".hidden.yaml", ".git/g.yaml"] {
            fs::write(at(name), "").unwrap();
        }
        let all = ["a.yml", "b/c.yaml/y.yaml", "b/x.json", "z.yaml"];
        assert_eq!(names(&[folder.path().to_owned()], folder.path()), all);
        assert_eq!(names(&[at("z.yaml"), folder.path().to_owned(), at("b")], folder.path()), all, "each once");
        assert_eq!(names(&[at("read.me"), at(".hidden.yaml")], folder.path()), [".hidden.yaml", "read.me"]);
    }

    #[test]
    fn what_is_named_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let found = find(&[folder.path().join("gone.yaml")]);
        assert_eq!(found.unreadable[0].0, folder.path().join("gone.yaml"));
    }

    #[cfg(unix)]
    #[test]
    fn a_mounted_config_map_is_read_once_and_a_loop_is_no_end() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("..2026")).unwrap();
        fs::write(at("..2026/a.yaml"), "").unwrap();
        symlink("..2026", at("..data")).unwrap();
        symlink("..data/a.yaml", at("a.yaml")).unwrap();
        symlink("..data/gone.yaml", at("gone.yaml")).unwrap();
        assert_eq!(names(&[folder.path().to_owned()], folder.path()), ["a.yaml"]);

        symlink(".", at("loop")).unwrap();
        let found = find(&[folder.path().to_owned()]);
        assert_eq!(found.files, [at("a.yaml")], "the first of its names");

        // Two ways into each other: paths without end, were each link followed wherever it is.
        let other = tempfile::tempdir().unwrap();
        symlink(folder.path(), other.path().join("there")).unwrap();
        symlink(other.path(), at("back")).unwrap();
        assert_eq!(names(&[folder.path().to_owned()], folder.path()), ["a.yaml"]);
    }
}
