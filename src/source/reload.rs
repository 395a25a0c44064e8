//! Loading what changed.

use std::{convert::Infallible, fmt::Display};

use super::{Loaded, Watcher};

/// Loads the configuration at every change and hands it to `apply`, until it is dropped.
///
/// What is refused, by the source or by `apply`, is logged with file, line and field (target
/// `portcullis::source`), and whatever was applied before stays. Run it as a task of its own.
///
/// # Example
/// ```no_run
/// # async fn run(swap: impl Fn(portcullis::config::Config)) -> Result<(), Box<dyn std::error::Error>> {
/// use std::convert::Infallible;
/// use portcullis::source::{Source, reload};
///
/// let source = Source::new(["k8s/"]);
/// let loaded = source.load()?;
/// let watcher = source.watch(&loaded.files).on_hangup()?;
/// swap(loaded.config);
/// reload(watcher, |loaded| {
///     swap(loaded.config);
///     Ok::<_, Infallible>(())
/// })
/// .await;
/// # Ok(())
/// # }
/// ```
pub async fn reload<E: Display>(mut watcher: Watcher, mut apply: impl FnMut(Loaded) -> Result<(), E>) -> Infallible {
    loop {
        watcher.changed().await;
        match watcher.load().await {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    tracing::warn!(target: TARGET, "{warning}");
                }
                match apply(loaded) {
                    Ok(()) => tracing::info!(target: TARGET, "configuration reloaded"),
                    Err(error) => tracing::error!(target: TARGET, "configuration refused, the old one stays: {error}"),
                }
            }
            Err(error) => {
                for problem in error.problems() {
                    tracing::error!(target: TARGET, "configuration refused, the old one stays: {problem}");
                }
            }
        }
    }
}

const TARGET: &str = "portcullis::source";
