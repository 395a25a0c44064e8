//! An ingress: Kubernetes manifests in, traffic out.
//!
//! Without arguments it shows itself: it starts three backends, serves `examples/manifests/demo.yaml` in front of them with
//! a certificate made on the spot, and prints what to try. With arguments it is for real use:
//!
//! ```text
//! ingress --manifests PATH [--manifests PATH...] [--bind IP] [--http-port N] [--https-port N] [--admin IP:PORT]
//! ingress --check --manifests PATH...
//! ingress --explain 'GET https://shop.example.com/cart -H "x-user: 1"' [--address IP] --manifests PATH...
//! ingress --diff OLD NEW
//! ```
//!
//! PATH is a file or folder of Kubernetes YAML, or of our own. Ingresses, and routes that are attached to no listener, are
//! served at `--bind` (default 127.0.0.1) on the two ports (default 8080 and 8443); listeners at their own addresses, else at
//! `--bind`, on their own ports. Where there are listeners alone, it is only a warning when one of the two ports is taken.
//! SIGHUP, or a changed file, loads it all again; SIGTERM drains and exits 0. What is wrong with the arguments or the manifests
//! is said on stderr, and the exit code is 2.
//!
//! `--check`, `--explain` and `--diff` serve nothing: they tell whether manifests are right, where a request would go and
//! why, and which classes of requests go elsewhere under other manifests (exit code 1 if any do, as with `diff`). A request
//! that nothing listens for is said on stderr, with exit code 2.
//!
//! `RUST_LOG` says what is logged to stderr (default `info`, which includes a line for each request; `warn` leaves those
//! out).

#[path = "ingress/inspect.rs"]
mod inspect;

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    process::ExitCode,
};

