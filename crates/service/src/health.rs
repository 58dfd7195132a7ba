//! `/health/live` and `/health/ready`, and the server that shows them to operators, with `/metrics`.
//!
//! Live means that the process answers, whatever is wrong with others. Ready means that it can do its work now.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, web};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One thing that the process needs for its work.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What it is, for example `database`.
    pub name: &'static str,
    /// Whether it is there.
    pub ok: bool,
    /// Whether the process is of no use without it.
    pub required: bool,
}

impl Check {
    /// Something the process is of no use without.
    pub fn required(name: &'static str, ok: bool) -> Self {
        Self { name, ok, required: true }
    }

    /// Something the process can do without for a while.
    pub fn informative(name: &'static str, ok: bool) -> Self {
        Self { name, ok, required: false }
    }
}

type Checks = Pin<Box<dyn Future<Output = Vec<Check>> + Send>>;

/// Finds out whether the process can do its work.
#[derive(Clone)]
pub struct Readiness(Arc<dyn Fn() -> Checks + Send + Sync>);

impl Readiness {
    /// Wraps a function that looks at everything the process needs.
    pub fn new<F>(checks: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<Check>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(checks())))
    }
}

#[derive(Serialize)]
struct Report {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Check>,
}

/// Adds the two routes to an application.
pub fn routes(readiness: Readiness) -> impl FnOnce(&mut web::ServiceConfig) {
    move |app| {
        app.app_data(web::Data::new(readiness))
            .route("/health/live", web::get().to(live))
            .route("/health/ready", web::get().to(ready));
    }
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Report { status: "ok", checks: Vec::new() })
}

async fn ready(readiness: web::Data<Readiness>) -> HttpResponse {
    let checks = (readiness.0)().await;
    if checks.iter().all(|check| check.ok || !check.required) {
        HttpResponse::Ok().json(Report { status: "ok", checks })
    } else {
        HttpResponse::ServiceUnavailable().json(Report { status: "unavailable", checks })
    }
}

/// A server for operators alone, apart from any API. Gives the address it listens on.
pub fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Registry,
) -> std::io::Result<(SocketAddr, Server)> {
    let metrics = web::Data::new(metrics);
    let server = HttpServer::new(move || {
        App::new()
            .configure(routes(readiness.clone()))
            .app_data(metrics.clone())
            .route("/metrics", web::get().to(crate::metrics::show))
    })
    .workers(1)
    .disable_signals()
    .bind(address)?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    Ok((bound, server.run()))
}

/// Asks a process on this machine whether it is ready: the health check of a container that has no shell.
pub async fn is_ready(address: SocketAddr) -> bool {
    const LIMIT: Duration = Duration::from_secs(3);
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let ask = async {
        let mut stream = TcpStream::connect((ip, address.port())).await?;
        stream.write_all(b"GET /health/ready HTTP/1.0\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.ends_with(b" 200"))
    };
    matches!(timeout(LIMIT, ask).await, Ok(Ok(true)))
}
