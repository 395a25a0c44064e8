use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tower::{Service, ServiceExt, service_fn};

use crate::{
    Body, Outcome,
    config::{
        self, Allow, BackendRef, Concurrency, Config, Conflicts, Cors, Endpoints, ExternalAuth, Fault, FaultAbort,
        FaultDelay, FaultKind, Filter, Fraction, HashKey, HeaderChanges, Hedge, Match, Mirror, PathChange, RateKey,
        RateLimit, Redirect, Retry, RetryBudget, Rewrite, Route, Rule, Split, Timeouts,
    },
    connection::{ConnectionInfo, TlsInfo},
    exchange::Exchange,
    gateway::{BuildError, Gateway},
    identity::{PeerIdentity, PeerRule},
    route::RouteMatch,
    timeout::Deadline,
};

mod client_cert;
mod local;
mod shed;
mod timeouts;

const MS: Duration = Duration::from_millis(1);

/// What a double does with one request.
#[derive(Clone, Copy)]
enum Act {
    Say(u16),
    SayAfter(Duration, u16),
    Hang,
}

/// A service of this process that does what it is told, request by request, and the last of it from then on.
#[derive(Clone, Default)]
struct Double {
    acts: Arc<[Act]>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone)]
struct Seen {
    at: Instant,
    uri: String,
    headers: http::HeaderMap,
    body: String,
    deadline: Option<Deadline>,
}

impl Double {
    fn new(acts: impl IntoIterator<Item = Act>) -> Self {
        Self { acts: acts.into_iter().collect(), ..Self::default() }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let this = self.clone();
        service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move {
                let (parts, body) = request.into_parts();
                let mut seen = Seen {
                    at: Instant::now(),
                    uri: parts.uri.to_string(),
                    headers: parts.headers,
                    body: String::new(),
                    deadline: Deadline::current(),
                };
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                seen.body = String::from_utf8_lossy(&body).into_owned();
                let index = {
                    let mut all = this.seen.lock().unwrap();
                    all.push(seen);
                    all.len() - 1
                };
                let act = this.acts.get(index).or_else(|| this.acts.last()).copied().unwrap_or(Act::Say(200));
                let status = match act {
                    Act::Say(status) => status,
                    Act::SayAfter(delay, status) => {
                        sleep(delay).await;
                        status
                    }
                    Act::Hang => std::future::pending().await,
                };
                let mut response = Response::new(Body::from("said"));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
        })
    }
}

fn to(backend: &str) -> Rule {
    Rule { backends: vec![BackendRef::new(backend)], ..Rule::default() }
}

fn rules(rules: impl IntoIterator<Item = Rule>) -> Config {
    Config { routes: vec![Route { rules: rules.into_iter().collect(), ..Route::named("test") }], ..Config::default() }
}

fn at(path: &str, rule: Rule) -> Rule {
    Rule { matches: vec![Match::prefix(path)], ..rule }
}

/// A gateway of one rule whose backend `here` is this double.
fn gateway(rule: Rule, double: &Double) -> Gateway {
    Gateway::builder(rules([rule])).local("here", double.service()).build().unwrap()
}

fn retry(attempts: u32, statuses: impl Into<Vec<u16>>) -> Option<Retry> {
    Some(Retry { attempts, statuses: statuses.into(), ..Retry::default() })
}

fn request(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).header("host", "a.example").body(Body::empty()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    request(Method::GET, path)
}

async fn send(gateway: &Gateway, request: Request<Body>) -> Response<Body> {
    gateway.clone().oneshot(request).await.unwrap()
}

async fn status(gateway: &Gateway, request: Request<Body>) -> u16 {
    send(gateway, request).await.status().as_u16()
}

async fn answer(gateway: &Gateway, request: Request<Body>) -> (u16, Option<Outcome>) {
    let response = send(gateway, request).await;
    (response.status().as_u16(), response.extensions().get().copied())
}

