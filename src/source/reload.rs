//! Loading what changed.

use std::{convert::Infallible, fmt::Display};

use super::{Loaded, Watcher, watch::blocking};

/// Loads the configuration at every change and hands it to `apply`, until it is dropped.
///
/// What is refused, by the source or by `apply`, is logged with file, line and field (target
/// `portcullis::source`), and whatever was applied before stays. Run it as a task of its own.
///
/// Both happen on a thread for work that blocks: compiling thousands of routes, and dropping those before them, would else
/// keep a thread of the runtime from its requests for as long.
///
/// # Example
/// ```no_run
/// # async fn run(swap: impl Fn(portcullis::config::Config) + Send + 'static) -> Result<(), Box<dyn std::error::Error>> {
/// use std::convert::Infallible;
/// use portcullis::source::{Source, reload};
///
/// let source = Source::new(["k8s/"]);
/// let loaded = source.load()?;
/// let watcher = source.watch(&loaded.files).on_hangup()?;
/// swap(loaded.config);
/// reload(watcher, move |loaded| {
///     swap(loaded.config);
///     Ok::<_, Infallible>(())
/// })
/// .await;
/// # Ok(())
/// # }
/// ```
pub async fn reload<E: Display + Send + 'static>(
    mut watcher: Watcher,
    mut apply: impl FnMut(Loaded) -> Result<(), E> + Send + 'static,
) -> Infallible {
    loop {
        watcher.changed().await;
        match watcher.load().await {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    tracing::warn!(target: TARGET, "{warning}");
                }
                let applied;
                (apply, applied) = blocking(move || {
                    let applied = apply(loaded);
                    (apply, applied)
                })
                .await;
                match applied {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::sync::mpsc;

    use super::*;
    use crate::source::Source;

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_leaves_the_old_and_the_last_state_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let write =
            |name: &str| fs::write(&path, format!("routes: [{{name: {name}, rules: [{{backends: [x]}}]}}]\n")).unwrap();
        write("first");
        let source = Source::new([&path]);
        let watcher = source.watch(&source.load().unwrap().files);
        let poke = watcher.poke();
        let (sender, mut applied) = mpsc::unbounded_channel();
        let running = tokio::spawn(reload(watcher, move |loaded| {
            let name = loaded.config.routes[0].name.clone();
            sender.send(name.clone()).unwrap();
            if name == "refused" { Err("no") } else { Ok(()) }
        }));

        write("second");
        assert_eq!(applied.recv().await.as_deref(), Some("second"));
        fs::write(&path, "routes: [\n").unwrap();
        poke.poke();
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert!(applied.try_recv().is_err(), "a broken file is not applied");
        write("refused");
        assert_eq!(applied.recv().await.as_deref(), Some("refused"));
        for name in ["a", "b", "c", "last"] {
            write(name);
            poke.poke();
        }
        let mut last = applied.recv().await;
        while let Ok(name) = applied.try_recv() {
            last = Some(name);
        }
        assert_eq!(last.as_deref(), Some("last"));
        running.abort();
    }

    #[tokio::test]
    async fn applying_does_not_keep_the_runtime_from_other_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        fs::write(&path, "routes: []\n").unwrap();
        let source = Source::new([&path]);
        let watcher = source.watch(&source.load().unwrap().files);
        let poke = watcher.poke();
        let (begun, mut begins) = mpsc::unbounded_channel();
        let (go_on, held) = std::sync::mpsc::channel();
        let (ended, mut ends) = mpsc::unbounded_channel();
        let running = tokio::spawn(reload(watcher, move |_| {
            begun.send(()).unwrap();
            // Until the only thread of the runtime has done something else.
            let went_on = held.recv_timeout(std::time::Duration::from_secs(20)).is_ok();
            ended.send(went_on).unwrap();
            Ok::<_, Infallible>(())
        }));
        fs::write(&path, "routes: []\n# changed\n").unwrap();
        poke.poke();
        begins.recv().await.unwrap();
        go_on.send(()).unwrap();
        assert!(ends.recv().await.unwrap());
        running.abort();
    }
}
