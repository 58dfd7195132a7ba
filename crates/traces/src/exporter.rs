//! Sends spans to the collector, many at a time. Whatever becomes of it, nobody waits.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url, redirect};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::otlp::{self, Resource};
use crate::{Endpoint, Metrics, On, QUEUE, Ratio, Span, Tracer};

/// Most spans in one export.
const MAX_SPANS: usize = 512;
/// How long spans gather for an export.
const GATHER: Duration = Duration::from_secs(1);
/// How long an export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last exports may take when the process ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is said at most that spans are lost.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The task that sends spans, if there is anything to send.
pub struct Exporter(Option<(JoinHandle<()>, CancellationToken)>);

impl Exporter {
    /// Starts sending what the tracer keeps to `endpoint`. Without one the tracer is off.
    pub fn start(
        endpoint: Endpoint,
        ratio: Ratio,
        service: &'static str,
        version: &'static str,
    ) -> reqwest::Result<(Tracer, Self)> {
        let Some(url) = endpoint.0 else { return Ok((Tracer::off(), Self(None))) };
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(EXPORT_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()?;
        let (sender, spans) = mpsc::channel(QUEUE);
        let metrics = Metrics::default();
        let stop = CancellationToken::new();
        let resource = Resource { service, version, instance: Uuid::now_v7().to_string() };
        info!(endpoint = %url, "traces are sent to a collector");
        let task = Task { url, client, resource, spans, metrics: metrics.clone(), complained_at: None };
        let task = tokio::spawn(task.run(stop.clone()));
        let tracer = Tracer { on: Some(Arc::new(On { ratio, spans: sender })), metrics };
        Ok((tracer, Self(Some((task, stop)))))
    }

    /// Sends what is left, if the collector takes it at once.
    pub async fn shut_down(self) {
        if let Some((task, stop)) = self.0 {
            stop.cancel();
            let _ = timeout(LAST_TIMEOUT, task).await;
        }
    }
}

struct Task {
    url: Url,
    client: Client,
    resource: Resource,
    spans: mpsc::Receiver<Span>,
    metrics: Metrics,
    complained_at: Option<Instant>,
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        let mut spans = Vec::with_capacity(MAX_SPANS);
        while !stop.is_cancelled() {
            tokio::select! {
                received = self.spans.recv_many(&mut spans, MAX_SPANS) => if received == 0 { return },
                () = stop.cancelled() => {}
            }
            if spans.len() < MAX_SPANS {
                tokio::select! {
                    () = sleep(GATHER) => {}
                    () = stop.cancelled() => {}
                }
                self.take_waiting(&mut spans);
            }
            self.export(&mut spans).await;
        }
        loop {
            self.take_waiting(&mut spans);
            if spans.is_empty() {
                return;
            }
            self.export(&mut spans).await;
        }
    }

    fn take_waiting(&mut self, spans: &mut Vec<Span>) {
        while spans.len() < MAX_SPANS {
            let Ok(span) = self.spans.try_recv() else { return };
            spans.push(span);
        }
    }

    /// What the collector does not take is lost: traces are a sample, and memory is for deliveries.
    async fn export(&mut self, spans: &mut Vec<Span>) {
        if spans.is_empty() {
            return;
        }
        let body = otlp::request(&self.resource, spans).to_string();
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        spans.clear();
        let request = self.client.post(self.url.clone());
        let request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body);
        match request.send().await.and_then(reqwest::Response::error_for_status) {
            Ok(_) => {
                self.metrics.exported.inc_by(count);
            }
            Err(error) => {
                self.metrics.dropped.inc_by(count);
                if self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                    self.complained_at = Some(Instant::now());
                    warn!(%error, spans = count, "the trace collector takes no spans; they are lost");
                }
            }
        }
    }
}