async fn closed() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(start_paused = true)]
async fn attempts_are_retries_and_the_last_answer_is_the_backends() {
    for (acts, attempts, expected, count) in [
        (&[Act::Say(503), Act::Say(503), Act::Say(200)][..], 2, 200, 3),
        (&[Act::Say(503)], 2, 503, 3),
        (&[Act::Say(500)], 2, 500, 1),
        (&[Act::Say(503)], 0, 503, 1),
    ] {
        let double = Double::new(acts.iter().copied());
        let gateway = gateway(Rule { retry: retry(attempts, [503]), ..to("here") }, &double);
        let response = send(&gateway, get("/")).await;
        assert_eq!((response.status().as_u16(), double.count()), (expected, count), "{attempts}");
        assert_eq!(response.extensions().get::<Outcome>(), None, "it is the backend's own");
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_are_short_unless_a_least_one_is_asked_for() {
    for (backoff, least, most) in [(None, Duration::ZERO, 50 * MS), (Some(200 * MS), 200 * MS, 400 * MS)] {
        let double = Double::new([Act::Say(503)]);
        let retry = Retry { attempts: 4, statuses: vec![503], backoff, ..Retry::default() };
        let gateway = gateway(Rule { retry: Some(retry), ..to("here") }, &double);
        status(&gateway, get("/")).await;
        let seen = double.seen();
        assert_eq!(seen.len(), 5);
        for pair in seen.windows(2) {
            let pause = pair[1].at - pair[0].at;
            assert!((least..=most + MS).contains(&pause), "{pause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_processed_is_repeated_only_where_that_is_safe() {
    let post = || {
        let (mut parts, _) = request(Method::POST, "/").into_parts();
        parts.headers.insert("content-type", "text/plain".parse().unwrap());
        Request::from_parts(parts, Body::from("pay 10"))
    };
    let keyed = || {
        let mut request = post();
        request.headers_mut().insert("idempotency-key", "1".parse().unwrap());
        request
    };
    for (request, non_idempotent, count) in [(post(), false, 1), (keyed(), false, 3), (post(), true, 3)] {
        let double = Double::new([Act::Say(503)]);
        let retry = Retry { attempts: 2, statuses: vec![503], non_idempotent, ..Retry::default() };
        let gateway = gateway(Rule { retry: Some(retry), ..to("here") }, &double);
        assert_eq!(status(&gateway, request).await, 503);
        assert_eq!(double.count(), count);
        assert!(double.seen().iter().all(|seen| seen.body == "pay 10"));
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_fail_are_503_with_retries_and_time_outs_504() {
    let abort = |with| Filter::Fault(Fault { abort: Some(FaultAbort { with, percent: 100.0 }), ..Fault::default() });
    for (with, count) in [(FaultKind::ConnectFailure, 502), (FaultKind::Reset, 502)] {
        for (retry, expected) in [(None, count), (retry(2, []), 503)] {
            let backend = BackendRef { filters: vec![abort(with)], ..BackendRef::new("here") };
            let rule = Rule { backends: vec![backend], retry, ..Rule::default() };
            let gateway = gateway(rule, &Double::default());
            let outcome = answer(&gateway, get("/")).await;
            assert_eq!(outcome.0, expected, "{with:?} {outcome:?}");
            assert_eq!(outcome.1 == Some(Outcome::Unreachable), expected == 503);
        }
    }
    let double = Double::new([Act::Hang]);
    let timeouts = Timeouts { backend_request: Some(100 * MS), ..Timeouts::default() };
    let gateway = gateway(Rule { retry: retry(2, []), timeouts, ..to("here") }, &double);
    assert_eq!(answer(&gateway, get("/")).await, (504, Some(Outcome::UpstreamTimeout)));
    assert_eq!(double.count(), 3);
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_503_with_retries_and_502_without() {
    let upstream = || async { config::Upstream::new("up", Endpoints::fixed([closed().await])) };
    for (retry, expected) in
        [(None, (502, Some(Outcome::ConnectFailed))), (retry(1, []), (503, Some(Outcome::Unreachable)))]
    {
        let config = Config { upstreams: vec![upstream().await], ..rules([Rule { retry, ..to("up") }]) };
        let gateway = Gateway::builder(config).build().unwrap();
        assert_eq!(answer(&gateway, get("/")).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_requests_time_spans_all_attempts() {
    let double = Double::new([Act::SayAfter(400 * MS, 503)]);
    let timeouts = Timeouts { request: Some(Duration::from_secs(1)), ..Timeouts::default() };
    let rule = Rule { retry: retry(10, [503]), timeouts, ..to("here") };
    let began = Instant::now();
    let gateway = gateway(rule, &double);
    assert_eq!(answer(&gateway, get("/")).await, (504, Some(Outcome::UpstreamTimeout)));
    assert_eq!(began.elapsed().as_secs(), 1);
    assert_eq!(double.count(), 3);
    assert!(double.seen().iter().all(|seen| seen.deadline == Some(Deadline::after(began, Duration::from_secs(1)))));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_begin_too_late_is_a_timeout_and_the_last_one_is_not() {
    let timeouts = Timeouts { request: Some(Duration::from_secs(1)), ..Timeouts::default() };
    for (attempts, expected) in [(1, (504, Some(Outcome::UpstreamTimeout))), (0, (503, None))] {
        let retry = Retry { attempts, statuses: vec![503], backoff: Some(950 * MS), ..Retry::default() };
        let double = Double::new([Act::SayAfter(400 * MS, 503)]);
        let gateway = gateway(Rule { retry: Some(retry), timeouts: timeouts.clone(), ..to("here") }, &double);
        assert_eq!((answer(&gateway, get("/")).await, double.count()), (expected, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn one_attempt_may_be_cut_and_the_next_answer() {
    let double = Double::new([Act::Hang, Act::Say(200)]);
    let timeouts = Timeouts { request: Some(Duration::ZERO), backend_request: Some(100 * MS), ..Timeouts::default() };
    let gateway = gateway(Rule { retry: retry(1, []), timeouts, ..to("here") }, &double);
    assert_eq!(status(&gateway, get("/")).await, 200);
    assert_eq!(double.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_local_service_has_no_more_time_for_an_attempt_than_an_upstream() {
    let timeouts = Timeouts { backend_request: Some(100 * MS), ..Timeouts::default() };
    let gateway = gateway(Rule { timeouts, ..to("here") }, &Double::new([Act::Hang]));
    assert_eq!(answer(&gateway, get("/")).await, (504, Some(Outcome::UpstreamTimeout)));
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_deadline_counts_and_travels_on() {
    let double = Double::new([Act::SayAfter(300 * MS, 503)]);
    let rule = Rule { retry: retry(10, [503]), ..to("here") };
    let gateway = gateway(rule, &double);
    let grpc = |timeout: &str| {
        let mut request = request(Method::PUT, "/");
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
        request
    };
    let response = send(&gateway, grpc("1S")).await;
    assert_eq!(response.headers()["grpc-status"], "4");
    let told =
        double.seen().iter().map(|seen| crate::timeout::grpc_timeout(&seen.headers).unwrap()).collect::<Vec<_>>();
    assert!(told.len() > 1 && told.windows(2).all(|pair| pair[1] + 300 * MS <= pair[0]), "{told:?}");
    let before = double.count();
    assert_eq!(send(&gateway, grpc("0S")).await.extensions().get(), Some(&Outcome::DeadlineExceeded));
    assert_eq!(double.count(), before, "nothing is begun in vain");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_one_for_all_clones_and_stays_while_its_settings_do() {
    let limited = |limit: RateLimit| {
        let filters = vec![Filter::RateLimit(limit)];
        rules([Rule { filters, ..to("here") }])
    };
    let three = || RateLimit::per_second(3);
    let gateway = Gateway::builder(limited(three())).local("here", Double::default().service()).build().unwrap();
    let allowed = |gateway: Gateway| async move {
        let mut allowed = 0;
        for _ in 0..10 {
            let response = send(&gateway.clone(), get("/")).await;
            allowed += usize::from(response.status() == 200);
            assert!(response.status() == 200 || response.headers().contains_key("retry-after"));
        }
        allowed
    };
    assert_eq!(allowed(gateway.clone()).await, 3);
    gateway
        .apply(Config { upstreams: vec![config::Upstream::new("new", Endpoints::Static(vec![]))], ..limited(three()) })
        .unwrap();
    assert_eq!(allowed(gateway.clone()).await, 0, "a reload is no new quota");
    gateway.apply(limited(RateLimit { burst: Some(2), ..three() })).unwrap();
    assert_eq!(allowed(gateway.clone()).await, 2, "other settings are");
    assert_eq!(answer(&gateway, get("/")).await.1, Some(Outcome::RateLimited));
}

#[tokio::test(start_paused = true)]
async fn quotas_are_kept_by_key() {
    let by = |key| RateLimit { key, ..RateLimit::per_second(1) };
    let from = |peer: &str, tenant: &str| {
        let info = ConnectionInfo::new(peer.parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        let mut request = get("/");
        request.extensions_mut().insert(info);
        request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
        request
    };
    for (key, expected) in [
        (RateKey::Rule, [200, 429, 429]),
        (RateKey::ClientIp, [200, 200, 429]),
        (RateKey::Header("x-tenant".into()), [200, 429, 200]),
        (RateKey::Identity, [200, 429, 429]),
    ] {
        let rule = Rule { filters: vec![Filter::RateLimit(by(key.clone()))], ..to("here") };
        let gateway = gateway(rule, &Double::default());
        let requests = [from("10.0.0.1:1", "a"), from("10.0.0.2:1", "a"), from("10.0.0.1:2", "b")];
        for (request, expected) in requests.into_iter().zip(expected) {
            assert_eq!(status(&gateway, request).await, expected, "{key:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rules_faults_are_the_clients_and_a_backends_faults_the_policies() {
    let with = |with| Some(FaultAbort { with, percent: 100.0 });
    let delay = FaultDelay { duration: 300 * MS, percent: 100.0 };
    let fault = Fault { delay: Some(delay), abort: with(FaultKind::Status(418)), headers: false };
    let double = Double::default();
    let rule = Rule { filters: vec![Filter::Fault(fault)], retry: retry(3, [418]), ..to("here") };
    let gateway_of_rule = gateway(rule, &double);
    let began = Instant::now();
    assert_eq!(answer(&gateway_of_rule, get("/")).await, (418, Some(Outcome::FaultInjected)));
    assert_eq!((began.elapsed(), double.count()), (300 * MS, 0));

    // Half of the attempts fail, and nobody sees it.
    let fault = Fault { abort: Some(FaultAbort { with: FaultKind::Reset, percent: 50.0 }), ..Fault::default() };
    let backend = BackendRef { filters: vec![Filter::Fault(fault)], ..BackendRef::new("here") };
    let gateway = gateway(Rule { backends: vec![backend], retry: retry(20, []), ..Rule::default() }, &double);
    for _ in 0..20 {
        assert_eq!(status(&gateway, get("/")).await, 200);
    }
    assert_eq!(double.count(), 20);
}

#[tokio::test]
async fn peers_are_let_in_by_identity() {
    let peers = vec![PeerRule::Below("spiffe://a.example/ns/shop".parse().unwrap())];
    let rule = Rule { filters: vec![Filter::Allow(Allow { peers, require_server_name: false })], ..to("here") };
    let gateway = gateway(rule, &Double::default());
    let from = |id: Option<&str>| {
        let peer_identity = id.map(|id| PeerIdentity::new([id], []).into());
        let tls = TlsInfo { peer_identity, ..TlsInfo::default() };
        let info = ConnectionInfo::new("10.0.0.1:1".parse().unwrap(), "127.0.0.1:80".parse().unwrap()).with_tls(tls);
        let mut request = get("/");
        request.extensions_mut().insert(info);
        request
    };
    assert_eq!(answer(&gateway, from(None)).await, (401, Some(Outcome::Unauthenticated)));
    assert_eq!(answer(&gateway, from(Some("spiffe://a.example/ns/blog"))).await, (403, Some(Outcome::Forbidden)));
    assert_eq!(status(&gateway, from(Some("spiffe://a.example/ns/shop/cart"))).await, 200);
}

#[tokio::test]
async fn filters_stand_in_their_order_whatever_order_they_are_written_in() {
    let set = |name: &'static str, value: &'static str| HeaderChanges {
        add: vec![(http::HeaderName::from_static(name), http::HeaderValue::from_static(value))],
        ..HeaderChanges::default()
    };
    let double = Double::default();
    let filters = vec![
        Filter::RequestHeaders(set("x-way", "first")),
        Filter::ResponseHeaders(set("x-back", "outer")),
        Filter::RequestHeaders(set("x-way", "second")),
        Filter::ResponseHeaders(set("x-back", "inner")),
        Filter::RateLimit(RateLimit::per_second(1)),
        Filter::Cors(Cors { origins: vec!["https://b.example".into()], ..Cors::default() }),
    ];
    let backend =
        BackendRef { filters: vec![Filter::RequestHeaders(set("x-way", "backend"))], ..BackendRef::new("here") };
    let gateway = gateway(Rule { filters, backends: vec![backend], ..Rule::default() }, &double);
    let preflight = || {
        let mut request = request(Method::OPTIONS, "/");
        request.headers_mut().insert("origin", "https://b.example".parse().unwrap());
        request.headers_mut().insert("access-control-request-method", "GET".parse().unwrap());
        request
    };
    for _ in 0..3 {
        let response = send(&gateway, preflight()).await;
        assert_eq!(response.headers()["access-control-allow-origin"], "https://b.example");
    }
    let response = send(&gateway, get("/")).await;
    let back: Vec<_> = response.headers().get_all("x-back").iter().collect();
    assert_eq!(back, ["inner", "outer"]);
    let seen = double.seen();
    assert_eq!(seen.len(), 1, "preflights go nowhere");
    assert_eq!(seen[0].headers.get_all("x-way").iter().collect::<Vec<_>>(), ["first", "second", "backend"]);
    let mut cross = get("/");
    cross.headers_mut().insert("origin", "https://b.example".parse().unwrap());
    let refused = send(&gateway, cross).await;
    assert_eq!(refused.status(), 429, "preflights cost nothing");
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://b.example", "a page may read refusals too");
}

#[tokio::test]
async fn a_redirect_needs_no_backend_and_a_rewrite_changes_what_is_asked_for() {
    let redirect = Redirect { path: Some(PathChange::Prefix("/new".into())), ..Redirect::default() };
    let rewrite = Rewrite { host: Some("b.example".into()), path: Some(PathChange::Prefix("/".into())) };
    let double = Double::default();
    let config = rules([
        at("/old", Rule { filters: vec![Filter::Redirect(redirect)], ..Rule::default() }),
        at("/api", Rule { filters: vec![Filter::Rewrite(rewrite)], ..to("here") }),
    ]);
    let gateway = Gateway::builder(config).local("here", double.service()).build().unwrap();
    let response = send(&gateway, get("/old/x?y=1")).await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "http://a.example/new/x?y=1");
    assert_eq!(status(&gateway, get("/api/x%2Fy?z=%20")).await, 200);
    let seen = double.seen();
    assert_eq!((&*seen[0].uri, &seen[0].headers["host"]), ("/x%2Fy?z=%20", &"b.example".parse().unwrap()));
}

#[tokio::test]
async fn a_backend_is_chosen_by_what_the_client_asked_for() {
    let filters = vec![Filter::Rewrite(Rewrite { host: None, path: Some(PathChange::Full("/one".into())) })];
    let backends = vec![BackendRef::new("a"), BackendRef::new("b")];
    let config = rules([Rule { filters, backends, split: Split::By(HashKey::Path), ..Rule::default() }]);
    let (a, b) = (Double::default(), Double::default());
    let gateway = Gateway::builder(config).local("a", a.service()).local("b", b.service()).build().unwrap();
    for path in 0..40 {
        status(&gateway, get(&format!("/{path}"))).await;
    }
    assert!(a.count() > 0 && b.count() > 0, "{} and {}", a.count(), b.count());
    assert!(a.seen().iter().chain(&b.seen()).all(|seen| seen.uri == "/one"));
}

#[tokio::test(start_paused = true)]
async fn copies_go_to_who_is_there_and_disturb_nobody() {
    let mirror = |backend| Filter::Mirror(Mirror { backend, share: Fraction::default() });
    let filters =
        vec![mirror(BackendRef::new("shadow")), mirror(BackendRef::invalid("gone", "there is no such Service"))];
    let (double, shadow) = (Double::default(), Double::new([Act::Hang]));
    let gateway = Gateway::builder(rules([Rule { filters, ..to("here") }]))
        .local("here", double.service())
        .local("shadow", shadow.service())
        .build()
        .unwrap();
    let mut request = get("/x?y=%20");
    *request.body_mut() = Body::from("body");
    assert_eq!(status(&gateway, request).await, 200);
    sleep(MS).await;
    let seen = shadow.seen();
    assert_eq!((seen.len(), &*seen[0].uri, &*seen[0].body), (1, "/x?y=%20", "body"));
}

#[tokio::test]
async fn nobody_goes_on_if_nobody_can_be_asked() {
    let ask = |backend| {
        let protocol =
            config::AuthProtocol::Http { path: String::new(), headers: Vec::new(), response_headers: Vec::new() };
        Filter::ExternalAuth(ExternalAuth { backend, protocol, body: None })
    };
    let (double, auth) = (Double::default(), Double::new([Act::Say(200), Act::Say(403)]));
    let config = rules([
        at("/asked", Rule { filters: vec![ask(BackendRef::new("auth"))], ..to("here") }),
        at("/gone", Rule { filters: vec![ask(BackendRef::invalid("gone", "no Service"))], ..to("here") }),
    ]);
    let gateway =
        Gateway::builder(config).local("here", double.service()).local("auth", auth.service()).build().unwrap();
    for (path, expected) in [("/asked", 200), ("/asked", 403), ("/gone", 500)] {
        assert_eq!(status(&gateway, get(path)).await, expected, "{path}");
    }
    assert_eq!((double.count(), auth.count()), (1, 2));
}

#[tokio::test]
async fn a_rule_that_a_source_found_invalid_answers_500_and_tells_the_log_why() {
    let rule = Rule { invalid: Some("filter 0: unknown type".into()), ..to("here") };
    let gateway = gateway(rule, &Double::default());
    let exchange = Exchange::begin();
    let mut request = get("/");
    request.extensions_mut().insert(exchange);
    assert_eq!(answer(&gateway, request).await, (500, Some(Outcome::InvalidBackend)));
    let explanation = gateway.explain(&get("/")).unwrap();
    assert_eq!(explanation.winner().unwrap().backends[0].invalid.as_deref(), Some("filter 0: unknown type"));
}

#[tokio::test(start_paused = true)]
async fn all_rules_to_an_upstream_share_its_limits_and_keep_them_over_reloads() {
    let config = |limit| {
        let upstream = config::Upstream {
            concurrency: Some(Concurrency { queue: 0, ..Concurrency::new(limit) }),
            ..config::Upstream::new("here", Endpoints::Static(vec![]))
        };
        Config { upstreams: vec![upstream], ..rules([at("/a", to("here")), at("/b", to("here"))]) }
    };
    let gateway = Gateway::builder(config(2)).local("here", Double::new([Act::Hang]).service()).build().unwrap();
    let hold = |path: &'static str| {
        let gateway = gateway.clone();
        tokio::spawn(async move { status(&gateway, get(path)).await })
    };
    let held = [hold("/a"), hold("/b")];
    sleep(MS).await;
    assert_eq!(answer(&gateway, get("/b")).await, (503, Some(Outcome::Overloaded)));
    gateway.apply(config(2)).unwrap();
    assert_eq!(answer(&gateway, get("/a")).await, (503, Some(Outcome::Overloaded)), "those two are still there");
    held.iter().for_each(|held| held.abort());
    sleep(MS).await;
    let third = hold("/a");
    sleep(MS).await;
    assert!(!third.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_hedged_and_retries_and_hedges_draw_on_one_budget() {
    let config = |per_second| {
        let upstream = config::Upstream {
            hedge: Some(Hedge { after: Some(50 * MS), ..Hedge::default() }),
            retry_budget: RetryBudget { percent: 0, per_second, window: Duration::from_secs(1) },
            ..config::Upstream::new("here", Endpoints::Static(vec![]))
        };
        let rule = Rule { retry: retry(5, [503]), ..to("here") };
        Config { upstreams: vec![upstream], ..rules([rule]) }
    };
    let double = Double::new([Act::Hang, Act::Say(503), Act::Say(503), Act::Say(200)]);
    let gateway = Gateway::builder(config(2)).local("here", double.service()).build().unwrap();
    let patient = tokio::time::timeout(Duration::from_secs(5), status(&gateway, get("/")));
    // The hedge's 503 waits for the first attempt, which never ends: one grant is spent.
    assert!(patient.await.is_err());
    assert_eq!(double.count(), 2);
    let double = Double::new([Act::Say(503)]);
    let gateway = Gateway::builder(config(2)).local("here", double.service()).build().unwrap();
    assert_eq!(status(&gateway, get("/")).await, 503);
    assert_eq!(double.count(), 3, "two grants, five retries allowed");
    gateway.apply(config(2)).unwrap();
    assert_eq!(status(&gateway, get("/")).await, 503);
    assert_eq!(double.count(), 4, "the budget is the same after a reload");
    gateway.apply(config(3)).unwrap();
    status(&gateway, get("/")).await;
    assert_eq!(double.count(), 8, "another budget is another");
}

#[tokio::test]
async fn connections_stay_when_only_what_stands_around_them_changes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let listener = axum::serve::ListenerExt::tap_io(listener, move |_| {
        counter.fetch_add(1, SeqCst);
    });
    let app = axum::Router::new().fallback(|| async { "up" });
    tokio::spawn(async move { axum::serve(listener, app).await });
    let config = |concurrency| {
        let upstream = config::Upstream { concurrency, ..config::Upstream::new("up", Endpoints::fixed([address])) };
        Config { upstreams: vec![upstream], ..rules([to("up")]) }
    };
    let gateway = Gateway::builder(config(None)).build().unwrap();
    for limit in [None, Some(Concurrency::new(1)), Some(Concurrency::new(2)), None] {
        gateway.apply(config(limit)).unwrap();
        let response = send(&gateway, get("/")).await;
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "up");
    }
    assert_eq!(taken.load(SeqCst), 1);
}

#[tokio::test]
async fn a_service_here_knows_its_route_behind_filters_too() {
    let double = Double::default();
    let inner = double.service();
    let service = service_fn(move |request: Request<Body>| {
        let route = request.extensions().get::<RouteMatch>().map(|matched| matched.route().to_string());
        assert_eq!(route.as_deref(), Some("test"));
        inner.clone().oneshot(request)
    });
    let config = rules([Rule { retry: retry(1, []), ..to("here") }]);
    let gateway = Gateway::builder(config).local("here", service).build().unwrap();
    assert_eq!(status(&gateway, get("/")).await, 200);
    assert_eq!(double.count(), 1);
}

#[test]
fn what_cannot_be_is_refused_with_its_place_or_fails_its_rule_alone() {
    let fault = |abort| Filter::Fault(Fault { abort: Some(abort), ..Fault::default() });
    let limit = RateLimit { per: Duration::ZERO, ..RateLimit::per_second(1) };
    let backend = BackendRef {
        filters: vec![fault(FaultAbort { with: FaultKind::Grpc(0), percent: 1.0 })],
        ..BackendRef::new("here")
    };
    let wrong = [
        (
            Rule { filters: vec![Filter::Cors(Cors::default()), Filter::RateLimit(limit)], ..to("here") },
            "route `test`, rule 0, filter 1: rate_limit.per: must be more than zero",
        ),
        (
            Rule { filters: vec![fault(FaultAbort { with: FaultKind::Reset, percent: 101.0 })], ..to("here") },
            "route `test`, rule 0, filter 0: fault.abort.percent: 101 is not a percentage: use 0 to 100",
        ),
        (
            Rule { backends: vec![backend], ..Rule::default() },
            "route `test`, rule 0, backend 0, filter 0: fault.abort.with.grpc: 0 is not a gRPC status to fail with: use 1 to 16",
        ),
        (
            Rule { retry: retry(1, [99]), ..to("here") },
            "route `test`, rule 0, retry: statuses[0]: 99 is not a status: use 100 to 599",
        ),
        (
            Rule {
                timeouts: Timeouts {
                    deadline_header: Some(http::HeaderName::from_static("grpc-timeout")),
                    ..Timeouts::default()
                },
                ..to("here")
            },
            "route `test`, rule 0, timeouts: deadline_header: `grpc-timeout` has a meaning of its own",
        ),
        (
            Rule {
                filters: vec![Filter::Redirect(Redirect { status: 200, ..Redirect::default() })],
                ..Rule::default()
            },
            "route `test`, rule 0, filter 0: 200 is not the status of a redirect: use 301, 302, 303, 307 or 308",
        ),
    ];
    for (rule, expected) in wrong {
        let config = rules([rule, at("/fine", to("here"))]);
        let build = |conflicts| {
            let config = Config { conflicts, ..config.clone() };
            Gateway::builder(config).local("here", Double::default().service()).build()
        };
        let error = build(Conflicts::Refuse).unwrap_err();
        assert!(matches!(error, BuildError::Rule { .. }) && error.to_string().starts_with(expected), "{error}");
        let gateway = build(Conflicts::Oldest).unwrap();
        let asked = |path| tokio_test::block_on(answer(&gateway, get(path)));
        assert_eq!(asked("/"), (500, Some(Outcome::InvalidBackend)));
        assert_eq!(asked("/fine").0, 200);
    }
    let hedge = Some(Hedge { percentile: 101.0, ..Hedge::default() });
    let upstream = config::Upstream { hedge, ..config::Upstream::new("up", Endpoints::Static(vec![])) };
    let config = Config { upstreams: vec![upstream], ..Config::default() };
    let error = Gateway::builder(config).build().unwrap_err().to_string();
    assert_eq!(error, "upstream `up`, hedge.percentile: 101 is not a percentile: use 0 to 100");
}
