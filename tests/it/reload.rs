//! Reload: every way a file changes, and what is refused.

use crate::start::{line_of, names_line};
use crate::support::{
    Conn, Echo, Ingress, RELOAD, eventually, get,
    ingress::folder,
    manifest::{Path, Rule, backend, everything_to, ingress},
};

/// Waits until `/` is answered by the backend of this name.
async fn serves(ingress: &Ingress, name: &str) {
    eventually(&format!("{name} serves"), RELOAD, || async {
        let response = get(ingress.http, "a.example", "/").await;
        match response.value("x-backend") {
            Some(seen) if seen == name => Ok(()),
            seen => Err(format!("{} from {seen:?}", response.status)),
        }
    })
    .await;
}

/// Waits until this path is answered with this status.
async fn answers(ingress: &Ingress, path: &str, expected: u16) {
    eventually(&format!("{path} answers {expected}"), RELOAD, || async {
        let status = get(ingress.http, "a.example", path).await.status;
        if status == expected { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

async fn two() -> [Echo; 2] {
    [Echo::start("one").await, Echo::start("two").await]
}

#[tokio::test]
async fn a_file_moved_into_place_takes_effect() {
    let [one, two] = two().await;
    let ingress = Ingress::start(&everything_to(&[one.addr])).await;
    serves(&ingress, "one").await;
    ingress.replace("world.yaml", &everything_to(&[two.addr]));
    serves(&ingress, "two").await;
    ingress.replace("world.yaml", &everything_to(&[one.addr]));
    serves(&ingress, "one").await;
}

#[tokio::test]
async fn a_file_overwritten_in_place_takes_effect() {
    let [one, two] = two().await;
    let ingress = Ingress::start(&everything_to(&[one.addr])).await;
    ingress.overwrite("world.yaml", &everything_to(&[two.addr]));
    serves(&ingress, "two").await;
}

#[tokio::test]
async fn files_that_come_and_go_take_effect() {
    let [one, two] = two().await;
    let extra =
        ingress("b").rule(Rule("", &[Path("Prefix", "/extra", "extra", "80")])).yaml() + &backend("extra", &[two.addr]);
    let rule = Rule("", &[Path("Prefix", "/app", "app", "80")]);
    let yaml = ingress("a").rule(rule).yaml() + &backend("app", &[one.addr]);
    let ingress = Ingress::start(&yaml).await;
    answers(&ingress, "/extra", 404).await;
    ingress.replace("extra.yaml", &extra);
    answers(&ingress, "/extra", 200).await;
    std::fs::remove_file(ingress.dir().join("extra.yaml")).unwrap();
    answers(&ingress, "/extra", 404).await;
    answers(&ingress, "/app", 200).await;
}

#[tokio::test]
async fn a_volume_whose_symlink_is_swapped_takes_effect() {
    // The way a kubelet updates a mounted ConfigMap: file -> ..data/file, ..data -> a folder, swapped by a rename.
    let [one, two] = two().await;
    let volume = folder(&[]);
    let at = |name: &str| volume.path().join(name);
    for (revision, echo) in [("..1", &one), ("..2", &two)] {
        std::fs::create_dir(at(revision)).unwrap();
        std::fs::write(at(revision).join("world.yaml"), everything_to(&[echo.addr])).unwrap();
    }
    std::os::unix::fs::symlink("..1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/world.yaml", at("world.yaml")).unwrap();
    let (new, data, path) = (at("..new"), at("..data"), volume.path().to_owned());
    let ingress = Ingress::start_with(volume, &[&path]).await;
    serves(&ingress, "one").await;
    std::os::unix::fs::symlink("..2", &new).unwrap();
    std::fs::rename(&new, &data).unwrap();
    serves(&ingress, "two").await;
}

#[tokio::test]
async fn a_signal_reloads() {
    let [one, two] = two().await;
    let ingress = Ingress::start(&everything_to(&[one.addr])).await;
    ingress.overwrite("world.yaml", &everything_to(&[two.addr]));
    ingress.sighup().await;
    serves(&ingress, "two").await;
}

#[tokio::test]
async fn signals_that_pile_up_end_in_the_last_state() {
    let [one, two] = two().await;
    let ingress = Ingress::start(&everything_to(&[one.addr])).await;
    for round in 0..40 {
        let echo = if round % 2 == 0 { &two } else { &one };
        ingress.replace("world.yaml", &everything_to(&[echo.addr]));
        ingress.sighup().await;
    }
    ingress.replace("world.yaml", &everything_to(&[two.addr]));
    ingress.sighup().await;
    serves(&ingress, "two").await;
    // And it stays: no older state comes in late.
    let before = one.seen();
    for _ in 0..200 {
        assert_eq!(get(ingress.http, "a.example", "/").await.value("x-backend"), Some("two"));
    }
    assert_eq!(one.seen(), before);
}

#[tokio::test]
async fn a_broken_file_is_refused_and_the_old_table_serves() {
    let [one, two] = two().await;
    let fine = everything_to(&[one.addr]);
    let ingress = Ingress::start(&fine).await;
    let invalid = fine.replace("pathType: Prefix", "pathType: Prefx");
    let broken = format!("{fine}---\nkind: Ingress\n  metadata: [\n");
    for (text, word) in [(&invalid, "pathType: Prefx"), (&broken, "metadata: [")] {
        let from = ingress.stderr().len();
        ingress.replace("world.yaml", text);
        let line = ingress.logged(from, &["world.yaml"]).await;
        let log = ingress.stderr().split_off(from);
        let expected = line_of(text, word);
        assert!((expected - 1..=expected + 1).any(|number| names_line(&log, number)), "line {expected} in {line}");
        for _ in 0..5 {
            assert_eq!(get(ingress.http, "a.example", "/").await.value("x-backend"), Some("one"));
        }
    }
    ingress.replace("world.yaml", &everything_to(&[two.addr]));
    serves(&ingress, "two").await;
}

#[tokio::test]
async fn a_file_that_vanished_leaves_the_old_table_or_none_but_never_a_crash() {
    let [one, two] = two().await;
    let ingress = Ingress::start(&everything_to(&[one.addr])).await;
    std::fs::remove_file(ingress.dir().join("world.yaml")).unwrap();
    ingress.sighup().await;
    let status = get(ingress.http, "a.example", "/").await.status;
    assert!([200, 404].contains(&status), "{status}");
    ingress.replace("world.yaml", &everything_to(&[two.addr]));
    serves(&ingress, "two").await;
}

#[tokio::test]
async fn open_connections_and_requests_in_flight_survive() {
    let [one, two] = two().await;
    let ingress = Ingress::start(&everything_to(&[one.addr])).await;
    let mut idle = Conn::open(ingress.http).await.unwrap();
    assert_eq!(idle.get("a.example", "/").await.unwrap().value("x-backend"), Some("one"));
    let mut busy = Conn::open(ingress.http).await.unwrap();
    let before = one.seen();
    busy.send("GET /gate HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    crate::support::until("the request arrives", crate::support::PATIENCE, || one.seen() > before).await;

    ingress.replace("world.yaml", &everything_to(&[two.addr]));
    serves(&ingress, "two").await;
    // The open connection sees the new table, the request in flight keeps its backend.
    assert_eq!(idle.get("a.example", "/").await.unwrap().value("x-backend"), Some("two"));
    one.open();
    let response = busy.response().await.unwrap();
    assert_eq!((response.status, response.value("x-backend")), (200, Some("one")));
    assert_eq!(busy.get("a.example", "/").await.unwrap().value("x-backend"), Some("two"));
}