use axum::Router;
use portcullis::{
    BoxError,
    admin::{Admin, Page, Readiness},
    config::{Certificate, Config, Host},
    gateway::Gateway,
    server::{Listener, Server, shutdown_signal},
    source::{self, Loaded, Source},
    telemetry::{AccessLog, metrics::Metrics},
    tls::server::ServerTls,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

const USAGE: &str = "\
usage: ingress [--manifests PATH]... [--bind IP] [--http-port N] [--https-port N] [--admin IP:PORT]
       ingress --check --manifests PATH...
       ingress --explain 'GET https://shop.example.com/cart -H \"x-user: 1\"' [--address IP] --manifests PATH...
       ingress --diff OLD NEW";

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();

    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(question) = &arguments.question {
        return answer(question, &arguments);
    }
    // Before the input is read, so that a signal does not end the process meanwhile.
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("cannot listen for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let input = match Input::read(arguments).await {
        Ok(input) => input,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match run(input, signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked instead of serving.
enum Question {
    Check,
    Explain { request: String, address: Option<IpAddr> },
    Diff(PathBuf, PathBuf),
}

/// Tells it, with the exit code that says the same.
fn answer(question: &Question, arguments: &Arguments) -> ExitCode {
    let own = inspect::Own { bind: arguments.bind, http_port: arguments.http_port, https_port: arguments.https_port };
    let manifests = &arguments.manifests;
    let answer = match question {
        Question::Check => inspect::check(manifests, own).map(|text| (text, false)),
        Question::Explain { request, address } => {
            inspect::explain(manifests, own, request, *address).map(|text| (text, false))
        }
        Question::Diff(old, new) => inspect::diff(old, new, own),
    };
    match answer {
        Ok((text, changed)) => {
            // Who reads may have read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(u8::from(changed))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    question: Option<Question>,
    manifests: Vec<PathBuf>,
    bind: IpAddr,
    http_port: u16,
    https_port: u16,
    admin: Option<SocketAddr>,
}

impl Arguments {
    /// `None` if help is asked for.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, BoxError> {
        let mut address = None;
        let mut arguments = Self {
            question: None,
            manifests: Vec::new(),
            bind: Ipv4Addr::LOCALHOST.into(),
            http_port: 8080,
            https_port: 8443,
            admin: None,
        };
        while let Some(word) = words.next() {
            // `--option value` and `--option=value` are the same.
            let (option, mut given) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value.to_owned())),
                None => (&*word, None),
            };
            let mut value = || given.take().or_else(|| words.next()).ok_or_else(|| format!("{option} needs a value"));
            match option {
                "--address" => address = Some(parse(option, &value()?, "an IP address")?),
                "--manifests" => arguments.manifests.push(value()?.into()),
                "--bind" => arguments.bind = parse(option, &value()?, "an IP address")?,
                "--http-port" => arguments.http_port = parse(option, &value()?, "a port")?,
                "--https-port" => arguments.https_port = parse(option, &value()?, "a port")?,
                "--admin" => arguments.admin = Some(parse(option, &value()?, "an address such as 127.0.0.1:9000")?),
                "--explain" => arguments.ask(Question::Explain { request: value()?, address: None })?,
                "--diff" => {
                    let old = value()?;
                    let new = words.next().ok_or("--diff needs two values: OLD and NEW")?;
                    arguments.ask(Question::Diff(old.into(), new.into()))?;
                }
                "--check" if given.is_none() => arguments.ask(Question::Check)?,
                "--help" | "-h" if given.is_none() => return Ok(None),
                _ => return Err(format!("unknown option `{word}`").into()),
            }
        }
        arguments.combined(address).map(Some)
    }

    fn ask(&mut self, question: Question) -> Result<(), BoxError> {
        match self.question.replace(question) {
            None => Ok(()),
            Some(_) => Err("only one of --check, --explain and --diff can be asked".into()),
        }
    }

    /// What only makes sense together.
    fn combined(mut self, wanted: Option<IpAddr>) -> Result<Self, BoxError> {
        match &mut self.question {
            Some(Question::Explain { address, .. }) => *address = wanted,
            _ if wanted.is_some() => return Err("--address goes with --explain alone".into()),
            _ => {}
        }
        match self.question {
            Some(Question::Check | Question::Explain { .. }) if self.manifests.is_empty() => {
                Err("--check and --explain need --manifests".into())
            }
            Some(Question::Diff(..)) if !self.manifests.is_empty() => {
                Err("--diff takes OLD and NEW in the place of --manifests".into())
            }
            _ => Ok(self),
        }
    }
}

fn parse<T: std::str::FromStr>(option: &str, text: &str, expected: &str) -> Result<T, BoxError> {
    text.parse().map_err(|_| format!("{option}: `{text}` is not {expected}").into())
}

/// The signals that are not left to their defaults, which is to end the process.
struct Signals {
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The watcher has one of its own. What changed until that is there, it finds by looking.
    _hangup: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self { shutdown: Box::pin(shutdown_signal()?), _hangup: signal(SignalKind::hangup())? })
    }
}

/// What is served: a gateway that has accepted its configuration.
struct Input {
    arguments: Arguments,
    gateway: Gateway,
    metrics: Metrics,
    /// Where the configuration came from, to load it again; the demo's does not change.
    watch: Option<(Source, source::Fingerprint)>,
    /// Shown for names that no certificate of the configuration covers.
    fallback: Certificate,
}

impl Input {
    async fn read(arguments: Arguments) -> Result<Self, BoxError> {
        let fallback = self_signed()?;
        let (loaded, source) = if arguments.manifests.is_empty() {
            (demo(&fallback).await?, None)
        } else {
            let source = Source::new(arguments.manifests.clone());
            (source.load()?, Some(source))
        };
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let metrics = Metrics::new();
        let gateway = Gateway::builder(with_fallback(loaded.config, &fallback))
            .bind(arguments.bind)
            .recorder(AccessLog::new())
            .metrics(&metrics)
            .build()?;
        let watch = source.map(|source| (source, loaded.files));
        Ok(Self { arguments, gateway, metrics, watch, fallback })
    }
}

