//! Where a configuration comes from: files of our own YAML or Kubernetes manifests, read, checked and watched.
//!
//! 1. [`load`] reads files and folders into a [`Config`]. What the documents say decides what they are: with
//!    `apiVersion` and `kind` they are [`kubernetes`] objects, else they are [our own](mod@file). JSON is YAML too. The two do not
//!    mix.
//! 2. Every mistake in every file is reported at once, as file, line, column, field and fix ([`Problem`]). A
//!    configuration with one mistake is not used at all.
//! 3. [`Source::watch`] tells when a file changed, [`reload`] loads what changed and passes it on; the old
//!    configuration stays where the new one is refused.
//!
//! Folders are read with the folders in them, `*.yaml`, `*.yml` and `*.json`; names that start with a dot are left out
//! (in a mounted ConfigMap they are the versions behind the links that are read). A file that is reached twice counts
//! once.
//!
//! # Example
//! ```
//! use portcullis::source;
//!
//! let error = source::parse("gate.yaml", "
//! routes:
//! - name: shop
//!   hosts: [shop.example.com:80]
//!   rules: [{backends: [cart]}]
//! ").unwrap_err();
//! assert!(error.to_string().starts_with("gate.yaml:4:11: routes[0].hosts[0]: `shop.example.com:80` is not a host"));
//! ```

mod decode;
mod error;
mod events;
pub mod file;
mod files;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "tls")]
mod pem;
mod reload;
mod tree;
mod watch;

pub use self::{
    error::{Fault, LoadError, Place, Problem, Warning},
    files::Fingerprint,
    reload::reload,
    watch::{Poke, Watcher},
};

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use self::tree::Node;
use crate::config::Config;

/// Files and folders that a configuration is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    paths: Vec<PathBuf>,
}

/// A configuration that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What to serve.
    pub config: Config,
    /// What its author should know, by file and line.
    pub warnings: Vec<Warning>,
    /// The files it is from, those it refers to among them, and what was in them.
    pub files: Fingerprint,
}

/// Reads a configuration from files and folders. It blocks on the file system.
///
/// # Errors
/// With everything that is wrong with them.
pub fn load<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Result<Loaded, LoadError> {
    Source::new(paths).load()
}

/// Reads a configuration from the text of one file, which messages call `name`. Files that it refers to are sought from
/// the working directory.
///
/// # Errors
/// With everything that is wrong with it.
pub fn parse(name: &str, text: &str) -> Result<Loaded, LoadError> {
    let mut reader = Reader::default();
    reader.add(&name.into(), Path::new(""), text);
    reader.finish()
}

impl Source {
    /// These files and folders, one configuration all together.
    #[must_use]
    pub fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect() }
    }

    /// The files and folders.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads the configuration. It blocks on the file system.
    ///
    /// # Errors
    /// With everything that is wrong with the files.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let mut reader = Reader::default();
        let found = files::find(&self.paths);
        for (path, error) in &found.unreadable {
            reader.files.record(path, None);
            reader.report.problems.push(files::unreadable(path, error));
        }
        for path in &found.files {
            reader.read(path);
        }
        if found.files.is_empty() && found.unreadable.is_empty() {
            for path in &self.paths {
                let place = Place { file: files::name(path), line: 0, column: 0 };
                let message = "holds no `*.yaml`, `*.yml` or `*.json` file: nothing is served".to_owned();
                reader.report.warnings.push(Warning { place, object: None, field: String::new(), message });
            }
        }
        reader.finish()
    }

    /// Watches the files and folders for changes since `files` was taken.
    #[must_use]
    pub fn watch(&self, files: &Fingerprint) -> Watcher {
        Watcher::new(self.clone(), files.clone())
    }
}

/// What is found on the way.
#[derive(Default)]
struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

/// One document of a file.
struct Document {
    file: Arc<str>,
    /// Where the files it refers to are sought.
    folder: PathBuf,
    node: Node,
}

#[derive(Default)]
struct Reader {
    documents: Vec<Document>,
    report: Report,
    files: Fingerprint,
}

