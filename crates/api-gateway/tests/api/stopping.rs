//! A gateway that stops answers what is under way, and leaves nothing behind at the broker.

use std::time::{Duration, Instant};

use broker::BrokerConfig;
use reqwest::Method;
use test_support::{Direction, PATIENCE, Proxy, eventually, server_of, through};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::helpers::{AnotherGateway, TestApi, send};

/// A gateway whose connections to the broker all go through a proxy.
async fn start_behind_proxy(api: &TestApi) -> (AnotherGateway, Proxy) {
    let url = api.broker.url_of("gateway");
    let proxy = Proxy::start(vec![server_of(&url)]).await;
    let url = through(&url, proxy.address());
    let broker = BrokerConfig::new(&url, api.broker.topology.clone(), "test").unwrap().only_publishing();
    let gateway = api.start_another_with(|config| config.broker = broker);
    eventually("readiness", async || {
        let answer = send(gateway.request(api, Method::GET, "/health/ready")).await;
        (answer.status == 200).then_some(())
    })
    .await;
    (gateway, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_hears_the_brokers_goodbye_before_it_ends() {
    let api = TestApi::start().await;
    let (gateway, proxy) = start_behind_proxy(&api).await;
    let late = Duration::from_millis(400);
    proxy.delay(Direction::ToClient, late);
    let began = Instant::now();
    gateway.shut_down().await;
    assert!(began.elapsed() >= late, "the broker would take it for a lost connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_it_before_it_stops_is_published_after_all() {
    let api = TestApi::start().await;
    let (gateway, proxy) = start_behind_proxy(&api).await;
    let event = r#"{"type":"message.sent","data":1}"#;
    let head = format!(
        "POST /api/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        api.token,
        event.len()
    );
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut goes_on = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut goes_on)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&goes_on), "HTTP/1.1 100 Continue\r\n\r\n");
    let stopping = tokio::spawn(gateway.shut_down());
    // What is left watches the queues.
    eventually("publishers that closed", async || (proxy.connections() <= 1).then_some(())).await;
    stream.write_all(event.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 202");
    drop(stream);
    stopping.await.unwrap();
}
