//! Telling when files change, by looking.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{Fingerprint, LoadError, Loaded, Source, files};

/// Looks at a source's files again and again, and tells when what is in them changed.
///
/// 1. Every file is looked at every 500 ms, those that the configuration refers to among them; a file that is added to a
///    folder or taken away counts too. Looking works where notifications do not: network mounts, links that are
///    swapped (mounted ConfigMaps), editors that replace files.
/// 2. Only the content counts. It is read where size, times or inode differ from the last look, and for three seconds
///    after the last change, which file times are too coarse for.
/// 3. A change is reported once two looks in a row, 50 ms apart, see the same, or 250 ms later: files that are being written
///    are waited for. A file that became empty is taken for one that is being written.
/// 4. Changes that pile up are one.
/// 5. A [poke](Poke) or, if [asked for](Self::on_hangup), SIGHUP is reported whether anything changed or not.
///
/// From the change to the report it takes 0.8 s at most, and the time to look.
#[derive(Debug)]
pub struct Watcher {
    source: Source,
    interval: Duration,
    seen: Fingerprint,
    known: Known,
    poke: Poke,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
    next_look: Option<Instant>,
    /// A poke that was received and not yet reported.
    is_poked: bool,
}

/// Makes a [`Watcher`] report a change at once. Pokes that pile up are one.
#[derive(Debug, Clone, Default)]
pub struct Poke(Arc<Notify>);

/// Files whose content was read, and what tells that it is still the same.
type Known = HashMap<PathBuf, (Stamp, u64)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and the time of its last change, which cannot be set back.
    #[cfg(unix)]
    unix: (u64, u64, i64, i64),
}

const INTERVAL: Duration = Duration::from_millis(500);
const SETTLE: Duration = Duration::from_millis(50);
const MAX_SETTLES: usize = 5;
/// File systems keep times to two seconds at worst (FAT); one more as fractions are cut off.
const COARSEST_TIME: Duration = Duration::from_secs(3);

impl Poke {
    /// Reports a change.
    pub fn poke(&self) {
        self.0.notify_one();
    }
}

impl Watcher {
    pub(super) fn new(source: Source, seen: Fingerprint) -> Self {
        Self {
            source,
            interval: INTERVAL,
            seen,
            known: Known::new(),
            poke: Poke::default(),
            #[cfg(unix)]
            hangup: None,
            next_look: None,
            is_poked: false,
        }
    }

    /// How often to look. Default 500 ms.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Reports a change at SIGHUP too, which then no longer ends the process. Call it within a tokio runtime.
    ///
    /// # Errors
    /// When the signal cannot be caught.
    #[cfg(unix)]
    pub fn on_hangup(mut self) -> std::io::Result<Self> {
        self.hangup = Some(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?);
        Ok(self)
    }

    /// A handle to report a change by hand.
    #[must_use]
    pub fn poke(&self) -> Poke {
        self.poke.clone()
    }

    /// Waits for the next change. Dropping the future loses none.
    pub async fn changed(&mut self) {
        loop {
            self.wait().await;
            let look = self.look().await;
            if !self.is_poked && look == self.seen {
                continue;
            }
            let look = self.settle(look).await;
            let is_new = look != self.seen;
            self.seen = look;
            if std::mem::take(&mut self.is_poked) || is_new {
                return;
            }
        }
    }

    /// Reads the configuration, off the runtime's threads. What it was read from counts as seen.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub async fn load(&mut self) -> Result<Loaded, LoadError> {
        let source = self.source.clone();
        let result = blocking(move || source.load()).await;
        self.seen = match &result {
            Ok(loaded) => loaded.files.clone(),
            Err(error) => error.files().clone(),
        };
        result
    }

    /// Until the next look is due, or somebody asks for one.
    async fn wait(&mut self) {
        if self.is_poked {
            return;
        }
        let next_look = *self.next_look.get_or_insert_with(|| Instant::now() + self.interval);
        #[cfg(unix)]
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let hangup = std::future::pending::<()>();
        tokio::select! {
            () = self.poke.0.notified() => self.is_poked = true,
            _ = hangup => self.is_poked = true,
            () = sleep_until(next_look) => {}
        }
        self.next_look = None;
    }

    /// Waits until the files stand still.
    async fn settle(&mut self, mut look: Fingerprint) -> Fingerprint {
        for _ in 0..MAX_SETTLES {
            sleep(SETTLE).await;
            let next = self.look().await;
            let stands_still = next == look && !next.has_emptied(&self.seen);
            look = next;
            if stands_still {
                break;
            }
        }
        look
    }

    async fn look(&mut self) -> Fingerprint {
        let (source, seen, known) = (self.source.clone(), self.seen.clone(), std::mem::take(&mut self.known));
        let (look, known) = blocking(move || look(&source, &seen, &known)).await;
        self.known = known;
        look
    }
}

/// What is in the source's files now, and in the others that were seen.
fn look(source: &Source, seen: &Fingerprint, known: &Known) -> (Fingerprint, Known) {
    let found = files::find(source.paths());
    let (mut look, mut next) = (Fingerprint::default(), Known::new());
    let unreadable = found.unreadable.iter().map(|(path, _)| path.as_path());
    for path in found.files.iter().map(PathBuf::as_path).chain(unreadable).chain(seen.paths()) {
        if look.contains(path) {
            continue;
        }
        let hash = Stamp::of(path).and_then(|stamp| {
            let hash = match known.get(path) {
                Some((before, hash)) if *before == stamp => *hash,
                _ => files::hash(&fs::read(path).ok()?),
            };
            if !stamp.is_recent() {
                next.insert(path.to_owned(), (stamp, hash));
            }
            Some(hash)
        });
        look.insert(path.to_owned(), hash);
    }
    (look, next)
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let unix = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        Some(Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            unix,
        })
    }

    /// Whether it could change once more without being told from this.
    fn is_recent(&self) -> bool {
        #[cfg(unix)]
        let changed =
            u64::try_from(self.unix.2).ok().map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        #[cfg(not(unix))]
        let changed = self.modified;
        let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
        age.is_none_or(|age| age <= COARSEST_TIME)
    }
}

