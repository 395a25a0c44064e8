//! One program: an axum app that *is* a backend of an Ingress manifest, next to a backend on a socket.
//!
//! `cargo run --example axum_ingress` prints two curl lines to try: the first is answered in this process, without a hop; the
//! second is forwarded to 127.0.0.1:9201.

use axum::{Extension, Router, extract::Path, routing::get};
use portcullis::{BoxError, forwarded::ClientAddr, gateway::Gateway, route::RouteMatch, server::Server};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();

    // An ordinary axum app. What the gateway knows of a request is there as extensions.
    let checkout =
        Router::new().route(
            "/checkout/{id}",
            get(
                |Path(id): Path<u32>,
                 Extension(route): Extension<RouteMatch>,
                 Extension(client): Extension<ClientAddr>| async move {
                    format!("checkout {id} for {}, by route {}\n", client.ip(), route.route())
                },
            ),
        );

    // Another service, which could as well be another program.
    let stock =
        Router::new().route("/stock/{id}", get(|Path(id): Path<u32>| async move { format!("{id} in stock\n") }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:9201").await?;
    tokio::spawn(async move { axum::serve(listener, stock).await });

    // The manifest people already have; the Service `checkout` of it lives here.
    let gateway = Gateway::from_path(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/manifests/axum.yaml"))?
        .local("default/checkout", checkout)
        .build()?;
    let server = Server::default().http("127.0.0.1:8081").bind()?;
    let at = server.local_addrs()[0];
    println!("ready: http://{at}\ntry:");
    for path in ["checkout/42", "stock/7"] {
        println!("  curl http://{at}/{path} -H 'host: shop.localhost'");
    }
    server.serve_until_signal(gateway).await?;
    Ok(())
}
