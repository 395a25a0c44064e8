//! The program under test: `examples/ingress`, run as a process the way a user runs it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::Instant,
};

use super::{PATIENCE, eventually, free_port, soon};

/// A running `ingress` with a folder of manifests of its own; killed when dropped.
#[derive(Debug)]
pub(crate) struct Ingress {
    child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    stdout: Lines,
    stderr: Lines,
    dir: tempfile::TempDir,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) took: Duration,
    pub(crate) stderr: String,
}

impl Ingress {
    /// Starts with one manifest file, `world.yaml`, and waits until it is ready.
    pub(crate) async fn start(manifests: &str) -> Self {
        Self::start_files(&[("world.yaml", manifests)]).await
    }

    /// Starts with a folder of these files and waits until it is ready.
    pub(crate) async fn start_files(files: &[(&str, &str)]) -> Self {
        let dir = folder(files);
        let path = dir.path().to_owned();
        Self::start_with(dir, &[&path]).await
    }

    /// Starts with these paths as `--manifests`; `dir` is kept alive with it.
    pub(crate) async fn start_with(dir: tempfile::TempDir, paths: &[&Path]) -> Self {
        let mut dir = Some(dir);
        // A port is only free until somebody else takes it: a second and a third try when that is what happened.
        for _ in 0..3 {
            let ports = [free_port(), free_port(), free_port()];
            let [http, https, admin] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let mut child = command(paths, http, https, admin).spawn().unwrap();
            let stdout = Lines::collect(child.stdout.take().unwrap());
            let stderr = Lines::collect(child.stderr.take().unwrap());
            if stdout.wait_for("ready").await {
                let dir = dir.take().unwrap();
                return Self { child, http, https, admin, stdout, stderr, dir };
            }
            let status = soon("ingress exits", child.wait()).await.unwrap();
            let stderr = stderr.whole().await;
            assert!(stderr.to_lowercase().contains("in use"), "ingress did not get ready: {status}\n{stderr}");
        }
        panic!("three times in a row somebody else took the ports");
    }

    /// Runs with input that should be refused, and waits for the end.
    pub(crate) async fn refuses(files: &[(&str, &str)]) -> Exit {
        let dir = folder(files);
        Self::refuses_paths(&[dir.path()]).await
    }

    /// The same, with these paths as `--manifests`.
    pub(crate) async fn refuses_paths(paths: &[&Path]) -> Exit {
        let any = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut child = command(paths, any(), any(), any()).spawn().unwrap();
        let began = Instant::now();
        let stdout = Lines::collect(child.stdout.take().unwrap());
        let stderr = Lines::collect(child.stderr.take().unwrap());
        let status = soon("ingress exits by itself on invalid input", child.wait()).await.unwrap();
        assert!(!stdout.whole().await.contains("ready"), "ready in spite of invalid input");
        Exit { code: status.code(), took: began.elapsed(), stderr: stderr.whole().await }
    }

    /// The folder it was told to read.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces a manifest file the way an editor does: a whole new file, moved into place.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        let new = self.dir.path().join(format!(".{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, self.dir.path().join(name)).unwrap();
    }

    /// Overwrites a manifest file in place.
    pub(crate) fn overwrite(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// Asks it to reload.
    pub(crate) async fn sighup(&self) {
        self.signal("HUP").await;
    }

    /// Asks it to drain; [`exited`](Self::exited) waits for the end of that.
    pub(crate) async fn sigterm(&self) {
        self.signal("TERM").await;
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("ingress still runs").to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status().await.unwrap();
        assert!(status.success(), "kill -s {signal} {pid}: {status}");
    }

    /// Waits until it has ended by itself, for no longer than `limit`.
    pub(crate) async fn exited(&mut self, limit: Duration) -> Exit {
        let began = Instant::now();
        let status = super::within("ingress exits", limit, self.child.wait()).await.unwrap();
        Exit { code: status.code(), took: began.elapsed(), stderr: self.stderr.whole().await }
    }

    /// What it has written to stderr so far: its log.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// Waits for a line on stderr, among those written after the first `from` bytes, that contains all of `words`.
    pub(crate) async fn logged(&self, from: usize, words: &[&str]) -> String {
        eventually(&format!("a log line with {words:?}"), PATIENCE, || async {
            let log = self.stderr();
            let new = log.get(from..).unwrap_or_default();
            let line = new.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).ok_or_else(|| format!("this log:\n{new}"))
        })
        .await
    }
}

/// A new folder with these files.
pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

pub(crate) fn command(paths: &[&Path], http: SocketAddr, https: SocketAddr, admin: SocketAddr) -> Command {
    let mut command = Command::new(binary());
    for path in paths {
        command.arg("--manifests").arg(path);
    }
    command
        .args(["--bind", "127.0.0.1", "--http-port", &http.port().to_string()])
        .args(["--https-port", &https.port().to_string(), "--admin", &admin.to_string()])
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The example that `cargo test` built beside this test binary; the variable `INGRESS_BIN` names another.
pub(crate) fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("INGRESS_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/it-0123456789abcdef -> target/debug/examples/ingress
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/ingress");
    assert!(path.exists(), "{} is missing: build it with `cargo build --example ingress`", path.display());
    path
}

/// What a process writes to one of its outputs, line by line.
#[derive(Debug, Clone)]
struct Lines {
    text: Arc<Mutex<String>>,
    /// Counts the lines; its sender is dropped at the end of the output.
    count: watch::Receiver<usize>,
}

impl Lines {
    fn collect(output: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let (sender, count) = watch::channel(0);
        let lines = Self { text: Arc::clone(&text), count };
        tokio::spawn(async move {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
                sender.send_modify(|count| *count += 1);
            }
        });
        lines
    }

    fn so_far(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Whether `word` comes before the output ends.
    async fn wait_for(&self, word: &str) -> bool {
        let mut count = self.count.clone();
        soon(&format!("{word:?} in the output"), async {
            loop {
                if self.so_far().contains(word) {
                    return true;
                }
                if count.changed().await.is_err() {
                    return self.so_far().contains(word);
                }
            }
        })
        .await
    }

    /// Everything, once the output has ended.
    async fn whole(&self) -> String {
        let mut count = self.count.clone();
        soon("the output ends", async { while count.changed().await.is_ok() {} }).await;
        self.so_far()
    }
}