/// `work` on a thread where it may take long, of those that tokio has for that.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::source::load;

    /// A folder with one file, and a watcher of the folder.
    fn watched() -> (tempfile::TempDir, Watcher) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "routes: []\n").unwrap();
        let files = load([folder.path()]).unwrap().files;
        let watcher = Source::new([folder.path()]).watch(&files);
        (folder, watcher)
    }

    /// Whether a change is reported within the next second; time stands still while files are read.
    async fn is_reported(watcher: &mut Watcher) -> bool {
        tokio::time::timeout(Duration::from_secs(1), watcher.changed()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_reported_once() {
        let (folder, mut watcher) = watched();
        let at = |name: &str| folder.path().join(name);
        assert!(!is_reported(&mut watcher).await);
        fs::write(at("a.yaml"), "routes: []#\n").unwrap();
        assert!(is_reported(&mut watcher).await, "content");
        fs::write(at("a.yaml"), "routes: [] \n").unwrap();
        assert!(is_reported(&mut watcher).await, "content of the same size");
        fs::write(at("b.yaml"), "# b\n").unwrap();
        assert!(is_reported(&mut watcher).await, "a new file");
        fs::rename(at("b.yaml"), at("a.yaml")).unwrap();
        assert!(is_reported(&mut watcher).await, "a file moved over another");
        fs::remove_file(at("a.yaml")).unwrap();
        assert!(is_reported(&mut watcher).await, "a file taken away");
        assert!(!is_reported(&mut watcher).await);
        fs::write(at("readme.md"), "text").unwrap();
        assert!(!is_reported(&mut watcher).await, "no file of ours");
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_content_is_no_change() {
        let (folder, mut watcher) = watched();
        let file = fs::File::options().write(true).open(folder.path().join("a.yaml")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(!is_reported(&mut watcher).await);
        fs::write(folder.path().join("a.yaml"), "routes: []\n").unwrap();
        assert!(!is_reported(&mut watcher).await);
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_swapped_link_is_a_change() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.yaml"), format!("routes: [] # {version}\n")).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/a.yaml", at("a.yaml")).unwrap();
        let mut watcher = Source::new([folder.path()]).watch(&load([folder.path()]).unwrap().files);
        assert!(!is_reported(&mut watcher).await);
        symlink("..2", at("..next")).unwrap();
        fs::rename(at("..next"), at("..data")).unwrap();
        assert!(is_reported(&mut watcher).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_since_the_load_is_not_lost() {
        let (folder, mut watcher) = watched();
        fs::write(folder.path().join("a.yaml"), "routes: [\n").unwrap();
        assert!(is_reported(&mut watcher).await);
        watcher.load().await.unwrap_err();
        assert!(!is_reported(&mut watcher).await, "a broken file is not tried again until it changes");
        fs::write(folder.path().join("a.yaml"), "routes: []\n").unwrap();
        watcher.load().await.unwrap();
        assert!(!is_reported(&mut watcher).await, "what was loaded counts as seen");
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_are_referred_to_are_watched_also_while_missing() {
        let (folder, mut watcher) = watched();
        fs::write(folder.path().join("a.yaml"), "certificates: [{cert: c.pem, key: c.pem}]\n").unwrap();
        assert!(is_reported(&mut watcher).await);
        watcher.load().await.unwrap_err();
        fs::write(folder.path().join("c.pem"), "no PEM").unwrap();
        assert!(is_reported(&mut watcher).await);
    }

    #[tokio::test(start_paused = true)]
    async fn pokes_pile_up_to_one_and_survive_a_dropped_wait() {
        let (_folder, mut watcher) = watched();
        let poke = watcher.poke();
        poke.poke();
        poke.poke();
        assert!(watcher.changed().now_or_never().is_none(), "took the poke, and was dropped while looking");
        assert!(is_reported(&mut watcher).await);
        assert!(!is_reported(&mut watcher).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_waited_for() {
        let (folder, mut watcher) = watched();
        let path = folder.path().join("a.yaml");
        // As a shell does it: first cut to nothing, then written.
        fs::write(&path, "").unwrap();
        let start = Instant::now();
        let (reported, ()) = tokio::join!(watcher.changed().map(|()| start.elapsed()), async {
            sleep(Duration::from_millis(520)).await;
            fs::write(&path, "upstreams: []\n").unwrap();
        });
        assert!(reported >= Duration::from_millis(600), "{reported:?}: two looks that see the same, after the write");
        assert!(reported < Duration::from_millis(800), "{reported:?}");
        assert!(!is_reported(&mut watcher).await, "the last state was seen");

        // Emptied for good.
        fs::write(&path, "").unwrap();
        assert!(is_reported(&mut watcher).await);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_hangup_is_reported() {
        let (_folder, watcher) = watched();
        let mut watcher = watcher.on_hangup().unwrap();
        let pid = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        watcher.changed().await;
    }
}
