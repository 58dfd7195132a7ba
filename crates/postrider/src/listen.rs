use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::bail;
use chrono::{SecondsFormat, Utc};
use signing::Secret;
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::style;
use crate::values::Delay;

/// Receive deliveries on this machine and show them
///
/// Verifies the signature of each request, prints it with the status it was answered with and how long after its
/// timestamp it came. To see retries, let it fail some first: --fail-first 2.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9000")]
    address: SocketAddr,
    /// The webhook's secret; without it signatures are not verified
    #[arg(long, env = "POSTRIDER_WEBHOOK_SECRET", hide_env_values = true)]
    secret: Option<Secret>,
    /// The status to answer with
    #[arg(long, default_value_t = 204, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Answer this many requests with 500 first
    #[arg(long, default_value_t = 0)]
    fail_first: u64,
    /// End after this many accepted deliveries
    #[arg(long)]
    count: Option<u64>,
    /// Fail when --count is not reached within this time: a number and s, m, h or d
    #[arg(long, requires = "count")]
    timeout: Option<Delay>,
}

/// Largest request body that is taken, in bytes.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

struct Listener {
    secret: Option<Secret>,
    status: u16,
    fail_first: u64,
    received: AtomicU64,
    seen: mpsc::UnboundedSender<Seen>,
}

enum Seen {
    Accepted,
    Failed,
    Forged,
}

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let (seen, mut received) = mpsc::unbounded_channel();
    let listener = web::Data::from(Arc::new(Listener {
        secret: args.secret,
        status: args.status,
        fail_first: args.fail_first,
        received: AtomicU64::new(0),
        seen,
    }));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(listener.clone())
            .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
            .default_service(web::to(receive))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .bind(args.address)?;
    println!("listening on http://{}", server.addrs().first().copied().unwrap_or(args.address));
    let server = server.run();
    let handle = server.handle();
    let serving = tokio::spawn(server);

    let deadline = async {
        match args.timeout {
            Some(Delay(limit)) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let counted = async {
        let mut accepted = 0;
        let mut forged = 0;
        while args.count.is_none_or(|count| accepted < count) {
            match received.recv().await {
                Some(Seen::Accepted) => accepted += 1,
                Some(Seen::Forged) => forged += 1,
                Some(Seen::Failed) => {}
                None => break,
            }
            if forged > 0 && args.count.is_some() {
                bail!("a request arrived whose signature is wrong");
            }
        }
        Ok(())
    };
    let result = tokio::select! {
        result = counted => result,
        () = deadline => Err(anyhow::anyhow!("not enough deliveries arrived in time")),
        _ = ctrl_c() => Ok(()),
    };
    handle.stop(true).await;
    serving.await??;
    result
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn receive(request: HttpRequest, body: web::Bytes, listener: web::Data<Listener>) -> HttpResponse {
    let began = Instant::now();
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (id, timestamp) = (header(signing::ID_HEADER), header(signing::TIMESTAMP_HEADER));
    let now = Utc::now();
    let verified = listener.secret.as_ref().map(|secret| {
        let signatures = header(signing::SIGNATURE_HEADER);
        signing::verify([secret], &id, &timestamp, &signatures, &body, now.timestamp())
    });
    let place = listener.received.fetch_add(1, Ordering::Relaxed);
    let status = match &verified {
        Some(Err(_)) => 401,
        _ if place < listener.fail_first => 500,
        _ => listener.status,
    };
    let signature = match &verified {
        None => style::yellow("signature not checked: give --secret"),
        Some(Ok(())) => style::green("signature verified"),
        Some(Err(error)) => style::red(&format!("signature wrong: {error}")),
    };
    let shown_status =
        if status < 300 { style::green(&status.to_string()) } else { style::red(&status.to_string()) };
    println!(
        "{} {} {} → {shown_status}  {signature}  {}",
        style::dim(&now.to_rfc3339_opts(SecondsFormat::Millis, true)),
        style::bold(request.method().as_str()),
        request.path(),
        style::dim(&format!("answered in {:.1} ms", began.elapsed().as_secs_f64() * 1000.0)),
    );
    println!("  {} {id}  {} {timestamp}", style::dim("webhook-id"), style::dim("webhook-timestamp"));
    println!("  {}", String::from_utf8_lossy(&body));
    let seen = match verified {
        Some(Err(_)) => Seen::Forged,
        _ if status < 300 => Seen::Accepted,
        _ => Seen::Failed,
    };
    let _ = listener.seen.send(seen);
    HttpResponse::new(StatusCode::from_u16(status).unwrap_or(StatusCode::NO_CONTENT))
}