async fn run(input: Input, signals: Signals) -> Result<(), BoxError> {
    let Input { arguments, gateway, metrics, watch, fallback } = input;
    let tls = ServerTls::new(gateway.certificates())?;
    // Where nothing is served on the two ports, somebody else may have them.
    let unused = only_listeners(&gateway.config());
    let server = Server::default()
        .listen(Listener::new((arguments.bind, arguments.http_port)).optional(unused))
        .listen(Listener::new((arguments.bind, arguments.https_port)).tls(tls).optional(unused));
    let server = gateway.listen(server)?;
    let readiness = Readiness::new();
    if let Some(address) = arguments.admin {
        let routes = gateway.clone();
        let admin = Admin::new().readiness(&readiness).metrics(&metrics).page(
            "/routes",
            "the routes that are served",
            move || Page::text(routes.routes().to_string()),
        );
        tokio::spawn(Server::default().http(address).bind()?.serve(admin));
    }
    if let Some((source, files)) = watch {
        let watcher = source.watch(&files).on_hangup()?;
        let gateway = gateway.clone();
        tokio::spawn(source::reload(watcher, move |loaded: Loaded| {
            gateway.apply(with_fallback(loaded.config, &fallback))
        }));
    }

    announce(server.local_addrs(), &server.listening().addresses(), arguments.manifests.is_empty())?;
    readiness.set_ready();
    let report = server
        .serve_with_shutdown(gateway, async {
            signals.shutdown.await;
            readiness.set_draining();
        })
        .await;
    if report.cut > 0 {
        tracing::warn!(connections = report.cut, "cut at the end of the drain");
    }
    Ok(())
}

/// Whether there are listeners, and no routes for any other place.
fn only_listeners(config: &Config) -> bool {
    !config.listeners.is_empty()
        && config.routes.iter().all(|route| !route.listeners.is_empty() || !route.services.is_empty())
}

fn announce(own: &[SocketAddr], listeners: &[SocketAddr], demo: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "ready:")?;
    if let [http, https] = own {
        write!(out, " http://{http} and https://{https}")?;
    }
    for address in listeners {
        write!(out, " {address}")?;
    }
    writeln!(out)?;
    if let ([http, https], true) = (own, demo) {
        writeln!(out, "try:")?;
        writeln!(out, "  curl http://shop.localhost:{}/ --resolve '*:{}:{}'", http.port(), http.port(), http.ip())?;
        writeln!(
            out,
            "  curl -k https://shop.localhost:{}/cart --resolve '*:{}:{}'",
            https.port(),
            https.port(),
            https.ip()
        )?;
        writeln!(
            out,
            "  curl -k --http2 https://my.blog.localhost:{}/ -w '%{{http_version}}\\n' --resolve '*:{}:{}'",
            https.port(),
            https.port(),
            https.ip()
        )?;
    }
    out.flush()
}

/// The demonstration: three backends, and the manifest that leads to them.
async fn demo(certificate: &Certificate) -> Result<Loaded, BoxError> {
    let mut manifest = include_str!("manifests/demo.yaml").to_owned();
    for (name, port) in [("web-1", 9101), ("web-2", 9102), ("cart-1", 9103)] {
        // If something else has the port, another will do.
        let listener = match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind("127.0.0.1:0").await?,
        };
        manifest = manifest.replace(&format!("port: {port}"), &format!("port: {}", listener.local_addr()?.port()));
        let app = Router::new().fallback(move |request: axum::extract::Request| async move {
            format!("{name} answers {} {}\n", request.method(), request.uri())
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
    let text = |pem: &[u8]| String::from_utf8_lossy(pem).replace('\n', "\n    ");
    manifest += &format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: demo-tls }}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        text(&certificate.chain),
        text(&certificate.key)
    );
    Ok(source::parse("examples/manifests/demo.yaml", &manifest)?)
}

/// A certificate for this machine alone, valid for as long as the process lives.
fn self_signed() -> Result<Certificate, BoxError> {
    let names = ["localhost", "shop.localhost", "*.blog.localhost"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names)?;
    Ok(Certificate {
        origin: "self-signed certificate".into(),
        hosts: vec![Host::Any],
        chain: made.cert.pem().into(),
        key: made.signing_key.serialize_pem().into(),
    })
}

fn with_fallback(mut config: Config, fallback: &Certificate) -> Config {
    config.certificates.push(fallback.clone());
    config
}
