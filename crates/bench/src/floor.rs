//! The floor: signed requests that nobody accepts, queues or writes down before. They are made with hyper's pooled client, over
//! connections that are kept, as somebody would who only had to send them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use signing::Secret;
use tokio::task::JoinSet;

use crate::load::{Published, Sequence, collect, micros};
use crate::payload::{Template, now_micros};

/// Requests at a time.
const REQUESTS: usize = 64;
const ID: &str = "bench";
const SUCCESS: u16 = 204;

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Where a loop sends what.
#[derive(Clone)]
pub(crate) struct Direct {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    pub(crate) body: Template,
}

/// Sends requests until the time is over, each when the one before it was answered.
pub(crate) async fn requests(
    direct: Direct,
    sequence: Sequence,
    duration: Duration,
) -> anyhow::Result<Published> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(REQUESTS).build(connector);
    let secret = Arc::new(Secret::generate());
    let began = now_micros();
    let until = began + micros(duration);
    let mut tasks = JoinSet::new();
    for _ in 0..REQUESTS {
        tasks.spawn(send_until(
            client.clone(),
            direct.clone(),
            Arc::clone(&secret),
            Arc::clone(&sequence),
            until,
        ));
    }
    collect(tasks, began).await
}

async fn send_until(
    client: HttpClient,
    mut direct: Direct,
    secret: Arc<Secret>,
    sequence: Sequence,
    until: u64,
) -> anyhow::Result<Published> {
    let url: hyper::Uri = format!("http://{}{}", direct.address, direct.path).parse()?;
    let mut published = Published::default();
    loop {
        let now = now_micros();
        if now >= until {
            return Ok(published);
        }
        let number = sequence.fetch_add(1, Ordering::Relaxed);
        let body = Bytes::copy_from_slice(direct.body.stamp(now, number));
        let seconds = i64::try_from(now / 1_000_000)?;
        let request = Request::post(url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", ID)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signing::sign([&*secret], ID, seconds, &body))
            .body(Full::new(body))?;
        let answer = client.request(request).await?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await?;
        published.count(status, SUCCESS, number);
    }
}