impl Reader {
    fn read(&mut self, path: &Path) {
        let name = files::name(path);
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let content = match files::read(path, &mut self.files) {
            Ok(content) => content,
            Err(problem) => return self.report.problems.push(problem),
        };
        match std::str::from_utf8(&content) {
            Ok(text) => self.add(&name, folder, text),
            Err(error) => {
                let before = &content[..error.valid_up_to()];
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                let place = Place { file: name, line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 };
                let fault = Fault::Syntax("not UTF-8: save the file in that encoding".to_owned());
                self.report.problems.push(Problem { place, object: None, field: String::new(), fault });
            }
        }
    }

    fn add(&mut self, file: &Arc<str>, folder: &Path, text: &str) {
        for document in tree::documents(text) {
            match document {
                Ok(node) => self.documents.push(Document { file: file.clone(), folder: folder.to_owned(), node }),
                Err(error) => {
                    let place = Place { file: file.clone(), line: error.line, column: error.column };
                    let fault = Fault::Syntax(error.message);
                    self.report.problems.push(Problem { place, object: None, field: String::new(), fault });
                }
            }
        }
    }

    fn finish(mut self) -> Result<Loaded, LoadError> {
        let config = if self.documents.iter().any(Document::is_kubernetes) {
            self.kubernetes()
        } else {
            file::config(std::mem::take(&mut self.documents), &mut self.report, &mut self.files)
        };
        if !self.report.problems.is_empty() {
            return Err(LoadError::new(self.report.problems, self.files));
        }
        self.report.warnings.sort_by(|a, b| a.place.cmp(&b.place));
        Ok(Loaded { config, warnings: self.report.warnings, files: self.files })
    }

    #[cfg(feature = "kubernetes")]
    fn kubernetes(&mut self) -> Config {
        let (objects, others): (Vec<_>, Vec<_>) = self.documents.drain(..).partition(Document::is_kubernetes);
        for other in others {
            let why =
                "has no `apiVersion` and `kind`, and stands among Kubernetes objects: add them, or move it elsewhere";
            self.report.problems.push(other.problem(Fault::Mixed(why)));
        }
        kubernetes::config(objects, &mut self.report)
    }

    #[cfg(not(feature = "kubernetes"))]
    fn kubernetes(&mut self) -> Config {
        for object in self.documents.iter().filter(|document| document.is_kubernetes()) {
            let why = "is a Kubernetes object, and this program was built without the feature `kubernetes`";
            self.report.problems.push(object.problem(Fault::Mixed(why)));
        }
        Config::default()
    }
}

impl Document {
    fn is_kubernetes(&self) -> bool {
        self.node.get("apiVersion").is_some() || self.node.get("kind").is_some()
    }

    fn problem(&self, fault: Fault) -> Problem {
        let place = Place { file: self.file.clone(), line: self.node.line, column: self.node.column };
        Problem { place, object: None, field: String::new(), fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_is_an_empty_configuration_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let loaded = load([folder.path()]).unwrap();
        assert_eq!(loaded.config, Config::default());
        assert!(loaded.warnings[0].to_string().starts_with(&format!("{}: holds no", folder.path().display())));
    }

    #[test]
    fn what_is_no_text_or_not_there_is_named_and_the_rest_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.yaml"), b"# \xe2\x82\xac\n# \xff\n").unwrap();
        std::fs::write(at("b.yaml"), "nothing: known\n").unwrap();
        let error = load([at("a.yaml"), at("b.yaml"), at("gone")]).unwrap_err();
        let found: Vec<_> = error.problems().iter().map(|one| (one.place.line, &one.fault)).collect();
        assert!(
            matches!(&*found, [(2, Fault::Syntax(_)), (1, Fault::UnknownField { .. }), (0, Fault::Unreadable(_))]),
            "{found:?}"
        );
        assert_eq!(error.files().paths().count(), 3);
        assert_eq!(error.to_string().lines().count(), 3);
    }
}
