//! What is wrong with a configuration, and where.

use std::{fmt, sync::Arc};

use thiserror::Error;

use super::Fingerprint;

/// A place in a file. Lines and columns count from 1; 0 stands for the file as a whole.
///
/// # Example
/// ```
/// use portcullis::source::Place;
///
/// let place = Place { file: "shop.yaml".into(), line: 7, column: 3 };
/// assert_eq!(place.to_string(), "shop.yaml:7:3");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file's path, as it was reached.
    pub file: Arc<str>,
    /// The line in the file, whichever document of the file it is in.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// One thing that is wrong: where, in what, and how to mend it.
///
/// Shown as `FILE:LINE:COLUMN: OBJECT: FIELD: FAULT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands; for something that is missing, where it belongs.
    pub place: Place,
    /// The Kubernetes object it is in, as far as that is known: `Ingress default/shop`.
    pub object: Option<String>,
    /// The path of the field within the object or the file, such as `spec.rules[0].host`; empty where it is in none.
    pub field: String,
    /// What is wrong.
    pub fault: Fault,
}

/// Something a configuration can be used with, and its author should know. Shown in the form of a [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub place: Place,
    /// The Kubernetes object it is in.
    pub object: Option<String>,
    /// The path of the field within the object.
    pub field: String,
    /// What is noteworthy.
    pub message: String,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    /// A file or folder cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It is not YAML.
    #[error("not YAML: {0}")]
    Syntax(String),
    /// A value of another type or range is needed.
    #[error("found {found}, expected {expected}")]
    Type {
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// A required field is not there.
    #[error("is required and missing")]
    Missing,
    /// There is no such field.
    #[error("no such field; there are {expected}")]
    UnknownField {
        /// The fields there are.
        expected: String,
    },
    /// A value that is wrong by itself; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// A host that is none.
    #[error("{0}")]
    Host(String),
    /// A path that no request could have, or that is not absolute.
    #[error("`{path}` is not a path to match: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A path type there is not.
    #[error("`{0}` is not a path type: write `Exact`, `Prefix` or `ImplementationSpecific`")]
    PathType(String),
    /// A backend that does not say what it is.
    #[error("{0}")]
    Backend(&'static str),
    /// A text that is not base64.
    #[error("not base64: {0}; encode it with `base64 -w0`, or move it to `stringData` as it is")]
    Base64(String),
    /// A certificate or key that is not PEM, or not what it should be.
    #[error("{0}")]
    Pem(String),
    /// The same thing twice.
    #[error("is there twice, first at {first}: remove one of them")]
    Duplicate {
        /// Where the other one is.
        first: Place,
    },
    /// A Kubernetes object among files of our own, or the reverse.
    #[error("{0}")]
    Mixed(&'static str),
}

/// Everything that is wrong with a configuration, by file and line; there is at least one problem.
///
/// Shown with one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    problems: Vec<Problem>,
    files: Fingerprint,
}

impl LoadError {
    pub(super) fn new(mut problems: Vec<Problem>, files: Fingerprint) -> Self {
        problems.sort_by(|a, b| (&a.place, &a.field).cmp(&(&b.place, &b.field)));
        problems.dedup();
        Self { problems, files }
    }

    /// What is wrong, by file and line.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The files that were looked at: a change of one of them is worth another try.
    #[must_use]
    pub fn files(&self) -> &Fingerprint {
        &self.files
    }
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.place, self.object.as_deref(), &self.field, &self.fault)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.place, self.object.as_deref(), &self.field, &self.message)
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    place: &Place,
    object: Option<&str>,
    field: &str,
    what: &dyn fmt::Display,
) -> fmt::Result {
    write!(f, "{place}: ")?;
    if let Some(object) = object {
        write!(f, "{object}: ")?;
    }
    if !field.is_empty() {
        write!(f, "{field}: ")?;
    }
    what.fmt(f)
}
