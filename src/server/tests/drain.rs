//! Shutting down.

use tokio::{net::TcpStream, time::Instant};

use super::*;
use crate::server::Server;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_finished_with_notice() {
    let gate = Gate::default();
    let mut pipe = serve(gate.service());
    pipe.client.write_all(REQUEST).await.unwrap();
    gate.came().await;
    let drain = pipe.drain.clone();
    let report = tokio::spawn(async move { drain.run(seconds(30)).await });
    tokio::time::sleep(seconds(10)).await;
    gate.open();
    let answer = read_to_end(&mut pipe.client).await;
    assert!(answer.contains("connection: close") && answer.ends_with("done"), "{answer}");
    let report = report.await.unwrap();
    assert_eq!((report.finished, report.cut, report.took.as_secs()), (1, 0, 10));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_at_once_and_half_a_head_does_not_hold_it_up_for_long() {
    for (sent, at_most) in [("", 0), ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 0), ("GET / HT", 5)] {
        let mut pipe = serve(echo());
        pipe.client.write_all(sent.as_bytes()).await.unwrap();
        if at_most == 0 && !sent.is_empty() {
            read_head(&mut pipe.client).await;
        }
        tokio::time::sleep(seconds(1)).await;
        let report = pipe.drain.run(seconds(30)).await;
        assert_eq!((report.finished, report.cut), (1, 0), "{sent:?}");
        assert!(report.took.as_secs() <= at_most, "{sent:?} {report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stuck_is_cut_at_the_deadline() {
    let gate = Gate::default();
    let mut h1 = serve(gate.service());
    h1.client.write_all(REQUEST).await.unwrap();
    gate.came().await;
    let report = h1.drain.run(seconds(30)).await;
    assert_eq!((report.finished, report.cut, report.took.as_secs()), (0, 1, 30));
    assert_eq!(read_to_end(&mut h1.client).await, "");

    let h2 = serve(gate.service());
    let (mut client, _connection) = h2_client(h2.client).await;
    let answer = tokio::spawn(client.send_request(get("/")));
    gate.came().await;
    let report = h2.drain.run(seconds(30)).await;
    assert_eq!((report.cut, report.took.as_secs()), (1, 30));
    answer.await.unwrap().unwrap_err();
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(gate.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn http2_finishes_its_streams_after_goaway() {
    let gate = Gate::default();
    let pipe = serve(gate.service());
    let (mut client, connection) = h2_client(pipe.client).await;
    let answer = tokio::spawn(client.send_request(get("/")));
    gate.came().await;
    let drain = pipe.drain.clone();
    let report = tokio::spawn(async move { drain.run(seconds(30)).await });
    tokio::time::sleep(seconds(3)).await;
    // The client knows.
    assert!(client.send_request(get("/")).await.is_err());
    gate.open();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
    connection.await.unwrap().unwrap();
    assert_eq!((report.await.unwrap().cut, pipe.drain.in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_at_once() {
    let pipe = serve(echo());
    let (mut client, connection) = h2_client(pipe.client).await;
    client.send_request(get("/")).await.unwrap();
    let report = pipe.drain.run(seconds(30)).await;
    assert_eq!((report.finished, report.cut, report.took.as_secs()), (1, 0, 0));
    connection.await.unwrap().unwrap();
}

/// Switches protocols and echoes.
fn switch() -> impl Serve {
    service_fn(|mut request: Request<Body>| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let (mut read, mut write) = tokio::io::split(&mut io);
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let answer = Response::builder().status(101).header("upgrade", "echo").header("connection", "upgrade");
        ready(Ok::<_, Infallible>(answer.body(Body::empty()).unwrap()))
    })
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

async fn echoed(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    let mut answer = [0; 4];
    io.write_all(b"ping").await.is_ok() && io.read_exact(&mut answer).await.is_ok() && &answer == b"ping"
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_has_no_limits_here_and_is_waited_for_until_the_deadline() {
    let mut pipe = serve(switch());
    pipe.client.write_all(UPGRADE).await.unwrap();
    assert!(read_head(&mut pipe.client).await.starts_with("HTTP/1.1 101"));
    tokio::time::sleep(seconds(3600)).await;
    assert!(echoed(&mut pipe.client).await);
    assert_eq!(pipe.drain.in_flight(), 1);

    let drain = pipe.drain.clone();
    let report = tokio::spawn(async move { drain.run(seconds(30)).await });
    tokio::time::sleep(seconds(20)).await;
    assert!(echoed(&mut pipe.client).await);
    let began = Instant::now();
    assert_eq!(read_to_end(&mut pipe.client).await, "");
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(report.await.unwrap().cut, 1);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_ends_by_itself_is_finished() {
    let mut pipe = serve(switch());
    pipe.client.write_all(UPGRADE).await.unwrap();
    read_head(&mut pipe.client).await;
    let drain = pipe.drain.clone();
    let report = tokio::spawn(async move { drain.run(seconds(30)).await });
    tokio::time::sleep(seconds(5)).await;
    drop(pipe.client);
    let report = report.await.unwrap();
    assert_eq!((report.finished, report.cut, report.took.as_secs()), (1, 0, 5));
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_is_answered_during_the_drain_still_succeeds() {
    let gate = Gate::default();
    let (waiting, switching) = (gate.service(), switch());
    let service = service_fn(move |request: Request<Body>| {
        let (mut waiting, mut switching) = (waiting.clone(), switching.clone());
        async move {
            let first = Request::new(Body::empty());
            waiting.call(first).await.map_err(Into::<BoxError>::into)?;
            switching.call(request).await.map_err(Into::<BoxError>::into)
        }
    });
    let mut pipe = serve(service);
    pipe.client.write_all(UPGRADE).await.unwrap();
    gate.came().await;
    pipe.drain.begin();
    tokio::time::sleep(seconds(1)).await;
    gate.open();
    let head = read_head(&mut pipe.client).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("connection: upgrade"), "{head}");
    assert!(echoed(&mut pipe.client).await);
}

#[tokio::test]
async fn a_server_that_shuts_down_refuses_new_connections_and_finishes_the_old() {
    let gate = Gate::default();
    let server = Server::default().http("127.0.0.1:0").bind().unwrap();
    let address = server.local_addrs()[0];
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(server.serve_with_shutdown(gate.service(), async {
        let _ = stopped.await;
    }));
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(REQUEST).await.unwrap();
    gate.came().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    drop(stop);
    // The idle one is told, so the shutdown has begun; then the listener goes.
    assert_eq!(read_to_end(&mut idle).await, "");
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert!(read_to_end(&mut busy).await.ends_with("done"));
    let report = server.await.unwrap();
    assert_eq!(report.cut, 0);
}

#[tokio::test]
async fn dropping_the_server_cuts_everything() {
    let gate = Gate::default();
    let server = Server::default().http("127.0.0.1:0").bind().unwrap();
    let address = server.local_addrs()[0];
    let server = tokio::spawn(server.serve(gate.service()));
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(REQUEST).await.unwrap();
    gate.came().await;
    server.abort();
    assert_eq!(read_to_end(&mut busy).await, "");
    assert!(server.await.unwrap_err().is_cancelled());
}
