//! Real peers: curl, h2load, openssl and nginx. A test that needs one that is not installed fails and names the package.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::process::{Child, Command};

use super::{eventually, free_port, within};

/// How a tool ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A tool's command; `package` is the Debian package that has it.
fn tool(name: &str, package: &str) -> Command {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // Administrators' tools such as nginx are not on everybody's path.
    let mut folders: Vec<_> = std::env::split_paths(&paths).collect();
    folders.push("/usr/sbin".into());
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    let Some(path) = found else { panic!("this test needs {name}: install the package {package}") };
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(mut command: Command) -> Output {
    let what = format!("{command:?}");
    let output = within(&what, Duration::from_secs(60), command.output()).await.unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs curl, silent but for errors, for no longer than 30 s.
pub(crate) async fn curl(args: &[&str]) -> Output {
    let mut command = tool("curl", "curl");
    // No ~/.curlrc and no proxy from the environment.
    command.args(["-q", "--silent", "--show-error", "--max-time", "30", "--noproxy", "*"]).args(args);
    run(command).await
}

/// curl to `host` at an address of ours, over TLS, trusting this authority.
pub(crate) async fn curl_tls(addr: SocketAddr, ca: &Path, host: &str, path: &str, args: &[&str]) -> Output {
    let port = addr.port();
    let resolve = format!("{host}:{port}:{}", addr.ip());
    let (ca, url) = (ca.to_string_lossy().into_owned(), format!("https://{host}:{port}{path}"));
    let mut all = vec!["--cacert", &ca, "--resolve", &resolve];
    all.extend(args);
    all.push(&url);
    curl(&all).await
}

/// What h2load counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Answers of the class 2xx.
    pub(crate) ok: u64,
}

/// Runs h2load with these arguments.
pub(crate) async fn h2load(args: &[&str]) -> Load {
    let mut command = tool("h2load", "nghttp2-client");
    command.args(args);
    let output = run(command).await;
    let number_before = |word: &str| -> u64 {
        let lines =
            output.stdout.lines().filter(|line| line.starts_with("requests:") || line.starts_with("status codes:"));
        let parts = lines.flat_map(|line| line.split([':', ',']));
        let number = parts.filter_map(|part| part.trim().strip_suffix(word)).find_map(|part| part.trim().parse().ok());
        number.unwrap_or_else(|| panic!("h2load says nothing of {word}: {output:?}"))
    };
    Load { succeeded: number_before("succeeded"), failed: number_before("failed"), ok: number_before("2xx") }
}

/// What `openssl s_client` says of a connection, whether or not it came about.
pub(crate) async fn s_client(addr: SocketAddr, ca: &Path, args: &[&str]) -> Output {
    let mut command = tool("openssl", "openssl");
    command.args(["s_client", "-connect", &addr.to_string(), "-verify_return_error", "-CAfile"]).arg(ca).args(args);
    run(command).await
}

/// The SHA-256 hash of the certificate in this file, in hexadecimal.
pub(crate) async fn fingerprint(certificate: &Path) -> String {
    let mut command = tool("openssl", "openssl");
    command.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(certificate);
    let output = run(command).await;
    let (_, hash) = output.stdout.trim().split_once('=').unwrap_or_else(|| panic!("no fingerprint: {output:?}"));
    hash.replace(':', "").to_lowercase()
}

/// A running nginx with a folder of its own; ended when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) addr: SocketAddr,
    child: Child,
    dir: tempfile::TempDir,
}

impl Nginx {
    /// A server with these directives inside its `server` block, and `files` under its root.
    pub(crate) async fn start(server: &str, files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("html");
        std::fs::create_dir(&root).unwrap();
        for (name, content) in files {
            std::fs::write(root.join(name), content).unwrap();
        }
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let here = dir.path().display();
        // One process in the foreground, so that ending the child ends all of it.
        let config = format!(
            "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {here}/body;\nproxy_temp_path {here}/proxy;\n\
             fastcgi_temp_path {here}/fastcgi;\nuwsgi_temp_path {here}/uwsgi;\nscgi_temp_path {here}/scgi;\n\
             keepalive_requests 100000;\nserver {{\nlisten {addr};\nroot {here}/html;\n{server}\n}}\n}}\n"
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = tool("nginx", "nginx-light");
        command.arg("-p").arg(dir.path()).arg("-c").arg(&file).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        eventually("nginx listens", super::PATIENCE, || async {
            tokio::net::TcpStream::connect(addr).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { addr, child, dir }
    }

    /// Ends it at once.
    pub(crate) async fn kill(mut self) {
        let _ = self.child.kill().await;
        drop(self.dir);
    }
}
